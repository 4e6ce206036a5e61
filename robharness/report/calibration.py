"""Calibration of cells: their confidences beside their accuracies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from robharness import statistics
from robharness.findings import Finding, finding
from robharness.planning.commands import quoted_glob
from robharness.report.details import Calibration, CalibrationBin
from robharness.statistics.intervals import Interval
from robharness.store.results import CellResult, Results


def calibration(result: CellResult) -> Calibration | None:
    """Return the calibration of a cell; None if no example has a confidence."""
    binned = result.binned_confidences()
    if binned is None or not binned.n.any():
        return None
    n = int(binned.n.sum())
    wrong = n - int(binned.right.sum())
    return Calibration(
        n=n,
        ece=statistics.expected_calibration_error(binned),
        confidence=float(binned.confidence.sum() / n),
        confidence_when_wrong=float(binned.confidence_when_wrong.sum() / wrong) if wrong else None,
        bins=tuple(_bins(binned)),
    )


def _bins(binned: statistics.Reliability) -> Iterator[CalibrationBin]:
    count, z = np.maximum(binned.n, 1), np.asarray(statistics.normal_quantile(0.95))
    ends = np.stack(statistics.wilson_bounds(binned.right, count, z), axis=1).tolist()
    means, accuracies = (binned.confidence / count).tolist(), (binned.right / count).tolist()
    edges = (np.arange(len(count) + 1) / len(count)).tolist()
    for place, n in enumerate(binned.n.tolist()):
        yield CalibrationBin(
            low=edges[place],
            high=edges[place + 1],
            n=n,
            confidence=means[place] if n else None,
            accuracy=accuracies[place] if n else None,
            interval=Interval(*ends[place]) if n else None,
        )


def confidence_findings(results: Results, details: bool) -> Iterator[Finding]:
    """Yield a finding for the cells of which an earlier version of robharness stored outcomes without confidences.

    details: whether confidences were read; if not, only cells without any are found.
    """
    stored = [result for result in results.cells if result.n]
    lacking = [result for result in stored if _lacks_confidences(result, details)]
    if lacking:
        verb = "has" if len(lacking) == 1 else "have"
        yield finding(
            "confidences-missing",
            f"{len(lacking)} of {len(stored)} cells {verb} outcomes that an earlier version stored without "
            f"confidences; calibration leaves these outcomes out",
            hint=f"to compute them again: {results.outline.command('run', '--fresh', quoted_glob('*'))}",
        )


def _lacks_confidences(result: CellResult, details: bool) -> bool:
    """Return whether there are outcomes of finite logits, hence with a confidence, of which none is stored."""
    if "confidence" not in result.columns:
        return True
    if not details or (result.reliability is not None and result.reliability.n.sum() == result.n):
        return False
    if not (is_absent := np.isnan(result.columns["confidence"])).any():
        return False
    is_finite = np.isfinite(result.columns["logit_range"]) & np.isfinite(result.columns["margin"])
    return bool((is_absent & is_finite).any())
