"""Options of jobs: a profile in YAML, and pairs such as `partition=gpu,time=4:00:00` that take precedence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from robharness.errors import SuiteError, UserError, did_you_mean, for_shell
from robharness.reading import read_regular
from robharness.suite import yaml
from robharness.text import is_printable, printable

LARGEST_PROFILE = 2**20
"""Size, in bytes, of the largest profile."""
SBATCH = {
    "account": "text", "begin": "text", "comment": "text", "constraint": "text", "contiguous": "flag",
    "core-spec": "count", "cores-per-socket": "count", "cpu-freq": "text", "cpus-per-gpu": "count",
    "cpus-per-task": "count", "deadline": "text", "distribution": "text", "exclude": "text", "exclusive": "flag",
    "export": "text", "get-user-env": "flag", "gpu-bind": "text", "gpu-freq": "text", "gpus-per-node": "text",
    "gpus-per-task": "text", "gres": "text", "gres-flags": "text", "hint": "text", "licenses": "text",
    "mail-type": "text", "mail-user": "text", "mcs-label": "text", "mem": "text", "mem-per-cpu": "text",
    "mem-per-gpu": "text", "mincpus": "count", "nice": "flag", "nodefile": "text", "nodelist": "text",
    "overcommit": "flag", "oversubscribe": "flag", "partition": "text", "prefer": "text", "priority": "text",
    "profile": "text", "qos": "text", "reservation": "text", "sockets-per-node": "count", "switches": "text",
    "thread-spec": "count", "threads-per-core": "count", "tmp": "text", "wckey": "text",
}  # fmt: skip
"""Options of sbatch that are passed on as they are, and the kind of their values."""
OWN = {"time": "time", "throttle": "count", "grace": "count", "timeouts": "number", "setup": "lines"}
"""Options that the submission itself needs."""
DECIDED = ("array", "chdir", "dependency", "error", "input", "job-name", "no-requeue", "nodes", "ntasks",
           "ntasks-per-node", "open-mode", "output", "parsable", "requeue", "signal", "wait", "wrap")  # fmt: skip
"""Options of sbatch that a submission decides by itself."""
LARGEST = 2**31 - 1
REQUEUE_SECONDS = 10
"""Seconds at the end of `grace` in which a job is put into the queue again."""
LONGEST_GRACE = 600
"""Seconds of `grace`, or a fifth of `time` if that is more, up to which submitit takes a stop for the end of `time`.

With more, it would take it for a preemption, and put a job without progress into the queue again forever.
"""
SHORTEST_GRACE = 30
"""Seconds of the shortest `grace`, in which the current cells are finished and the job is put into the queue again."""


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Options of the jobs of a submission.

    time: minutes after which a job is stopped and put into the queue again; None for no limit.
    throttle: the largest number of jobs that run at once; None for no limit.
    grace: seconds before the end of `time`, or after the notice of a preemption, in which a job stops by itself.
    timeouts: the number of times that one job may reach `time`; preemptions do not count.
    setup: lines of the script before the command, such as "module load cuda".
    sbatch: further options of sbatch, by their long names; True for those without a value.
    """

    time: int | None = None
    throttle: int | None = None
    grace: int = 120
    timeouts: int = 10
    setup: tuple[str, ...] = ()
    sbatch: Mapping[str, str | int | bool] = field(default_factory=dict)

    @property
    def stop_seconds(self) -> int:
        """The longest time in which a command that is stopped may finish its current cells."""
        return self.grace - REQUEUE_SECONDS


