"""Outcomes under the worst of all attacks of a norm, with budgets up to each of the suite's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from robharness.report.paired import Outcomes
from robharness.specs import Budget
from robharness.store.results import CellResult, Results
from robharness.store.spans import common_positions

_ORDER = ["linf", "l2", "l1", None]


@dataclass(frozen=True, kw_only=True, eq=False)
class WorstOutcomes(Outcomes):
    """Outcomes of a model under all attacks of one norm with a budget up to eps.

    attacks: the number of attacks with outcomes.
    asked: the number of such attacks in the suite.
    positions: of the examples that all of these attacks and the clean cell have.
    right: whether the prediction is right under each of the attacks.
    """

    norm: str
    eps: str
    attacks: int
    asked: int

    @property
    def name(self) -> str:
        """The name of its row in tables."""
        return f"worst case {self.norm} ≤ {self.eps}"


def worst_outcomes(results: Results, label: str) -> Iterator[WorstOutcomes]:
    """Yield the worst cases of a model, by norm and ascending budget."""
    by_budget: dict[tuple[str | None, Budget], list[CellResult]] = {}
    for result in results.of(label, "attack"):
        p = result.cell.perturbation
        if p is not None and p.eps is not None:
            by_budget.setdefault((p.norm, p.eps), []).append(result)
    for norm in sorted({norm for norm, _ in by_budget}, key=_ORDER.index):
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
                norm=str(norm), eps=str(eps), attacks=attacks, asked=expected, positions=positions, right=worst
            )
