"""A checkpoint that does not fit is refused with its prefix and its nested states, and with the keys to set.

Every advice is followed: with the keys that it names, the same file fills the network.
"""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robharness import UserError
from robharness.checkpoints import Layout, StateChoice, StateMismatch, choosing, load, read, state, unstripped, whole
from robharness.suite.yaml import parse

PLAIN = Layout(name="plain")
NESTED = Layout(name="nested", inside=("state_dict",), prefixes=("module.",))


def make():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


def tensors(seed):
    draws = np.random.default_rng(seed)
    shapes = {name: tuple(value.shape) for name, value in make().state_dict().items() if value.ndim}
    return {name: torch.from_numpy(draws.random(shape)).float() for name, shape in shapes.items()}


OWN, OTHER = tensors(1), tensors(2)


def prefixed(prefix, found=OWN):
    return {f"{prefix}{name}": value for name, value in found.items()}


def assert_state(net, found):
    torch.testing.assert_close({name: net.state_dict()[name] for name in found}, found, rtol=0, atol=0)


def refusal(path, layouts=(PLAIN, NESTED), net=None):
    with pytest.raises(UserError) as caught:
        load(net or make(), path, layouts)
    return str(caught.value)


def saved(tmp_path, content):
    torch.save(content, tmp_path / "net.pth")
    return tmp_path / "net.pth"


def follow(message):
    """The first choice that the advice names, as a suite reads it."""
    advice = message.partition("Try: set ")[2].split(" or ")[0]
    lines = re.findall(r"`((?:inside|strip): .+?)`(?= |$)", advice)
    document = parse("\n".join(lines))
    assert document.errors == []
    return StateChoice(**document.data)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "model.", "net.", "encoder.", "module.encoder.", "a.b.c."])
@pytest.mark.parametrize("container", [None, "state_dict"])
def test_the_prefix_of_all_keys_is_named_with_its_remedy(tmp_path, prefix, container):
    path = saved(tmp_path, {container: prefixed(prefix)} if container else prefixed(prefix))
    message = refusal(path)
    bare = prefix.removeprefix("module.") if container else prefix
    assert f"8 keys are unexpected: {bare}0.weight, " in message and f"(all begin with `{bare}`)" in message
    choice = follow(message)
    assert choice.strip is not None and prefix.endswith(choice.strip)
    assert choice.inside is None  # the layouts find the state by themselves
    assert message.endswith(f"With {choice}, its state fits. Try: set {choice} beside `weights:` in the suite")
    with choosing({path: choice}):
        load(net := make(), path, (PLAIN, NESTED))
    assert_state(net, OWN)


def test_a_network_behind_a_normalisation_is_advised_with_a_quoted_prefix(tmp_path):
    net = make()
    path = saved(tmp_path, nn.Sequential(nn.Identity(), net).state_dict())
    message = refusal(path)
    assert message.endswith('With `strip: "1."`, its state fits. Try: set `strip: "1."` beside `weights:` in the suite')
    with choosing({path: follow(message)}):
        load(filled := make(), path, (PLAIN, NESTED))
    assert_state(filled, net.state_dict())


AMBIGUOUS = ["0", "null", "true", "1e3", "007", "*ema", "&a", "@x", "a: b", "a,b", "[0]", "- x", " sp ", "'q'", '"q"']


@pytest.mark.parametrize("key", AMBIGUOUS)
def test_a_key_that_yaml_reads_as_something_else_is_quoted_in_every_sentence(tmp_path, key):
    path = saved(tmp_path, {key: prefixed(f"{key}."), "epoch": 3})
    choice = follow(refusal(path))
    assert choice == StateChoice(inside=key, strip=f"{key}.")
    with choosing({path: choice}):
        load(net := make(), path, [PLAIN])
    assert_state(net, OWN)
    for given, advised in (({"inside": f"{key}z"}, {"inside": key}), ({"strip": f"{key}z."}, {"strip": f"{key}."})):
        with pytest.raises(UserError) as caught:
            chosen(path, **given)
        assert str(StateChoice(**given)) in str(caught.value)
        assert follow(str(caught.value)) == StateChoice(**advised)


def test_the_name_of_a_file_and_its_choice_are_quoted(tmp_path):
    path = saved(tmp_path, {"0": OWN})
    with choosing({path: StateChoice(inside="1")}, names={"1": path}), pytest.raises(UserError) as caught:
        read(path)
    assert 'has nothing at `inside: {"1": "1"}`' in str(caught.value)
    assert str(caught.value).endswith('Try: set `inside: {"1": "0"}` in the suite')


