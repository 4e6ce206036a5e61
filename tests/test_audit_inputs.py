"""Audits of models of different inputs: what is left out is said once, in the plan and in the report."""

import json

import pytest

from robharness import api

PLUGIN = """
from dataclasses import dataclass, field
from typing import Literal

from robharness import AttackSpec, AuditSpec, Cost, ThreatModel, hookimpl


@dataclass(frozen=True, kw_only=True)
class Params:
    norm: Literal["linf"] = field(default="linf")


@hookimpl
def robharness_attacks():
    yield AttackSpec(name="flicker", summary="For videos", access="decision", params=Params, build=lambda params: None,
                     cost=lambda params: Cost(), threat=lambda params: ThreatModel(norm="linf"),
                     inputs=frozenset({"video"}))


@hookimpl
def robharness_audits():
    yield AuditSpec(role="transfer", items=lambda target: [
        {"attack": "toys/climb", "eps": "1/4", "source": source} for source in target.sources
    ])
    yield AuditSpec(role="black-box", items=lambda target: [{"attack": "fitted/flicker", "eps": "1/4"}])
"""
FLICKER = "flicker(linf, 1/4): left out of the audit, since it does not take images"


@pytest.fixture
def plugins(tmp_path, toys):
    path = tmp_path / "fitted.py"
    path.write_text(PLUGIN)
    return [toys, str(path)]


@pytest.fixture
def source(suite):
    def make(other):
        return suite(audit=True, models=[{"model": "toys/net", "label": "Net"}, {"label": "Other", **other}])

    return make


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"model": "toys/large", "preprocessing": {"resize": 16}}, "inputs (1x8x8: Net; 1x16x16: Other)"),
        ({"model": "toys/net", "preprocessing": {"crop": 8}}, "preprocessing"),
    ],
)
def test_attacks_that_do_not_take_the_inputs_are_named_once(source, plugins, tmp_path, other, reason):
    results = api.run(source(other), store=tmp_path / "store", plugins=plugins, limit=4)
    report = results.report()
    found = [each for each in report.findings if each.code == "audit-attacks-left-out"]
    assert [str(each) for each in found] == [
        f"the audit has no attacks that are crafted on another model, since the models differ in their {reason}; audit "
        "models of the same inputs and preprocessing in a suite of their own",
        FLICKER,
    ]
    assert not [each for each in results.audit_cells if each.cell.perturbation.surrogate]
    results.save(tmp_path / "report.txt")
    text = " ".join((tmp_path / "report.txt").read_text().split())
    assert text.count(FLICKER) == text.count("crafted on another model, since") == 1


def test_models_of_the_same_inputs_are_attacked_from_each_other(source, plugins, tmp_path, shell):
    """The two models are one network here, so that both cells have one key and two names."""
    results = api.run(source({"model": "toys/net"}), store=tmp_path / "store", plugins=plugins, limit=4)
    crafted = [each.cell for each in results.audit_cells if each.cell.perturbation.surrogate]
    found = {(cell.model.label, cell.perturbation.surrogate) for cell in crafted}
    assert found == {("Net", "Other"), ("Other", "Net")}
    assert [str(each) for each in results.report().findings if each.code == "audit-attacks-left-out"] == [FLICKER]
    (tmp_path / "suite.yaml").write_text(json.dumps(source({"model": "toys/net"})))
    planned = json.loads(shell("plan", "suite.yaml", "--json", plugins=plugins).stdout)
    assert FLICKER in [f"{each['subject']}: {each['message']}" for each in planned["findings"]]
