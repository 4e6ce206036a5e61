"""Types that the records share: norms, kinds of access and of input; and the marker of runtime fields."""

from __future__ import annotations

from typing import Any, Literal

Norm = Literal["linf", "l2", "l1", "l0", "l0-pixels"]
Access = Literal["gradient", "scores", "decision", "features"]
Randomness = Literal["none", "example", "global"]
Kind = Literal["image", "video"]
Need = Literal["features", "views", "distances"]
Params = Any
"""A frozen, keyword-only dataclass that the plugin owns."""

RUNTIME = {"runtime": True}
"""Metadata of a field that is not part of a cell's identity."""
SUITE_KEYS = {
    "ModelSpec": ("model", "label", "reference", "weights", "inside", "strip", "preprocessing", "clean_at_least"),
    "AttackSpec": ("attack", "eps", "nested", "source", "eight_bit"),
    "CorruptionSpec": ("corruption", "severity"),
    "DatasetSpec": ("name", "split", "limit", "classes"),
}
"""Keys of a suite beside those of a plugin, which options cannot have; models have `seed` and `seeds` in common."""
RESERVED = (
    *("position", "example", "label", "prediction", "correct", "margin", "logit_range", "size", "attacked"),
    *("confidence", "p_true"),
    *("component", "success", "prediction_8bit", "correct_8bit"),
)
"""Names of the columns of a stored outcome, which notes cannot have."""
