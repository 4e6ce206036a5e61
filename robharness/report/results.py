"""Results as the functions of Python return them: with their report, as tables, figures and files."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from robharness.errors import UserError, as_path, did_you_mean
from robharness.findings import Finding
from robharness.plugins.process import current_folder
from robharness.plugins.registry import Registry
from robharness.report.build import build
from robharness.report.measurements import CellMeasurements, measure
from robharness.report.records import Report
from robharness.store import results as stored
from robharness.store import suites

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Results(stored.Results):
    """The stored results of all cells of a plan, and the report on them.

    registry: the plugins, whose renderers `save` uses; empty for results that a plugin gets.
    run_findings: of the run that computed some of the outcomes, and of its plugins.
    """

    registry: Registry = field(default_factory=Registry)
    run_findings: tuple[Finding, ...] = ()

    @classmethod
    def with_report(
        cls, found: stored.Results, registry: Registry | None = None, run_findings: tuple[Finding, ...] = ()
    ) -> Self:
        """Return the same results with their report; without a registry, no plugin renders it."""
        values = {item.name: getattr(found, item.name) for item in fields(stored.Results)}
        return cls(**values, registry=registry or Registry(), run_findings=run_findings)

    def copied(self) -> Self:
        """Return the same results for a plugin, which gets no access to other plugins by them."""
        return replace(super().copied(), registry=Registry())

    def report(self, *, details: bool | None = None) -> Report:
        """Return the report on these results, which is built once.

        details: see `build`.
        """
        if details not in self._reports:
            self._reports[details] = build(self, self.run_findings, details=details)
        return self._reports[details]

    @cached_property
    def _reports(self) -> dict[bool | None, Report]:
        """Reports by `details`."""
        return {}

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the answer, the numbers of the tables, the counts of findings."""
        from robharness.report.notebook import render

        return render(self.report())

    def cell(
        self,
        perturbation: str,
        *,
        eps: str | float | Fraction | None = None,
        norm: str | None = None,
        severity: int | None = None,
        model: str | None = None,
        partial: bool = False,
    ) -> CellMeasurements:
        """Return the numbers of one cell, such as `cell("fgsm", eps="1/255").accuracy`, with n and intervals.

        perturbation: "clean"; the name of a perturbation as reports show it, "fgsm(linf, 1/255)"; the same without its
            budget or severity, "fgsm(linf)"; or the name of its spec, "mine/fgsm" or "fgsm".
        eps: its budget; "1/255" and 1/255 are equal.
        norm: "linf", "l2" or "l1".
        severity: of a corruption.
        model: a label; needed if several models have the cell.
        partial: whether a cell counts of which some outcomes are missing.
        Raises UserError if none or several cells fit, and for a cell with missing outcomes.
        """
        __tracebackhide__ = True
        return measure(self, perturbation, eps=eps, norm=norm, severity=severity, model=model, partial=partial)

    def summary(self) -> pd.DataFrame:
        """Return a data frame with a row per cell: its name, n, accuracies, relative drop and their intervals.

        The columns are the fields of `robharness.report.summary.CellSummary`. Accuracies and drops are fractions.
        Raises UserError if pandas is not installed.
        """
        from robharness.report.summary import summary

        return summary(self.report())

    def figures(self) -> list[str]:
        """Return the names of the figures that these results have numbers for."""
        from robharness.report.figures import figures

        return [figure.name for figure in figures(self.report())]

    def figure(self, name: str) -> Figure:
        """Draw a figure with matplotlib, in the style that matplotlib is set to. Notebooks show it.

        name: one of `figures()`, such as "corruptions".
        Raises UserError for a name that is not among them.
        """
        from robharness.report.figures import figures

        found = {figure.name: figure for figure in figures(self.report())}
        if not isinstance(name, str) or name not in found:
            available = f"there are {', '.join(found)}" if found else "there is none for these results"
            raise UserError(f"no figure {name!r}{did_you_mean(str(name), list(found))}; {available}. Try: figures()")
        return _shown_by_notebooks(found[name].draw())

    def save(self, path: str | Path) -> Path:
        """Write the report into a file, as `robharness report -o FILE` does, and return its path.

        path: its suffix chooses the renderer, such as ".html", ".md" or that of a plugin's renderer.
        Raises UserError if no renderer has the suffix, or if the file cannot be written.
        """
        from robharness.report.renderers import render
        from robharness.report.renderers.files import as_call, find_renderer, write

        place = as_path(path, "`path` is the path of a file", 'results.save("report.html")')
        renderer = find_renderer(place, self.registry, as_call)
        write(place, render(self.report(details=True), renderer), current_folder(), as_call)
        return place


@dataclass(frozen=True, kw_only=True)
class StoredSuite(suites.StoredSuite):
    """A suite of which a store has a record, and its results with their report."""

    @classmethod
    def of(cls, found: suites.StoredSuite) -> Self:
        """Return the same suite; its results have a report."""
        return cls(**{item.name: getattr(found, item.name) for item in fields(suites.StoredSuite)})

    def results(self, limit: int | None = None, *, confidences: bool = False) -> Results:
        """Load its stored outcomes, see `robharness.store.suites.StoredSuite.results`."""
        return Results.with_report(super().results(limit, confidences=confidences))


def _shown_by_notebooks(figure: Figure) -> Figure:
    """Return the figure with a method by which IPython shows it, also without pyplot and its inline backend."""

    def as_png() -> bytes:
        import io

        file = io.BytesIO()
        figure.savefig(file, format="png", bbox_inches="tight")
        return file.getvalue()

    shown: Any = figure
    shown._repr_png_ = as_png
    return figure
