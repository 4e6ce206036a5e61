"""The attacks that audits of suites get from this plugin. This module does not import torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from robharness import AuditSpec, AuditTarget
from robharness_attacks.params import Norm

Items = list[dict[str, Any]]

PROBE_STEP = "0.25/255"
"""A quarter of a grey level, which 8-bit inputs do not show: the step within which a loss should be linear."""
QUERIES, TRANSFER_STEPS, UNBOUNDED_STEPS = 300, 20, 50
FEWEST_STEPS, MOST_STEPS, RESTARTS = 50, 500, 2


def audits() -> Iterator[AuditSpec]:
    """Yield one record for each role of an audit."""
    yield AuditSpec(role="probe", items=lambda target: [{"attack": "attacks/probe", "eps": PROBE_STEP}])
    yield AuditSpec(role="noise", items=lambda target: _ball(target, "attacks/noise"))
    yield AuditSpec(role="single-step", items=_single_step)
    yield AuditSpec(role="stronger", items=_stronger)
    yield AuditSpec(role="black-box", items=_black_box)
    yield AuditSpec(role="transfer", items=_transfer)
    yield AuditSpec(role="unbounded", items=_unbounded)


def _ball(target: AuditTarget, attack: str, **options: Any) -> Items:
    """Return an attack within the target's ball; none without a ball, or under l0."""
    if target.norm not in get_args(Norm) or target.eps is None:
        return []
    return [{"attack": attack, "norm": target.norm, "eps": str(target.eps), **options}]


def _single_step(target: AuditTarget) -> Items:
    return _ball(target, "attacks/fgsm") if target.norm in ("linf", "l2") else []


def _black_box(target: AuditTarget) -> Items:
    """Return Square, which uses scores, and under linf RayS, which uses decisions, so that no score can mislead it."""
    rays = _ball(target, "attacks/rays", queries=QUERIES) if target.norm == "linf" else []
    return _ball(target, "attacks/square", queries=QUERIES) + rays


def _stronger(target: AuditTarget) -> Items:
    """Return APGD by two objectives, with two starts each of twice the steps of the suite, within bounds."""
    steps = min(MOST_STEPS, max(FEWEST_STEPS, 2 * target.steps))
    return [
        item
        for objective in ("excess", "dlr")
        for item in _ball(target, "attacks/apgd", steps=steps, restarts=RESTARTS, objective=objective)
    ]


def _transfer(target: AuditTarget) -> Items:
    return [
        item for source in target.sources for item in _ball(target, "attacks/pgd", steps=TRANSFER_STEPS, source=source)
    ]


def _unbounded(target: AuditTarget) -> Items:
    """Return PGD in the whole box, with steps that cross it twice."""
    step = f"2/{UNBOUNDED_STEPS}"
    return [{"attack": "attacks/pgd", "norm": "linf", "eps": 1, "steps": UNBOUNDED_STEPS, "abs_step": step}]
