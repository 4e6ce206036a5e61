"""Robustness benchmarks: accuracy of models under attacks and corruptions, compared with confidence intervals.

Public names are imported when they are first used, so that `import robharness` imports neither torch nor NumPy.
"""

from __future__ import annotations

import lazy_loader

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all else until the command handles Ctrl-C
if TYPE_CHECKING:
    from robharness.api import check, compare, fetch, load, plan, run, stored, train
    from robharness.errors import MissingResource, RobharnessWarning, UnreadableExample, UserError, for_shell
    from robharness.evaluation.batch import Batch
    from robharness.evaluation.classifier import Classifier, Gradient
    from robharness.evaluation.clips import clip_frames
    from robharness.evaluation.decoding import as_unreadable, read_image
    from robharness.evaluation.digest import state_digest
    from robharness.evaluation.images import preprocessed
    from robharness.evaluation.normalize import normalized
    from robharness.evaluation.rng import ExampleRNG
    from robharness.plugins.discovery import discover
    from robharness.plugins.hookspecs import hookimpl
    from robharness.report.results import Results
    from robharness.specs import (
        PROBE_NOTES,
        Archive,
        Attack,
        AttackSpec,
        AuditSpec,
        AuditTarget,
        Budget,
        Clips,
        Component,
        ComponentSpec,
        Conversion,
        Corruption,
        CorruptionSpec,
        Cost,
        DataRef,
        Dataset,
        DatasetSpec,
        Download,
        Encoder,
        FeatureBank,
        File,
        InputSpec,
        Measure,
        MetricResult,
        MetricSpec,
        ModelSpec,
        Page,
        Perturbed,
        Preprocessing,
        Progress,
        ThreatModel,
        Train,
        TrainingJob,
    )
    from robharness.store.features import Features

_HOMES = {
    "api": ["run", "check", "plan", "load", "stored", "train", "compare", "fetch"],
    "errors": ["MissingResource", "RobharnessWarning", "UnreadableExample", "UserError", "for_shell"],
    "evaluation.batch": ["Batch"],
    "evaluation.classifier": ["Classifier", "Gradient"],
    "evaluation.clips": ["clip_frames"],
    "evaluation.decoding": ["as_unreadable", "read_image"],
    "evaluation.digest": ["state_digest"],
    "evaluation.images": ["preprocessed"],
    "evaluation.normalize": ["normalized"],
    "evaluation.rng": ["ExampleRNG"],
    "plugins.discovery": ["discover"],
    "plugins.hookspecs": ["hookimpl"],
    "report.results": ["Results"],
    "specs": [
        "PROBE_NOTES",
        "Archive",
        "Attack",
        "AttackSpec",
        "AuditSpec",
        "AuditTarget",
        "Budget",
        "Clips",
        "Component",
        "ComponentSpec",
        "Conversion",
        "Corruption",
        "CorruptionSpec",
        "Cost",
        "DataRef",
        "Dataset",
        "DatasetSpec",
        "Download",
        "Encoder",
        "FeatureBank",
        "File",
        "InputSpec",
        "Measure",
        "MetricResult",
        "MetricSpec",
        "ModelSpec",
        "Page",
        "Perturbed",
        "Preprocessing",
        "Progress",
        "ThreatModel",
        "Train",
        "TrainingJob",
    ],
    "store.features": ["Features"],
}

__all__ = [
    "PROBE_NOTES",
    "Archive",
    "Attack",
    "AttackSpec",
    "AuditSpec",
    "AuditTarget",
    "Batch",
    "Budget",
    "Classifier",
    "Clips",
    "Component",
    "ComponentSpec",
    "Conversion",
    "Corruption",
    "CorruptionSpec",
    "Cost",
    "DataRef",
    "Dataset",
    "DatasetSpec",
    "Download",
    "Encoder",
    "ExampleRNG",
    "FeatureBank",
    "Features",
    "File",
    "Gradient",
    "InputSpec",
    "Measure",
    "MetricResult",
    "MetricSpec",
    "MissingResource",
    "ModelSpec",
    "Page",
    "Perturbed",
    "Preprocessing",
    "Progress",
    "Results",
    "RobharnessWarning",
    "ThreatModel",
    "Train",
    "TrainingJob",
    "UnreadableExample",
    "UserError",
    "as_unreadable",
    "check",
    "clip_frames",
    "compare",
    "discover",
    "fetch",
    "for_shell",
    "hookimpl",
    "load",
    "normalized",
    "plan",
    "preprocessed",
    "read_image",
    "run",
    "state_digest",
    "stored",
    "train",
]

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs=_HOMES)
