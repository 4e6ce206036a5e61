"""Verbs while a plugin misbehaves: the right exit code, a sentence, and everything else is done.

`wild.py` misbehaves at one place, which $WILD names; see there.
"""

import signal
from pathlib import Path

import click
import pytest
import torch
import yaml

from robharness import api
from robharness.cli import main
from robharness.errors import UserError
from robharness.export.corruptions import plan_rendering
from robharness.export.corruptions import render as render_images
from robharness.live import _copied
from robharness.plugins import PluginOrigin, Registry
from robharness.session import Session
from robharness.verify import verify
from wild_calls import RAISED, TOYS, WILD, wild_registry

every_end = pytest.mark.parametrize("how", RAISED)
PIXELS = {"name": "wild/pixels", "split": "test"}
DARK = [{"corruption": "wild/dark", "severity": 1}]


@pytest.fixture
def act(monkeypatch):
    return lambda place, how: monkeypatch.setenv("WILD", f"{place}:{how}")


@pytest.fixture(scope="module")
def registry():
    return wild_registry()


@pytest.fixture
def wild(tmp_path, monkeypatch, suite, capsys):
    """Run `robharness WORDS` with both plugins, in a folder with suites: c, s and t.yaml; give a code and two texts."""
    monkeypatch.chdir(tmp_path)
    small = suite(data=PIXELS, models=[{"model": "wild/net"}], metrics=["wild/metric"], corruptions=DARK,
                  attacks=[{"attack": "wild/step", "eps": "1/8"}])  # fmt: skip
    trained = suite(data=PIXELS, attacks=None, models=[{"model": "wild/trained", "label": "Net", "seeds": 2}])
    Path("c.yaml").write_text(yaml.safe_dump(suite(data=PIXELS, models=[{"model": "wild/net"}], attacks=None)))
    Path("s.yaml").write_text(yaml.safe_dump(small))
    Path("t.yaml").write_text(yaml.safe_dump(trained))

    def run(*words):
        code = main([*words, "-p", TOYS, "-p", WILD])
        return code, *capsys.readouterr()

    return run


# --- verbs of plugins ------------------------------------------------------------------------------------------------


@every_end
def test_a_verb_of_a_plugin_that_fails(wild, act, how):
    act("command", how)
    code, out, err = wild("wild")
    sentence = f"robharness: the verb 'wild' of {WILD} failed: {RAISED[how]}. Try: the same command with --debug\n"
    assert (code, out, err) == ((0, "", "") if how == "exit" else (2, "", sentence))


@pytest.mark.parametrize(
    ("ending", "code", "shown"),
    [
        (SystemExit(), 0, ""),
        (SystemExit(3), 3, ""),
        (SystemExit(-1), 255, ""),
        (SystemExit("no host"), 1, "no host\n"),
        (3, 3, ""),
        (None, 0, ""),
        (256, 2, "ValueError: it returned 256, and an exit code is a number up to 255"),
        (-1, 2, "ValueError: it returned -1"),
        ("fine", 2, "TypeError: it returned str, not an exit code"),
        (BrokenPipeError(32, "Broken pipe"), 2, "failed: BrokenPipeError: [Errno 32] Broken pipe"),
    ],
    ids=repr,
)
def test_the_exit_code_of_a_verb_of_a_plugin(wild, monkeypatch, ending, code, shown):
    def end():
        if isinstance(ending, BaseException):
            raise ending
        return ending

    def discovered(options):
        registry = Registry()
        registry.commands["end"] = PluginOrigin(namespace="wild", distribution=WILD), click.command("end")(end)
        return registry

    monkeypatch.setattr("robharness.plugins.discovery.discover", discovered)
    found, _, err = wild("end")
    assert found == code
    assert shown in err and "Traceback" not in err and bool(shown) == bool(err)


# --- runs ------------------------------------------------------------------------------------------------------------


def test_no_call_changes_the_options_of_another(wild, registry):
    """All functions of `wild.py` write into the options that they get."""
    found = api.run("s.yaml", store="store", plugins=[TOYS, WILD])
    assert found.is_complete
    planned = api.plan("s.yaml", registry=registry)
    assert [cell.key for cell in planned.cells] == [cell.key for cell in found.plan.cells]
    assert planned.models[0].ref.params.values == [1, 2]
    assert planned.suite.perturbations[0].params.values == [1, 2]
    changed = yaml.safe_load(Path("s.yaml").read_text())
    changed["attacks"][0] |= {"eps": ["1/8", "1/4"], "values": [3]}
    cells = [cell for cell in api.plan(changed, registry=registry).cells if cell.kind == "attack"]
    assert [cell.identity["perturbation"]["params"] for cell in cells] == [{"values": [3]}] * 2
    assert [cell.what for cell in cells] == ["step(linf, 1/8, values=3)", "step(linf, 1/4, values=3)"]


