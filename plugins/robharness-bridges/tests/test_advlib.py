"""adv-lib: pixelwise equality with its functions, names, norms, and searches with and without a budget."""

from __future__ import annotations

import inspect
import math
import sys

import pytest
import torch

from robharness import InputSpec, UserError, plan
from robharness_bridges import AdvlibParams, Options, available, robharness_attacks
from robharness_bridges.advlib import NORMS, advlib

SPEC = next(spec for spec in robharness_attacks() if spec.name == "advlib")
FEW = {"steps": 5, "num_steps": 20, "n_iter": 5, "max_iterations": 20, "iter": 20, "n_samples": 3, "df_steps": 5,
       "max_iter": 20, "largest_const": 1e-3}  # fmt: skip
EPS = {"linf": 0.15, "l2": 1.0, "l1": 4.0, "l0": 12}
FAR = float("inf")
SEED = 7


def seeded(call):
    torch.manual_seed(SEED)  # noqa: TID251 (as the core seeds for attacks that draw globally)
    return call()


def options_of(name):
    known = inspect.signature(getattr(advlib(), name)).parameters
    few = {"retrain": False, "binary_search_steps": 2} if name == "str_attack" else FEW
    return {option: value for option, value in few.items() if option in known}


@pytest.fixture(scope="module")
def case(digits):
    """A network and 16 examples, one of them with a wrong label."""
    net, x, labels = digits
    labels = labels[:16].clone()
    labels[3] = (labels[3] + 1) % 10
    return net, x[:16], labels


def test_every_function_is_available_or_refused():
    functions = {name for name, value in vars(advlib()).items() if inspect.isfunction(value)}
    assert functions == {*available("adv-lib"), "perc_al"} == {*NORMS, "perc_al"}
    assert "visdom" not in sys.modules, "only the import itself needs it"


@pytest.mark.parametrize("kind", ["image", "video"])
def test_every_available_attack_runs(attack, random_net, uniform, kind):
    input = InputSpec(kind=kind, shape={"image": (3, 8, 8), "video": (3, 2, 8, 8)}[kind])
    net, x = random_net(*input.shape), uniform(4, 4, *input.shape)
    labels, unmoved, ran = net(x).argmax(1), [], 0
    for name in available("adv-lib"):
        for norm in NORMS[name]:
            params = {"name": name, "norm": norm, "options": options_of(name)}
            if reason := SPEC.refuses(AdvlibParams(**params), input):
                assert (kind, name) == ("video", "str_attack")
                assert reason == "str_attack of adv-lib takes images only, since it groups neighbouring pixels"
                continue
            result = attack("advlib", net, x, labels, 2 * EPS[norm], rows=4, **params)
            unmoved += [name] if torch.equal(result, x) else []
            ran += 1
    assert ran == (33 if kind == "image" else 32)
    assert len(unmoved) <= 6, unmoved


@pytest.mark.parametrize(("name", "norm", "options", "direct"), [
    ("apgd", "l1", {"n_iter": 20}, {"norm": 1, "n_iter": 20, "eps": EPS["l1"]}),
    ("pgd_linf", "linf", {"steps": 5}, {"steps": 5, "ε": EPS["linf"]}),
    ("pgd_linf", "linf", {"steps": 5, "absolute_step_size": "1/32"},
     {"steps": 5, "absolute_step_size": 1 / 32, "ε": EPS["linf"]}),
])  # fmt: skip
def test_attacks_with_a_budget(attack, case, name, norm, options, direct):
    net, x, labels = case
    expected = seeded(lambda: getattr(advlib(), name)(net, x, labels, **direct))
    result = seeded(lambda: attack("advlib", net, x, labels, EPS[norm], name=name, norm=norm, options=options))
    torch.testing.assert_close(result, expected.detach().clamp(0, 1), atol=1e-6, rtol=0)
    assert float((result - x).abs().max()) > 0.05


