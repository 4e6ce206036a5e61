"""From results to the audit of each model, and the findings of failed checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from robharness.audit.of_attacks import ATTACK_CHECKS, iterated_pairs
from robharness.audit.of_models import MODEL_CHECKS
from robharness.audit.records import CHECKS, ModelAudit
from robharness.audit.shares import not_measured
from robharness.audit.subject import Subject, attack_of, compare
from robharness.engine.provenance import pass_findings
from robharness.findings import Finding, finding
from robharness.store.results import Results


def audits(results: Results) -> tuple[ModelAudit, ...]:
    """Return the audit of each model, in the suite's order; empty if the suite asks for none."""
    if not results.outline.suite.audit:
        return ()
    return tuple(_audit(subject) for subject in _subjects(results))


def _subjects(results: Results) -> Iterator[Subject]:
    for label in results.labels:
        cells = [result for result in results.every if result.cell.model.label == label]
        provenances = [provenance for cell in cells for provenance in cell.provenance]
        of_passes = [found for each in provenances for found in pass_findings(label, each)]
        yield Subject(results, label, tuple(dict.fromkeys([*results.outline.run.findings, *of_passes])))


def _audit(subject: Subject) -> ModelAudit:
    checks = [check(subject) for check in (*MODEL_CHECKS, *ATTACK_CHECKS)]
    if subject.refusal:
        reason = "the model gives no results"
        checks = [check if check.verdict == "failed" else not_measured(check.code, reason) for check in checks]
    return ModelAudit(model=subject.label, n=subject.results.outline.n, checks=tuple(checks))


def audit_findings(audited: Sequence[ModelAudit]) -> Iterator[Finding]:
    """Yield a finding per failed check that no finding of another code reports, such as the failure of a cell."""
    for each in audited:
        is_refused = each["probe"].verdict == "failed"
        for check in each.failed:
            if not CHECKS[check.code][1] and not is_refused:
                message = f"the check failed that {check.title}: {check.figures}"
                yield finding("audit-failed", message, subject=each.model, hint=check.advice)


def iterated_findings(results: Results) -> Iterator[Finding]:
    """Yield a finding per iterated attack that leaves more right than a single step of the same budget."""
    for subject in _subjects(results):
        for one, many in iterated_pairs(subject):
            if compare(one, many).difference > 0:
                step, attack = attack_of(one), attack_of(many)
                yield finding(
                    "weaker-iterated-attack",
                    f"{attack.name} leaves {int(many.correct.sum())} of {many.n} right, {step.name}, a single step, "
                    f"{int(one.correct.sum())}: its steps are too small or too few, or gradients mislead it",
                    subject=subject.label,
                )
