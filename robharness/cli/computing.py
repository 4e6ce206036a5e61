"""The verbs that compute missing cells: the run itself, its end in words, and the command that resumes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from robharness.errors import Interrupted, for_shell
from robharness.text import counted

if TYPE_CHECKING:
    from robharness.engine.summary import Summary
    from robharness.session import Session


def compute(session: Session, *, workers: int | None, executor: str | None, batch_size: int | None) -> Summary:
    """Compute the selected outcomes that the store misses.

    Raises Interrupted, with the command that resumes, after Ctrl-C.
    """
    session.show_findings(session.plan.findings)
    try:
        summary = session.compute(workers=workers, batch_size=batch_size, executor=executor)
    except Interrupted as error:
        raise Interrupted(f"{error}. To go on: {same_command()}") from None
    if summary.interrupted:
        raise Interrupted(f"interrupted; complete outcomes are stored in {session.store}. To go on: {same_command()}")
    return summary


def show_end(session: Session, summary: Summary) -> int:
    """Show the number of computed examples and of incomplete cells, and return the latter."""
    if summary.computed or summary.failures:
        text = f"computed {summary.computed} examples in {summary.seconds:.1f} s; results in {session.store}"
    else:
        text = f"computed nothing again; results in {session.store}"
    session.listener.message(text)
    if incomplete := session.incomplete_cells:
        count = counted(incomplete, "cell is", "cells are")
        session.listener.message(f"{count} incomplete; to try again: {same_command()}")
    return incomplete


def same_command(*words: str) -> str:
    """Return the command line to type to resume, from the arguments that `robharness.cli.main` was given.

    words: further words, quoted for a shell.
    """
    arguments = without_fresh(click.get_current_context().obj)
    return " ".join([*map(for_shell, ["robharness", *arguments]), *words])


def without_fresh(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without `--fresh`, which would forget what is stored by now."""
    words = [word for word in arguments if not word.startswith("--fresh=")]
    if "--fresh" in words:
        del words[words.index("--fresh") : words.index("--fresh") + 2]
    return words
