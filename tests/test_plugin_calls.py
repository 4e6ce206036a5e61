"""Every call of a plugin's code: whatever it raises or returns is its failure, is named, and costs nothing else.

`wild.py` misbehaves at one place, which $WILD names; see there.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from robharness import api
from robharness.errors import UserError
from robharness.plugins import Registry, loose_plugin, take_plugin
from robharness.plugins.observers import draw_figures, observe
from robharness.report import build
from robharness.report.renderers import json as json_renderer
from robharness.report.renderers import render, renderers
from robharness.suite.schema import json_schema
from wild_calls import RAISED, TOYS, WILD, wild_registry

STRANGE = {"wrong": "7", "strange": "an object of Strange"}
"""Values that no place expects, and the text of each; that of the second is no text at all."""

every_end = pytest.mark.parametrize("how", RAISED)


@pytest.fixture
def act(monkeypatch):
    """Let a place of the plugin misbehave from now on."""
    return lambda place, how: monkeypatch.setenv("WILD", f"{place}:{how}")


@pytest.fixture(scope="module")
def registry():
    return wild_registry()


@pytest.fixture
def give(registry, monkeypatch):
    """Let a place of the plugin return this value from now on."""
    names = registry.metrics["wild/metric"].spec.compute.__globals__
    return lambda wanted, value: monkeypatch.setitem(
        names, "act", lambda place, right=None: value if place == wanted else right
    )


# --- before anything runs --------------------------------------------------------------------------------------------

STEP = {"attacks": [{"attack": "wild/step", "eps": "1/8", "values": [3]}]}
NET = {"models": [{"model": "wild/net"}]}
DATA = {"data": {"name": "wild/pixels", "split": "test"}}
TRAINED = DATA | {"models": [{"model": "wild/trained"}]}
DARK, STORED = ({"corruptions": [{"corruption": f"wild/{name}", "severity": 1}]} for name in ("dark", "stored"))
PLANNED = {
    "options": (STEP, ""),
    "shown": (DARK, ""),
    "threat": (STEP, "its function `threat` returned {}, not a ThreatModel"),
    "blocks": (STEP, "its function `blocks` returned {}, not a bool"),
    "cost": (STEP, "its function `cost` returned {}, not a Cost"),
    "advise": (STEP, "'{kind}' object is not iterable"),
    "given": (NET, "its function `given` returned {}, not a Mapping"),
    "data": (TRAINED, "its function `data` returned {}, not a Mapping"),
    "base": (TRAINED, "its function `base` returned {}, not Options or None"),
    "inputs": (TRAINED, "its function `inputs` returned {}, not a Mapping"),
    "revision": (TRAINED, ""),
    "open": (DATA, ""),
    "opened": (DATA, "its open returned {kind}, which lacks ids, labels"),
    "remarks": (DATA, "'{kind}' object is not iterable"),
    "stored": (STORED, ""),
}
"""Places that are called while a suite is planned, with the suite and the sentence for a value of another type."""


@pytest.fixture
def planned(suite, registry, tmp_path, act):
    """Plan a suite with these changes while a place misbehaves, and give the sentence about it."""

    def call(place, how, changes):
        act(place, how)
        source = suite(**{"attacks": None} | changes)
        try:
            found = api.plan(source, registry=registry, store=tmp_path, data=tmp_path)
        except UserError as error:
            return str(error)
        assert found.missing, "nothing was reported"
        return "\n".join(map(str, found.missing))

    return call


@pytest.mark.parametrize("place", PLANNED)
@every_end
def test_what_is_raised_while_a_suite_is_planned_is_named_with_its_plugin(planned, place, how):
    sentence = planned(place, how, PLANNED[place][0])
    assert RAISED[how].removeprefix("ValueError: ") in sentence
    assert "wild.py" in sentence or (place, how) == ("options", "error")  # which is an error of the suite
    assert "bug" not in sentence


@pytest.mark.parametrize("place", [place for place, (_, sentence) in PLANNED.items() if sentence])
@pytest.mark.parametrize("how", STRANGE)
def test_what_is_returned_while_a_suite_is_planned_is_checked_there(planned, place, how):
    changes, wanted = PLANNED[place]
    sentence = planned(place, how, changes)
    kind = {"wrong": "int", "strange": "Strange"}[how]
    assert wanted.format(STRANGE[how], kind=kind).removesuffix("ThreatModel") in sentence
    assert "wild.py" in sentence


@pytest.mark.parametrize("place", ["import", "hook", "yielded"])
@every_end
def test_a_plugin_that_cannot_be_loaded_is_one_problem(place, how, act):
    act(place, how)
    registry = Registry()
    take_plugin(registry, *loose_plugin(Path(TOYS)))
    take_plugin(registry, *loose_plugin(Path(WILD)))
    assert [(problem.origin.namespace, problem.error) for problem in registry.problems] == [("wild", RAISED[how])]
    assert {name.split("/")[0] for name in registry.models} == {"toys"}


@every_end
def test_images_whose_sizes_cannot_be_read_are_left_to_the_run(suite, registry, tmp_path, act, how):
    act("read", how)
    found = api.plan(suite(attacks=None, **DATA, **DARK), registry=registry, store=tmp_path)
    assert not found.missing and found.data.sizes.sizes == ()


@pytest.mark.parametrize("how", [*RAISED, *STRANGE])
def test_options_that_have_no_schema_may_be_any(registry, act, how):
    act("schema", how)
    schema = json.loads(json.dumps(json_schema(registry), allow_nan=False))
    variants = {each["title"]: each for key in ("attacks", "corruptions")
                for each in schema["properties"][key]["items"]["anyOf"] if "title" in each}  # fmt: skip
    assert variants["wild/dark"]["additionalProperties"] is True
    assert "values" in variants["wild/step"]["properties"]


@every_end
def test_options_that_cannot_be_compared_differ(suite, registry, tmp_path, act, how):
    twice = [{"corruption": "wild/dark", "severity": 1, "shade": shade} for shade in ("dark", "darker")]
    act("compared", how)
    assert len(api.plan(suite(attacks=None, corruptions=twice), registry=registry, store=tmp_path).cells) == 3


# --- with results ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source():
    return {
        "robharness": 1,
        "name": "wild",
        "data": {"name": "toys/pixels", "split": "test"},
        "models": [{"model": "toys/net", "label": "Net"}],
        "metrics": ["wild/metric", "toys/wrong"],
    }


@pytest.fixture(scope="module")
def store(source, tmp_path_factory):
    """A store with all outcomes of the suite."""
    folder = tmp_path_factory.mktemp("wild")
    assert api.run(source, store=folder, plugins=[TOYS, WILD]).is_complete
    return folder


@pytest.fixture
def found(source, store, registry):
    return api.load(source, store=store, registry=registry)


def numbers(report):
    """Everything that the core computed itself."""
    return {key: value for key, value in json_renderer.as_data(report).items()
            if key not in ("metrics", "metric_details", "findings", "problems", "warnings")}  # fmt: skip


@pytest.mark.parametrize("how", [*RAISED, *STRANGE])
def test_a_metric_that_fails_is_named_and_the_others_are_reported(found, act, how):
    good = build(found)
    assert good.metrics["wild/metric"]["Net"].value == 0.5 and not good.problems
    act("metric", how)
    report = build(found)
    said = RAISED.get(how, f"its function `compute` returned {STRANGE.get(how)}")
    assert len(report.problems) == 1
    assert report.problems[0].startswith(f"wild/metric: {said}" if how in RAISED else f"wild/metric: TypeError: {said}")
    assert report.problems[0].endswith(f"({WILD})")
    assert report.metrics == {"toys/wrong": good.metrics["toys/wrong"]}
    assert numbers(report) == numbers(good)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"Other": 0.5}, "ValueError: it returned a number for 'Other', and the models are Net"),
        ({"Net": "0.5"}, "TypeError: '0.5' is not a number"),
        ({"Net": None}, "TypeError: float() argument must be"),
        ({"Net": 1j}, "TypeError: float() argument must be"),
        ([("Net", 0.5)], "TypeError: its function `compute` returned [('Net', 0.5)], not a Mapping"),
        (dict.fromkeys(range(10**6)), "ValueError: it returned a number for 0, and the models are Net"),
        ("x" * 10**6, "TypeError: its function `compute` returned 'xxx"),
    ],
    ids=["label", "text", "none", "complex", "list", "many", "long"],
)
def test_numbers_of_a_metric_are_checked(found, give, given, sentence):
    give("metric", given)
    report = build(found)
    assert report.problems[0].startswith(f"wild/metric: {sentence}") and len(report.problems[0]) < 500


def test_no_plugin_changes_what_another_one_or_the_report_reads(found, registry, tmp_path, monkeypatch):
    """The metric, the observer and the figures of `wild.py` write into every array that they get."""
    correct, positions = found.cells[0].correct.copy(), found.cells[0].positions.copy()
    provenance = json.dumps(found.cells[0].provenance)
    wrong = build(found).metrics["toys/wrong"]["Net"].value
    assert not observe(found, registry) and not draw_figures(found, registry, tmp_path)[1]
    assert wrong == 1 - correct.mean() and 0 < wrong < 1
    assert build(found).metrics["toys/wrong"]["Net"].value == wrong
    assert np.array_equal(found.cells[0].correct, correct) and np.array_equal(found.cells[0].positions, positions)
    assert json.dumps(found.cells[0].provenance) == provenance


@every_end
def test_an_observer_that_fails_is_a_finding(found, registry, act, how):
    act("observer", how)
    assert [str(each) for each in observe(found, registry)] == [f"robharness_run_finished of {WILD}: {RAISED[how]}"]


@pytest.mark.parametrize("place", ["figures", "figure"])
@pytest.mark.parametrize("how", [*RAISED, *STRANGE])
def test_figures_before_an_error_are_kept(found, registry, tmp_path, act, place, how):
    act(place, how)
    written, findings = draw_figures(found, registry, tmp_path)
    assert written == [tmp_path / "first.svg"]
    [sentence] = map(str, findings)
    assert sentence.startswith(f"robharness_figures of {WILD}: {RAISED.get(how, 'TypeError: ')}")
    if place == "figure" and how in STRANGE:
        assert sentence.endswith(f"it yielded {STRANGE[how]}, not a path") or how == "strange"


def test_a_figure_that_is_no_file_is_a_finding(found, registry, tmp_path, give):
    give("figure", "none.svg")
    written, findings = draw_figures(found, registry, tmp_path)
    assert len(written) == 1 and str(findings[0]).endswith("ValueError: it yielded none.svg, where no file is")


@pytest.mark.parametrize("how", [*RAISED, *STRANGE])
def test_a_renderer_that_fails_is_named(found, registry, act, how):
    report = build(found)
    before = json_renderer.as_data(report)
    [wild] = renderers(registry)[".wild"]
    assert render(report, wild) == b"rendered" and json_renderer.as_data(report) == before
    act("renderer", how)
    said = RAISED.get(how, f"TypeError: it returned {'int' if how == 'wrong' else 'Strange'}, not str or bytes")
    with pytest.raises(UserError, match=f"the renderer of .wild files of {WILD} failed: {said}$"):
        render(report, wild)
