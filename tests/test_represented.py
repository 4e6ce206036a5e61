"""Features as cells: storage, resuming, merging, and their use in metrics and figures."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from robharness import api, statistics
from robharness.errors import SuiteError, UserError
from robharness.evaluation import heads, loading
from robharness.planning import planner
from robharness.planning.identity import key_of
from robharness.report import build
from robharness.report.renderers.json import as_data, render
from robharness.store import Store
from robharness.store.merge import merge
from robharness.store.results import load as load_results

REAL = {"model": "teams/net", "label": "Real"}
OTHER = {"model": "teams/net", "label": "Other", "seed": 1}
VIEWS = [{"corruption": "toys/negative", "severity": 1}, {"corruption": "toys/speckle", "severity": [1, 3]}]
TORN = """
import numpy as np

from robharness import DatasetSpec, UnreadableExample, hookimpl


class Pictures:
    ids, labels = [f"{row}" for row in range(10)], [row % 3 for row in range(10)]

    def read(self, index):
        if index == 4:
            raise UnreadableExample("cut off")
        return np.random.default_rng(index).integers(0, 256, (8, 8, 1), np.uint8)


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="some", summary="One is broken", labels="toys", splits=("all",),
                      open=lambda root, split: Pictures())
"""
PAINTER = """
from robharness import hookimpl


@hookimpl
def robharness_figures(results, folder):
    path = folder / "sizes.txt"
    path.write_text(str({label: results.features(label).values.shape for label in results.labels}))
    yield path
    raise RuntimeError("no more paint")
