"""Findings of a report, derived from the plan and from stored outcomes, so that a later report shows them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from robharness import statistics
from robharness.engine.provenance import BOUNDARY_TOLERANCE, outdated_outcomes, outdated_trainings, pass_findings
from robharness.findings import Finding, finding, named_examples
from robharness.planning.commands import fresh_command, quoted_glob
from robharness.report.records import CellNumbers, CorruptionErrors, SlopeNumbers
from robharness.specs.records import MetricResult
from robharness.store.results import CellResult, Results
from robharness.text import counted

RUNTIME_FACTORS = ("rows", "threads", "device", "memory_format", "folded", "sources")
"""Keys of provenance that change outcomes by rounding; parts of one cell that differ in them are reported."""


def training_findings(results: Results) -> Iterator[Finding]:
    """Yield a finding per cause of failed trainings, and one for all models that are not trained yet."""
    plan, labels = results.outline, dict[str, list[str]]()
    for model in plan.untrained:
        labels.setdefault(plan.training_failure(model), []).append(model.label)
    untrained = labels.pop("", [])
    for reason, failed in labels.items():
        yield finding("training-failed", f"{', '.join(failed)} could not be trained: {reason}")
    if untrained:
        yield finding(
            "not-trained",
            f"not trained yet: {', '.join(untrained)}; {len(plan.pending_cells)} cells wait for the training",
            hint=f"to train: {plan.command('train')}",
        )


def cell_findings(results: Results) -> Iterator[Finding]:
    """Yield a finding per cause of failed cells, and one for broken examples."""
    cells: dict[str, list[str]] = {}
    for result in results.every:
        for failure in result.failures:
            cells.setdefault(str(failure), []).append(result.cell.name)
    for cause, names in cells.items():
        others = f" and {counted(len(names) - 1, 'more cell', 'more cells')}" if len(names) > 1 else ""
        yield finding("cell-failed", cause, subject=f"{names[0]}{others}")
    for sentence in results.invalid:
        yield finding("clean-accuracy-too-low", sentence)
    for sentence in results.perhaps_invalid:
        yield finding("clean-accuracy-uncertain", sentence)
    yield from _unreadable_examples(results)


def _unreadable_examples(results: Results) -> Iterator[Finding]:
    """Yield one finding for all models, since broken examples are the same for each."""
    clean = [result for result in results.cells if result.cell.kind == "clean"]
    broken = sorted({example for result in clean for example in result.unreadable})
    if broken:
        reasons: dict[str, str] = {}
        for provenance in (each for result in clean for each in result.provenance):
            reasons |= provenance.get("unreadable", {})
        count = f"{len(broken)} examples of the data cannot be read and count"
        count = "1 example of the data cannot be read and counts" if len(broken) == 1 else count
        named = named_examples(broken, reasons)
        command = results.outline.command("run", "--fresh", quoted_glob("*"))
        yield finding(
            "unreadable-examples",
            f"{count} as wrong everywhere: {named}",
            hint=f"after mending the files: {command}",
        )


def provenance_findings(results: Results) -> Iterator[Finding]:
    """Yield findings about how outcomes were computed, from their stored provenance."""
    if results.outline.is_planned:  # else there is no code to compare with
        plan, stored = results.plan, {result.cell.key: result.provenance for result in results.every}
        yield from outdated_trainings(plan)
        yield from outdated_outcomes(plan, [(cell, stored[cell.key]) for cell in plan.cells])
    for label in results.labels:
        cells = [result for result in results.every if result.cell.model.label == label and result.n]
        provenances = [provenance for cell in cells for provenance in cell.provenance]
        for provenance in provenances:
            yield from pass_findings(label, provenance)
            for name, changes in provenance.get("restored", {}).items():
                yield finding("state-restored", f"it changed {_listed(changes)}, which was put back", subject=name)
        for batch_size in sorted({each["too_many_rows"] for each in provenances if "too_many_rows" in each}):
            smaller = {each["rows"] for each in provenances if each.get("too_many_rows") == batch_size}
            message = f"memory was too small for {batch_size} examples per pass; {_listed(sorted(smaller))} were taken"
            yield finding("batch-size-reduced", message, subject=label)
        mixed = [cell for cell in cells if len({_runtime_factors(each) for each in cell.provenance}) > 1]
        if mixed:
            yield _mixed_runtime(label, mixed)
        yield from _library_versions(label, provenances)
        networks = {each.get("model_state") for each in provenances}
        if len(networks) > 1:
            yield finding(
                "several-networks",
                f"its outcomes come from {len(networks)} different networks under one name",
                subject=label,
                hint=f"to compute them again: {fresh_command(results.outline, label)}",
            )


def _mixed_runtime(label: str, cells: Sequence[CellResult]) -> Finding:
    """Count the outcomes of these cells that the differences between their parts can change."""
    values = {name: {each.get(name, 0) for cell in cells for each in cell.provenance} for name in RUNTIME_FACTORS}
    different = ", ".join(f"{name} {_listed(sorted(seen, key=str))}" for name, seen in values.items() if len(seen) > 1)
    unsure = sum(
        int((np.abs(c.columns["margin"]) <= BOUNDARY_TOLERANCE * c.columns["logit_range"]).sum()) for c in cells
    )
    return finding(
        "mixed-runtime",
        f"parts of one cell were computed in different environments ({different}), in {len(cells)} cells; {unsure} of "
        f"their {sum(cell.n for cell in cells)} outcomes are so near the boundary (1e-4 of the logit range) that "
        f"rounding can change them",
        subject=label,
    )


def _library_versions(label: str, provenances: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Yield a finding if the model's outcomes were computed with several versions of a library."""
    versions: dict[str, set[str]] = {}
    for provenance in provenances:
        for library, version in provenance.get("versions", {}).items():
            versions.setdefault(library, set()).add(version)
    different = [f"{library} {_listed(sorted(seen))}" for library, seen in versions.items() if len(seen) > 1]
    if different:
        message = f"its outcomes were computed with several versions of libraries: {', '.join(different)}"
        yield finding("library-versions-differ", message, subject=label)


