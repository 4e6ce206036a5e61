"""Foreign text, such as labels, ids, keys and errors, as text that a terminal or a page only shows.

A name that a suite, a plugin, a checkpoint or a store brings may hold characters that move the cursor, start a line,
turn the direction of a line, or are not seen. Data keep such characters; what is shown has escapes in their place.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

NAME_LENGTH = 200
"""Most characters of a name, an id, a key or a reason that is shown as a part of a sentence."""
TITLE_LENGTH = 500
"""Most characters of a title, and of a name in a table, which may state many options."""
SENTENCE_LENGTH = 2000
"""Most characters of a sentence that is shown, without the command to type at its end."""
COMMAND_LENGTH = 20_000
"""Most characters of that command, since half a command must not be typed; paths have up to 4,096 bytes."""
MAX_MARKS = 6
"""Most combining marks on one character; no script needs more, and hundreds cover the lines above."""

_COMMANDS = re.compile(r" (?:Try(?: another folder)?|To (?:[a-z]+ ){0,6}[a-z]+): ")
_FOREIGN_COMMANDS = re.compile(r"\b(?:Try(?:\s+another\s+folder)?|To\s+(?:[a-z]+\s+){0,6}[a-z]+):(?!\S)")
_WHITE_SPACE = re.compile(r"\s+")
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")
"""Letters and marks that leave no trace, beside the characters of the category Cf."""
_JOINERS = "\u200c\u200d"
"""Format characters that emoji and several scripts need between two of their characters."""
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn"}


def printable(text: object, limit: int = NAME_LENGTH) -> str:
    """Return foreign text as one line of visible characters.

    White space becomes one space, unless it is plain spaces alone. Characters that act on a terminal or are not seen
    become escapes such as `\\x1b` and `\\u202e`.
    limit: most characters; a longer text has an ellipsis in its middle, since names often differ at their ends.
    """
    whole = str(text)
    if len(whole) <= limit and whole.isascii() and whole.isprintable():
        return whole
    is_long = len(whole) > 2 * limit
    parts = (whole[:limit], whole[-limit:]) if is_long else (whole,)
    pieces = [piece for part in parts for piece in _pieces(_WHITE_SPACE.sub(_space, part))]
    if not is_long and sum(map(len, pieces)) <= limit:
        return "".join(pieces)
    first, last = limit // 2, limit - limit // 2 - 1
    return f"{''.join(_fitting(pieces, first))}…{''.join(reversed(_fitting(pieces[::-1], last)))}"


def sentence(text: object) -> str:
    """Return a message as one line; only what stands before its command is cut if it is too long."""
    before, command = _parts(str(text))
    return printable(before, SENTENCE_LENGTH) + printable(command, COMMAND_LENGTH)


def has_command(text: str) -> bool:
    """Return whether a sentence ends with a command, which must stand in one line to be pasted."""
    return _COMMANDS.search(f" {text}") is not None


def counted(number: int, one: str, several: str) -> str:
    """Return a number with its words, such as "1 cell is" or "3,000 cells are"."""
    return f"{number:,} {one if number == 1 else several}"


def sized(size: object, unit: str) -> str:
    """Return a size with its unit, such as "25 pixels", "1 pixel" or, without a unit, "0.5"."""
    return f"{size!s} {unit_after(size, unit)}".rstrip()


def unit_after(size: object, unit: str) -> str:
    """Return a unit, which is a plural noun, as it stands after a size: without its last s after 1."""
    return unit.removesuffix("s") if str(size) == "1" else unit


def attributed(text: object, by: object) -> str:
    """Return a message as one line, with the plugin at fault in brackets before its command, if it has one.

    by: the distribution, or the path of a loose plugin file.
    """
    before, command = _parts(str(text))
    end = "." if command and before.endswith(".") else ""
    named = f"{printable(before.removesuffix(end), SENTENCE_LENGTH)} ({printable(by)}){end}"
    return named + printable(command, COMMAND_LENGTH)


def quoted_commands(text: str) -> str:
    """Return foreign text with words such as `Try:` in quotes, since what follows would be taken for our advice."""
    return _FOREIGN_COMMANDS.sub(r'"\g<0>"', text)


def lines(text: object) -> str:
    """Return text of several lines, such as a traceback, with each line as `printable` returns it."""
    return "\n".join(printable(line, COMMAND_LENGTH) for line in str(text).split("\n"))


def is_printable(text: str) -> bool:
    """Return whether a text is one line of visible characters already."""
    return printable(text, max(1, len(text))) == text


def is_valid(text: str) -> bool:
    """Return whether a text can be encoded and stored, which one with surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_text(value: Any, indent: int | None = 1, default: Callable[[Any], Any] | None = None) -> str:
    """Return a value as JSON that a terminal only shows: characters that act on it, or are not seen, are escaped.

    indent, default: as `json.dumps` takes them.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=default)
    return "\n".join(map(_json_line, text.split("\n")))


def styled(text: object, style: str = "", limit: int = TITLE_LENGTH) -> Text:
    """Return an entry of a table, or a line, for rich, which reads no markup in it."""
    from rich.text import Text

    return Text(printable(text, limit), style=style)


def markdown(text: object, limit: int = TITLE_LENGTH) -> str:
    """Return text as Markdown that shows exactly this text: no emphasis, code, link, picture, list, HTML or formula."""
    escaped = re.sub(r"[\\`*_<>|~#&$]|\[(?=\[)|\](?=[(\[:])", r"\\\g<0>", printable(text, limit).strip())
    escaped = re.sub(r"^([-+](?=\s|$|[-\s]+$)|\[(?=[ xX]\])|\d+(?=[.)](?:\s|$)))", _at_start, escaped)
    return re.sub(r":(?=//)|(?i:(?<=\bwww)\.)|:(?=[a-z0-9+-]+:)", r"\\\g<0>", escaped)


def latex(text: object, limit: int = NAME_LENGTH) -> str:
    """Return text as LaTeX of ASCII characters that typesets exactly this text, with any engine and font encoding.

    Characters that pdfLaTeX's first fonts lack, such as those of Chinese, Hebrew and emoji, become escapes such as
    `\\u4e2d`, as invisible ones do.
    limit: most characters that are typeset, those of escapes included; TeX cannot measure a caption of many thousands.
    """
    composed = unicodedata.normalize("NFC", printable(text, limit))
    spelled = "".join(each if _latex_character(each) is not None else _escape(each) for each in composed)
    escaped = "".join(_latex_character(each) or "" for each in printable(spelled, limit))
    apart = re.sub(r"-(?=-)|,(?=,)", r"\g<0>{}", escaped)  # which would be ligatures
    return f"{{{apart[0]}}}{apart[1:]}" if apart[:1] in ("[", "*") else apart  # which a line break would read


_LATEX = {
    **{character: f"\\{character}" for character in "{}$&#_%"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\char34}",
    "'": "{'}",
    "`": "{`}",
    "–": "{--}",
    "—": "{---}",
    "‘": "{`}",
    "’": "{'}",
    "“": "{``}",
    "”": "{''}",
    "…": r"\ldots{}",
    "ß": r"\ss{}",
    "§": r"\S{}",
    "©": r"\copyright{}",
    **dict(zip("æÆœŒøØłŁ", (rf"\{name}{{}}" for name in ["ae", "AE", "oe", "OE", "o", "O", "l", "L"]), strict=True)),
    **{
        character: rf"\(\{name}\)"
        for character, name in {
            "↓": "downarrow", "↑": "uparrow", "⇑": "Uparrow", "→": "rightarrow", "←": "leftarrow", "±": "pm",
            "×": "times", "·": "cdot", "≤": "leq", "≥": "geq", "≠": "neq", "≈": "approx", "∞": "infty", "ℓ": "ell",
            "µ": "mu",
        }.items()
    },
}  # fmt: skip
_ACCENTS = dict(
    zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327", "`'^~=u.\"rHvc", strict=True)
)
_GREEK = re.compile(
    r"GREEK (SMALL) LETTER (ALPHA|BETA|GAMMA|DELTA|EPSILON|ZETA|ETA|THETA|IOTA|KAPPA|LAMDA|MU|NU|XI|PI|RHO|SIGMA|TAU|"
    r"UPSILON|PHI|CHI|PSI|OMEGA)|GREEK (CAPITAL) LETTER (GAMMA|DELTA|THETA|LAMDA|XI|PI|SIGMA|UPSILON|PHI|PSI|OMEGA)"
)


def _latex_character(character: str) -> str | None:
    """Return one visible character as LaTeX; None if pdfLaTeX's first fonts lack it."""
    if character in _LATEX:
        return _LATEX[character]
    if character.isascii():
        return character
    decomposed = unicodedata.normalize("NFD", character)
    base, mark = decomposed[:1], decomposed[1:]
    if base.isascii() and base.isalpha() and mark in _ACCENTS:
        return f"\\{_ACCENTS[mark]}{{{base}}}"
    if greek := _GREEK.fullmatch(unicodedata.name(character, "")):
        name = (greek[2] or greek[4]).lower().replace("lamda", "lambda")
        return rf"\(\{name if greek[1] else name.capitalize()}\)"
    return None