"""


@pytest.fixture
def feature_suite(suite):
    """Make a suite with a metric of features; keyword arguments change its keys."""

    def make(**changes):
        base = {"models": [REAL], "attacks": None, "corruptions": None, "canvas": 8, "metrics": ["teams/width"]}
        return suite(**base | changes)

    return make


def feature_cells(results):
    """Return the feature cells by label and short name."""
    return {(found.cell.model.label, found.cell.short_name): found for found in results.feature_cells}


def rows(store, key):
    """Read all columns of a cell with pyarrow alone."""
    [file] = (store.root / "cells" / key[:2] / key).glob("*.parquet")
    return pq.read_table(file)


def loaded_of(results):
    return loading.load_model(results.plan, results.plan.models[0], batch_size=8)


# --- what is stored ---------------------------------------------------------------------------------------------------


def test_features_are_the_output_of_the_submodule(feature_suite, run):
    results = run(feature_suite(), batch_size=8)
    found, loaded = results.features("Real"), loaded_of(results)
    batch = loaded.reader.read(0, 40)
    assert found.values.dtype == np.float32 and found.values.shape == (40, 96)
    assert np.allclose(found.values, loaded.classifier.net.body(batch.x), atol=1e-6)
    assert found.examples == batch.ids and found.labels.tolist() == batch.labels.tolist()
    assert found.positions.tolist() == list(range(40))


def test_views_are_the_features_of_corrupted_images(feature_suite, run):
    results = run(feature_suite(corruptions=VIEWS, metrics=["teams/moved"]), batch_size=8)
    loaded = loaded_of(results)
    views = results.views("Real")
    assert list(views) == ["negative(1)", "speckle(1)", "speckle(3)"]
    turned = loaded.classifier.net.body(1 - loaded.reader.read(0, 40).x)
    assert np.allclose(views["negative(1)"].values, turned, atol=1e-6)
    assert np.isnan(views["negative(1)"].boundary).all(), "which is of clean examples alone"
    assert views["speckle(1)"].values.tolist() != views["speckle(3)"].values.tolist()


def test_outcomes_and_their_keys_do_not_depend_on_whether_features_are_stored(feature_suite, run):
    without = run(feature_suite(corruptions=VIEWS, metrics=[]), "without")
    results = run(feature_suite(corruptions=VIEWS, metrics=["teams/moved", "teams/width"]), "with")
    assert [cell.cell.key for cell in without.cells] == [cell.cell.key for cell in results.cells]
    assert len(results.plan.cells) == 2 * len(without.plan.cells) and not without.feature_cells
    for one, other in zip(results.cells, results.feature_cells, strict=True):
        assert other.cell.kind == "features" and other.cell.what == one.cell.what
        assert one.columns["margin"].tolist() == other.columns["margin"].tolist()
        assert one.correct.tolist() == other.correct.tolist()


def test_only_views_make_cells_of_corruptions(feature_suite, run):
    plan = run(feature_suite(corruptions=VIEWS)).plan
    assert [cell.short_name for cell in plan.cells if cell.with_features] == ["features(clean)"]


def test_the_submodule_is_identity(feature_suite, run):
    plan = run(feature_suite(metrics=["teams/width"])).plan
    spec = dataclasses.replace(plan.models[0].entry.spec, features="body.0")
    entry = dataclasses.replace(plan.models[0].entry, spec=spec)
    moved = dataclasses.replace(plan.suite, models=(dataclasses.replace(plan.suite.models[0], entry=entry),))
    before, after = [cell.key for cell in plan.cells], [cell.key for cell in planner.plan(moved, plan.data_root).cells]
    assert [one == two for one, two in zip(before, after, strict=True)] == [True, False]


def test_features_are_bit_equal_for_any_split_into_units(feature_suite, run, tmp_path):
    suite = feature_suite(corruptions=VIEWS, metrics=["teams/moved"], models=[REAL, OTHER])
    whole = run(suite, "whole", batch_size=8)
    for shard in ((1, 3), (3, 3)):
        run(suite, "parts", shard=shard, batch_size=8)
    run(suite, "middle", shard=(2, 3), batch_size=8)
    into, source = Store(tmp_path / "parts"), Store(tmp_path / "middle")
    merged = merge(into, source)
    assert merged.cells == len(whole.plan.cells) and not merged.problems
    again = run(suite, "parts", batch_size=8)
    assert len(whole.feature_cells) == 8
    for one, other in zip(whole.feature_cells, again.feature_cells, strict=True):
        assert len(other.columns["features"]) == 40
        assert np.stack(one.columns["features"]).tobytes() == np.stack(other.columns["features"]).tobytes()
        if one.cell.what == "clean":
            assert one.columns["boundary"].tobytes() == other.columns["boundary"].tobytes()
    assert not merge(into, Store(tmp_path / "whole")).differing


def test_running_again_resumes(feature_suite, run, tmp_path):
    run(feature_suite(), shard=(1, 2))
    assert not run(feature_suite(), shard=(1, 2)).is_complete
    assert run(feature_suite()).is_complete
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert run(feature_suite()).is_complete
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}


def test_a_merge_counts_differing_features(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    changed = values.copy()
    changed[1, 2] += 1
    identity = {"model": {"name": "n"}}
    stores = []
    for name, some in (("one", list(values)), ("other", [*changed[:2], None])):
        store = Store(tmp_path / name)
        key = key_of(identity)
        store.describe(SimpleNamespace(key=key, name="n", identity=identity))
        store.write_part(key, 0, {"correct": np.ones(3, bool), "features": some}, {})
        stores.append(store)
    merged = merge(*stores)
    assert (merged.common, merged.differing) == (3, 2)
    assert merge(stores[0], stores[0]).differing == 0


def test_vectors_keep_their_type_in_the_file(feature_suite, run, tmp_path):
    results = run(feature_suite())
    table = rows(Store(tmp_path / "store"), feature_cells(results)["Real", "features(clean)"].cell.key)
    assert str(table.schema.field("features").type) == "list<element: float>"
    assert table["features"].null_count == 0


def test_broken_examples_have_no_features(feature_suite, run, tmp_path):
    path = tmp_path / "torn.py"
    path.write_text(TORN)
    suite = feature_suite(data={"name": "torn/some", "split": "all"}, corruptions=VIEWS[:1], metrics=["teams/moved"])
    folder = __file__.replace("test_represented.py", "")
    plugins = [f"{folder}toys.py", f"{folder}teams.py", str(path)]
    for limit in (None, 10):
        results = api.run(suite, store=tmp_path / f"store-{limit}", plugins=plugins, limit=limit, batch_size=4)
        assert results.is_complete and not any(cell.failures for cell in results.every)
        found = results.features("Real")
        assert len(found.values) == 9 and "4" not in found.examples and 4 not in found.examples
        assert sorted([*map(int, found.examples), 4]) == list(range(10))
        assert found.at(found.positions[3:5]).examples == found.examples[3:5]
    one = Store(tmp_path / "store-None")
    lonely = api.run(suite, store=one.root, plugins=plugins, shard=(1, 10))
    assert lonely.features("Real").values.shape == (9, 96)


def test_missing_features_are_reported(feature_suite, run):
    results = run(feature_suite(), shard=(2, 2), limit=40)
    assert len(results.features("Real").values) == 20
    with pytest.raises(KeyError, match="no metric of the suite needs them"):
        results.features("Real", "negative(1)")
    with pytest.raises(statistics.EmptySample, match=r"features\(clean\) of 'Real' are not stored yet"):
        load_results(results.plan, Store("nowhere")).features("Real")


# --- the head ---------------------------------------------------------------------------------------------------------


def test_the_boundary_is_where_two_logits_are_equal(feature_suite, run):
    results = run(feature_suite(models=[REAL | {"head": 4}]), batch_size=8)
    found = results.features("Real")
    head = loaded_of(results).classifier.net.head
    weights, bias = head.weight.double().numpy(), head.bias.double().numpy()
    logits = found.values @ weights.T + bias
    for row, (label, far) in enumerate(zip(found.labels, found.boundary, strict=True)):
        others = [c for c in range(3) if c != label]
        distances = [
            (logits[row, label] - logits[row, c]) / np.linalg.norm(weights[label] - weights[c]) for c in others
        ]
        assert far == pytest.approx(min(distances), abs=1e-5)
        direction = weights[others[int(np.argmin(distances))]] - weights[label]
        logits_there = weights @ (found.values[row] + far * direction / np.linalg.norm(direction)) + bias
        if far > 0:  # stepping that far makes it a tie, and no other class wins on the way
            best_other = max(logits_there[c] for c in others)
            assert logits_there[label] == pytest.approx(best_other, abs=1e-4)
    right = feature_cells(results)["Real", "features(clean)"].correct
    assert ((found.boundary > 0) == right).all() and 0 < right.sum() < 40


class Net(torch.nn.Module):
    """A body that gives (N, 6, 2, 2) features, and whatever follows."""

    def __init__(self, head, twice=False):
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        self.body, self.head, self.twice = torch.nn.Conv2d(1, 6, 4, stride=4), head, twice
        for value in self.parameters():
            value.data.copy_(torch.empty(value.shape).normal_(generator=draws))

    def forward(self, x):
        return self.head(self.body(x) + (self.body(1 - x) if self.twice else 0))


class Bend(torch.nn.Module):
    def __init__(self, bend):
        super().__init__()
        self.bend = bend

    def forward(self, x):
        return self.bend(x.flatten(1))


def pooled():
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(6, 4))


LINEAR = {
    "flat": lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, 4)),
    "pooled": pooled,
    "normalised": lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(24), torch.nn.Linear(24, 4)),
    "deep": lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, 5), torch.nn.Linear(5, 4)),
}
BENT = {
    "relu": lambda: torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(24, 24), torch.nn.ReLU(), torch.nn.Linear(24, 4)
    ),
    "relu without offsets": lambda: torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(24, 24, bias=False), torch.nn.ReLU(), torch.nn.Linear(24, 4, bias=False)
    ),
    "unit": lambda: torch.nn.Sequential(Bend(torch.nn.functional.normalize), torch.nn.Linear(24, 4)),
    "squares": lambda: torch.nn.Sequential(Bend(torch.square), torch.nn.Linear(24, 4)),
    "deaf": lambda: Bend(lambda x: torch.zeros(len(x), 4) + 0 * x.sum(1, keepdim=True).detach()),
}  # fmt: skip


def images(n):
    return torch.empty(n, 1, 8, 8).uniform_(generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", LINEAR)
def test_linear_heads_are_recognised_whatever_their_layers(name):
    net = Net(LINEAR[name]()).eval().requires_grad_(False)
    found = heads.pairwise_logit_distances(net, images(heads.PROBES), "body")
    columns = torch.eye(24).view(24, 6, 2, 2)  # the head's weights, column by column
    weights = (net.head(columns) - net.head(torch.zeros(1, 6, 2, 2))).double().numpy().T
    expected = np.linalg.norm(weights[:, None] - weights, axis=2)
    assert found.shape == (4, 4)
    assert np.allclose(found, expected, atol=1e-4)
    assert not net.body._forward_hooks


@pytest.mark.parametrize("name", BENT)
def test_nonlinear_heads_are_refused(name):
    assert (
        heads.pairwise_logit_distances(Net(BENT[name]()).eval().requires_grad_(False), images(heads.PROBES), "body")
        is None
    )


def test_a_nonlinearity_that_no_example_activates_is_refused():
    """Features that are above 0 go through a ReLU as if it were not there; which we do not take for granted."""
    net = Net(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(24, 4)))
    for value in net.body.parameters():
        value.data.abs_()
    assert (net.body(images(8)) > 0).all()
    assert heads.pairwise_logit_distances(net.eval().requires_grad_(False), images(8), "body") is None


def test_a_submodule_that_runs_twice_is_refused():
    assert (
        heads.pairwise_logit_distances(Net(pooled(), twice=True).eval().requires_grad_(False), images(8), "body")
        is None
    )


def test_distances_from_the_boundary():
    gaps = np.array([[0, 2, 0], [2, 0, 4], [0, 4, 0]], float)
    logits = np.array([[3, 1, 2], [3, 1, 4], [np.nan, 0, 0], [1, 5, 0]], np.float32)
    found = heads.boundary(logits, np.array([0, 0, 1, 1]), gaps)
    assert found[0] == 1  # class 2 has the same weights: it never takes over
    assert found[1] == -np.inf  # and here always has
    assert np.isnan(found[2])
    assert found[3] == 1.25


# --- suites, reports, pictures ----------------------------------------------------------------------------------------


def test_a_suite_must_have_the_cells_that_its_metrics_need(feature_suite, run):
    with pytest.raises(SuiteError) as error:
        run(feature_suite(models=[REAL, {"model": "toys/net", "label": "Net"}], metrics=["teams/moved", "teams/near"]))
    assert [line.partition(": ")[2] for line in error.value.errors] == [
        "metrics.0: teams/moved compares an example with its corrupted versions, and there is no corruption; write one "
        "under `corruptions:`",
        "metrics.0: teams/moved needs features, and toys/net (Net) declares no `features`. Try: robharness list models",
        "metrics.1: teams/near needs distances, and there is no attack without `eps`; write one under `attacks:`",
    ]


def test_a_live_network_has_no_features(feature_suite, run):
    with pytest.raises(UserError, match="declares no `features`; give a ModelSpec with `features`"):
        run(feature_suite(), models={"mine": torch.nn.Flatten()})


def test_reports_have_the_details_and_name_missing_cells(feature_suite, run):
    wanted = ["teams/width", "teams/near", "teams/nothing", "teams/odd"]
    results = run(feature_suite(models=[REAL, OTHER], metrics=wanted, attacks=[{"attack": "teams/nearest"}]))
    report = build(results)
    data = json.loads(render(report))
    assert data["metrics"] == {
        "teams/width": {"Real": 96.0, "Other": 96.0},
        "teams/near": data["metrics"]["teams/near"],
        "teams/nothing": {"Real": None},
    }
    details = data["metric_details"]
    assert list(details) == ["teams/width"] and details["teams/width"]["Other"]["n"] == 40
    assert details["teams/width"]["Real"]["boundary"] == results.features("Real").boundary.tolist()
    [cell] = results.of("Real", "attack")
    found = cell.columns["found"].astype(bool) | ~results.clean("Real").correct
    assert data["metrics"]["teams/near"]["Real"] == pytest.approx(found.mean())
    assert "no teams/nothing for Real: it is a toy" in data["warnings"]
    [problem] = data["problems"]
    assert problem.startswith("teams/odd: TypeError: <class 'object'> cannot be a detail of a metric; details are")
    assert [cell["kind"] for cell in as_data(report)["cells"]] == ["clean", "attack"] * 2
    assert set(results.to_pandas()["perturbation"]) == {"clean", "nearest(linf)"}


def test_distances_are_those_of_the_report(feature_suite, run):
    results = run(feature_suite(metrics=["teams/near"], attacks=[{"attack": "teams/nearest"}]))
    [cell] = results.of("Real", "attack")
    clean = results.clean("Real").correct
    assert (cell.distances[~clean] == 0).all() and np.isinf(cell.distances[cell.correct]).all()
    assert (cell.distances[clean & ~cell.correct] > 0).all()
    [reported] = [cell.distances for cell in build(results).cells if cell.distances]
    assert reported.found == np.isfinite(cell.distances).sum()


@pytest.fixture
def shell_plugins(tmp_path, teams):
    """The toys and a painter."""
    (tmp_path / "painter.py").write_text(PAINTER)
    return [*teams, "painter.py"]


def test_plugins_draw_figures(shell, feature_suite, tmp_path):
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(feature_suite()))
    assert shell("run", "suite.yaml").returncode == 0
    found = shell("report", "suite.yaml", "--figures", "some/where", "-o", "x.json")
    assert found.returncode == 0
    assert "wrote some/where/sizes.txt\nwrote x.json\n" in found.stderr
    assert (tmp_path / "some/where/sizes.txt").read_text() == "{'Real': (40, 96)}"
    warnings = json.loads((tmp_path / "x.json").read_text())["warnings"]
    assert "robharness_figures of painter.py: RuntimeError: no more paint" in warnings
    (tmp_path / "file").touch()
    refused = shell("report", "suite.yaml", "--figures", "file/x")
    assert refused.returncode == 2 and "file/x: cannot be created" in refused.stderr


def test_a_suite_without_figures_is_reported(shell, feature_suite, tmp_path):
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(feature_suite(metrics=[])))
    found = shell("report", "suite.yaml", "--figures", "pictures")
    assert "these results have no figures yet" in found.stderr
    assert shell("run", "suite.yaml").returncode == 0
    found = shell("report", "suite.yaml", "--figures", "pictures")
    assert "robharness_figures of painter.py: KeyError" in found.stdout


def test_a_plan_shows_cells_with_features(shell, feature_suite, tmp_path):
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(feature_suite(metrics=[])))
    shell("run", "suite.yaml")
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(feature_suite()))
    found = json.loads(shell("plan", "suite.yaml", "--json", "--why").stdout)
    clean, features = found["cells"]
    assert (clean["kind"], clean["done"], clean["why"]) == ("clean", 40, None)
    assert (features["kind"], features["perturbation"], features["forward"]) == ("features", "features(clean)", 2)
    assert features["why"] == "no comparable cell is stored"
