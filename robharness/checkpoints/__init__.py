"""Loading of published checkpoints: read safely, rename by their publisher's layout, load strictly."""

from robharness.checkpoints.choice import StateChoice, choosing, unstripped, whole
from robharness.checkpoints.files import read
from robharness.checkpoints.layouts import Layout, State, state
from robharness.checkpoints.loading import StateMismatch, fill, load

__all__ = [
    "Layout",
    "State",
    "StateChoice",
    "StateMismatch",
    "choosing",
    "fill",
    "load",
    "read",
    "state",
    "unstripped",
    "whole",
]