def _listed(values: Sequence[Any]) -> str:
    return " and ".join(map(str, values))


def _runtime_factors(provenance: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(provenance.get(name, 0) for name in RUNTIME_FACTORS)


def number_findings(
    cells: Sequence[CellNumbers], slopes: Sequence[SlopeNumbers], errors: Sequence[CorruptionErrors]
) -> Iterator[Finding]:
    """Yield findings about the numbers of cells, slopes and corruption errors."""
    for cell in cells:
        subject = f"{cell.model}, {cell.perturbation}"
        if cell.not_numbers:
            message = f"{cell.not_numbers} examples have logits that are not numbers; they count as wrong"
            yield finding("logits-not-finite", message, subject=subject)
        for note, total in cell.notes.items():
            if total and note in cell.alarms:
                yield finding("attack-alarm", f"{note} {total:g} over {cell.numbers.n} examples", subject=subject)
    if any(slope.few_examples for slope in slopes):
        yield finding(
            "few-examples",
            f"slopes come from {min(slope.n for slope in slopes)} examples, fewer than "
            f"{statistics.MIN_SLOPE_EXAMPLES}: noise in the reference's drops biases slopes",
            hint="use the intervals",
        )
    for error in errors:
        if error.lacks:
            yield finding("no-mce", f"no mCE of {error.corruptions} for {error.model}: {error.lacks}")


def metric_findings(values: Mapping[str, Mapping[str, MetricResult]]) -> Iterator[Finding]:
    """Yield a finding per metric and model without a number."""
    for name, by_label in values.items():
        for label, result in by_label.items():
            if result.unavailable_reason:
                yield finding("metric-unavailable", f"no {name} for {label}: {result.unavailable_reason}")
