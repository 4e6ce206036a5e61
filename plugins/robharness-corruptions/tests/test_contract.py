"""Contract checks of all kernels, and of some corruptions of the reference."""

from __future__ import annotations

import pytest

from robharness.testing import parametrize_with_checks


@parametrize_with_checks("robharness_corruptions", leave_out=["corruptions/reference/*"])
def test_contract(check):
    check()


@pytest.mark.slow
@parametrize_with_checks("robharness_corruptions", only=["corruptions/reference/*"])
def test_contract_of_the_reference(check):
    check()
