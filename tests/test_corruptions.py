"""The numbers over several corruptions, against NumPy over the stored rows; mCE only with its table."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from robharness import api
from robharness.errors import SuiteError
from robharness.report import build
from robharness.report.renderers import json as report_json
from robharness.report.renderers import markdown, terminal
from robharness.suite import BASELINES

WEATHERED = str(Path(__file__).parent / "weathered.py")
NAMES = tuple(BASELINES["alexnet"].errors)
MODELS = [{"model": "weathered/even", "label": "Even", "reference": True},
          {"model": "weathered/biased", "label": "Biased"}]  # fmt: skip
ALL = [{"corruption": "weathered/*", "severity": [1, 2, 3, 4, 5]}]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Filled once, since all these suites have the same cells."""
    return tmp_path_factory.mktemp("weathered") / "store"


@pytest.fixture
def results(store):
    def call(**changes):
        base = {"robharness": 1, "name": "weathered", "data": {"name": "weathered/squares", "split": "test"},
                "models": MODELS, "corruptions": ALL}  # fmt: skip
        suite = {key: value for key, value in (base | changes).items() if value is not None}
        return api.run(suite, store=store, plugins=[WEATHERED])

    return call


def errors(found, label):
    """Error rates from the rows: clean, and (corruptions of the table, severities)."""
    wrong = {r.cell.short_name: 1 - (r.columns["prediction"] == r.columns["label"]).mean()
             for r in found.cells if r.cell.model.label == label}  # fmt: skip
    return wrong["clean"], np.array([[wrong[f"{name}({s})"] for s in range(1, 6)] for name in NAMES])


def data(found):
    return report_json.as_data(build(found))


def of(rows, **wanted):
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def test_mce_follows_the_published_formula_without_spatter(results):
    """Sums over the severities of the published mean times five, as Hendrycks and Dietterich write it."""
    found, table = results(baseline="alexnet"), BASELINES["alexnet"]
    for label in ("Even", "Biased"):
        clean, corrupted = errors(found, label)
        published = 5 * np.array([table.errors[name] for name in NAMES])
        ce = corrupted.sum(axis=1) / published
        relative = (corrupted - clean).sum(axis=1) / (published - 5 * table.clean)
        row = of(data(found)["corruption_errors"], model=label)
        assert (row["name"], row["baseline"], row["corruptions"], row["lacks"]) == ("mCE", "AlexNet", "weathered", "")
        assert row["error"] == pytest.approx(ce.mean(), abs=1e-12)
        assert row["relative"] == pytest.approx(relative.mean(), abs=1e-12)
        assert row["by_corruption"] == pytest.approx(dict(zip(NAMES, ce, strict=True)), abs=1e-12)
        assert row["interval"][0] < row["error"] < row["interval"][1]
        assert row["relative_interval"][0] < row["relative"] < row["relative_interval"][1]
    text = terminal_text(found)
    assert "mCE, weathered" in text and "relative mCE, weathered" in text and "relative to that of AlexNet" in text


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"baseline": "alexnet", "corruptions": [{"corruption": "weathered/*", "severity": [1, 2, 3]}]},
         "without outcomes: gaussian_noise(4) and 29 more"),
        ({"baseline": "alexnet", "corruptions": [{"corruption": f"weathered/{name}", "severity": [1, 2, 3, 4, 5]}
                                                 for name in NAMES[1:]]},
         "without outcomes: gaussian_noise(1) and 4 more"),
        ({"baseline": "alexnet", "canvas": 32, "corruptions": [{"corruption": "weathered/fog", "severity": 1}]},
         "AlexNet's errors are of images of 224 px, these have 32"),
    ],
    ids=["no table", "three severities", "14 corruptions", "another canvas"],
)  # fmt: skip
def test_mce_needs_all_corruptions_of_its_table(results, changes, why):
    found = results(**changes)
    report = build(found)
    for row in report_json.as_data(report)["corruption_errors"]:
        assert (row["name"], row["baseline"], row["relative"]) == ("mean corruption error", None, None)
        means = list(row["by_corruption"].values())
        assert row["error"] == pytest.approx(np.mean(means), abs=1e-12)
    for text in (terminal_text(found), markdown.render(report), report_json.render(report)):
        lines = [
            line for line in text.splitlines() if "no mCE of weathered" not in line and "an mCE is not" not in line
        ]
        assert "mCE" not in "\n".join(lines)
    mce_warnings = [line for line in report.warnings if "no mCE" in line]
    reason = mce_warnings[0].partition(": ")[2] if mce_warnings else None
    expected = [] if why is None else [f"no mCE of weathered for {label}: {reason}" for label in ("Even", "Biased")]
    assert mce_warnings == expected
    assert why is None or why in mce_warnings[0]


def test_an_mce_without_the_published_encoding_is_reported(results):
    def mce_warnings(**changes):
        return [line for line in build(results(**changes)).warnings if "an mCE is not comparable" in line]

    fog = {"corruptions": [{"corruption": "weathered/fog", "severity": 1}]}
    assert "write `compat: imagenet-c`" in mce_warnings(baseline="alexnet", **fog)[0]
    assert (
        mce_warnings(**fog)
        == mce_warnings(baseline="Even", **fog)
        == mce_warnings(baseline="alexnet", compat="imagenet-c", **fog)
        == []
    )


