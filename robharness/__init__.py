"""How much more fragile is this model than that one? Robustness benchmarks, with numbers to defend.

The names below load when they are first used, so that `import robharness` imports neither torch nor NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robharness.api import load, plan, run, train
    from robharness.classifier import Batch, Classifier, Gradient, normalized
    from robharness.data import clip_frames, preprocessed
    from robharness.errors import Missing, Unreadable, UserError
    from robharness.hookspecs import hookimpl
    from robharness.plugins import discover
    from robharness.results import Features, Results
    from robharness.rng import ExampleRNG
    from robharness.specs import (
        Attack,
        AttackSpec,
        Budget,
        Clips,
        Corruption,
        CorruptionSpec,
        Cost,
        DataRef,
        Dataset,
        DatasetSpec,
        Download,
        File,
        InputSpec,
        Measured,
        MetricSpec,
        ModelSpec,
        Perturbed,
        Preprocessing,
        Progress,
        ThreatModel,
        Train,
        Training,
    )

_HOMES = {
    "api": ("run", "plan", "load", "train"),
    "classifier": ("Batch", "Classifier", "Gradient", "normalized"),
    "data": ("clip_frames", "preprocessed"),
    "errors": ("Missing", "Unreadable", "UserError"),
    "hookspecs": ("hookimpl",),
    "plugins": ("discover",),
    "results": ("Features", "Results"),
    "rng": ("ExampleRNG",),
    "specs": (
        *("Attack", "AttackSpec", "Budget", "Clips", "Corruption", "CorruptionSpec", "Cost", "DataRef", "Dataset"),
        *("DatasetSpec", "Download", "File", "InputSpec", "Measured", "MetricSpec", "ModelSpec", "Perturbed"),
        *("Preprocessing", "Progress", "ThreatModel", "Train", "Training"),
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Attack",
    "AttackSpec",
    "Batch",
    "Budget",
    "Classifier",
    "Clips",
    "Corruption",
    "CorruptionSpec",
    "Cost",
    "DataRef",
    "Dataset",
    "DatasetSpec",
    "Download",
    "ExampleRNG",
    "Features",
    "File",
    "Gradient",
    "InputSpec",
    "Measured",
    "MetricSpec",
    "Missing",
    "ModelSpec",
    "Perturbed",
    "Preprocessing",
    "Progress",
    "Results",
    "ThreatModel",
    "Train",
    "Training",
    "Unreadable",
    "UserError",
    "clip_frames",
    "discover",
    "hookimpl",
    "load",
    "normalized",
    "plan",
    "preprocessed",
    "run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'robharness' has no attribute '{name}'")
    return getattr(import_module(f"robharness.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
