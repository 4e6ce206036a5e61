"""Checks that nothing was run for: the gate's verdicts on invented outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from robharness.gate.records import CheckReport
from robharness.gate.verdicts import check
from synthetic_sides import cell, side

RIGHT = {"regressed": 0.3, "improved": 0.9}
"""Verdict -> the share of right predictions after; it is 0.6 before, and after for all others."""


def checked(verdicts: Mapping[tuple[str, str], str], *, n: int = 2000, **facts: Any) -> CheckReport:
    """Return a check whose cells get these verdicts from the gate.

    verdicts: (label, perturbation) -> verdict.
    facts: further fields of the check.
    """
    suite = str(facts.get("suite", "toys"))
    before, after = [], []
    for (model, perturbation), verdict in verdicts.items():
        if verdict != "new":
            before.append(cell(perturbation, np.arange(n) < round(0.6 * n), model))
        present = cell(perturbation, np.arange(n) < round(RIGHT.get(verdict, 0.6) * n), model)
        if verdict == "failed":
            empty = np.arange(0), np.zeros(0, bool)
            present = replace(present, positions=empty[0], right=empty[1], failures=("the attack raised an error",))
        elif verdict == "incompatible":
            present = replace(present, conditions="another")
        if verdict != "missing":
            after.append(present)
    name = str(facts.get("baseline", "base.json"))
    sides = side(*before, name=name, suite=suite, n=n), side(*after, name="now", suite=suite, n=n)
    report = check(*sides, title="Toys", accept="robharness check toys.yaml --baseline base.json --update")
    report = replace(report, **facts)
    found = {(each.model, each.perturbation): each.verdict for each in report.cells}
    assert found == dict(verdicts)
    return report
