"""`robharness submit SUITE`: send the missing work of a suite to a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robharness.cli import options
from robharness.cli.output import echo, echo_json
from robharness.cli.status import show_findings
from robharness.errors import ExitCode, UserError
from robharness.text import counted

if TYPE_CHECKING:
    from robharness.session import Session
    from robharness.submission.submit import Sent


@click.command("submit")
@options.suite_options
@options.audit
@options.worker_options
@options.only
@click.option("--gpus", type=options.Count("shards"), metavar="N",
              help="Compute in N jobs with a GPU each; --device is cuda.")  # fmt: skip
@click.option("--jobs", type=options.Count("shards"), metavar="N", help="Compute in N jobs without a GPU.")
@click.option("--throttle", type=options.Count("shards"), metavar="N", help="Run at most N jobs at once.")
@click.option("--profile", type=click.Path(path_type=Path), metavar="FILE", help="Options of the jobs, in YAML.")
@click.option("--slurm", metavar="KEY=VALUE,...",
              help="Options of the jobs in place of those of the profile, e.g. partition=gpu,time=4:00:00")  # fmt: skip
@click.option("--cluster", type=click.Choice(["slurm", "local"]), default="slurm", show_default=True,
              help="Where the jobs run; local: processes of this machine.")  # fmt: skip
@options.with_session
def command(
    session: Session,
    gpus: int | None,
    jobs: int | None,
    throttle: int | None,
    profile: Path | None,
    slurm: str | None,
    cluster: str,
    as_json: bool,
    **run_options: Any,
) -> int:
    """Send the missing outcomes of SUITE to a cluster, as an array of jobs. Each job computes a part of the examples.

    A job that is preempted or reaches its time limit is put into the queue again, and resumes. Models that SUITE
    trains are trained first, in a job that the others wait for. Submitting again sends only what is missing and what
    no job computes.

    Exit codes: 0 sent, or nothing to send, 2 usage error, or data or weights are missing.
    """
    from robharness.submission.clusters import Local, Slurm
    from robharness.submission.options import read_options, with_throttle
    from robharness.submission.submit import Request, send

    if (gpus is None) == (jobs is None):
        raise UserError("the number of jobs is given by one of --gpus and --jobs. Try: --gpus 8")
    shards = gpus or jobs or 1
    job_options = with_throttle(read_options(profile, slurm), throttle)
    given = _given(click.get_current_context())
    if gpus and "device" not in given:
        given["device"] = "cuda"
    request = Request(
        shards=shards,
        run=("run", *words_of("run", given), "--display", "plain", "--no-report"),
        train=("train", *words_of("train", given), "--display", "plain"),
        typed=tuple(click.get_current_context().obj),
        cluster="slurm" if cluster == "slurm" else "local",
        throttle=job_options.throttle,
    )
    kind = Slurm if cluster == "slurm" else Local

    def on_wait(holder: str) -> None:
        echo(f"{holder} sends jobs of this store; this process waits", err=True)

    sent = send(session, request, kind(options=job_options, gpus=1 if gpus else 0), on_wait)
    show_findings(session)
    if as_json:
        echo_json(_facts(sent))
    else:
        _show(sent, session)
    return ExitCode.FINE


def _given(context: click.Context) -> dict[str, Any]:
    """Return the options and arguments that were typed, as texts, by the names of the parameters."""
    words = [*context.obj]
    given, _, _ = context.command.make_parser(context).parse_args(words[words.index(context.info_name) + 1 :])
    return dict(given)


def words_of(verb: str, given: Mapping[str, Any]) -> list[str]:
    """Return the words of a command line of another verb, with those of the given values that the verb takes.

    given: texts as they were typed, lists of them, and True for flags, by the names of parameters.
    """
    from robharness.cli.command import cli

    found: list[str] = []
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    for parameter in command.params:
        value = given.get(parameter.name or "")
        if value is None or value is False or parameter.name in ("as_json", "debug", "display"):
            continue
        for each in value if isinstance(value, list) else [value]:
            option = [parameter.opts[-1]] if isinstance(parameter, click.Option) else []
            found += option if each is True else [*option, str(each)]
    return found


def _facts(sent: Sent) -> dict[str, Any]:
    submission = sent.submission
    return {
        "shards": sent.shards,
        "complete": sent.complete,
        "covered": sent.covered,
        "folder": str(submission.folder) if submission else None,
        "after": sent.after.job.job if sent.after else None,
        "jobs": [
            {"shard": list(job.part or ()), "job": job.job, "span": list(job.span), "log": str(submission.log(job))}
            for job in sent.jobs
            if submission
        ],
    }


def _show(sent: Sent, session: Session) -> None:
    of = f"of {sent.shards}"
    if sent.after is not None:
        shown = session.store.shown(sent.after.submission.log(sent.after.job))
        echo(f"job {sent.after.job.job} trains {_labels(session)}; the other jobs wait for it; log {shown}")
    if sent.submission is not None:
        indices = ranges([job.part[0] for job in sent.jobs if job.part])
        ids = ranges_of_jobs([job.job for job in sent.jobs])
        one = len(sent.jobs) == 1
        echo(f"sent {'shard' if one else 'shards'} {indices} {of}, {'job' if one else 'jobs'} {ids}")
        folder = session.store.shown(sent.submission.folder)
        echo(f"logs, one per shard: {folder}")
    left = [f"{ranges(sent.complete)} complete"] if sent.complete else []
    left += [f"{ranges(sent.covered)} computed by other jobs"] if sent.covered else []
    if sent.submission is None:
        echo(
            "nothing is sent: "
            + ("all outcomes are stored" if not sent.covered else "other jobs compute what is missing")
        )
    elif left:
        echo(f"not sent, {of}: {'; '.join(left)}")
    is_stored = sent.submission is None and not sent.covered
    echo(f"Try: {session.plan.command('report' if is_stored else 'status')}", err=True)


def _labels(session: Session) -> str:
    labels = [model.label for model in session.selected.untrained]
    return labels[0] if len(labels) == 1 else counted(len(labels), "model", "models")


def ranges(numbers: list[int]) -> str:
    """Return ascending numbers as text, such as "1, 3 to 5"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    texts = (f"{first}" if first == last else f"{first}, {last}" if last == first + 1 else f"{first} to {last}"
             for first, last in spans)  # fmt: skip
    return ", ".join(texts)


def ranges_of_jobs(ids: list[str]) -> str:
    """Return the ids of an array as text, such as "7_0 to 7_3"; other ids one by one."""
    return f"{ids[0]} to {ids[-1]}" if len(ids) > 2 and "_" in ids[0] else ", ".join(ids)
