"""The data set contract, checked for videos, patches and moving digits."""

from __future__ import annotations

import tempfile

from robharness.testing import parametrize_with_checks

ROOT = tempfile.TemporaryDirectory()


@parametrize_with_checks(
    "robharness_samples",
    only=["plugin/*", "datasets/videos/*", "datasets/patches/*", "datasets/moving-digits/*"],
    data_root=ROOT.name,
    classes={"sample-videos": 3, "patches": 10, "moving-digits": 8},
)
def test_contract(check):
    check()
