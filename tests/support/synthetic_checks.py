"""Checks that nothing was run for: the gate's verdicts on invented outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from robharness.comparison.records import MeasuredCell, Side
from robharness.gate.records import CheckReport
from robharness.gate.verdicts import check

RIGHT = {"regressed": 0.3, "improved": 0.9}
"""Verdict -> the share of right predictions after; it is 0.6 before, and after for all others."""


def side(suite: str, name: str, cells: list[MeasuredCell], n: int) -> Side:
    return Side(name=name, suite=suite, cells=tuple(cells), n=n)


def cell(model: str, perturbation: str, n: int, share: float) -> MeasuredCell:
    """Return a cell with n outcomes, of which the first are right."""
    return MeasuredCell(
        model=model, data="toys/test", perturbation=perturbation, title=perturbation,
        kind="clean" if perturbation == "clean" else "attack", key=f"{model}/{perturbation}", protocol="same",
        n_expected=n, positions=np.arange(n), right=np.arange(n) < round(share * n),
    )  # fmt: skip


def checked(verdicts: Mapping[tuple[str, str], str], *, n: int = 2000, **facts: object) -> CheckReport:
    """Return a check whose cells get these verdicts from the gate.

    verdicts: (label, perturbation) -> verdict.
    facts: further fields of the check.
    """
    suite = str(facts.get("suite", "toys"))
    before, after = [], []
    for (model, perturbation), verdict in verdicts.items():
        if verdict != "new":
            before.append(cell(model, perturbation, n, 0.6))
        present = cell(model, perturbation, n, RIGHT.get(verdict, 0.6))
        if verdict == "failed":
            empty = np.arange(0), np.zeros(0, bool)
            present = replace(present, positions=empty[0], right=empty[1], failures=("the attack raised an error",))
        elif verdict == "incompatible":
            present = replace(present, protocol="another")
        if verdict != "missing":
            after.append(present)
    sides = side(suite, str(facts.get("baseline", "base.json")), before, n), side(suite, "now", after, n)
    report = check(*sides, title="Toys", accept="robharness check toys.yaml --baseline base.json --update")
    report = replace(report, **facts)  # type: ignore[arg-type]
    found = {(each.model, each.perturbation): each.verdict for each in report.cells}
    assert found == dict(verdicts)
    return report
