"""Augmentations: records, one picture at a time by torchvision, and whole batches where the pictures are."""

from __future__ import annotations

from robharness_contrastive.augment.batched import Batched
from robharness_contrastive.augment.draws import Draws, draw, uniforms
from robharness_contrastive.augment.records import AUGMENTATIONS, CONTRASTIVE, Augmentation, per_sample

__all__ = ["AUGMENTATIONS", "CONTRASTIVE", "Augmentation", "Batched", "Draws", "draw", "per_sample", "uniforms"]
