"""The options of `robharness check` for CI systems: JUnit XML, annotations and summary of GitHub, one comment."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robharness.cli.output import echo
from robharness.errors import UserError, for_shell

if TYPE_CHECKING:
    from robharness.comparison.records import CheckReport

SUMMARY_BYTES = 1024 * 1024
"""The most bytes that GitHub takes as the summary of a step."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The outputs that were asked for.

    start: the folder that relative paths are relative to; a plugin may change the working directory.
    """

    junit: Path | None
    markdown: Path | None
    github: bool
    start: Path

    def check_places(self) -> None:
        """Raise a UserError if a file cannot be written, before anything is computed."""
        from robharness.report.renderers.files import check_place

        places = [self.start / path for path, _ in self._files()]
        if len(places) == 2 and os.path.realpath(places[0]) == os.path.realpath(places[1]):
            raise UserError(
                f"--junit and --markdown name one file. Try: --markdown {for_shell(str(self.junit) + '.md')}"
            )
        for path, typed in self._files():
            check_place(path, self.start, typed)

    def write(self, report: CheckReport, *, err: bool) -> None:
        """Write the files, then print annotations and append the summary.

        err: whether annotations go to standard error, because standard output has JSON; GitHub reads both.
        """
        from robharness.comparison import comment, github, junit
        from robharness.report.renderers.files import write

        render = {self.junit: junit.render, self.markdown: comment.render}
        for path, typed in self._files():
            write(path, render[path](report).encode(), self.start, typed)
            echo(f"wrote {path}", err=True)
        if self.github:
            for line in github.annotations(report):
                echo(line, err=err)
            append_summary(report)

    def _files(self) -> list[tuple[Path, Callable[[Path], str]]]:
        """Return the files with functions that return the option that names each."""
        named = ((self.junit, "--junit"), (self.markdown, "--markdown"))
        return [(path, lambda path, option=option: f"{option} {for_shell(path)}") for path, option in named if path]


def ci_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options `--junit`, `--markdown` and `--github`."""
    for option in (
        click.option("--github", is_flag=True,
                     help="Print annotations of GitHub Actions, and append to the summary of the job."),
        click.option("--markdown", type=click.Path(path_type=Path), metavar="FILE",
                     help="Write Markdown into FILE that fits into one comment."),
        click.option("--junit", type=click.Path(path_type=Path), metavar="FILE",
                     help="Write the verdicts into FILE as JUnit XML, which CI systems read."),
    ):  # fmt: skip
        function = option(function)
    return function


def append_summary(report: CheckReport) -> None:
    """Append the check to the summary of a step of GitHub Actions, if there is one.

    What cannot be written is said on standard error, since the verdicts are more than their summary.
    """
    from robharness.comparison import comment

    given = os.environ.get("GITHUB_STEP_SUMMARY")
    if not given:
        echo("there is no summary to append to, since GITHUB_STEP_SUMMARY is not set", err=True)
        return
    path = Path(given)
    try:
        left = SUMMARY_BYTES - (path.stat().st_size if path.exists() else 0)
        text = comment.render(report, left, lambda text: len(text.encode()))
        if len(text.encode()) > left:
            echo(f"the summary {path} is full, so that this check is not in it", err=True)
            return
        with path.open("ab") as file:
            file.write(text.encode())
    except OSError as error:
        echo(f"the summary {path} cannot be written: {error.strerror}", err=True)