@pytest.mark.parametrize(("name", "norm", "options", "direct"), [
    ("alma", "l1", {"num_steps": 60}, {"num_steps": 60, "distance": "l1"}),
    ("carlini_wagner_l2", "l2", {"max_iterations": 60, "learning_rate": 0.1},
     {"max_iterations": 60, "learning_rate": 0.1}),
    ("ddn", "l2", {"steps": 20, "levels": None}, {"steps": 20, "levels": None}),
    ("df", "linf", {}, {"norm": math.inf}),
    ("fab", "l2", {"n_iter": 5}, {"norm": 2, "n_iter": 5}),
    ("fmn", "l0", {"steps": 40}, {"norm": 0, "steps": 40}),
    ("pdpgd", "l1", {"num_steps": 60}, {"norm": 1, "num_steps": 60}),
    ("sigma_zero", "l0", {"num_steps": 60}, {"num_steps": 60}),
    ("tr", "l2", {"iter": 60, "eps": 0.05}, {"p": 2, "iter": 60, "eps": 0.05}),
    ("vfga", "l0", {}, {"targeted": False}),
])  # fmt: skip
def test_searches(attack, case, name, norm, options, direct):
    """Without a budget, the library's own points; with one, those within it, and else the inputs."""
    net, x, labels = case
    expected = seeded(lambda: getattr(advlib(), name)(net, x.clone(), labels, **direct)).detach().clamp(0, 1)
    params = {"name": name, "norm": norm, "options": options}
    whole = seeded(lambda: attack("advlib", net, x, labels, FAR, **params))
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=0)
    order = {"linf": torch.inf, "l2": 2, "l1": 1, "l0": 0}[norm]
    sizes = torch.linalg.vector_norm((whole.double() - x.double()).flatten(1), ord=order, dim=1)
    assert float((net(whole).argmax(1) != labels).float().mean()) > 0.9
    eps = float(sizes.sort().values[8])
    within = seeded(lambda: attack("advlib", net, x, labels, eps, **params))
    assert torch.equal(within, torch.where((sizes <= eps)[:, None, None, None], whole, x))
    assert 8 < int((sizes <= eps).sum()) < 16


SUITE = {"robharness": 1, "name": "advlib", "data": {"name": "samples/imagenet-photos", "split": "val"},
         "models": [{"model": "samples/efficientnet-lite0"}]}  # fmt: skip


def planned(**entry):
    cells = plan({**SUITE, "attacks": [{"attack": "bridges/advlib", **entry}]}).cells
    return next(cell for cell in cells if cell.kind == "attack")


@pytest.mark.parametrize(("entry", "sentence"), [
    ({"name": "pgd_linf"}, "missing key 'eps'"),
    ({"name": "apgd", "norm": "l1"}, "missing key 'eps'"),
    ({"name": "fnm", "norm": "l2"}, "adv-lib has no attack 'fnm'; did you mean 'fmn'?"),
    ({"name": "perc_al", "norm": "l2"}, "perc_al of adv-lib cannot be used: it minimises a distance of colours"),
    ({"name": "ddn"}, "ddn of adv-lib has the norm l2. Try: norm: l2"),
    ({"name": "sigma_zero", "norm": "l1"}, "sigma_zero of adv-lib has the norm l0. Try: norm: l0"),
    ({"name": "fmn", "options": {"step": 3}}, "fmn of adv-lib has no option 'step'; did you mean 'steps'?"),
    ({"name": "fmn", "options": {"norm": 1}}, "fmn of adv-lib has no option 'norm'"),
    ({"name": "fmn", "options": {"starting_points": 1}}, "fmn of adv-lib has no option 'starting_points'"),
    ({"name": "pgd_linf", "eps": "1/255", "options": {"ε": 1}}, "pgd_linf of adv-lib has no option 'ε'"),
])  # fmt: skip
def test_mistakes_are_found_when_the_suite_is_read(entry, sentence):
    with pytest.raises(UserError) as error:
        planned(**entry)
    (line, *_) = str(error.value).splitlines()
    assert sentence in line


@pytest.mark.parametrize(("entry", "name", "forwards", "gradients"), [
    ({"name": "ddn", "norm": "l2", "options": {"γ": "1/20", "levels": None}},
     "advlib(l2, name=ddn, options={levels: null, γ: 1/20})", 100, 100),
    ({"name": "sigma_zero", "norm": "l0", "eps": 24}, "advlib(l0, 24 values, name=sigma_zero)", 1000, 1000),
    ({"name": "apgd_targeted", "eps": "1/255"}, "advlib(linf, 1/255, name=apgd_targeted)", 900, 900),
    ({"name": "carlini_wagner_l2", "norm": "l2"}, "advlib(l2, name=carlini_wagner_l2)", 90000, 90000),
    ({"name": "df", "norm": "l2"}, "advlib(l2, name=df)", 200, 900),
    ({"name": "fga", "norm": "l0", "options": {"max_iter": 30}}, "advlib(l0, name=fga, options={max_iter: 30})",
     330, 30),
])  # fmt: skip
def test_names_and_costs(entry, name, forwards, gradients):
    cell = planned(**entry)
    assert cell.short_name == name
    assert (cell.cost.forwards, cell.cost.gradients) == (forwards, gradients)


def test_a_missing_library_is_named_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "adv_lib", None)  # makes the import fail
    with pytest.raises(UserError, match="Try: pip install --no-deps adv-lib"):
        planned(name="fmn")


def test_null_is_an_option():
    assert str(Options({"levels": None})) == "{levels: null}"
    assert Options({"levels": None}).plain == {"levels": None}