def _parts(message: str) -> tuple[str, str]:
    """Return what stands before the command of a message, and the command with the words that introduce it."""
    at = max((match.start() for match in _COMMANDS.finditer(message)), default=len(message))
    return message[:at], message[at:]


def _at_start(match: re.Match[str]) -> str:
    """Escape the beginning of a list or a task; a digit has no escape with a backslash."""
    return f"&#{ord(match[1][0])};{match[1][1:]}" if match[1][0].isdigit() else f"\\{match[1]}"


def _pieces(text: str) -> Iterator[str]:
    """Yield each character, or what is shown in its place."""
    marks, before = MAX_MARKS, ""
    for at, character in enumerate(text):
        category = unicodedata.category(character)
        if category in ("Mn", "Me"):
            marks += 1
        elif character not in _JOINERS:
            marks = 0
        joins = character in _JOINERS and _is_joined(before) and _is_joined(text[at + 1 : at + 2])
        if marks > MAX_MARKS or character in _INVISIBLE or (category in _HIDDEN and not joins):
            yield _escape(character)
            before = ""
        else:
            yield character
            before = character


def _space(match: re.Match[str]) -> str:
    return " " if match[0].strip(" ") else match[0]


def _is_joined(neighbour: str) -> bool:
    """Return whether a character is one that a joiner may stand beside."""
    return neighbour > "\x7f" and neighbour not in _JOINERS


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _fitting(pieces: list[str], length: int) -> list[str]:
    """Return the first pieces that together have no more characters than `length`."""
    taken = []
    for piece in pieces:
        length -= len(piece)
        if length < 0:
            break
        taken.append(piece)
    return taken


def _json_line(line: str) -> str:
    if is_printable(line):
        return line
    return "".join(c if is_printable(c) else json.dumps(c)[1:-1] for c in line)
