"""The options of `robharness check` for CI systems: JUnit XML, annotations and summary of GitHub, one comment."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robharness.cli.output import echo, echo_lines
from robharness.errors import UserError, for_shell

if TYPE_CHECKING:
    from robharness.gate.records import CheckReport

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

        if self.junit and self.markdown and _is_same(self.start / self.junit, self.start / self.markdown):
            other = for_shell(self.junit.with_suffix(".md" if self.junit.suffix != ".md" else ".markdown"))
            raise UserError(f"--junit and --markdown name the same file. Try: --markdown {other}")
        for option, path in self._files():
            check_place(path, self.start, _typed(option))

    def write(self, report: CheckReport, *, err: bool) -> None:
        """Print annotations and append the summary, then write the files.

        err: whether annotations go to standard error, because standard output has JSON; GitHub reads both.
        """
        from robharness.gate.outputs import comment, github, junit
        from robharness.report.renderers.files import write

        if self.github:
            for line in github.annotate(report):
                echo_lines(line, err=err)
            append_summary(report, self.start)
        for option, path in self._files():
            text = junit.render(report) if option == "--junit" else comment.render(report)
            write(path, text.encode(), self.start, _typed(option))
            echo(f"wrote {path}", err=True)

    def _files(self) -> list[tuple[str, Path]]:
        """Return the options that name files, and the files."""
        return [(option, path) for option, path in (("--junit", self.junit), ("--markdown", self.markdown)) if path]


def _typed(option: str) -> Callable[[Path], str]:
    return lambda path: f"{option} {for_shell(path)}"


def _is_same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def ci_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add the options `--junit`, `--markdown` and `--github`; the function gets them as its argument `outputs`.

    Places are checked before the function is called, which loads plugins.
    """

    @wraps(function)
    def command(junit: Path | None, markdown: Path | None, github: bool, **options: Any) -> int:
        outputs = Outputs(junit=junit, markdown=markdown, github=github, start=Path.cwd())
        outputs.check_places()
        return function(outputs=outputs, **options)

    added: Callable[..., int] = command
    for option in (
        click.option("--github", is_flag=True,
                     help="Print annotations of GitHub Actions, and append to the summary of the job."),
        click.option("--markdown", type=click.Path(path_type=Path), metavar="FILE",
                     help="Write FILE in Markdown, short enough for one comment."),
        click.option("--junit", type=click.Path(path_type=Path), metavar="FILE",
                     help="Write FILE as JUnit XML, which CI systems read."),
    ):  # fmt: skip
        added = option(added)
    return added


def append_summary(report: CheckReport, start: Path) -> None:
    """Append the check to the summary of a step of GitHub Actions, if there is one.

    A summary that cannot be written is a message on standard error, and no error: the verdicts stand without it.
    start: the folder that a relative path is relative to.
    """
    from robharness.gate.outputs import comment

    given = os.environ.get("GITHUB_STEP_SUMMARY")
    if not given:
        echo("there is no summary to append to, since GITHUB_STEP_SUMMARY is not set", err=True)
        return
    path = start / given
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
