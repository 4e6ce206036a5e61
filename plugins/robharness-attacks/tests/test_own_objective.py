"""Objectives of other plugins inside FGSM, PGD and Auto-PGD."""

from __future__ import annotations

import textwrap

import pytest
import torch

from robharness import Component, ComponentSpec, api, discover
from robharness.errors import UserError
from robharness.testing import Broken, checks
from robharness_attacks.components import own
from robharness_attacks.objectives import objective_of

MINE = """
from dataclasses import dataclass

from robharness import ComponentSpec, hookimpl


@dataclass(frozen=True, kw_only=True)
class Sharpness:
    sharpness: float = 1.0


def cross_entropy(params):
    from torch.nn import functional

    return lambda logits, labels: functional.cross_entropy(logits * params.sharpness, labels, reduction="none")


def broken(params):
    return lambda logits, labels: logits.sum()


def nan(params):
    return lambda logits, labels: logits.sum(1) * float("nan")


def detached(params):
    return lambda logits, labels: logits.detach().amax(1)


def crashes(params):
    def objective(logits, labels):
        raise KeyError("no such class")

    return objective


@hookimpl
def robharness_components():
    yield ComponentSpec(
        name="ce", role="attack-objective", summary="Cross-entropy", build=cross_entropy, params=Sharpness
    )
    yield ComponentSpec(name="sum", role="attack-objective", summary="One sum", build=broken)
    for name, build in (("nan", nan), ("detached", detached), ("crash", crashes)):
        yield ComponentSpec(name=name, role="attack-objective", summary="Broken", build=build)
    yield ComponentSpec(name="other", role="network", summary="No objective", build=broken)
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


@pytest.fixture
def run(mine, tmp_path, digits):
    """Run attacks on the digits' network, each with the option `objective`; give the cells of each objective."""
    from robharness import normalized

    net = normalized(digits[0], [0.0], [1.0])
    data = {"name": "samples/digits", "split": "test", "limit": 48}

    def attacks(objectives, *attacks):
        listed = [{**attack, "objective": objective} for objective in objectives for attack in attacks]
        suite = {"robharness": 1, "name": "own", "data": data, "attacks": listed}
        found = api.run(suite, models={"Net": net}, store=tmp_path / "store", plugins=[str(mine)], batch_size=12)
        cells = found.of("Net", "attack")
        return [cells[start :: len(attacks)] for start in range(len(attacks))], found

    return attacks


ATTACKS = [
    {"attack": "attacks/fgsm", "eps": "0.1"},
    {"attack": "attacks/pgd", "eps": "0.1", "random_start": False},
    {"attack": "attacks/pgd", "eps": "0.1", "random_start": False, "target": "least-likely"},
]


def columns(cell):
    return {name: cell.columns[name] for name in ("correct", "margin", "size", "prediction")}


def test_an_own_cross_entropy_gives_the_built_in_bits(run):
    by_attack, found = run(["cross-entropy", "mine/ce", {"name": "mine/ce", "sharpness": 40.0}], *ATTACKS)
    assert found.is_complete
    for built_in, mine, sharp in by_attack:
        for name, column in columns(built_in).items():
            assert (column == columns(mine)[name]).all(), name
        assert (columns(sharp)["margin"] != columns(mine)["margin"]).any()
        assert len({cell.cell.key for cell in (built_in, mine, sharp)}) == 3
        assert "objective=mine/ce" in mine.cell.name
        assert "objective=mine/ce(sharpness=40.0)" in sharp.cell.name


def test_apgd_gives_the_built_in_bits_too(attack, digits, batch_of, mine):
    net, x, labels = digits
    spec = discover([str(mine)]).components["mine/ce"].spec
    ours = Component("mine/ce", spec=spec, params=spec.params(), full_name="mine/ce")
    batch = batch_of(x[:60], labels[:60])
    for options in ({}, {"targets": 3}):
        one, other = (
            attack("apgd", net, batch, 0.1, steps=10, objective=objective, **options)
            for objective in ("cross-entropy", ours)
        )
        assert torch.equal(one.x, other.x)
        assert set(other.notes["objective"]) == {"mine/ce"}


def test_identity_and_provenance_know_the_other_plugin(mine, digits):
    data = {"name": "samples/digits", "split": "test", "limit": 8}

    def planned(objective):
        attack = {"attack": "attacks/pgd", "eps": "0.1", "objective": objective}
        suite = {"robharness": 1, "name": "own", "data": data, "attacks": [attack]}
        return api.plan(suite, models={"Net": digits[0]}, plugins=[str(mine)]).cells[1]

    cell = planned("mine/ce")
    written = cell.identity["perturbation"]["params"]["objective"]
    assert written["name"] == "mine/ce" and len(written["source"]) == 64
    assert "mine" in cell.plugins["perturbation_objective_plugin"]["plugin"]
    assert planned({"name": "mine/ce", "sharpness": 1.0}).key == cell.key
    assert planned("attacks/dlr").key == planned("dlr").key
    assert planned("dlr").identity["perturbation"]["params"] == {"objective": "dlr", "rel_step": "1/4"}
    assert "objective" not in planned("excess").identity["perturbation"]["params"]
    mine.write_text(MINE + "\n# another version\n")
    assert planned("mine/ce").key != cell.key


