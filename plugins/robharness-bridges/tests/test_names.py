"""Every attack of the libraries runs or is refused with a reason; misspelt names and options are refused."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import foolbox
import pytest
import torchattacks

from robharness import Budget, InputSpec, UserError, plan
from robharness_bridges import (
    FoolboxParams,
    Options,
    PyautoattackParams,
    TorchattacksParams,
    available,
    robharness_attacks,
)

FAMILIES = {"foolbox": FoolboxParams, "torchattacks": TorchattacksParams}
FEW = {"steps": 2, "repeats": 3, "binary_search_steps": 2, "directions": 20, "initial_gradient_eval_steps": 5,
       "max_gradient_eval_steps": 20, "n_queries": 20, "nb_sample": 4, "num_iter_set": 2, "noise_batch_size": 2,
       "N": 2, "m": 2}  # fmt: skip
IMAGES_ONLY = {"foolbox": {"GaussianBlurAttack"},
               "torchattacks": {"AutoAttack", "DIFGSM", "PIFGSM", "PIFGSMPP", "Square", "TIFGSM"}}  # fmt: skip
SPECS = {spec.name: spec for spec in robharness_attacks()}
COMPILES = re.compile("BrendelBethge")
"""Foolbox compiles these with numba, which takes half a minute each."""


def classes(family):
    module, base = {"foolbox": (foolbox.attacks, foolbox.attacks.Attack),
                    "torchattacks": (torchattacks, torchattacks.attack.Attack)}[family]  # fmt: skip
    return {name: value for name, value in vars(module).items()
            if inspect.isclass(value) and issubclass(value, base) and not inspect.isabstract(value)}  # fmt: skip


def options_of(cls):
    return {name: value for name, value in FEW.items() if name in inspect.signature(cls).parameters}


def refusal(family, **params):
    try:
        FAMILIES[family](**params)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_available_attack_runs(attack, random_net, uniform, family, kind):
    input = InputSpec(kind=kind, shape={"image": (3, 8, 8), "video": (3, 2, 8, 8)}[kind])
    net, x = random_net(*input.shape), uniform(4, 4, *input.shape)
    labels, ran, turned_away = net(x).argmax(1), 0, set()
    for name in available(family):
        options, norms = options_of(classes(family)[name]), []
        for norm, eps in (("linf", 0.2), ("l2", 1.0), ("l1", 5.0)):
            if refused := refusal(family, name=name, norm=norm, options=options):
                assert re.fullmatch(rf"{name} of {family} has the norm [\w ]+\. Try: norm: \w+", refused)
                continue
            norms.append(norm)
            params = {"name": name, "norm": norm, "options": options}
            if reason := SPECS[family].refuses(FAMILIES[family](**params), input):
                assert reason.startswith(f"{name} of {family} takes images only, since ")
                turned_away.add(name)
            elif not COMPILES.search(name):
                attack(family, net, x, labels, eps, rows=4, **params)
                ran += 1
        assert norms, name
        if family == "torchattacks":
            (documented,) = re.findall(r"Distance Measure : (.*)", inspect.getdoc(classes(family)[name]))
            assert norms == [norm.lower() for norm in documented.split(", ") if norm != "L1"], name
    assert ran >= {"foolbox": 60, "torchattacks": 22}[family]
    assert turned_away == (IMAGES_ONLY[family] if kind == "video" else set())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_other_attack_is_refused_with_a_reason(family):
    others = classes(family).keys() - set(available(family))
    assert len(others) >= 7
    for name in others:
        with pytest.raises(ValueError, match=rf"^{name} of {family} cannot be used: it \w+"):
            FAMILIES[family](name=name)


SUITE = {"robharness": 1, "name": "wrong", "data": {"name": "samples/imagenet-photos", "split": "val"},
         "models": [{"model": "samples/efficientnet-lite0"}]}  # fmt: skip


@pytest.mark.parametrize(("entry", "sentence"), [
    ({"name": "LinfPDG"}, "foolbox has no attack 'LinfPDG'; did you mean 'LinfPGD'?"),
    ({"name": "linfpgd"}, "did you mean 'LinfPGD'?"),
    ({"name": "zzz"}, "foolbox has no attack 'zzz'; it has AdamPGD, BinarySearch"),
    ({"name": "L2PGD"}, "L2PGD of foolbox has the norm l2. Try: norm: l2"),
    ({"name": "L0FMNAttack"}, "L0FMNAttack of foolbox cannot be used: it bounds the number of changed values (l0)"),
    ({"name": "PGD", "options": {"step": 3}}, "PGD of foolbox has no option 'step'; did you mean 'steps'?"),
    ({"name": "PGD", "options": {"steps": "ten"}}, "the option 'steps' of PGD of foolbox is not a string; got 'ten'"),
    ({"name": "VirtualAdversarialAttack", "norm": "l2"}, "Attack of foolbox needs the option 'steps'"),
    ({"name": "PGD", "options": {"steps": [1]}}, "Input should be"),
    ({"attack": "bridges/torchattacks", "name": "PGDD"}, "torchattacks has no attack 'PGDD'; did you mean 'PGD'?"),
    ({"attack": "bridges/torchattacks", "name": "CW"}, "CW of torchattacks cannot be used: it has no budget eps"),
    ({"attack": "bridges/torchattacks", "name": "PGD", "norm": "l2"}, "PGD of torchattacks has the norm linf"),
    ({"attack": "bridges/torchattacks", "name": "FAB", "norm": "l1"}, "FAB of torchattacks has the norm linf or l2"),
    ({"attack": "bridges/torchattacks", "name": "PGD", "options": {"alhpa": 1}}, "did you mean 'alpha'?"),
    ({"attack": "bridges/torchattacks", "name": "PGD", "options": {"eps": 1}}, "has no option 'eps'"),
    ({"attack": "bridges/pyautoattack", "attacks": ["apgd-cee"]}, "did you mean 'apgd-ce'?"),
    ({"attack": "bridges/pyautoattack", "attacks": ["square"], "version": "rand"}, "leave out `version` or `attacks`"),
])  # fmt: skip
def test_mistakes_are_found_when_the_suite_is_read(entry, sentence):
    entry = {"attack": "bridges/foolbox", "eps": "1/255", **entry}
    with pytest.raises(UserError) as error:
        plan({**SUITE, "attacks": [entry]})
    (line, *_) = str(error.value).splitlines()
    assert "attacks.0" in line
    assert sentence in line


@pytest.mark.parametrize(("entry", "library"), [
    ({"attack": "bridges/foolbox", "name": "PGD"}, "foolbox"),
    ({"attack": "bridges/torchattacks", "name": "PGD"}, "torchattacks"),
    ({"attack": "bridges/pyautoattack"}, "pyautoattack"),
])  # fmt: skip
def test_a_missing_library_is_named_with_the_install_command(monkeypatch, entry, library):
    monkeypatch.setitem(sys.modules, library, None)  # makes the import fail
    with pytest.raises(UserError, match=rf"Try: pip install 'robharness-bridges\[{library}\]'"):
        plan({**SUITE, "attacks": [{"eps": "1/255", **entry}]})


def test_declaring_imports_nothing_heavy():
    script = (
        "import sys, robharness; found = robharness.discover(); assert 'bridges/foolbox' in found.attacks; "
        "heavy = ('torch', 'foolbox', 'torchattacks', 'pyautoattack', 'adv_lib'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


def test_options_are_sorted_exact_and_readable():
    options = Options({"steps": 10, "alpha": "2/255", "random_start": False, "loss": "ce"})
    assert str(options) == "{alpha: 2/255, loss: ce, random_start: false, steps: 10}"
    assert options["alpha"] == Budget("2/255")
    assert options.plain == {"alpha": 2 / 255, "loss": "ce", "random_start": False, "steps": 10}
    same = Options({"loss": "ce", "random_start": False, "alpha": "4/510", "steps": 10})
    assert options == same
    assert hash(options) == hash(same)
    params = TorchattacksParams(name="PGD", options={"steps": 3})
    assert hash(params) == hash(TorchattacksParams(name="PGD", options={"steps": 3}))


@pytest.mark.parametrize(("entry", "name", "forwards", "gradients"), [
    ({"name": "LinfPGD", "options": {"steps": 7}}, "foolbox(linf, 1/255, name=LinfPGD, options={steps: 7})", 8, 7),
    ({"name": "FGSM"}, "foolbox(linf, 1/255, name=FGSM)", 2, 1),
    ({"attack": "bridges/torchattacks", "name": "EOTPGD", "options": {"steps": 3}},
     "torchattacks(linf, 1/255, name=EOTPGD, options={steps: 3})", 6, 6),
    ({"attack": "bridges/torchattacks", "name": "Square"}, "torchattacks(linf, 1/255, name=Square)", 5000, 0),
    ({"attack": "bridges/torchattacks", "name": "SPSA"}, "torchattacks(linf, 1/255, name=SPSA)", 256, 0),
    ({"attack": "bridges/torchattacks", "name": "AutoAttack"}, "torchattacks(linf, 1/255, name=AutoAttack)", 5336, 200),
    ({"attack": "bridges/pyautoattack", "norm": "l1"}, "pyautoattack(l1, 1/255)", 7864, 1910),
    ({"attack": "bridges/pyautoattack", "version": "plus"}, "pyautoattack(linf, 1/255, version=plus)", 9827, 7819),
    ({"attack": "bridges/pyautoattack", "attacks": ["apgd-ce", "square"]},
     "pyautoattack(linf, 1/255, attacks=apgd-ce+square)", 5527, 505),
])  # fmt: skip
def test_names_and_costs(entry, name, forwards, gradients):
    planned = plan({**SUITE, "attacks": [{"attack": "bridges/foolbox", "eps": "1/255", **entry}]})
    cell = next(cell for cell in planned.cells if cell.kind == "attack")
    assert cell.short_name == name
    assert (cell.cost.forwards, cell.cost.gradients) == (forwards, gradients)


def test_options_determine_the_identity():
    def key(**entry):
        planned = plan({**SUITE, "attacks": [{"attack": "bridges/foolbox", "name": "PGD", "eps": "1/255", **entry}]})
        return next(cell.key for cell in planned.cells if cell.kind == "attack")

    assert key() == key(norm="linf", options={})
    assert key(options={"steps": 3, "abs_stepsize": "2/255"}) == key(options={"abs_stepsize": "4/510", "steps": 3})
    assert len({key(), key(options={"steps": 3}), key(options={"steps": 4}), key(name="FGSM")}) == 4


def test_only_searches_need_no_budget():
    def name(**entry):
        cells = plan({**SUITE, "attacks": [{"attack": "bridges/foolbox", **entry}]}).cells
        return next(cell.short_name for cell in cells if cell.kind == "attack")

    assert name(name="LInfFMNAttack") == "foolbox(linf, name=LInfFMNAttack)"
    with pytest.raises(UserError, match="missing key 'eps'"):
        name(name="LinfPGD")


def test_autoattack_takes_a_list_of_attacks():
    assert PyautoattackParams(attacks=("apgd-ce",)).version == "standard"