PATHS = ["model_state", "teacher", "state_dict_ema", "ema.module", "epoch.9.net", "a.b", "state_dict.net"]


def nested(path, found):
    for key in reversed(path.split(".")):
        found = {key: found}
    return found


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_the_nested_state_is_named_with_its_remedy(tmp_path, path, prefix):
    optimizer = {"state": {0: {"step": torch.ones(()), "exp_avg": torch.ones(2, 1, 3, 3)}}, "param_groups": []}
    file = saved(tmp_path, {"optimizer": optimizer, "epoch_": 3, **nested(path, prefixed(prefix))})
    message = refusal(file, [PLAIN, Layout(name="other", inside=("weights",))])
    choice = follow(message)
    assert choice == StateChoice(inside=path, strip=prefix or None)
    assert f"With {choice}, its state fits. Try: set {choice} beside `weights:` in the suite" in message
    assert "optimizer'" not in message.partition("With")[2]
    with choosing({file: choice}):
        load(net := make(), file, [PLAIN])
    assert_state(net, OWN)


def test_states_that_all_fit_are_all_named(tmp_path):
    path = saved(tmp_path, {"student": OWN, "teacher": OTHER})
    message = refusal(path)
    assert "With `inside: student` or `inside: teacher`, 2 states fit. Try: set `inside: student` or" in message
    path = saved(tmp_path, prefixed("student.") | prefixed("teacher.", OTHER))
    message = refusal(path)
    assert "With `strip: student.` or `strip: teacher.`, 2 states fit." in message
    with choosing({path: StateChoice(strip="teacher.")}):
        load(net := make(), path, [PLAIN])
    assert_state(net, OTHER)


def test_a_state_that_hardly_fits_is_no_remedy(tmp_path):
    encoder = {f"encoder.{name}": value for name, value in OWN.items() if not name.startswith("3.")}
    message = refusal(saved(tmp_path, {"state_dict": {**encoder, "head.weight": torch.ones(5, 5)}}))
    assert "With `strip: encoder.`, 2 keys are missing: 3.weight, 3.bias. Try: robharness list models" in message
    assert "fits. Try" not in message


def test_states_of_another_network_are_named_without_a_remedy(tmp_path):
    other = {"conv.weight": torch.ones(7, 7), "conv.bias": torch.ones(7)}
    message = refusal(
        saved(tmp_path, {"student": other, "teacher": {"net": other}, "optimizer": {"w.exp": torch.ones(1)}})
    )
    assert "It holds states at 'student', 'teacher.net'. Try: robharness list models" in message
    assert "`inside" not in message and "`strip" not in message


def test_the_fields_of_a_mismatch(tmp_path):
    content = {
        **{name: value for name, value in OWN.items() if name != "3.bias"},
        "0.bias": torch.ones(9),
        "x": OWN["3.bias"],
    }
    with pytest.raises(StateMismatch) as caught:
        load(make(), saved(tmp_path, content), [PLAIN])
    error = caught.value
    assert (error.layout, list(error.missing)) == (PLAIN, ["3.bias"])
    assert (dict(error.unexpected), dict(error.shapes)) == ({"x": (3,)}, {"0.bias": "(9,) instead of (2,)"})
    with pytest.raises(StateMismatch) as caught:
        load(make(), saved(tmp_path, {"state_dict": 3}), [NESTED])
    assert caught.value.layout is None and not caught.value.missing


# --- a state and its average ------------------------------------------------------------------------------------------

PAIRS = [
    ("state_dict", "state_dict_ema"), ("state_dict", "ema_state_dict"), ("model", "model_ema"), ("model", "ema"),
    ("model", "ema.module"), ("net", "net-ema"), ("model", "modelEMA"), ("model_state", "ema_model_state"),
]  # fmt: skip


