"""Outcomes under the worst of all attacks of a norm or measure, with budgets up to each of the suite's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from robharness.report.details import worst_case_name
from robharness.report.paired import Outcomes
from robharness.specs import NORMS, Budget
from robharness.store.results import CellResult, Results
from robharness.store.spans import common_positions


@dataclass(frozen=True, kw_only=True, eq=False)
class WorstOutcomes(Outcomes):
    """Outcomes of a model under all attacks of one norm or measure with a budget up to eps.

    attacks: the number of attacks with outcomes.
    asked: the number of such attacks in the suite.
    positions: of the examples that all of these attacks and the clean cell have.
    right: whether the prediction is right under each of the attacks.
    """

    norm: str
    unit: str
    eps: str
    attacks: int
    asked: int

    @property
    def name(self) -> str:
        """The name of its row in tables."""
        return worst_case_name(self.norm, self.eps, self.unit)


def worst_outcomes(results: Results, label: str) -> Iterator[WorstOutcomes]:
    """Yield the worst cases of a model, by norm and ascending budget."""
    by_budget: dict[tuple[str, Budget], list[CellResult]] = {}
    units: dict[str, str] = {}
    for result in results.of(label, "attack"):
        p = result.cell.perturbation
        if p is not None and p.eps is not None and p.norm is not None:
            by_budget.setdefault((p.norm, p.eps), []).append(result)
            units[p.norm] = p.unit
    for norm in sorted(units, key=_place):
        clean, attacks, expected = results.clean(label), 0, 0
        positions, worst = clean.positions, np.ones(clean.n, bool)
        for eps in sorted(eps for n, eps in by_budget if n == norm):
            expected += len(by_budget[norm, eps])
            for result in by_budget[norm, eps]:
                if result.n:
                    common = common_positions([positions, result.positions])
                    if common is not positions:
                        positions, worst = common, worst[np.searchsorted(positions, common)]
                    attacks, worst = attacks + 1, worst & result.correct_at(common)
            yield WorstOutcomes(
                norm=norm, unit=units[norm], eps=str(eps), attacks=attacks, asked=expected, positions=positions,
                right=worst,
            )  # fmt: skip


def _place(norm: str) -> tuple[int, str]:
    """Return the place of a norm in reports: norms in their order, then other measures by name."""
    return (list(NORMS).index(norm), "") if norm in NORMS else (len(NORMS), norm)
