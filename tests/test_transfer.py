"""Transfer attacks (`source`): crafted on a surrogate and judged by another model."""

import numpy as np
import pytest
import torch
from torch import nn

from robharness import api
from robharness.errors import SuiteError, UserError
from robharness.evaluation import loading
from robharness.evaluation.classifier import Classifier, NoGradient
from robharness.evaluation.ensemble import MeanLogits
from robharness.evaluation.probe import probe

MODELS = [
    {"model": "teams/net", "label": "A"},
    {"model": "teams/net", "label": "B", "seed": 1},
    {"model": "toys/net", "label": "C"},
]
STEP = {"attack": "teams/step", "eps": "1/4"}


def by_name(results):
    return {(result.cell.model.label, result.cell.short_name): result for result in results.cells}


def lead(logits, labels):
    others = logits.scatter(1, labels[:, None], float("-inf")).amax(1)
    return others - logits.gather(1, labels[:, None])[:, 0]


@pytest.mark.parametrize("members", ["B", "AB", "ABC"])
def test_a_transfer_attack_is_crafted_on_the_surrogates_and_judged_by_the_model(suite, run, members):
    """An ensemble is attacked on the mean of the logits; the gradient is computed here from the networks alone."""
    source = "B" if members == "B" else {"ensemble": list(members)}
    results = run(suite(models=MODELS, attacks=[STEP, STEP | {"source": source}]), batch_size=8)
    planned = results.plan
    networks = {model.label: loading.load_model(planned, model, with_surrogates=False) for model in planned.models}
    batch = networks["A"].reader.read(0, 40)
    leaf = batch.x.clone().requires_grad_(True)
    mean = sum(networks[label].classifier.net(leaf) for label in members) / len(members)
    lead(mean, batch.labels).sum().backward()
    crafted = (batch.x + 0.25 * leaf.grad.sign()).clamp(0, 1)
    found = by_name(results)
    for label in "ABC":
        logits = networks[label].classifier.net(crafted)
        result = found[label, f"step(linf, 1/4, source={'+'.join(members)})"]
        assert (result.columns["prediction"] == logits.argmax(1).numpy()).all()
        assert np.allclose(result.columns["margin"], -lead(logits, batch.labels).detach().numpy(), atol=1e-5)


def test_every_model_is_attacked_with_what_is_crafted_on_every_other(suite, run):
    """The model itself included, whose outcomes are those of the attack without a source."""
    results = run(suite(models=MODELS, attacks=[STEP, STEP | {"source": "*"}]), batch_size=8)
    found = by_name(results)
    assert len(found) == 3 * (1 + 1 + 3)
    for label in "ABC":
        own = found[label, f"step(linf, 1/4, source={label})"]
        assert own.columns["margin"].tolist() == found[label, "step(linf, 1/4)"].columns["margin"].tolist()
    assert found["A", "step(linf, 1/4)"].correct.tolist() != found["A", "step(linf, 1/4, source=B)"].correct.tolist()


