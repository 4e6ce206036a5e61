"""Loading of published checkpoints: read safely, rename by their publisher's layout, load strictly."""

from robharness.checkpoints.choice import StateChoice, choosing, unstripped, whole
from robharness.checkpoints.files import read
from robharness.checkpoints.layouts import Layout, State, state
from robharness.checkpoints.left_over import LeftOver, noting
from robharness.checkpoints.loading import StateMismatch, fill, load, load_trunk

__all__ = [
    "Layout",
    "LeftOver",
    "State",
    "StateChoice",
    "StateMismatch",
    "choosing",
    "fill",
    "load",
    "load_trunk",
    "noting",
    "read",
    "state",
    "unstripped",
    "whole",
]
