"""AutoAttack (Croce and Hein, 2020): its members, their order and their settings.

The core runs the members, each on the examples that withstood the earlier ones. Settings are those of the authors'
code, which has others under l1 (Croce and Hein, 2021). In a custom list, members have their settings in `standard`.

The version "fast" is our own. A robust example withstands all members, and costs almost all passes. The version keeps
all steps of APGD-CE and APGD-T, and shortens the members after them, which break few examples that withstood APGD-T.
"""

from __future__ import annotations

from dataclasses import replace

from robharness import Attack
from robharness_attacks.components import DLR
from robharness_attacks.minimal_params import FABParams
from robharness_attacks.params import APGDParams, AutoAttackParams, Component, SquareParams

Part = APGDParams | FABParams | SquareParams

STANDARD: tuple[Component, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
PLUS: tuple[Component, ...] = ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t")
RAND: tuple[Component, ...] = ("apgd-ce", "apgd-dlr")
TARGETS, L1_TARGETS = 9, 5
RESTARTS = 5
DRAWS = 20
FAST_FAB_TARGETS, FAST_QUERIES = 2, 1000
"""Targets of FAB and queries of Square in "fast", from networks other than those in its documentation."""


def parts(params: AutoAttackParams) -> dict[Component, Part]:
    """Return the settings of the members in the order in which they run."""
    norm, version = params.norm, params.version
    l1 = norm == "l1"
    apgd = APGDParams(norm=norm, restarts=RESTARTS if l1 else 1, larger_eps=l1)
    targeted = replace(apgd, objective=DLR, targets=L1_TARGETS if l1 else TARGETS, restarts=1)
    settings: dict[Component, Part] = {
        "apgd-ce": apgd,
        "apgd-dlr": replace(apgd, objective=DLR),
        "apgd-t": targeted,
        "fab": FABParams(norm=norm, targets=0),
        "fab-t": FABParams(norm=norm, targets=TARGETS),
        "square": SquareParams(norm=norm),
    }
    if version == "plus":
        plain = APGDParams(norm=norm, restarts=RESTARTS)
        settings |= {
            "apgd-ce": plain,
            "apgd-dlr": replace(plain, objective=DLR),
            "apgd-t": replace(plain, objective=DLR, targets=TARGETS, restarts=1),
            "fab": FABParams(norm=norm, targets=0, restarts=RESTARTS),
        }
    if version == "rand":
        averaged = APGDParams(norm=norm, draws=DRAWS)
        settings |= {"apgd-ce": averaged, "apgd-dlr": replace(averaged, objective=DLR)}
    if version == "fast":
        settings |= {
            "apgd-t": replace(targeted, order="near"),
            "fab-t": FABParams(norm=norm, targets=FAST_FAB_TARGETS, order="near"),
            "square": SquareParams(norm=norm, queries=FAST_QUERIES),
        }
    order = params.members or {"standard": STANDARD, "plus": PLUS, "rand": RAND, "fast": STANDARD}[version]
    return {name: settings[name] for name in order}


def members(params: AutoAttackParams) -> dict[Component, Attack]:
    """Build the members in the order in which they run."""
    from robharness_attacks.autopgd import APGD
    from robharness_attacks.fab import FABMember
    from robharness_attacks.square import Square

    classes = {APGDParams: APGD, FABParams: FABMember, SquareParams: Square}
    return {name: classes[type(part)](part) for name, part in parts(params).items()}