def linear(weight):
    """A linear network on 4 pixels with these rows of weights."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, len(weight), bias=False))
    net[1].weight.data = torch.tensor(weight)
    return net


def classifier(net, batch_size=4, **options):
    made = Classifier(net, batch_size=batch_size, **options)
    probe(made, (1, 2, 2))
    return made


def test_the_gradient_of_an_ensemble_is_that_of_the_mean_weights():
    """The gradient of two linear networks is the mean row of the wrong class minus that of the true one."""
    one, two = [[1.0, 0, -2, 4], [0, 3, 1, 1]], [[3.0, 2, 0, 0], [-2, 1, 1, 5]]
    joined = classifier(MeanLogits([classifier(linear(each)) for each in (one, two)]))
    x, labels = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 0])
    found = joined.gradient(x, labels, lead)
    assert found.logits.tolist() == [[2.0, 2.5]] * 3
    direction = [-3.0, 1.0, 2.0, 1.0]
    assert [row.flatten().tolist() for row in found.gradient] == [direction, [-each for each in direction], direction]


def test_an_ensemble_of_one_is_the_model_bit_for_bit(suite, teams):
    planned = api.plan(suite(models=MODELS), plugins=teams)
    draws = torch.Generator().manual_seed(0)
    for model in planned.models:
        alone = loading.load_model(planned, model, batch_size=8).classifier
        joined = Classifier(MeanLogits([alone]), batch_size=8)
        x = torch.empty(20, 1, 8, 8).uniform_(generator=draws)
        labels = torch.arange(20) % 3
        own, other = (each.gradient(x, labels, lead) for each in (alone, joined))
        assert all(torch.equal(a, b) for a, b in zip(own, other, strict=True))
        assert torch.equal(alone.logits(x), joined.logits(x))


def test_a_member_that_writes_into_its_input_does_not_change_that_of_the_others():
    class Writes(nn.Module):
        def forward(self, x):
            return x.mul_(2).flatten(1)

    joined = classifier(MeanLogits([classifier(Writes()), classifier(linear(torch.eye(4).tolist()))]))
    x = torch.full((4, 1, 2, 2), 0.25)
    assert joined.logits(x).tolist() == [[0.375] * 4] * 4
    assert not joined.copies_input and x.eq(0.25).all()


class Hidden(nn.Module):
    """A network that writes into its input where autograd does not record it, so that its gradient is wrong."""

    def forward(self, x):
        x.data.mul_(2)
        return x.flatten(1)


class Detached(nn.Module):
    def forward(self, x):
        return x.detach().flatten(1)


@pytest.mark.parametrize(("net", "reason"), [(Hidden, "where autograd does not record it"), (Detached, "no gradient")])
@pytest.mark.parametrize("at", [0, 1])
def test_an_ensemble_gives_no_gradient_for_the_reason_of_its_member(net, reason, at):
    """Its own probe cannot find it: members get copies, and the gradient of the others is one of the mean."""
    alone, other = classifier(net()), classifier(linear(torch.eye(4).tolist()))
    members = [other, alone] if at else [alone, other]
    joined = classifier(MeanLogits(members))
    assert reason in alone.no_gradient and joined.no_gradient == alone.no_gradient and not other.no_gradient
    x, labels = torch.full((4, 1, 2, 2), 0.25), torch.zeros(4, dtype=torch.int64)
    assert torch.equal(joined.logits(x), (alone.logits(x) + other.logits(x)) / 2)
    with pytest.raises(NoGradient, match=reason):
        joined.gradient(x, labels, lead)
    again = classifier(MeanLogits([joined, other]))
    assert again.no_gradient == alone.no_gradient


def test_a_member_without_gradient_fails_the_attacks_on_its_ensemble_alone(suite, run):
    """With the member's own words; an attack on the other member is computed."""
    blind = {"model": "teams/net", "label": "Blind", "what": "hidden-write"}
    sources = ["C", {"ensemble": ["C", "Blind"]}]
    found = by_name(run(suite(models=[*MODELS[::2], blind], attacks=[STEP | {"source": sources}])))
    assert found["A", "step(linf, 1/4, source=C)"].n == 40
    [failure] = found["A", "step(linf, 1/4, source=C+Blind)"].failures
    assert "where autograd does not record it" in failure.error


def test_members_with_other_numbers_of_classes_have_no_mean():
    members = [classifier(linear([[1.0] * 4] * classes)) for classes in (2, 3)]
    with pytest.raises(Exception, match="different numbers of classes, 2, 3, so logits have no mean"):
        classifier(MeanLogits(members))


def test_cached_clean_gradients_are_kept_per_model(suite, run):
    """The same attack on both: its gradient and its logits at the clean point are not the judged model's."""
    nearest = {"attack": "teams/nearest", "eps": "1/4"}
    found = by_name(run(suite(models=MODELS, attacks=[nearest, nearest | {"source": "B"}])))
    sizes = {label: found[label, "nearest(linf, 1/4, source=B)"].columns["size"].tolist() for label in "ABC"}
    assert sizes["A"] == sizes["B"] == sizes["C"] == found["B", "nearest(linf, 1/4)"].columns["size"].tolist()
    assert sizes["A"] != found["A", "nearest(linf, 1/4)"].columns["size"].tolist()


