"""The formats of a comparison, by the suffix of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from robharness.comparison.compare import NAMED
from robharness.comparison.outputs import json
from robharness.comparison.outputs.tables import LAYOUT, document_of
from robharness.comparison.records import Comparison


class Format(NamedTuple):
    """A format of comparisons.

    changed: the number of changed examples of each kind that it names per cell unless another one is asked for.
    render: the function that returns a comparison as the content of a file; its second argument is that number.
    """

    changed: int
    render: Callable[[Comparison, int], str]


def _text(comparison: Comparison, changed: int) -> str:
    from robharness.report.renderers import terminal

    return terminal.render_document(document_of(comparison, changed=changed), LAYOUT)


def _markdown(comparison: Comparison, changed: int) -> str:
    from robharness.report.renderers import markdown

    return markdown.render_document(document_of(comparison, changed=changed), LAYOUT)


def _page(comparison: Comparison, changed: int) -> str:
    from robharness.comparison.outputs import page

    return page.render(comparison)


FORMATS: Mapping[str, Format] = {
    ".html": Format(NAMED, _page),
    ".json": Format(NAMED, lambda comparison, changed: json.render(comparison)),
    ".md": Format(0, _markdown),
    ".txt": Format(0, _text),
}
