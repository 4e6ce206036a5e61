"""Records that plugins yield, and protocols of the objects that they build."""

from robharness.specs.audits import PROBE_NOTES, AuditRole, AuditSpec, AuditTarget
from robharness.specs.budget import RATIONAL, Budget
from robharness.specs.checks import Check
from robharness.specs.inputs import Clips, InputSpec, Preprocessing, check_choices
from robharness.specs.measures import NORMS, Measure
from robharness.specs.protocols import Attack, Corruption, Dataset, Perturbed, Video
from robharness.specs.published import Archive, Conversion, Download, Page
from robharness.specs.records import (
    AttackSpec,
    ComponentSpec,
    CorruptionSpec,
    Cost,
    DatasetSpec,
    MetricResult,
    MetricSpec,
    ModelSpec,
    Spec,
    ThreatModel,
)
from robharness.specs.references import Component, Encoder
from robharness.specs.sources import DataRef, FeatureBank, File, Progress, Train, TrainingJob
from robharness.specs.types import RESERVED, RUNTIME, Access, Kind, Need, Norm, Params, Randomness

__all__ = [
    "NORMS",
    "PROBE_NOTES",
    "RATIONAL",
    "RESERVED",
    "RUNTIME",
    "Access",
    "Archive",
    "Attack",
    "AttackSpec",
    "AuditRole",
    "AuditSpec",
    "AuditTarget",
    "Budget",
    "Check",
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
    "Kind",
    "Measure",
    "MetricResult",
    "MetricSpec",
    "ModelSpec",
    "Need",
    "Norm",
    "Page",
    "Params",
    "Perturbed",
    "Preprocessing",
    "Progress",
    "Randomness",
    "Spec",
    "ThreatModel",
    "Train",
    "TrainingJob",
    "Video",
    "check_choices",
]