def test_outcomes_do_not_depend_on_processes_and_batch_size(suite, run):
    attacks = [STEP | {"source": ["B", {"ensemble": ["A", "B"]}]},
               {"attack": "teams/team", "eps": ["1/8", "1/4"], "source": {"ensemble": "*"}},
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


def test_the_identity_of_an_ensemble_holds_all_of_its_models(suite, teams):
    def key(ensemble, **changes):
        models = [MODELS[0], MODELS[1] | changes, MODELS[2]]
        cells = api.plan(suite(models=models, attacks=[STEP | {"source": ensemble}]), plugins=teams).cells
        return next(cell.key for cell in cells if cell.model.label == "A" and cell.perturbation)

    base = key({"ensemble": ["B", "C"]})
    assert key({"ensemble": ["C", "B"]}) == base  # members are in the suite's order
    different = [key({"ensemble": ["B", "C"]}, seed=2), key("B"), key({"ensemble": ["A", "B", "C"]})]
    assert len({base, *different}) == 4
    assert key({"ensemble": "B"}) == key("B")


def test_outcomes_record_the_state_and_plugin_of_the_surrogate(suite, run):
    results = run(suite(models=MODELS[:2], attacks=[STEP | {"source": "B"}]))
    found = by_name(results)
    [entry] = found["A", "step(linf, 1/4, source=B)"].provenance
    [other] = found["B", "clean"].provenance
    assert entry["sources"] == f"B: {other['model_state']} at 40 rows, {other['folded']} norms folded"
    assert entry["model_state"] != other["model_state"]
    assert entry["source_plugin"] == entry["model_plugin"]


def test_outcomes_record_the_states_and_plugins_of_an_ensemble(suite, run):
    results = run(suite(models=MODELS, attacks=[STEP | {"source": {"ensemble": ["B", "C"]}}]))
    found = by_name(results)
    [entry] = found["A", "step(linf, 1/4, source=B+C)"].provenance
    states = "+".join(found[label, "clean"].provenance[0]["model_state"] for label in "BC")
    assert entry["sources"].startswith(f"B+C: {states} at 40 rows")
    assert entry["source_plugin"] == entry["model_plugin"] != entry["source2_plugin"]


@pytest.mark.parametrize("what", ["unbuildable", "crashes-with-gradients", "crashes-on-pictures"])
def test_a_failing_surrogate_fails_only_its_transfer_attacks(suite, run, what):
    broken = {"model": "teams/net", "label": "Broken", "what": what}
    found = by_name(run(suite(models=[MODELS[2], broken], attacks=[STEP, STEP | {"source": "Broken"}])))
    assert found["C", "clean"].n == found["C", "step(linf, 1/4)"].n == 40
    [failure] = found["C", "step(linf, 1/4, source=Broken)"].failures
    assert failure.error.startswith("teams/net, the surrogate Broken: it") and failure.blame.endswith("teams.py")


def test_a_failing_member_fails_only_its_ensemble(suite, run):
    broken = {"model": "teams/net", "label": "Broken", "what": "unbuildable"}
    sources = [{"ensemble": ["A", "C"]}, {"ensemble": ["C", "Broken"]}]
    found = by_name(run(suite(models=[*MODELS[::2], broken], attacks=[STEP | {"source": sources}])))
    assert found["A", "step(linf, 1/4, source=A+C)"].n == found["C", "step(linf, 1/4, source=A+C)"].n == 40
    for label in "AC":
        [failure] = found[label, "step(linf, 1/4, source=C+Broken)"].failures
        assert failure.error.startswith(
            "teams/net, the surrogate Broken: it cannot be built"
        ) and failure.blame.endswith("teams.py")


def test_what_fails_in_an_ensemble_names_all_of_its_members(suite, run):
    """Whose part of the mean fails is not known."""
    broken = {"model": "teams/net", "label": "Broken", "what": "crashes-on-pictures"}
    found = by_name(run(suite(models=[MODELS[2], broken], attacks=[STEP | {"source": {"ensemble": "*"}}])))
    assert found["C", "clean"].n == 40
    [failure] = found["C", "step(linf, 1/4, source=C+Broken)"].failures
    assert failure.error.startswith("toys/net, teams/net, the ensemble C+Broken: it")


def test_an_ensemble_of_other_numbers_of_classes_fails_and_names_the_member(suite, run):
    other = {"model": "teams/net", "label": "Other", "what": "another-class"}
    found = by_name(run(suite(models=[MODELS[2], other], attacks=[STEP | {"source": ["*", {"ensemble": "*"}]}])))
    for label in ("C", "Other"):
        [failure] = found[label, "step(linf, 1/4, source=C+Other)"].failures
        assert failure.error.startswith("teams/net, the surrogate Other: it has 4 outputs and C has 3, so their logits")
        assert all(found[label, f"step(linf, 1/4, source={source})"].n == 40 for source in ("C", "Other"))


def test_the_batch_size_of_the_surrogate_is_reduced_when_memory_is_short(suite, run, teams):
    source = ["B", {"ensemble": ["B", "C"]}]
    planned = api.plan(suite(models=MODELS, attacks=[STEP | {"source": source}]), plugins=teams)
    loaded = loading.load_model(planned, planned.models[0], batch_size=8)
    smaller = loading.with_batch_size(planned, loaded, 4, too_many=8)
    assert isinstance(smaller.classifier, Classifier)
    sizes = {name: other.classifier.batch_size for name, other in smaller.surrogates.items()}
    assert (smaller.classifier.batch_size, sizes) == (4, {"B": 4, "B+C": 4})
    assert torch.equal(
        smaller.surrogates["B"].classifier.net.head.weight, loaded.surrogates["B"].classifier.net.head.weight
    )


def test_a_minimal_attack_on_a_surrogate_is_refused(suite, teams):
    boundary_suite = suite(models=MODELS[:2], attacks=[{"attack": "teams/nearest", "source": "B"}])
    with pytest.raises(SuiteError, match="without `eps` the nearest mistake is the source's own"):
        api.plan(boundary_suite, plugins=teams)


def test_a_plan_warns_once_of_an_attack_that_stops_at_the_boundary_of_the_surrogate(suite, teams):
    [warning] = api.plan(suite(models=MODELS[:2], attacks=[STEP | {"source": "B"}]), plugins=teams).warnings
    assert warning.startswith(
        "step(linf, 1/4, source=B): an attack that stops as soon as B is wrong changes inputs little"
    )
    every = STEP | {"eps": ["1/8", "1/4"], "source": "*"}
    [warning] = api.plan(suite(models=MODELS[:2], attacks=[every]), plugins=teams).warnings
    assert warning.startswith("step(linf) from A, B: an attack that stops as soon as its source is wrong")


def test_a_plan_does_not_warn_of_an_attack_that_runs_to_its_end(suite, teams):
    attacks = [STEP | {"source": "B", "how": "to-end"}]
    assert not api.plan(suite(models=MODELS[:2], attacks=attacks), plugins=teams).warnings
    both = [*attacks, STEP | {"source": "A", "eps": "1/8"}]
    [warning] = api.plan(suite(models=MODELS[:2], attacks=both), plugins=teams).warnings
    assert warning.startswith("step(linf, 1/8, source=A): an attack that stops as soon as A is wrong")
    wrong = [STEP | {"source": "B", "how": "perhaps"}]
    with pytest.raises(UserError, match="its function `runs_to_end` returned 'perhaps', not a bool"):
        api.plan(suite(models=MODELS[:2], attacks=wrong), plugins=teams)
