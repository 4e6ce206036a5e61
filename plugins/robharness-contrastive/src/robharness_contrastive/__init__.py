"""Contrastive encoders that are trained by a recipe, and measures of what their features look like."""

from __future__ import annotations
