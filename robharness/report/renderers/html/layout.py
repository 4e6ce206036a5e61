"""The layout of all pages: a template filled with escaped text, and a content security policy."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from robharness.findings import Finding
from robharness.report.figures import Figure, svg
from robharness.report.renderers.html.graphics import Styles, data_uri
from robharness.report.renderers.html.shown import Shown, as_command, as_sentence, shown

_HERE = Path(__file__).parent
SEVERITIES = {"error": "Errors", "warning": "Warnings", "note": "Notes"}


def fill(
    template: str,
    *,
    folders: Sequence[Path] = (),
    title: str,
    source: str,
    answer: Sequence[str],
    findings: Iterable[Finding],
    figures: Sequence[Figure],
    **values: Any,
) -> str:
    """Return a page that loads nothing, from a template that extends base.html.

    folders: of further templates.
    source: what was measured, in lines.
    answer: the result in words, the main sentence first.
    values: what the template needs beside these.
    """
    styles = Styles()
    drawn = [(figure, styles.without_attributes(svg(figure))) for figure in figures]
    style = _text("page.css") + styles.sheet
    theme, script = _text("theme.js"), _text("page.js")
    environment = Environment(
        loader=FileSystemLoader([*folders, _HERE]), autoescape=True, finalize=shown, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False,
    )  # fmt: skip
    environment.filters |= {
        "sentence": as_sentence,
        "command": as_command,
        "data_uri": lambda *words: Shown(data_uri(*words)),
    }
    return environment.get_template(template).render(
        title=title,
        version=version("robharness"),
        policy=_policy(style, theme, script),
        style=Markup(style),
        theme=Markup(theme),
        script=Markup(script),
        sources=[as_sentence(line) for line in source.split("\n")],
        answer=answer,
        findings=_by_severity(findings),
        figures=drawn,
        **values,
    )


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _policy(style: str, *scripts: str) -> str:
    """Return a policy that refuses every request, and every style and script but these."""
    allowed = " ".join(map(_digest, scripts))
    return (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {allowed}; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _by_severity(findings: Iterable[Finding]) -> list[tuple[str, str, list[Finding]]]:
    """Return severity, heading and findings, the worst first; a finding that is there twice stands once."""
    every = list(dict.fromkeys(findings))
    grouped = [(severity, heading, [found for found in every if found.severity == severity])
               for severity, heading in SEVERITIES.items()]  # fmt: skip
    return [group for group in grouped if group[2]]