@pytest.mark.parametrize(("objective", "words"), [
    ("exces", ("attacks/exces", "excess")),
    ("mine/cf", ("mine/cf", "mine/ce")),
    ("mine/other", ("role 'network'", "attack-objective", "mine/ce")),
    ({"name": "mine/ce", "sharpnes": 1.0}, ("sharpnes", "sharpness")),
])  # fmt: skip
def test_errors_of_a_suite_name_the_objective(mine, digits, objective, words):
    data = {"name": "samples/digits", "split": "test", "limit": 8}
    attack = {"attack": "attacks/apgd", "eps": "0.1", "objective": objective}
    suite = {"robharness": 1, "name": "own", "data": data, "attacks": [attack]}
    with pytest.raises(UserError) as error:
        api.plan(suite, models={"Net": digits[0]}, plugins=[str(mine)])
    assert all(word in str(error.value) for word in words)


FAILURES = {
    "sum": "must return (12,) values, not ()",
    "nan": "mine/nan is NaN for finite logits",
    "detached": "the values of the objective mine/detached have no gradient",
    "crash": "it raised KeyError: 'no such class'",
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("attack", [*ATTACKS, {"attack": "attacks/apgd", "eps": "0.1", "steps": 2}])
def test_a_failure_names_the_plugin_of_the_objective(run, name, attack):
    _, found = run([f"mine/{name}"], attack)
    [cell] = found.of("Net", "attack")
    (failure,) = cell.failures
    assert FAILURES[name] in failure.error
    assert f"it uses mine/{name} of" in failure.error and "mine.py" in failure.error


def test_an_objective_may_be_nan_where_logits_are():
    logits = torch.tensor([[0.0, torch.nan], [1.0, 2.0]])
    values = objective_of(component(lambda logits, labels: logits.sum(1)), False)(logits, torch.tensor([0, 1]))
    assert values.isnan().tolist() == [True, False]


def test_gradients_of_equal_objectives_are_computed_once(digits, batch_of, mine):
    from robharness import Classifier

    spec = discover([str(mine)]).components["mine/ce"].spec
    model, batch = Classifier(digits[0], batch_size=10), batch_of(digits[1][:10], digits[2][:10])
    gradients = [
        batch.gradient(model, objective_of(Component("mine/ce", spec=spec, params=spec.params(sharpness=scale),
                                                     full_name="mine/ce"), False)).gradient
        for scale in (1.0, 1.0, 2.0)
    ]  # fmt: skip
    assert model.passes["backward"] == 2
    assert torch.equal(gradients[0], gradients[1]) and not torch.equal(gradients[0], gradients[2])


def component(function):
    spec = ComponentSpec(name="x", role="attack-objective", summary="X", build=lambda params: function)
    return Component("mine/x", spec=spec, full_name="mine/x")


def test_a_function_without_targets_is_decreased_for_the_target():
    logits, condition = torch.eye(4)[:2] * 3, torch.tensor([[0, 2], [1, 3]])
    targeted = objective_of(component(lambda logits, labels: logits.gather(1, labels[:, None])[:, 0]), True)
    assert targeted(logits, condition).tolist() == [0.0, 0.0]
    pair = component((lambda logits, labels: logits[:, 0], lambda logits, about: logits[:, 1] + about[:, 1]))
    assert objective_of(pair, True)(logits, condition).tolist() == [2.0, 6.0]
    assert objective_of(pair, False)(logits, condition[:, 0]).tolist() == [3.0, 0.0]


@pytest.mark.parametrize("built", [None, (), (max,), (max, 1), "max"])
def test_what_is_no_function_is_refused(built):
    with pytest.raises(TypeError, match="mine/x must be a function"):
        objective_of(component(built), False)


def test_python_names_mean_the_plugins_own():
    with pytest.raises(ValueError, match="there is no objective 'exces'"):
        own("exces")


OBJECTIVES = {
    "fine": "-logits.gather(1, labels[:, None])[:, 0]",
    "infinite": "-logits.gather(1, labels[:, None])[:, 0].exp().log1p() / 0",
    "mean": "(logits - logits.mean()).amax(1)",
    "scaled": "logits.amax(1) / (1 + logits.detach().abs().amax())",
    "detached": "logits.detach().amax(1)",
    "summed": "logits.sum()",
    "flat": "logits.sum(1) * 0",
    "random": "logits.amax(1) * torch.rand(1)",
}


@pytest.mark.parametrize(("name", "broken"), [
    ("fine", ""), ("infinite", "values_have_gradients"), ("mean", "rows_are_independent"),
    ("scaled", "rows_are_independent"), ("detached", "values_have_gradients"), ("summed", "values_have_gradients"),
    ("flat", "values_have_gradients"), ("random", "rows_are_independent"),
])  # fmt: skip
@pytest.mark.parametrize("is_pair", [False, True])
def test_the_author_kit_finds_what_is_wrong(tmp_path, name, broken, is_pair):
    path = tmp_path / f"kit_{name}.py"
    returned = "(fine, toward)" if is_pair else "function"
    path.write_text(
        textwrap.dedent(f"""
        from robharness import ComponentSpec, hookimpl

        def build(params):
            import torch

            function = lambda logits, labels: {OBJECTIVES[name]}
            fine = lambda logits, labels: -logits[:, 0]
            toward = lambda logits, about: function(logits, about[:, 1])
            return {returned}

        @hookimpl
        def robharness_components():
            yield ComponentSpec(name="x", role="attack-objective", summary="X", build=build)
    """)
    )
    for check in checks(path):
        if check.name == broken:
            with pytest.raises(Broken, match="with targets" if is_pair else "without targets"):
                check()
        elif not broken:
            check()