def compute(registry):
    return Session.open("c.yaml", store="store", registry=registry).compute(executor="wild/executor")


@pytest.mark.parametrize("place", ["executor", "spawn", "wait"])
@every_end
def test_an_executor_that_fails_is_named(wild, registry, act, place, how):
    act(place, how)
    with pytest.raises(UserError) as error:
        compute(registry)
    what = "cannot be used" if place == "executor" else "failed"
    assert str(error.value) == (
        f"the executor 'wild/executor' of {WILD} {what}: {RAISED[how]}. Try: robharness list plugins"
    )


@pytest.mark.parametrize("how", ["wrong", "strange"])
def test_events_of_an_executor_are_checked(wild, registry, act, how):
    act("wait", how)
    with pytest.raises(UserError, match=f"the executor 'wild/executor' of {WILD} failed: TypeError: "):
        compute(registry)


@every_end
def test_a_worker_that_cannot_be_closed_is_a_finding(wild, registry, act, how):
    act("close", how)
    summary = compute(registry)
    assert summary.computed == 4
    assert [(each.code, each.message) for each in summary.findings] == [
        (
            "worker-not-closed",
            f"the executor 'wild/executor' of {WILD} failed: {RAISED[how]}. Try: robharness list plugins",
        )
    ]


@every_end
def test_a_training_that_fails_is_recorded_and_the_others_run(wild, act, how):
    act("train", how)
    code, out, err = wild("train", "t.yaml")
    assert code == 3 and "Traceback" not in err
    assert f"Net seed 0: failed: wild/trained: {RAISED[how]} ({WILD})\n" in out
    assert "Net seed 1: " in out and " sha256 " in out


@every_end
def test_data_that_cannot_be_read_fail_what_reads_them(wild, registry, act, tmp_path, how):
    act("read", how)
    with pytest.raises(UserError, match=rf"wild/net cannot be verified: .*{RAISED[how]}"):
        verify("wild/net", {}, registry, data="wild/pixels/test", store=tmp_path, data_root=tmp_path)
    suite = api.plan("s.yaml", registry=registry).suite
    rendering = plan_rendering(suite, tmp_path, tmp_path / "images", layout="imagenet-c")
    assert [each.error for each in render_images(rendering)] == [f"wild/pixels: {RAISED[how]}"]


@every_end
def test_a_corruption_that_cannot_be_built_is_named(wild, registry, act, tmp_path, how):
    act("built", how)
    suite = api.plan("s.yaml", registry=registry).suite
    rendering = plan_rendering(suite, tmp_path, tmp_path / "images", layout="imagenet-c")
    assert [each.error for each in render_images(rendering)] == [f"wild/dark cannot be built: {RAISED[how]}"]


@every_end
def test_a_live_network_that_cannot_be_copied_is_one_sentence(registry, how):
    ends = registry.metrics["wild/metric"].spec.compute.__globals__["ENDS"]

    class Fixed(torch.nn.Linear):
        def __deepcopy__(self, memo):
            raise ends[how]()

    with pytest.raises(UserError, match=f"the live network cannot be copied: {RAISED[how]}"):
        _copied(torch.nn.Sequential(Fixed(1, 1)))


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("threat", ["plan", "s.yaml"]),
        ("open", ["plan", "s.yaml"]),
        ("metric", ["report", "s.yaml"]),
        ("figure", ["report", "s.yaml", "--figures", "figures"]),
        ("renderer", ["report", "s.yaml", "-o", "x.wild"]),
        ("observer", ["run", "s.yaml"]),
        ("train", ["train", "t.yaml"]),
        ("command", ["wild"]),
    ],
)
def test_ctrl_c_in_the_code_of_a_plugin_is_an_interruption(wild, act, place, words):
    act(place, "ctrl-c")
    before = signal.getsignal(signal.SIGINT)
    code, _, err = wild(*words)
    assert code == 130 and "interrupted" in err and "Traceback" not in err
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interruption_is_forgotten(wild, act):
    act("metric", "ctrl-c")
    assert wild("report", "s.yaml")[0] == 130
    act("metric", "interrupt")
    assert wild("report", "s.yaml")[0] == 3
