"""Errors that a user can correct, and the exit codes of the command line."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import stat
from collections.abc import Iterable
from contextlib import suppress
from enum import IntEnum
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import Protocol

from robharness.text import is_printable, printable, quoted_commands, sentence

ERROR_LENGTH = 1000
"""Most characters of the text of an exception that is shown."""


class ExitCode(IntEnum):
    """Exit code of a `robharness` command."""

    FINE = 0
    """All requested cells are complete."""
    REGRESSION = 1
    """A check found a cell worse than its baseline."""
    USAGE = 2
    """Usage error in the command line, the suite or a plugin, or data or weights are missing; nothing ran."""
    INCOMPLETE = 3
    """Cells failed or are missing, or files could not be fetched."""
    BASELINE = 4
    """The baseline is absent or incompatible."""
    INTERNAL = 5
    """A bug of robharness; the traceback is in a file."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C; the same command resumes."""


class RobharnessWarning(UserWarning):
    """A finding that is a warning or an error, as the Python functions show it; see `robharness.findings`."""


class UserError(Exception):
    """An error that the user can correct: a sentence, then the next command. It is shown without a traceback.

    lines: the text; each becomes one line of visible characters, whatever names and errors it quotes.
    """

    exit_code = ExitCode.USAGE

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(map(sentence, lines)))


class PluginNotFound(UserError):
    """A name that no installed plugin provides.

    plugin: name of the plugin if it is not installed or was left out; empty if it merely lacks the name.
    """

    def __init__(self, message: str, plugin: str = "") -> None:
        self.plugin = plugin
        super().__init__(message)


class PluginLoadError(UserError):
    """A plugin named with `-p` that cannot be loaded."""


class SuiteError(UserError):
    """All errors of a suite, one `file:line:col: path: sentence` a line.

    errors: the lines.
    hint: what to do next.
    """

    def __init__(self, errors: list[str], hint: str) -> None:
        self.errors = list(map(sentence, errors))
        super().__init__(*errors, hint)


class Source(Protocol):
    """A record that says where published files come from, see `robharness.specs.published`."""

    def hint(self, place: Path) -> str:
        """Return the sentences about how a person gets the files."""


class MissingResource(UserError):
    """Data or weights that are not on this machine.

    what: name of the data or weights, e.g. "the ImageNet validation images".
    where: the places that were searched.
    get: command or page that gets them, if there is no `source`.
    source: the record of the published files: an `Archive`, a `Page`, or what a model declares as weights.
    place: the path at which `source` is expected: of a file, or for an `Archive` the data root.
    licence: of the files.
    encoder_of: label of the model whose encoder needs them; empty if a model itself does.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str,
        get: str = "",
        source: Source | None = None,
        place: Path | None = None,
        licence: str = "",
        encoder_of: str = "",
    ) -> None:
        self.what, self.where, self.get = what, _relative_paths(where), _relative_paths(get)
        self.source, self.place, self.licence, self.encoder_of = source, place, licence, encoder_of
        super().__init__(f"{self.description}: not found at {self.where}. {self.hint}")

    @property
    def description(self) -> str:
        """The name of the data or weights, with the model whose encoder needs them."""
        return f"{self.what}, the encoder of {self.encoder_of}" if self.encoder_of else self.what

    @property
    def hint(self) -> str:
        """The sentence about how a person gets the files."""
        found = "" if self.source is None or self.place is None else _relative_paths(self.source.hint(self.place))
        return found or f"To get it: {self.get}"


class MissingResources(UserError):
    """Several missing files of one resource, such as the weights of one model.

    errors: one for each file.
    """

    def __init__(self, errors: list[MissingResource]) -> None:
        self.errors = errors
        super().__init__(*indented(map(str, errors)))


class FetchError(UserError):
    """Published files that could not be fetched."""

    exit_code = ExitCode.INCOMPLETE


class UnreadableExample(Exception):
    """An example with a broken file, e.g. a truncated video. It counts as wrong and is named in reports."""


class StoreError(UserError):
    """A store that cannot be read or written."""


class BaselineError(UserError):
    """A baseline that is absent, that cannot be read, or that is of another suite."""

    exit_code = ExitCode.BASELINE


class Interrupted(UserError):
    """Stopped by Ctrl-C."""

    exit_code = ExitCode.INTERRUPTED


class ContractViolation(Exception):
    """A violation of the contract by a plugin while it runs: its cell fails and its distribution is named.

    message: the violation.
    by: the part at fault: "perturbation", "model", "data" or "surrogate", the model that the attack is crafted on; see
        `surrogate_part` for the members of an ensemble, and ENSEMBLE if it is not known which one. The encoder in an
        option of a model is "model.OPTION".
    refutes: the code of the audit's check of the model that the violation refutes, such as "deterministic", or "".
    """

    def __init__(self, message: str, by: str = "perturbation", refutes: str = "") -> None:
        self.by, self.refutes = by, refutes
        super().__init__(message)


ENSEMBLE = "surrogates"
"""The part of a ContractViolation that is an ensemble of surrogates, if it is not known which member is at fault."""


def surrogate_part(number: int) -> str:
    """Return the part of a ContractViolation that is the surrogate of this number in an ensemble, from 1."""
    return "surrogate" if number == 1 else f"surrogate {number}"


class PluginError(Exception):
    """A failure of a plugin that is no ordinary exception, such as SystemExit, or whose own text cannot be printed.

    Its text names the exception that the plugin raised, which is its cause.
    """


class OutOfMemory(Exception):
    """The memory of host or device is too small for passes of this batch size.

    batch_size: examples per pass.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        super().__init__(f"out of memory with {batch_size} examples per pass")


