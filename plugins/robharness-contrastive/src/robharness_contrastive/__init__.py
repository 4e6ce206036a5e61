"""Contrastive encoders that are trained by a recipe, and measures of what their features look like."""

from __future__ import annotations

from robharness_contrastive.metrics import robharness_metrics, robharness_pictures

__all__ = ["robharness_metrics", "robharness_pictures"]