def read_options(profile: Path | None, pairs: str | None) -> JobOptions:
    """Return the options of a profile with those of the pairs in their place.

    profile: a YAML file with a mapping.
    pairs: "KEY=VALUE,..."; a piece without an equals sign belongs to the value before it, as in "exclude=a,b".
    Raises SuiteError with all errors and their places, UserError for a file that cannot be read and for a `grace` that
    is too long for `time`.
    """
    found: dict[str, Any] = {}
    errors: list[str] = []
    hint = ""
    if profile is not None:
        hint = f"Correct the profile. Try: cat -n {for_shell(profile)}"
        for place, key, value in _of_profile(profile, errors):
            _add(found, errors, place, key, value)
    if pairs is not None:
        had_errors = bool(errors)
        of_pairs: dict[str, Any] = {}
        for key, text in _of_pairs(pairs, errors):
            _add(of_pairs, errors, f"--slurm {printable(f'{key}={text}')}", key, text)
        found |= of_pairs
        hint = hint if had_errors else "Correct the option. Try: --slurm partition=gpu,time=4:00:00"
    if errors:
        raise SuiteError(errors, hint)
    own = {item.name for item in fields(JobOptions)} - {"sbatch"}
    sbatch = {key: value for key, value in found.items() if key not in own and value is not False}
    options = JobOptions(sbatch=sbatch, **{key: value for key, value in found.items() if key in own})
    if options.time is not None and options.grace > (most := max(LONGEST_GRACE, options.time * 60 // 5)):
        raise UserError(
            f"grace is {options.grace} seconds, and at most {most} with this `time`, so that a job at its "
            f"time limit is told from a preempted one. Try: --slurm grace={most}"
        )
    return options


def with_throttle(options: JobOptions, throttle: int | None) -> JobOptions:
    """Return the options with another throttle, unless it is None."""
    return options if throttle is None else replace(options, throttle=throttle)


def parse_time(text: str) -> int:
    """Return the minutes of a duration as sbatch takes it, rounded up.

    text: "minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours", with further ":minutes" and ":seconds".
    Raises ValueError, with the reason, for anything else.
    """
    match = re.fullmatch(r"(?:([0-9]{1,5})-)?([0-9]{1,9})(?::([0-9]{1,5}))?(?::([0-9]{1,5}))?", text)
    if match is None:
        raise ValueError(
            "it is no duration such as 4:00:00 (hours, minutes, seconds), 90 (minutes) or 1-12 (days-hours)"
        )
    first, second, third = int(match[2]), int(match[3] or 0), int(match[4] or 0)
    if match[1] is not None:
        seconds = int(match[1]) * 86400 + first * 3600 + second * 60 + third
    elif match[4] is not None:
        seconds = first * 3600 + second * 60 + third
    else:
        seconds = first * 60 + second
    minutes = -(-seconds // 60)
    if not 1 <= minutes <= LARGEST // 60:
        raise ValueError("it is no time in which something can run")
    return minutes


def _of_profile(path: Path, errors: list[str]) -> Iterator[tuple[str, str, Any]]:
    """Yield the place, the key and the value of each pair of a profile, and add what is no YAML to the errors."""
    try:
        text = read_regular(path, LARGEST_PROFILE).decode("utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Try: ls -l {for_shell(path)}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} cannot be read: it is not UTF-8. Try: file {for_shell(path)}") from None
    document = yaml.parse(text)
    shown = printable(path)
    errors += [f"{shown}:{line}:{column}: {sentence}" for line, column, _, sentence in document.errors]
    if isinstance(document.data, dict):
        for key, value in document.data.items():
            line, column = document.keys[(key,)]
            if (key,) not in document.unread:
                yield f"{shown}:{line}:{column}", key, value
    elif not document.errors:
        errors.append(f"{shown}:1:1: a profile is a mapping, such as `partition: gpu`")


def _of_pairs(text: str, errors: list[str]) -> Iterator[tuple[str, str]]:
    pieces: list[list[str]] = []
    for piece in text.split(","):
        key, equals, value = piece.partition("=")
        if equals or (re.fullmatch(r"\s*[a-z][a-z_-]*\s*", piece) and _known(piece.strip()) in ("flag",)):
            pieces.append([key.strip(), value.strip() if equals else "true"])
        elif pieces:
            pieces[-1][1] += f",{piece.strip()}"
        else:
            errors.append(f"--slurm {printable(text)}: '{printable(piece)}' is not KEY=VALUE")
    yield from ((key, value) for key, value in pieces)


def _known(key: str) -> str | None:
    name = key.replace("_", "-")
    return OWN.get(name) or SBATCH.get(name)


def _add(found: dict[str, Any], errors: list[str], place: str, key: str, value: Any) -> None:
    """Check one pair and add it to what is found, or its error to the errors."""
    name = key.replace("_", "-")
    kind = _known(key)
    if name in DECIDED:
        errors.append(f"{place}: `{printable(key)}` is decided by the submission itself")
    elif kind is None:
        errors.append(f"{place}: unknown key '{printable(key)}'{did_you_mean(name, [*OWN, *SBATCH])}")
    elif name in found:
        errors.append(f"{place}: the key '{name}' is there already")
    else:
        try:
            found[name] = _KINDS[kind](value)
        except ValueError as error:
            errors.append(f"{place}: {name}: {printable(repr(value))}: {error}")
        if name == "grace" and found.get(name, SHORTEST_GRACE) < SHORTEST_GRACE:
            errors.append(f"{place}: grace: {value}: it is {SHORTEST_GRACE} seconds or more")


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError("it is no text")
    if not is_printable(str(value)):
        raise ValueError("it has characters that are not visible, such as the end of a line")
    return str(value).strip()


def _number(value: Any, least: int = 0) -> int:
    text = "" if isinstance(value, bool) else str(value)
    if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= LARGEST:
        raise ValueError(f"it is no whole number from {least} to {LARGEST}")
    return int(text)


def _count(value: Any) -> int:
    return _number(value, 1)


def _flag(value: Any) -> str | bool:
    """Return whether an option stands alone, or its value, since some options, such as `exclusive`, take both."""
    if value in (True, "true"):
        return True
    return False if value in (False, "false") else _text(value)


def _time(value: Any) -> int:
    return parse_time(_text(value))


def _lines(value: Any) -> tuple[str, ...]:
    lines = [value] if isinstance(value, str) else value
    if not isinstance(lines, list) or not all(isinstance(line, str) and is_printable(line) for line in lines):
        raise ValueError("it is a list of lines, such as [module load cuda]")
    return tuple(lines)


_KINDS: dict[str, Callable[[Any], Any]] = {
    "text": _text, "count": _count, "number": _number, "flag": _flag, "time": _time, "lines": _lines,
}  # fmt: skip