def describe(error: BaseException) -> str:
    """Return an exception of a plugin as one line of visible characters: its type and the first line of its text.

    Only a UserError may end with a command to type; see `robharness.text.quoted_commands`.
    """
    name = printable(type.__dict__["__name__"].__get__(type(error)))  # a metaclass may have another `__name__`
    try:
        whole = str(error)
    except BaseException:  # the class is the plugin's, and so is its text
        return f"{name}, whose text cannot be printed"
    if isinstance(error, PluginError):
        return printable(whole, ERROR_LENGTH)
    lines = [line.strip() for line in whole.splitlines() if line.strip()]
    text = lines[-1 if "TorchScript interpreter" in lines[0] else 0] if lines else ""  # which gives the cause last
    described = f"{name}: {printable(text, ERROR_LENGTH)}" if text else name
    return described if issubclass(type(error), UserError) else quoted_commands(described)


def indented(lines: Iterable[str]) -> list[str]:
    """Return the lines of a message, all but the first indented."""
    return [f"  {line}" if number else line for number, line in enumerate(lines)]


def _relative_paths(text: str) -> str:
    """Return the text with absolute paths below the working directory as relative ones."""
    prefix = os.path.join(os.getcwd(), "")
    return text if prefix == os.sep else re.sub(rf"(?<![^\s'\"=]){re.escape(prefix)}", "", text)


def nearest_existing(path: Path) -> Path:
    """Return the path, or the nearest one above it where there is something, for a message that shows its rights.

    A link to nothing is something.
    """
    return next(each for each in chain([path], path.parents, path.absolute().parents) if os.path.lexists(each))


def exists(path: Path) -> bool:
    """Return whether there is something at a path that can be looked at. Raises nothing."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a path that is too long, without rights, or with a NUL character
        return False


def as_path(value: object, what: str, example: str) -> Path:
    """Return a path that a caller in Python gave as a text or a path. Raises UserError for anything else.

    what: the beginning of the sentence, such as "the store is the path of a folder".
    example: of an argument that is right.
    """
    if isinstance(value, str | os.PathLike):
        with suppress(TypeError):  # the path is one of bytes
            return Path(value)
    raise UserError(f"{what}, not a value of the type {printable(type(value).__name__)}. Try: {example}")


def why_no_folder(path: Path) -> str:
    """Return why a path can be no folder, as the end of a sentence; empty for a folder, and where nothing is.

    It is a file, too long, behind a folder without rights, or there is a link to nothing at it or above it.
    """
    try:
        return "" if stat.S_ISDIR(os.stat(path).st_mode) else "it is not a folder"
    except FileNotFoundError:
        return link_to_nothing(path)
    except OSError as error:
        return str(error.strerror)
    except ValueError:
        return "its path has a NUL character"


def link_to_nothing(path: Path) -> str:
    """Return a clause about the link because of which nothing can be at a path; empty if there is no such link."""
    link = nearest_existing(path)
    if exists(link):
        return ""
    return "it is a link to nothing" if link == path else f"{printable(link)} is a link to nothing"


def check_folder(path: Path, what: str) -> None:
    """Raise UserError if a path can be no folder, see `why_no_folder`.

    what: the folder in words, such as "the store". It need not exist.
    """
    if reason := why_no_folder(path):
        shown = printable(path)
        raise UserError(f"{what} {shown} cannot be used: {reason}. Try: ls -ld {for_shell(nearest_existing(path))}")


def expanded(path: str | Path) -> Path:
    """Return the path with `~` as the home directory. Raises UserError if there is no home directory."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: the home directory is unknown. Try: an absolute path") from None


def for_shell(text: str | PurePath) -> str:
    """Return a path, a name or a glob as one word of a command line, in quotes if a shell needs them.

    A path that begins with a dash gets `./`, since a command would take it for an option. Characters that are not
    visible are written as in `$'a\\012b'`, which bash, ksh and zsh read.
    """
    word = f"./{text}" if isinstance(text, Path) and str(text).startswith("-") else str(text)
    return shlex.quote(word) if is_printable(word) else f"$'{''.join(map(_shell_escape, word))}'"


def _shell_escape(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if is_printable(character):
        return character
    try:
        encoded = character.encode("utf-8", "surrogateescape")  # the byte of a file name that is not UTF-8
    except UnicodeEncodeError:
        encoded = character.encode("utf-8", "surrogatepass")
    return "".join(f"\\{byte:03o}" for byte in encoded)


def glob_matches(name: str, pattern: str) -> bool:
    """Return whether a glob matches a name. One of more than 1,000 characters, which take quadratic time, does not."""
    return len(pattern) <= 1000 and fnmatch.fnmatchcase(name, pattern)


def nearest_word(word: str, known: Iterable[str]) -> str | None:
    """Return the nearest known word, or None if none is near.

    Long words, and words after the first 300, are not compared, since a comparison takes quadratic time.
    """
    from difflib import get_close_matches

    words = [other for other in islice(known, 300) if len(other) <= 200]
    close = get_close_matches(word, words, n=1, cutoff=0.6) if len(word) <= 200 else []
    return close[0] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'norm'?` for the nearest known word, or an empty text."""
    nearest = nearest_word(word, known)
    return "" if nearest is None else f"; did you mean '{printable(nearest)}'?"