def test_another_model_is_a_baseline_by_its_own_name(results):
    corruptions = [{"corruption": f"weathered/{name}", "severity": [2, 4, 5]} for name in NAMES[:4]]
    found = results(baseline="Even", corruptions=corruptions)
    rate = {r.cell.model.label: {} for r in found.cells}
    for r in found.cells:
        rate[r.cell.model.label][r.cell.short_name] = 1 - (r.columns["prediction"] == r.columns["label"]).mean()
    ce, relative = [], []
    for name in NAMES[:4]:
        own, base = ([rate[label][f"{name}({s})"] for s in (2, 4, 5)] for label in ("Biased", "Even"))
        ce.append(sum(own) / sum(base))
        relative.append(sum(e - rate["Biased"]["clean"] for e in own) / sum(e - rate["Even"]["clean"] for e in base))
    row = of(data(found)["corruption_errors"], model="Biased")
    assert row["name"] == "mean CE relative to Even"
    assert row["error"] == pytest.approx(np.mean(ce), abs=1e-12)
    assert row["relative"] == pytest.approx(np.mean(relative), abs=1e-12)
    itself = of(data(found)["corruption_errors"], model="Even")
    assert (itself["error"], itself["relative"]) == pytest.approx((1, 1), abs=1e-12)
    assert itself["interval"] == pytest.approx((1, 1), abs=1e-12)  # one resample serves both
    assert "mCE" not in terminal_text(found)


def test_intervals_match_a_plain_loop(results):
    """The same resamples of the examples, one at a time, by indexing."""
    corruptions = [{"corruption": f"weathered/{name}", "severity": [1, 5]} for name in NAMES[:3]]
    found = results(corruptions=corruptions)
    rows = np.stack([r.correct for r in found.of("Biased", "corruption")])
    rng = np.random.Generator(np.random.Philox(0))
    loop = [rows[:, rng.integers(0, 60, 60)].mean() for _ in range(2000)]
    mean = of(data(found)["corruption_means"], model="Biased", group=None, severity=None)
    assert mean["interval"] == pytest.approx(np.quantile(loop, [0.025, 0.975]), abs=1e-12)
    error = of(data(found)["corruption_errors"], model="Biased")
    assert error["interval"] == pytest.approx(1 - np.quantile(loop, [0.975, 0.025]), abs=1e-12)


def test_means_and_slopes_cover_all_corruptions_groups_and_severities(results):
    found = results()
    parts = {(None, None), ("group 0", None), ("group 1", None), ("group 2", None), *((None, s) for s in range(1, 6))}
    means, slopes = data(found)["corruption_means"], data(found)["slopes"]
    assert {(row["group"], row["severity"]) for row in means} == parts
    assert {(row["group"], row["severity"]) for row in slopes} == parts
    cells = {label: found.of(label, "corruption") for label in ("Even", "Biased")}
    clean = {label: found.clean(label).accuracy for label in cells}
    for group, severity in parts:
        rows = {
            label: [r.accuracy for r in kept
                    if group in (None, r.cell.perturbation.entry.spec.group)
                    and severity in (None, r.cell.perturbation.severity)]
            for label, kept in cells.items()
        }  # fmt: skip
        mean = of(means, model="Biased", group=group, severity=severity)
        assert mean["accuracy"] == pytest.approx(np.mean(rows["Biased"]), abs=1e-12)
        assert mean["corruptions"] == mean["asked"] == len(rows["Biased"])
        x, y = (1 - np.array(rows[label]) / clean[label] for label in ("Even", "Biased"))
        slope = of(slopes, model="Biased", group=group, severity=severity)
        assert slope["slope"] == pytest.approx(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0], abs=1e-12)
    assert "mean of severity 5" in terminal_text(found) and "mean of group 2" in terminal_text(found)


def test_leaving_a_corruption_out_takes_all_its_severities(results):
    corruptions = [{"corruption": f"weathered/{name}", "severity": [3, 5]} for name in NAMES[-3:]]
    found = results(corruptions=corruptions)
    row = of(data(found)["slopes"], group=None, severity=None)
    assert set(row["without"]) == set(NAMES[-3:])
    for out in NAMES[-3:]:
        kept = {label: 1 - np.array([r.accuracy for r in found.of(label, "corruption")
                                     if r.cell.perturbation.entry.spec.name != out]) / found.clean(label).accuracy
                for label in ("Even", "Biased")}  # fmt: skip
        expected = (kept["Even"] @ kept["Biased"]) / (kept["Even"] @ kept["Even"])
        assert row["without"][out] == pytest.approx(expected, abs=1e-12)
    low, high = min(row["without"].values()), max(row["without"].values())
    assert re.search(rf"^  without one +{low:.2f} to {high:.2f}$", terminal_text(found), re.MULTILINE)


def test_an_unknown_baseline_is_an_error_of_the_suite(results):
    with pytest.raises(SuiteError, match=r"no published table and no model's label is 'alexnett'.*alexnet"):
        results(baseline="alexnett")
    with pytest.raises(SuiteError, match="'alexnet' is a published table; give the model of that label another one"):
        results(baseline="alexnet", models=[{"model": "weathered/even", "label": "alexnet"}])
    others = {"data": {"name": "weathered/others", "split": "test"}, "models": [{"model": "weathered/other"}]}
    with pytest.raises(SuiteError, match="AlexNet is of the labels 'imagenet-1k', weathered/others has 'greys'"):
        results(baseline="alexnet", **others)


def test_nothing_stored_gives_no_numbers(tmp_path):
    suite = {"robharness": 1, "name": "weathered", "data": {"name": "weathered/squares", "split": "test"},
             "models": MODELS, "corruptions": ALL, "baseline": "alexnet"}  # fmt: skip
    found = json.loads(report_json.render(build(api.load(suite, store=tmp_path, plugins=[WEATHERED]))))
    assert found["corruption_means"] == found["slopes"] == found["corruption_errors"] == []


def terminal_text(found):
    stream = io.StringIO()
    terminal.show(build(found), Console(file=stream, width=160))
    return stream.getvalue()