@pytest.mark.parametrize(("own", "average"), PAIRS)
@pytest.mark.parametrize("explicit", ["own", "average"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_beside_its_average_needs_a_choice(tmp_path, own, average, explicit, prefix):
    path = saved(tmp_path, {**nested(own, OWN), **nested(average, prefixed(prefix, OTHER))})
    first, second = (own, average) if explicit == "own" else (average, own)
    layout = Layout(name="published", inside=tuple(first.split(".")), prefixes=("module.",))
    sentence = (
        f"it holds two states that fit, '{first}' and '{second}', and one of them is an average over training. "
        f"Try: set `inside: {first}` or `inside: {second}` beside `weights:` in the suite"
    )
    assert refusal(path, [layout]) == f"{path} is ambiguous: {sentence}"
    with pytest.raises(UserError) as caught:
        state(read(path), layout)
    assert str(caught.value) == sentence
    for inside, found in ((own, OWN), (average, OTHER)):
        with choosing({path: StateChoice(inside=inside)}):
            load(net := make(), path, [layout])
            assert state(read(path), layout).keys() == found.keys()
        assert_state(net, found)


def test_a_published_file_is_read_as_its_publisher_reads_it(tmp_path):
    path = saved(tmp_path, {"state_dict": OWN, "state_dict_ema": OTHER})
    with choosing({}, is_pinned=True):
        load(net := make(), path, [NESTED])
    assert_state(net, OWN)


@pytest.mark.parametrize(("own", "other"), [("teacher", "student"), ("state_dict", "best"), ("teacher", "ema"),
                                            ("state_dict", "optimizer_ema"), ("state_dict", "model"),
                                            ("model_ema", "ema_model"),
                                            ("encoder_q", "encoder_k")])  # fmt: skip
def test_a_layout_chooses_between_states_of_other_names(tmp_path, own, other):
    path = saved(tmp_path, {own: OWN, other: OTHER})
    load(net := make(), path, [Layout(name="published", inside=(own,))])
    assert_state(net, OWN)


def test_an_average_of_another_network_is_no_choice(tmp_path):
    path = saved(tmp_path, {"state_dict": OWN, "state_dict_ema": {"0.weight": torch.ones(1)}, "ema": 0.99})
    load(net := make(), path, [NESTED])
    assert_state(net, OWN)


# --- the choice itself ------------------------------------------------------------------------------------------------


def chosen(path, **choice):
    with choosing({path: StateChoice(**choice)}):
        return read(path)


def test_keys_that_contain_dots_and_lists_are_reachable(tmp_path):
    path = saved(tmp_path, {"a.b": OWN, "a": {"c.d": OTHER}, "all": [OWN, {"net": OTHER}], 3: OWN})
    for inside, found in (("a.b", OWN), ("a.c.d", OTHER), ("all.0", OWN), ("all.1.net", OTHER), ("3", OWN)):
        torch.testing.assert_close(dict(chosen(path, inside=inside)), found)
    both = saved(tmp_path, {"a.b": OWN, "a": {"b": OTHER}})
    with pytest.raises(UserError, match=r"net\.pth has 2 values at `inside: a\.b`, since its keys contain dots\. Try:"):
        chosen(both, inside="a.b")


def test_a_choice_that_leads_nowhere_names_the_states(tmp_path):
    path = saved(tmp_path, {"student": OWN, "teacher": {"net": OTHER}, "epoch": 3})
    with pytest.raises(UserError) as caught:
        chosen(path, inside="studnet")
    assert str(caught.value) == (
        f"{path} has nothing at `inside: studnet`; its states are at student, teacher.net; did you mean 'student'? "
        f"Try: set `inside: student` in the suite"
    )
    with pytest.raises(UserError, match=r"has no state at `inside: epoch`; its states are at student, teacher\.net\. "):
        chosen(path, inside="epoch")
    with pytest.raises(UserError, match=r"has no state at `inside: teacher`; its states are at student, teacher\.net"):
        chosen(path, inside="teacher")
    path = saved(tmp_path, OWN)
    with pytest.raises(UserError, match=r"has nothing at `inside: x`; it is a state itself\. Try: leave `inside` out"):
        chosen(path, inside="x")


def test_strip_leaves_keys_without_the_prefix_out(tmp_path):
    content = {**prefixed("encoder."), "head.weight": torch.ones(1), "n_averaged": torch.tensor(3)}
    path = saved(tmp_path, content)
    for prefix in ("encoder.", "encoder"):
        torch.testing.assert_close(dict(chosen(path, strip=prefix)), OWN)
    found = chosen(saved(tmp_path, {"net": content, "optimizer": {"lr": 1}}), strip="encoder.")
    torch.testing.assert_close(found["net"], OWN)
    assert found["optimizer"] == {"lr": 1}
    found = chosen(saved(tmp_path, {"net": content, "other": OTHER}), strip="encoder.")
    torch.testing.assert_close(found, {"net": OWN, "other": OTHER})


def test_a_prefix_that_no_key_has_names_the_prefixes(tmp_path):
    path = saved(tmp_path, {"net": prefixed("module.encoder.")})
    with pytest.raises(UserError) as caught:
        chosen(path, strip="modul.")
    assert str(caught.value) == (
        f"no key in {path} begins with `strip: modul.`; keys begin with `module.encoder.`. "
        f"Try: set `strip: module.encoder.` in the suite"
    )


def test_the_content_of_the_file_stays_known(tmp_path):
    content = {"net": prefixed("module."), "rng_state": 1}
    path = saved(tmp_path, content)
    found = chosen(path, inside="net", strip="module.")
    assert whole(found)["rng_state"] == 1 and set(unstripped(found)) == set(content["net"])
    assert whole(3) == unstripped(3) == 3


def test_a_choice_holds_for_its_file_alone_whatever_the_path_is_called(tmp_path, monkeypatch):
    path = saved(tmp_path, {"net": OWN})
    torch.save({"net": OTHER}, tmp_path / "other.pth")
    monkeypatch.chdir(tmp_path)
    with choosing({path: StateChoice(inside="net")}):
        assert set(read(Path("net.pth"))) == set(OWN)
        assert set(read(tmp_path / "other.pth")) == {"net"}
    assert set(read(path)) == {"net"}


def test_a_choice_that_nobody_asks_for_is_refused(tmp_path):
    path = saved(tmp_path, {"net": OWN})
    with pytest.raises(UserError) as caught, choosing({path: StateChoice(inside="net", strip="a.")}):
        torch.load(path, weights_only=True)
    assert str(caught.value).startswith(
        f"`inside: net` and `strip: a.` has no effect on {path}, since the plugin does not read it by "
    )


def test_a_file_that_does_not_fit_after_the_choice_says_so(tmp_path):
    path = saved(tmp_path, {"net": {"0.weight": OWN["0.weight"]}, "ema": OWN})
    with choosing({path: StateChoice(inside="net")}):
        message = refusal(path)
    assert message.startswith(f"{path} with `inside: net` does not fit Sequential: ")
    assert "With `inside: ema`, its state fits." in message


def test_the_state_of_a_random_generator_beside_a_state_is_none(tmp_path):
    content = {"rng": torch.zeros(9, dtype=torch.uint8), "cuda_rng": torch.ones(9), "net": prefixed("module.")}
    path = saved(tmp_path, content)
    assert "With `inside: net` and `strip: module.`, its state fits." in refusal(path, [PLAIN])
    torch.testing.assert_close(chosen(path, strip="module.")["net"], OWN)


@pytest.mark.parametrize("other", [0.9, None, "text", [1], {"lr": 0.1}, {"deep": [torch.zeros(2)]}], ids=str)
@pytest.mark.parametrize("layout", [PLAIN, NESTED], ids=lambda layout: layout.name)
def test_a_key_of_a_state_that_holds_no_tensor_is_named_and_the_command_removes_it(tmp_path, other, layout):
    content = {**OWN, "ema_decay": other}
    path = saved(tmp_path, {"state_dict": content} if layout is NESTED else content)
    message = refusal(path, [layout])
    assert f"by the closest layout, '{layout.name}', 1 keys are no tensors: ema_decay. All others fit." in message
    command = message.partition(" suite, try: ")[2]
    with pytest.raises(UserError, match="1 hold no tensors: ema_decay"):
        state(read(path), layout)
    code = shlex.split(command)[2]
    exec(code)
    load(net := make(), tmp_path / "net-tensors.pt", [layout])
    assert_state(net, OWN)


def test_a_choice_is_advised_only_if_its_keys_are_tensors(tmp_path):
    wrong = {**prefixed("module."), "module.ema_decay": 0.9}
    assert "its state fits" not in refusal(saved(tmp_path, {"net": wrong}), [PLAIN])
    path = saved(tmp_path, {"net": {**prefixed("module."), "ema_decay": 0.9}})  # which `strip` leaves out
    with choosing({path: follow(refusal(path, [PLAIN]))}):
        load(net := make(), path, [PLAIN])
    assert_state(net, OWN)


def test_keys_that_strip_would_leave_out_are_named(tmp_path):
    content = {name if name.startswith("3.") else f"encoder.{name}": value for name, value in OWN.items()}
    message = refusal(saved(tmp_path, content), [PLAIN])
    assert (
        "With `strip: encoder.`, 2 keys are missing: 3.weight, 3.bias; `strip` leaves out 3.weight, 3.bias, which the "
        "file has without the prefix. Try: robharness list models"
    ) in message
