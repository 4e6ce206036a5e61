"""Protocols of classifiers: reports, records of suites and comparisons say which models have which."""

import json
from dataclasses import replace

import pytest

from robharness import api
from robharness.comparison.build import build as compared
from robharness.comparison.requests import Request
from robharness.comparison.sides import side_of
from robharness.planning.planner import plan
from robharness.report import build
from robharness.report.renderers import html, latex, markdown
from robharness.report.renderers.json import render
from robharness.report.tables import tables

PLUGIN = """
from dataclasses import dataclass

from robharness import InputSpec, ModelSpec, hookimpl


@dataclass(frozen=True, kw_only=True)
class Params:
    by: str = ""


def build(params, weights):
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))


@hookimpl
def robharness_models():
    yield ModelSpec(name="net", summary="Pixels", input=InputSpec(shape=(1, 8, 8)), labels="toys", build=build,
                    params=Params, given=lambda params: {"protocol": params.by} if params.by else {})
"""
BOTH = Request(operands=("one", "two"))
FOREIGN = "odd\x1b[31m. Try: rm -rf ~"


@pytest.fixture
def plugins(tmp_path, toys):
    path = tmp_path / "fitted.py"
    path.write_text(PLUGIN)
    return [str(toys), str(path)]


@pytest.fixture
def mixed(suite):
    """A function (protocols) -> a suite with a model of each, labelled A, B and so on."""
    return lambda *protocols: suite(
        attacks=[{"attack": "toys/climb", "eps": "1/8"}],
        models=[
            {"model": "fitted/net", "label": label, **({"by": by} if by else {})}
            for label, by in zip("ABCDEF", protocols, strict=False)
        ],
    )


@pytest.fixture
def report(mixed, plugins, tmp_path):
    return lambda *protocols: build(api.run(mixed(*protocols), store=tmp_path / "store", plugins=plugins))


def of(findings):
    return [each for each in findings if each.code == "mixed-protocols"]


def test_two_protocols_are_a_warning_that_names_the_models(report):
    [found] = of(report("SLF", "AFF", "", "SLF").findings)
    assert found.severity == "warning"
    assert "(SLF: A, D; AFF: B)" in found.message and "give all of them the same head" in found.hint


@pytest.mark.parametrize("protocols", [("SLF", "SLF"), ("SLF", ""), ("", "")])
def test_one_protocol_is_no_warning(report, protocols):
    assert not of(report(*protocols).findings)


def test_every_rendering_of_two_protocols_says_which_models_have_which(report):
    found = report("SLF", "AFF", "", "SLF")
    assert found.complete
    assert all("protocols: SLF (A, D), AFF (B)" in table.caption for table in tables(found))
    for text in (str(markdown.render(found)), latex.render(found)):
        assert "rotocols: SLF (A, D), AFF (B)" in text  # LaTeX begins a sentence with it
    page = html.render(found)
    assert "protocol of A, D: SLF" in page and "protocols: SLF (A, D), AFF (B)" in page
    assert json.loads(render(found))["protocols"] == {"A": "SLF", "B": "AFF", "D": "SLF"}


def test_the_terminal_shows_the_protocol_of_all_models_once(shell, mixed, plugins, tmp_path):
    path = tmp_path / "toys.yaml"
    for protocols, line in ((("SLF", "SLF"), "protocol: SLF"), (("SLF", "LE"), "protocol of A: SLF")):
        path.write_text(json.dumps(mixed(*protocols)))
        done = shell("run", path, plugins=plugins)
        assert done.stdout.splitlines().count(line) == 1
        assert ("protocols: SLF (A), LE (B)" in done.stdout) == (len(set(protocols)) > 1)


def test_a_table_of_one_protocol_does_not_repeat_it(report):
    assert not any("protocol" in table.caption for table in tables(report("SLF", "SLF")))


def test_runs_of_a_model_count_as_one(report):
    found = replace(report("SLF", "SLF", "AFF"), run_of={"A": "Ours", "B": "Ours"})
    assert found.labels_by_protocol == {"SLF": "Ours", "AFF": "C"}


def test_a_store_alone_has_the_protocols(report, tmp_path):
    found = report("SLF", "AFF")
    alone = build(api.load("toys", store=tmp_path / "store"))
    assert alone.protocols == found.protocols == {"A": "SLF", "B": "AFF"}
    assert of(alone.findings) == of(found.findings) != []


def test_a_protocol_changes_no_key_and_no_record_of_the_suite(mixed, plugins, tmp_path):
    """It is no part of an identity: `by` of the plugin is, `protocol` is not."""
    planned = api.plan(mixed("SLF"), plugins=plugins)
    [model] = planned.suite.models
    renamed = replace(model, entry=replace(model.entry, spec=replace(model.entry.spec, protocol="another")))
    again = plan(replace(planned.suite, models=(renamed,)), tmp_path, None, tmp_path / "store")
    assert [cell.key for cell in again.cells] == [cell.key for cell in planned.cells]


def test_foreign_text_stays_one_line_without_commands(report):
    found = report(FOREIGN, "AFF")
    assert "\x1b" not in markdown.render(found)
    [warning] = of(found.findings)
    assert '"Try:"' in str(warning) and "\x1b" not in str(warning)


def test_a_protocol_that_is_no_text_is_a_mistake_of_its_plugin(plugins, suite, tmp_path):
    path = tmp_path / "fitted.py"
    path.write_text(PLUGIN.replace("params.by}", "3}"))
    with pytest.raises(Exception, match=r"protocol=3 must be a text"):
        api.plan(suite(models=[{"model": "fitted/net", "by": "SLF"}]), plugins=plugins)


def test_a_comparison_of_two_protocols_is_a_warning(mixed, plugins, tmp_path):
    sides = [
        side_of(api.run(mixed(by), store=tmp_path / by, plugins=plugins), name) for by, name in
        (("SLF", "before"), ("AFF", "after"))
    ]  # fmt: skip
    [found] = of(compared(*sides, BOTH).findings)
    assert found.subject == "A" and "SLF before, AFF after" in found.message
    assert not of(compared(sides[0], sides[0], BOTH).findings)
    assert not of(compared(replace(sides[0], protocols={}), sides[1], BOTH).findings)
