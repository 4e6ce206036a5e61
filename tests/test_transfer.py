"""Transfer attacks (`source`): crafted on a surrogate and judged by another model."""

import numpy as np
import pytest
import torch

from robharness import api
from robharness.errors import SuiteError
from robharness.evaluation import loading
from robharness.evaluation.classifier import Classifier

MODELS = [
    {"model": "teams/net", "label": "A"},
    {"model": "teams/net", "label": "B", "seed": 1},
    {"model": "toys/net", "label": "C"},
]
STEP = {"attack": "teams/step", "eps": "1/4"}


def by_name(results):
    return {(result.cell.model.label, result.cell.short_name): result for result in results.cells}


def test_a_transfer_attack_is_crafted_on_the_surrogate_and_judged_by_the_model(suite, run, teams):
    results = run(suite(models=MODELS, attacks=[STEP, STEP | {"source": "B"}]), batch_size=8)
    planned = results.plan
    networks = {model.label: loading.load_model(planned, model, with_surrogates=False) for model in planned.models}
    batch = networks["A"].reader.read(0, 40)

    def lead(logits, labels):
        others = logits.scatter(1, labels[:, None], float("-inf")).amax(1)
        return others - logits.gather(1, labels[:, None])[:, 0]

    leaf = batch.x.clone().requires_grad_(True)
    lead(networks["B"].classifier.net(leaf), batch.labels).sum().backward()
    crafted = (batch.x + 0.25 * leaf.grad.sign()).clamp(0, 1)
    found = by_name(results)
    for label in "ABC":
        logits = networks[label].classifier.net(crafted)
        result = found[label, "step(linf, 1/4, source=B)"]
        assert (result.columns["prediction"] == logits.argmax(1).numpy()).all()
        assert np.allclose(result.columns["margin"], -lead(logits, batch.labels).detach().numpy(), atol=1e-5)
    assert found["A", "step(linf, 1/4)"].correct.tolist() != found["A", "step(linf, 1/4, source=B)"].correct.tolist()
    own, other = (
        found["B", name].columns["margin"].tolist() for name in ("step(linf, 1/4)", "step(linf, 1/4, source=B)")
    )
    assert own == other


def test_cached_clean_gradients_are_kept_per_model(suite, run):
    """The same attack on both: its gradient and its logits at the clean point are not the judged model's."""
    nearest = {"attack": "teams/nearest", "eps": "1/4"}
    found = by_name(run(suite(models=MODELS, attacks=[nearest, nearest | {"source": "B"}])))
    sizes = {label: found[label, "nearest(linf, 1/4, source=B)"].columns["size"].tolist() for label in "ABC"}
    assert sizes["A"] == sizes["B"] == sizes["C"] == found["B", "nearest(linf, 1/4)"].columns["size"].tolist()
    assert sizes["A"] != found["A", "nearest(linf, 1/4)"].columns["size"].tolist()


def test_outcomes_do_not_depend_on_processes_and_batch_size(suite, run):
    attacks = [STEP | {"source": "B"}, {"attack": "teams/team", "eps": ["1/8", "1/4"], "source": "C"},
               {"attack": "teams/neighbours", "eps": "1/4", "source": "B"}]  # fmt: skip
    source = suite(models=MODELS, attacks=attacks, count="robust")
    whole = run(source, batch_size=8)
    assert not any(result.failures for result in whole.cells)
    for name, options in (("workers", {"workers": 2}), ("parts", {"shard": (2, 3)})):
        run(source, name, batch_size=8, **options)
        again = run(source, name, batch_size=8)
        for one, other in zip(whole.cells, again.cells, strict=True):
            assert one.columns["margin"].tolist() == other.columns["margin"].tolist()
            assert one.columns["prediction"].tolist() == other.columns["prediction"].tolist()


def test_the_identity_includes_the_surrogate(suite, teams, tmp_path):
    """Its options and its weights are in the key of what is crafted on it; its label is not."""

    def keys(**changes):
        models = [MODELS[0], MODELS[1] | changes]
        attacks = [STEP, STEP | {"source": models[1]["label"]}]
        cells = api.plan(suite(models=models, attacks=attacks), plugins=teams).cells
        return [cell.key for cell in cells if cell.model.label == "A"]

    base = keys()
    assert len(set(base)) == 3
    assert keys(label="other") == base
    (tmp_path / "net.pt").write_bytes(b"weights")
    for changes in ({"seed": 2}, {"weights": str(tmp_path / "net.pt")}):
        clean, white, crafted = keys(**changes)
        assert [clean, white] == base[:2] and crafted != base[2]


def test_outcomes_record_the_state_and_plugin_of_the_surrogate(suite, run):
    results = run(suite(models=MODELS[:2], attacks=[STEP | {"source": "B"}]))
    found = by_name(results)
    [entry] = found["A", "step(linf, 1/4, source=B)"].provenance
    [other] = found["B", "clean"].provenance
    assert entry["sources"] == f"B: {other['model_state']} at 40 rows, {other['folded']} norms folded"
    assert entry["model_state"] != other["model_state"]
    assert entry["source_plugin"] == entry["model_plugin"]


@pytest.mark.parametrize("what", ["unbuildable", "crashes-with-gradients", "crashes-on-pictures"])
def test_a_failing_surrogate_fails_only_its_transfer_attacks(suite, run, what):
    broken = {"model": "teams/net", "label": "Broken", "what": what}
    found = by_name(run(suite(models=[MODELS[2], broken], attacks=[STEP, STEP | {"source": "Broken"}])))
    assert found["C", "clean"].n == found["C", "step(linf, 1/4)"].n == 40
    [failure] = found["C", "step(linf, 1/4, source=Broken)"].failures
    assert failure.error.startswith("teams/net: it") and failure.blame.endswith("teams.py")


def test_the_batch_size_of_the_surrogate_is_reduced_when_memory_is_short(suite, run, teams):
    planned = api.plan(suite(models=MODELS, attacks=[STEP | {"source": "B"}]), plugins=teams)
    loaded = loading.load_model(planned, planned.models[0], batch_size=8)
    smaller = loading.with_batch_size(planned, loaded, 4, too_many=8)
    assert isinstance(smaller.classifier, Classifier)
    assert [smaller.classifier.batch_size, smaller.surrogates["B"].classifier.batch_size] == [4, 4]
    assert torch.equal(
        smaller.surrogates["B"].classifier.net.head.weight, loaded.surrogates["B"].classifier.net.head.weight
    )


def test_a_minimal_attack_on_a_surrogate_is_refused(suite, teams):
    boundary_suite = suite(models=MODELS[:2], attacks=[{"attack": "teams/nearest", "source": "B"}])
    with pytest.raises(SuiteError, match="without `eps` the nearest mistake is the source's own"):
        api.plan(boundary_suite, plugins=teams)


def test_a_plan_warns_of_attacks_that_stop_at_the_boundary_of_the_surrogate(suite, teams):
    [warning] = api.plan(suite(models=MODELS[:2], attacks=[STEP | {"source": "B"}]), plugins=teams).warnings
    assert warning.startswith(
        "step(linf, 1/4, source=B): an attack that stops as soon as B is wrong changes inputs little"
    )
