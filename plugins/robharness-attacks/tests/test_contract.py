"""The contract of attacks by the author kit: cheap ones here and always, the others where there is time."""

from __future__ import annotations

import pytest

from robharness.testing import parametrize_with_checks

FEW = {"square": {"queries": 50}, "autoattack": {"members": ["apgd-ce", "square"]}}
"""Options of attacks that spend thousands of passes; their full length is compared with the authors' elsewhere."""


@parametrize_with_checks("robharness_attacks", only=["plugin/*", "attacks/fgsm", "attacks/pgd"])
def test_contract(check):
    check()


@pytest.mark.slow
@parametrize_with_checks("robharness_attacks", leave_out=["plugin/*", "attacks/fgsm", "attacks/pgd"], options=FEW)
def test_contract_of_the_others(check):
    check()
