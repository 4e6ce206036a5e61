"""The stored outcomes of one model as the checks read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from robharness.findings import Finding
from robharness.specs.budget import Budget
from robharness.statistics import PairedDifference, paired_difference
from robharness.store.results import CellResult, Results
from robharness.store.spans import common_positions


class Ball(NamedTuple):
    """A norm and a budget."""

    norm: str
    eps: Budget

    def __str__(self) -> str:
        return f"{self.norm} {self.eps}"


@dataclass(frozen=True, eq=False)
class Subject:
    """A model of an audit.

    findings: of the plan and of the model's passes, which some checks repeat.
    """

    results: Results
    label: str
    findings: tuple[Finding, ...] = ()

    @cached_property
    def clean(self) -> CellResult:
        return self.results.clean(self.label)

    @cached_property
    def cells(self) -> tuple[CellResult, ...]:
        """All of the model's cells, with outcomes or not."""
        return tuple(result for result in self.results.every if result.cell.model.label == self.label)

    @cached_property
    def refusal(self) -> str:
        """Why the model gives no outcomes at all; empty if it gives some, or if nothing was computed yet."""
        if any(result.n for result in self.cells) or not all(result.failures for result in self.cells):
            return ""
        return str(self.cells[0].failures[0]) if self.cells else ""

    def refutation(self, code: str) -> str:
        """Return the first failure of a cell that refutes the claim of a check; empty if there is none."""
        failures = (failure for cell in self.cells for failure in cell.failures)
        return next((str(failure) for failure in failures if failure.refutes == code), "")

    @cached_property
    def attacks(self) -> tuple[CellResult, ...]:
        """The suite's own untargeted attacks with outcomes and a budget."""
        return tuple(cell for cell in self.results.of(self.label, "attack") if cell.n and _is_bounded(cell))

    @cached_property
    def white_box(self) -> tuple[CellResult, ...]:
        """The attacks that use gradients of the class outputs of the model itself, out of `attacks`."""
        return tuple(cell for cell in self.attacks if _uses_gradients(cell))

    def added(self, role: str) -> tuple[CellResult, ...]:
        """Return the attacks with outcomes that the audit added for a role."""
        return tuple(cell for cell in self._of_role(role) if cell.n)

    def lack(self, role: str, otherwise: str) -> str:
        """Return why no attack of a role has outcomes: the first failure of one, or else the given reason."""
        failures = (failure for cell in self._of_role(role) for failure in cell.failures)
        return next((str(failure) for failure in failures), otherwise)

    def _of_role(self, role: str) -> list[CellResult]:
        cells = (result for result in self.results.audit_cells if result.cell.model.label == self.label)
        return [cell for cell in cells if attack_of(cell).audit == role]

    @cached_property
    def ball(self) -> dict[str, Ball]:
        """The largest budget of each norm of the white-box attacks."""
        found: dict[str, Ball] = {}
        for cell in self.white_box:
            ball = ball_of(cell)
            if ball.norm not in found or ball.eps > found[ball.norm].eps:
                found[ball.norm] = ball
        return found

    def strongest(self, ball: Ball) -> CellResult | None:
        """Return the white-box attack of the suite that leaves the fewest examples right; None if there is none."""
        inside = within(self.white_box, ball)
        return min(inside, key=lambda cell: cell.accuracy) if inside else None


def within(cells: Sequence[CellResult], ball: Ball) -> list[CellResult]:
    """Return the attacks with exactly this ball."""
    return [cell for cell in cells if ball_of(cell) == ball]


def attack_of(cell: CellResult) -> Any:
    """The perturbation of a cell that has one."""
    assert cell.cell.perturbation is not None
    return cell.cell.perturbation


def ball_of(cell: CellResult) -> Ball:
    """The ball of an attack with a budget."""
    attack = attack_of(cell)
    return Ball(str(attack.norm), attack.eps)


def compare(one: CellResult, other: CellResult) -> PairedDifference:
    """Compare the accuracies under two attacks on the examples that both have; the difference is other minus one."""
    common = common_positions([one.positions, other.positions])
    return paired_difference(one.correct_at(common), other.correct_at(common))


def overlaps(*cells: CellResult) -> bool:
    """Return whether cells have an example in common, which parts of a run may lack."""
    return len(common_positions([cell.positions for cell in cells])) > 0


def right_under_all(cells: Sequence[CellResult]) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions that all cells have, and whether predictions are right in all cells, (n,) bool."""
    positions = common_positions([cell.positions for cell in cells])
    return positions, np.logical_and.reduce([cell.correct_at(positions) for cell in cells])


def _is_bounded(cell: CellResult) -> bool:
    attack = attack_of(cell)
    return attack.eps is not None and attack.norm is not None and not attack.is_targeted and attack.access != "features"


def _uses_gradients(cell: CellResult) -> bool:
    attack = attack_of(cell)
    return bool(attack.access == "gradient" and not attack.surrogates)


def consecutive_budgets(cells: Sequence[CellResult]) -> Iterator[tuple[CellResult, CellResult]]:
    """Yield pairs of one attack at neighbouring budgets, the smaller one first."""
    by_attack: dict[str, list[CellResult]] = {}
    for cell in cells:
        by_attack.setdefault(attack_of(cell).title, []).append(cell)
    for some in by_attack.values():
        ordered = sorted(some, key=lambda cell: attack_of(cell).eps)
        yield from pairwise(ordered)
