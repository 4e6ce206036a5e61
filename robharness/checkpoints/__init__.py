"""Loading of published checkpoints: read safely, rename by their publisher's layout, load strictly."""

from robharness.checkpoints.archives import opened
from robharness.checkpoints.bounds import Unfit
from robharness.checkpoints.choice import StateChoice, choosing, unstripped, whole
from robharness.checkpoints.files import read
from robharness.checkpoints.layouts import Layout, State, state
from robharness.checkpoints.left_over import LeftOver, noting
from robharness.checkpoints.loading import StateMismatch, fill, load, load_trunk
from robharness.planning.weights import too_large

__all__ = [
    "Layout",
    "LeftOver",
    "State",
    "StateChoice",
    "StateMismatch",
    "Unfit",
    "choosing",
    "fill",
    "load",
    "load_trunk",
    "noting",
    "opened",
    "read",
    "state",
    "too_large",
    "unstripped",
    "whole",
]
