"""Checks that nothing was run for: verdicts on cells with invented outcomes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from robharness.comparison.compare import compare
from robharness.comparison.records import CellCheck, CheckReport, MeasuredCell, Side


def side(cells: Mapping[tuple[str, str], np.ndarray], name: str, suite: str) -> Side:
    """Return a side whose cells have these outcomes. cells: (label, perturbation) -> (n,) bool."""
    return Side(
        name=name,
        suite=suite,
        cells=tuple(
            MeasuredCell(
                model=model, data="toys/test", perturbation=perturbation, title=perturbation,
                kind="clean" if perturbation == "clean" else "attack", key=f"{model}/{perturbation}", protocol="same",
                n_expected=len(right), positions=np.arange(len(right)), right=right,
            )
            for (model, perturbation), right in cells.items()
        ),
        n=max(map(len, cells.values()), default=0),
    )  # fmt: skip


def outcomes(n: int, right: int) -> np.ndarray:
    """Return n outcomes, of which the first `right` are right."""
    return np.arange(n) < right


def checked(verdicts: Mapping[tuple[str, str], str], *, n: int = 200, **facts: object) -> CheckReport:
    """Return a check with these verdicts: 60 % of the examples are right in the baseline, and 30 % or 90 % of a cell
    that regressed or improved.

    verdicts: (label, perturbation) -> verdict.
    """
    rights = {"regressed": 0.3, "improved": 0.9}
    suite = str(facts.get("suite", "toys"))
    before = side({name: outcomes(n, round(0.6 * n)) for name in verdicts}, "base.json", suite)
    after = side({name: outcomes(n, round(rights.get(v, 0.6) * n)) for name, v in verdicts.items()}, "now", suite)
    found = {(each.model, each.perturbation): each for each in compare(before, after).cells}
    cells = tuple(
        CellCheck(
            name=f"{model} · {perturbation}", model=model, perturbation=perturbation, verdict=verdict,
            reason="" if verdict == "passed" else f"the cell is {verdict}",
            difference=None if verdict in ("missing", "failed", "new") else found[model, perturbation],
            p_holm=None if verdict in ("missing", "failed", "new") else found[model, perturbation].p_fall,
            smallest_fall=0.032,
        )
        for (model, perturbation), verdict in verdicts.items()
    )  # fmt: skip
    fields = {"suite": suite, "title": "Toys", "baseline": "base.json", "n": n, "n_baseline": n, "tolerance": 0.005,
              "alpha": 0.01, "accept": "robharness check toys.yaml --baseline base.json --update"} | facts  # fmt: skip
    return CheckReport(cells=cells, **fields)  # type: ignore[arg-type]
