"""`robharness status SUITE`: show what is stored, what jobs do, and the time left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robharness.cli import options
from robharness.cli.output import duration, echo, echo_json, echo_rows, results_console
from robharness.errors import ExitCode, for_shell
from robharness.text import TITLE_LENGTH, counted, printable, styled

if TYPE_CHECKING:
    from robharness.session import Session
    from robharness.submission.status import PartStatus, SuiteStatus

HEADINGS = ("shard", "examples", "state", "done", "left", "job", "reason")


@click.command("status")
@options.suite_options
@options.audit
@options.with_session
def command(session: Session, as_json: bool) -> int:
    """Show what is stored of SUITE, what its jobs do, what failed, and the time left; compute nothing.

    Without jobs, it shows what is stored.

    Exit codes: 0 all cells are complete, 2 usage error, or data or weights are missing, 3 outcomes are missing.
    """
    from robharness.submission.status import status_of

    found = status_of(session.plan, session.store)
    if as_json:
        echo_json(as_data(found, session))
    else:
        _show(found, session)
    show_findings(session)
    return ExitCode.FINE if found.is_complete else ExitCode.INCOMPLETE


def as_data(found: SuiteStatus, session: Session) -> dict[str, Any]:
    """Return the status as plain data; see `SuiteStatus` and `PartStatus` for the keys."""
    from robharness.submission.status import STATES

    submission = found.submission
    return {
        "suite": session.plan.suite.name,
        "stored": found.stored,
        "all": found.all,
        "cells": found.cells,
        "complete_cells": found.complete_cells,
        "seconds_left": found.seconds_left,
        "seconds_of_work": found.seconds_of_work,
        "counts": {state: found.count(state) for state in STATES},
        "covered": found.is_covered,
        "submission": str(submission.folder) if submission else None,
        "time": submission.content.time if submission else None,
        "shards": [
            {
                "name": part.name, "span": list(part.span), "state": part.state, "stored": part.stored, "all": part.all,
                "reason": part.reason, "job": part.job or None, "cluster": part.cluster or None, "tries": part.tries,
                "seconds_left": part.seconds_left, "log": str(part.log) if part.log else None,
            }
            for part in found.parts
        ],
        "failures": [{"cell": name, "start": failure.start, "stop": failure.stop, "error": str(failure)}
                     for name, failure in found.failures],
        "next": next_command(found, session),
    }  # fmt: skip


def _show(found: SuiteStatus, session: Session) -> None:
    store, submission = session.store, found.submission
    if submission is not None:
        what = counted(submission.content.shards, "shard", "shards")
        when = submission.content.time[:19].replace("T", " ")
        echo(f"last submission: {what}, {submission.content.cluster}, {when}, {store.shown(submission.folder)}")
    if found.parts:
        _show_parts(found.parts)
        for part in found.parts:
            if part.state == "failed" and part.log is not None:
                echo(f"{part.name} failed; log: {store.shown(part.log)}")
    for name, failure in found.failures:
        echo(f"failed: {name}, examples {failure.start} to {failure.stop - 1}: {failure}")
    cells = f"{found.complete_cells} of {counted(found.cells, 'cell', 'cells')} complete"
    states = [f"{number} {state}" for state in ("done", "running", "pending", "failed", "missing")
              if (number := found.count(state))]  # fmt: skip
    shards = f"; shards: {', '.join(states)}" if states else ""
    echo(f"{cells}, {found.stored} of {found.all} outcomes stored{shards}{_time(found)}")
    if found.others:
        several = counted(found.others, "submission", "submissions")
        echo(f"not shown: {several} of this suite with other values of --set", err=True)
    echo(f"Try: {next_command(found, session)}", err=True)


def _show_parts(parts: tuple[PartStatus, ...]) -> None:
    """Print a row per part: a table on a terminal, else a line each."""
    rows = [
        (
            part.name,
            f"{part.span[0]} to {part.span[1] - 1}" if part.span[1] > part.span[0] else "",
            part.state + (f", try {part.tries}" if part.tries > 1 and part.state != "done" else ""),
            f"{100 * part.stored // part.all} %" if part.all else "",
            duration(part.seconds_left) if part.seconds_left is not None else "",
            part.job,
            printable(part.reason, TITLE_LENGTH),
        )
        for part in parts
    ]
    console = results_console()
    if not console.is_terminal:
        echo_rows([HEADINGS, *rows])
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in HEADINGS:
        table.add_column(name, justify="right" if name in ("done", "left") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(styled(each, "red" if row[2].startswith("failed") else "") for each in row))
    console.print(table)


def _time(found: SuiteStatus) -> str:
    """Return the end of the last line, on the time left."""
    if found.is_complete:
        return ""
    if found.seconds_left is not None and found.is_covered:
        return f"; time left: {duration(found.seconds_left)}"
    if found.seconds_of_work is not None:
        return f"; time left: {duration(found.seconds_of_work)} of computation by one worker"
    return "; time left: unknown"


def show_findings(session: Session) -> None:
    """Print the findings about the store, such as damaged records of submissions, on standard error."""
    for found in session.store.findings:
        echo(f"{found.severity}: {found}", err=True)


def next_command(found: SuiteStatus, session: Session) -> str:
    """Return the command to type next."""
    plan, submission = session.plan, found.submission
    running = [part for part in found.parts if part.state == "running" and part.log is not None]
    if found.is_complete:
        return plan.command("report")
    if found.is_covered and running:
        return f"tail -f {for_shell(session.store.shown(running[0].log or Path()))}"
    if found.is_covered:
        return plan.command("status")
    if submission is not None and found.count("failed") + found.count("missing"):
        typed, place = (
            " ".join(map(for_shell, ["robharness", *submission.content.words])),
            submission.content.working_directory,
        )
        return typed if Path(place) == plan.suite.working_directory else f"(cd {for_shell(place)} && {typed})"
    return plan.command("submit", "--gpus", "8", "--slurm", "time=4:00:00")
