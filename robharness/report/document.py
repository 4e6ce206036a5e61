"""Documents: title, sentences, tables and findings, which the renderers of text show for reports and comparisons."""

from __future__ import annotations

from dataclasses import dataclass

from robharness.findings import Finding, sentences
from robharness.planning.names import labels_by_value
from robharness.report.audit_tables import audit_lines
from robharness.report.records import Report
from robharness.report.tables import tables
from robharness.report.values import Table
from robharness.text import SENTENCE_LENGTH, printable


@dataclass(frozen=True, kw_only=True)
class Document:
    """The content of a text.

    answer: the result in words, the main sentence first.
    source: what was measured, in lines.
    audits: a heading and a line per check for each audited model.
    findings: shown by severity, errors first.
    verdict: a last sentence, for what must not be overlooked; may be empty.
    """

    title: str
    answer: tuple[str, ...] = ()
    source: str = ""
    tables: tuple[Table, ...] = ()
    audits: tuple[tuple[str, tuple[str, ...]], ...] = ()
    findings: tuple[Finding, ...] = ()
    verdict: str = ""

    @property
    def sections(self) -> list[tuple[str, tuple[str, ...], str]]:
        """The audits, and the findings by severity: heading, sentences, colour."""
        found = (
            ("Failed", sentences(self.findings, "error"), "red"),
            ("Warnings", sentences(self.findings, "warning"), "yellow"),
            ("Notes", sentences(self.findings, "note"), ""),
        )
        return [*((*each, "") for each in self.audits), *(section for section in found if section[1])]


def document_of(report: Report) -> Document:
    """Return the content of a report as text."""
    return Document(
        title=report.title,
        answer=report.answer,
        source=source_of(report),
        tables=tuple(tables(report)),
        audits=tuple(audit_lines(report)),
        findings=report.findings,
        verdict="" if report.complete else "Incomplete: some cells failed or are not computed yet.",
    )


def source_of(report: Report) -> str:
    """Describe the data, the examples, whether images were encoded first, pixels, protocols, and what is set."""
    encoded = ", encoded as the files of ImageNet-C (JPEG 85)" if report.compat == "imagenet-c" else ""
    lines = [f"{report.data}, {report.n} examples per cell{encoded}"]
    by_fact = {"pixels": labels_by_value(report.pixels), "protocol": report.labels_by_protocol}
    for fact, found in by_fact.items():
        lines += [f"{fact}{f' of {labels}' if labels else ''}: {value}" for value, labels in found.items()]
    lines += [f"set: {setting}" for setting in report.settings]
    return "\n".join(printable(line, SENTENCE_LENGTH) for line in lines)
