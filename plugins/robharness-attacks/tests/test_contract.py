"""The contract of attacks by the author kit: cheap ones here and always, the others where there is time."""

from __future__ import annotations

import pytest

from robharness.testing import parametrize_with_checks

FEW = {"square": {"queries": 50}, "autoattack": {"members": ["apgd-ce", "fab-t"]}}
"""Options of attacks that spend thousands of passes; their full length is compared with the authors' elsewhere."""
FAR = ["attacks/pgd-dense-reaches_the_optimum", "attacks/apgd-reaches_the_optimum"]
"""What stays away from the optimum of a linear model under l1 by its nature: Foolbox's rescaled steps, by half; and
Auto-PGD as published, which at a small budget leaves an example that 0.90 of it would fool."""


@parametrize_with_checks("robharness_attacks", only=["plugin/*", "attacks/fgsm", "attacks/pgd"])
def test_contract(check):
    check()


@pytest.mark.slow
@parametrize_with_checks("robharness_attacks", leave_out=["plugin/*", "attacks/fgsm", "attacks/pgd", *FAR], options=FEW)
def test_contract_of_the_others(check):
    check()
