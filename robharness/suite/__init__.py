"""Suites: a YAML file lists models, data and perturbations. `python -m robharness.suite` prints its JSON Schema."""

from robharness.suite.baselines import BASELINES, Baseline
from robharness.suite.command_lines import relative
from robharness.suite.data import trained_on
from robharness.suite.reader import load
from robharness.suite.records import (
    AttackRef,
    Check,
    Compat,
    CorruptionRef,
    DataRef,
    Header,
    ModelRef,
    Precision,
    Publication,
)
from robharness.suite.resolved import (
    Data,
    Model,
    Perturbation,
    Suite,
    changed_fields,
    identity_fields,
    unrepresented,
)
from robharness.suite.schema import json_schema

__all__ = [
    "BASELINES",
    "AttackRef",
    "Baseline",
    "Check",
    "Compat",
    "CorruptionRef",
    "Data",
    "DataRef",
    "Header",
    "Model",
    "ModelRef",
    "Perturbation",
    "Precision",
    "Publication",
    "Suite",
    "changed_fields",
    "identity_fields",
    "json_schema",
    "load",
    "relative",
    "trained_on",
    "unrepresented",
]
