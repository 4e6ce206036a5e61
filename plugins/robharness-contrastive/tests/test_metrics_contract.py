"""The contract of the metrics by the author kit."""

from __future__ import annotations

from robharness.testing import parametrize_with_checks


@parametrize_with_checks("robharness_contrastive", only=["plugin/*", "metrics/*"])
def test_contract(check):
    check()
