"""Checks of the attacks on a model, by exact paired tests on the same examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from robharness.audit.records import AuditCheck
from robharness.audit.shares import ALPHA, FEW, LITTLE, NEAR, USED, not_measured, share_of, verdict
from robharness.audit.subject import (
    Subject,
    attack_of,
    ball_of,
    compare,
    consecutive_budgets,
    overlaps,
    right_under_all,
    within,
)
from robharness.statistics import PairedDifference, paired_difference
from robharness.store.results import CellResult
from robharness.text import counted

NO_ATTACK = "no white-box attack with a budget has outcomes"
STRONGER = "use more steps, restarts or another objective; the accuracy under the suite's attacks is too high"
MOST_NAMED = 8
"""Attacks that the figures of the worst case name, the strongest first."""
MISLED = "look for gradients that mislead attacks, such as masked ones; the accuracy under attack is too high"


def reaches_budget(subject: Subject) -> AuditCheck:
    short = [each for each in subject.findings if each.code == "steps-too-short"]
    figures = "; ".join(f"{each.subject}: {each.message}" for each in short)
    if not subject.attacks:
        return not_measured("step-reach", "no attack with a budget has outcomes")
    return verdict("step-reach", not short, figures or "no attack declares steps that end inside its ball",
                   "use more steps or larger ones")  # fmt: skip


def uses_budget(subject: Subject) -> AuditCheck:
    """Compare sizes with eps, as the referee measured them in float64, where an iterated attack did not succeed.

    The median is compared by the sign test. Sizes of 0 are of attacks that return the input if they find nothing.
    """
    balls = [cell for cell in subject.white_box if ball_of(cell).norm in ("linf", "l2", "l1")]
    cells = [cell for cell in balls if cell.cell.cost.gradients > 1]
    if not cells:
        return not_measured("budget-used", "no iterated white-box attack under linf, l2 or l1 has outcomes")
    found: list[tuple[float, CellResult, np.ndarray]] = []
    for cell in cells:
        sizes = np.asarray(cell.columns["size"], float)[cell.correct] / float(attack_of(cell).eps)
        sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
        if len(sizes):
            small = share_of(sizes < USED)
            found.append((small.low_at(ALPHA / len(cells)), cell, sizes))
    if not found:
        return not_measured("budget-used", "no example withstood an iterated attack that moved it")
    low, cell, sizes = max(found, key=lambda each: (each[0], -float(np.median(each[2]))))
    median, n = float(np.median(sizes)), len(sizes)
    examples = counted(n, "example", "examples")
    figures = f"{attack_of(cell).name} moved the {examples} that withstood it by {median:.3f} eps in the median"
    return verdict("budget-used", low <= 0.5, figures, "use more steps or larger ones", median=median, n=n)


def is_visible(subject: Subject) -> AuditCheck:
    if not subject.attacks:
        return not_measured("half-level", "no attack with a budget has outcomes")
    found = [each for each in subject.findings if each.code == "budget-below-half-level"]
    figures = f"{found[0].subject}: {found[0].message}" if found else "rounding to 8 bits keeps perturbations"
    return verdict("half-level", not found, figures, found[0].hint if found else "")


def is_on_scale(subject: Subject) -> AuditCheck:
    if not subject.attacks:
        return not_measured("eps-scale", "no attack with a budget has outcomes")
    large = [
        attack_of(cell).name for cell in subject.attacks if ball_of(cell).norm == "linf" and ball_of(cell).eps >= 1
    ]
    figures = f"{', '.join(large)}: every image is in the ball" if large else "every linf budget is below 1"
    return verdict("eps-scale", not large, figures, "divide by 255 what is meant on the scale of 8 bits, as in 8/255")


def falls_with_budget(subject: Subject) -> AuditCheck:
    pairs = [pair for pair in consecutive_budgets(subject.attacks) if overlaps(*pair)]
    advice = "a larger budget holds the smaller one: look for an attack that its gradients mislead"
    return _no_rise("monotone", pairs, "no attack has two budgets", advice)


def iterates_well(subject: Subject) -> AuditCheck:
    return _no_rise("iterated", list(iterated_pairs(subject)), "no attack with one step and one with more share a ball",
                    STRONGER)  # fmt: skip


def iterated_pairs(subject: Subject) -> Iterator[tuple[CellResult, CellResult]]:
    """Yield each attack of a single gradient with each iterated attack in the same ball."""
    cells = [*subject.white_box, *subject.added("single-step")]
    for one in (cell for cell in cells if cell.cell.cost.gradients + cell.cell.cost.shared_gradients == 1):
        for many in (cell for cell in subject.white_box if cell.cell.cost.gradients > 1):
            if ball_of(one) == ball_of(many) and overlaps(one, many):
                yield one, many


def needs_no_more_effort(subject: Subject) -> AuditCheck:
    return _gain("stronger", subject, "stronger", LITTLE, STRONGER)


def is_near_worst_case(subject: Subject) -> AuditCheck:
    """Compare the attacks of the suite, the strongest one above all, with what withstands all of them in the ball."""
    found = [
        (right_under_all(inside), strongest, inside)
        for ball in subject.ball.values()
        if len(inside := within(subject.attacks, ball)) > 1
        and (strongest := subject.strongest(ball)) is not None
        and overlaps(*inside)
    ]
    if not found:
        return not_measured("union", "no two attacks of the suite share the largest budget")
    differences = [
        (paired_difference(strongest.correct_at(positions), worst), int(worst.sum()), positions, inside)
        for (positions, worst), strongest, inside in found
    ]
    difference, right, positions, inside = min(differences, key=lambda each: each[0].difference)
    alone = sorted((int(cell.correct_at(positions).sum()), attack_of(cell).name) for cell in inside)
    listed = ", ".join(f"{count} {name}" for count, name in alone[:MOST_NAMED])
    more = f", {len(alone) - MOST_NAMED} weaker attacks" if len(alone) > MOST_NAMED else ""
    figures = f"{right} of {difference.n} withstand all attacks in the ball; alone: {listed}{more}"
    advice = "read the worst case of the table, not one attack; members of an ensemble find what single attacks miss"
    return verdict("union", difference.interval.high >= -NEAR, figures, advice, difference=difference.difference,
                   n=difference.n)  # fmt: skip


def beats_noise(subject: Subject) -> AuditCheck:
    pairs = list(_with_added(subject, "noise"))
    if not pairs:
        return not_measured("noise", subject.lack("noise", NO_ATTACK))
    tests = [(compare(noise, attack), attack, noise) for attack, noise in pairs]
    level = ALPHA / len(tests)
    worse = [each for each in tests if compare(each[1], each[2]).p_fall <= level]
    unclear = [each for each in tests if each[0].p_fall > level]
    difference, attack, noise = (worse or unclear or tests)[0]
    figures = _both(attack, noise, difference)
    if unclear and not worse:
        return not_measured("noise", f"{figures}, too few differences to tell", "use a larger budget or more examples")
    return verdict("noise", not worse, figures, MISLED, difference=difference.difference, n=difference.n)


def needs_gradients(subject: Subject) -> AuditCheck:
    own = [cell for cell in subject.attacks if attack_of(cell).access in ("scores", "decision")]
    return _not_stronger("black-box", subject, [*own, *subject.added("black-box")], "no attack without gradients")


def resists_transfer(subject: Subject) -> AuditCheck:
    own = [cell for cell in subject.attacks if (of := attack_of(cell).surrogates) and subject.label not in of]
    none = "the suite has no other model of the same inputs to craft attacks on, or no such attack"
    return _not_stronger("transfer", subject, [*own, *subject.added("transfer")], none)


def reaches_zero(subject: Subject) -> AuditCheck:
    cells = subject.added("unbounded")
    if not cells or not overlaps(*cells):
        return not_measured("unbounded", subject.lack("unbounded", "no attack of this role has outcomes"))
    _, right = right_under_all(cells)
    share = share_of(right)
    return verdict("unbounded", share.low <= FEW, f"{share} withstand {attack_of(cells[0]).name}", MISLED,
                   share=share.value, n=share.n)  # fmt: skip


# --- pairs of attacks -----------------------------------------------------------------------------------------------


def _no_rise(code: str, pairs: Sequence[tuple[CellResult, CellResult]], none: str, advice: str) -> AuditCheck:
    """Return a check that fails if accuracy rises significantly from the first cell of a pair to the second."""
    if not pairs:
        return not_measured(code, none)
    tests = [(compare(after, before), before, after) for before, after in pairs]
    difference, before, after = min(tests, key=lambda each: (each[0].p_fall, each[0].difference))
    failed = difference.p_fall <= ALPHA / len(tests)
    return verdict(code, not failed, _both(before, after, difference), advice, p=difference.p_fall, n=difference.n)


def _not_stronger(code: str, subject: Subject, others: Sequence[CellResult], none: str) -> AuditCheck:
    """Return a check that fails if another attack leaves significantly fewer right than the suite's strongest.

    code: of the check, which is also the role of the attacks that the audit adds for it.
    none: beginning of the sentence that says that there are no such attacks.
    """
    pairs = [
        (strongest, other)
        for other in others
        if (strongest := subject.strongest(ball_of(other))) is not None
        and strongest is not other
        and overlaps(strongest, other)
    ]
    if not pairs:
        return not_measured(code, subject.lack(code, f"{none} shares a ball with a white-box attack"))
    tests = [(compare(strongest, other), strongest, other) for strongest, other in pairs]
    difference, strongest, other = min(tests, key=lambda each: (each[0].p_fall, each[0].difference))
    failed = difference.p_fall <= ALPHA / len(tests)
    return verdict(code, not failed, _both(strongest, other, difference), MISLED, p=difference.p_fall, n=difference.n)


def _gain(code: str, subject: Subject, role: str, allowed: float, advice: str) -> AuditCheck:
    """Return a check that fails if attacks of a role leave fewer right than the suite's strongest by more than allowed.

    The attacks of the role count together with that one, example by example.
    """
    found = []
    for ball in subject.ball.values():
        added, strongest = within(subject.added(role), ball), subject.strongest(ball)
        if added and strongest is not None and overlaps(strongest, *added):
            positions, right = right_under_all([strongest, *added])
            found.append((paired_difference(strongest.correct_at(positions), right), strongest, added))
    if not found:
        return not_measured(code, subject.lack(role, NO_ATTACK))
    difference, strongest, added = min(found, key=lambda each: each[0].difference)
    names = " and ".join(attack_of(cell).name for cell in added)
    figures = (
        f"{attack_of(strongest).name} leaves {_right(strongest)} right, together with {names} "
        f"{round(strongest.accuracy * strongest.n) - difference.lost}"
    )
    passed = difference.interval.high >= -allowed
    return verdict(code, passed, figures, advice, difference=difference.difference, n=difference.n)


def _with_added(subject: Subject, role: str) -> Iterator[tuple[CellResult, CellResult]]:
    """Yield the suite's strongest attack of each ball with each attack of a role in the same ball."""
    for cell in subject.added(role):
        ball = ball_of(cell)
        if (strongest := subject.strongest(ball)) is not None and overlaps(strongest, cell):
            yield strongest, cell


def _both(one: CellResult, other: CellResult, difference: PairedDifference) -> str:
    return (
        f"{attack_of(one).name} leaves {_right(one)} right, {attack_of(other).name} {int(other.correct.sum())} "
        f"(p = {difference.p_fall:.2g})"
    )


def _right(cell: CellResult) -> str:
    return f"{int(cell.correct.sum())} of {cell.n}"


ATTACK_CHECKS: tuple[Callable[[Subject], AuditCheck], ...] = (
    reaches_budget,
    uses_budget,
    is_visible,
    is_on_scale,
    falls_with_budget,
    iterates_well,
    needs_no_more_effort,
    is_near_worst_case,
    beats_noise,
    needs_gradients,
    resists_transfer,
    reaches_zero,
)
