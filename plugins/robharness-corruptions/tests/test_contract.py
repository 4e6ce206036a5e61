"""The contract of corruptions, for three that draw and three that do not."""

from __future__ import annotations

import pytest

from robharness.testing import parametrize_with_checks

SOME = ["gaussian_noise", "fog", "motion_blur", "brightness", "jpeg_compression", "pixelate"]


@parametrize_with_checks("robharness_corruptions", only=["plugin/*", *(f"corruptions/{name}" for name in SOME)])
def test_contract(check):
    check()


@pytest.mark.slow
@parametrize_with_checks("robharness_corruptions", leave_out=[f"corruptions/{name}" for name in SOME])
def test_contract_of_the_others(check):
    check()
