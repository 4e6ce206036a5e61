"""Published numbers of several sources: what they become, and the places of their errors."""

from pathlib import Path

import jsonschema
import pytest

from robharness.errors import SuiteError
from robharness.suite import Publication, json_schema, load
from robharness.suite.settings import parse_setting
from robharness.suite.yaml import parse
from toy_suites import REGISTRY

HEAD = """\
robharness: 1
name: several
data: {name: toy/pixels, split: test}
models: [{model: toy/net, label: Net}, {model: toy/wide, label: Wide}]
attacks: [{attack: toy/fgsm, eps: 1/255}]
metrics: [toy/wrong]
"""
LIST = """\
expected:
  - source: the paper
    Net: {clean: 76, "fgsm(linf, 1/255)": 40.8, toy/wrong: 0.5}
  - source: a rerun
    Net: {"fgsm(linf, 1/255)": 26.1}
    Wide: {clean: 80}
"""
PAPER = {"Net": {"clean": 76, "fgsm(linf, 1/255)": 40.8, "toy/wrong": 0.5}}
RERUN = {"Net": {"fgsm(linf, 1/255)": 26.1}, "Wide": {"clean": 80}}


@pytest.fixture
def load_file(tmp_path, monkeypatch):
    """Load the file s.yaml of the working directory. files: name -> text."""
    monkeypatch.chdir(tmp_path)

    def call(files, *settings):
        for name, text in files.items():
            Path(name).write_text(text)
        return load("s.yaml", REGISTRY, settings=tuple(map(parse_setting, settings)))

    return call


def test_a_list_has_a_source_for_each_mapping_and_a_mapping_is_one_source(read):
    assert read(HEAD + LIST).expected == (
        Publication(source="the paper", numbers=PAPER), Publication(source="a rerun", numbers=RERUN)
    )  # fmt: skip
    assert read(HEAD + "expected: {Net: {clean: 76}}").expected == (
        Publication(source="", numbers={"Net": {"clean": 76}}),
    )
    assert read(HEAD + "expected: []").expected == ()


def test_both_sources_may_have_a_number_of_one_cell(read):
    paper, rerun = read(HEAD + LIST).expected
    assert [each.number("Net", None, "fgsm(linf, 1/255)") for each in (paper, rerun)] == [40.8, 26.1]
    assert [each.number("Net", None, "clean") for each in (paper, rerun)] == [76, None]
    assert paper.number("Net seed 3", "Net", "clean") == 76 and paper.number("Wide", None, "clean") is None


@pytest.mark.parametrize(("old", "new", "error"), [
    ("source: a rerun", "source: the paper", "10:13: expected.1.source: the source 'the paper' is already in line 8; "
     "join the two mappings"),
    ("source: a rerun\n    ", "", "10:5: expected.1: missing key 'source'; each mapping of the list names where its "
     "numbers stand"),
    ("source: a rerun", "source: 5", "10:13: expected.1.source: the name of a source is one line of text; got 5"),
    ("source: a rerun", "source: ' '", "10:13: expected.1.source: the name of a source is one line of text; got ' '"),
    ("26.1", "261", "11:32: expected.1.Net.fgsm(linf, 1/255): 261 is no accuracy in percent, which is in [0, 100]"),
    ("clean: 80", "clean: 0.8", "12:19: expected.1.Wide.clean: 0.8 means 0.8 %, since accuracies are in percent; did "
     "you mean 80?"),
    ("Wide: {", "Wdie: {", "12:5: expected.1.Wdie: no model has the label 'Wdie'; did you mean 'Wide'?"),
    ("{clean: 80}", "{claen: 80}", "12:12: expected.1.Wide.claen: no cell and no metric is called 'claen'; did you "
     "mean 'clean'?"),
    ("{clean: 80}", "{clean: many}", "12:19: expected.1.Wide.clean: Input should be a valid number"),
    ("source: a rerun", "sourec: a rerun", "10:5: expected.1.sourec: no model has the label 'sourec'; did you mean "
     "'source'?"),
])  # fmt: skip
def test_each_error_has_its_line(errors, old, new, error):
    assert LIST.count(old) == 1
    found = errors(HEAD + LIST.replace(old, new))
    assert any(line.startswith(f"s.yaml:{error}") for line in found), found


def test_the_lists_of_files_that_extend_each_other_are_replaced_whole(load_file):
    one = "extends: base.yaml\nexpected: {source: mine, Net: {clean: 75}}\n"
    suite = load_file({"base.yaml": HEAD + LIST, "s.yaml": one})
    assert suite.expected == (Publication(source="mine", numbers={"Net": {"clean": 75}}),)
    suite = load_file({"base.yaml": HEAD + "expected: {Net: {clean: 75}}\n", "s.yaml": f"extends: base.yaml\n{LIST}"})
    assert [each.source for each in suite.expected] == ["the paper", "a rerun"]
    suite = load_file(
        {"base.yaml": HEAD + LIST, "s.yaml": "extends: base.yaml\nmodels: [{model: toy/net, label: Net}]"}
    )
    assert [each.numbers for each in suite.expected] == [PAPER, {"Net": RERUN["Net"]}]  # of a model that is gone


@pytest.mark.parametrize("step", ["1", '"a rerun"'])
def test_a_number_of_a_source_can_be_set(load_file, step):
    suite = load_file({"s.yaml": HEAD + LIST}, f"expected.{step}.Wide.clean=81")
    assert [each.numbers for each in suite.expected] == [PAPER, RERUN | {"Wide": {"clean": 81}}]


def test_a_source_that_is_not_there_cannot_be_set(load_file):
    with pytest.raises(SuiteError, match="'expected' has no item 'a rreun'; did you mean 'a rerun'"):
        load_file({"s.yaml": HEAD + LIST}, 'expected."a rreun".Wide.clean=81')


def test_the_schema_for_editors_has_both_forms():
    validator = jsonschema.Draft202012Validator(json_schema(REGISTRY))
    for text in (LIST, "expected: {source: T, Net: {clean: 5}}", "gain: {Net: Wide}"):
        assert validator.is_valid(parse(HEAD + text).data)
    for text in (LIST.replace("source: a rerun\n    ", ""), "expected: [5]", "gain: [Net, Wide]"):
        assert not validator.is_valid(parse(HEAD + text).data)
