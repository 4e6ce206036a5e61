"""The record of a figure, and the drawing that it makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.figure


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of a report, not drawn yet.

    name: a file stem and an id, such as "budgets-linf"; unique in a report.
    title: a line of words.
    caption: the quantity, its unit, the meaning of bands and lines, and n.
    alt: the finding in words, for readers who do not see the figure.
    draw: makes the drawing in Matplotlib's current style.
    """

    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[], matplotlib.figure.Figure]


class Drawing(matplotlib.figure.Figure):
    """A figure of Matplotlib whose points have tooltips when they are written as SVG.

    tooltips: gid of an artist -> the text of each of its points.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tooltips: dict[str, tuple[str, ...]] = {}

    def describe(self, artist: Any, texts: Sequence[str]) -> None:
        """Give the points of an artist, a scatter or a line of markers, their tooltips in order."""
        name = f"points-{len(self.tooltips) + 1}"
        artist.set_gid(name)
        self.tooltips[name] = tuple(texts)
