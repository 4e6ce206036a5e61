"""YAML as data: no tags, no code, no duplicate keys, numbers as YAML 1.2 reads them, and the place of every value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path as FilePath
from re import compile as regex
from typing import Any

import yaml
from yaml.reader import Reader

from robharness.text import is_printable, printable

Path = tuple[str | int, ...]

MOST_ERRORS = 100
"""Errors of one suite that are collected; the rest follows from them, or can wait."""
_MOST_VALUES = 20_000
"""Values of a suite, those of aliases included: PyYAML reads them in about a second."""
_DEEPEST = 50
_LONGEST_KEY, _LONGEST_TEXT = 500, 10_000
"""Characters of a key and of a text. A name of a cell, such as a key of `expected` may be, has up to 200."""


class Endless(Exception):
    """More values, or deeper ones, than a suite has.

    place: (line, column) of the first value too many, from 1.
    """

    def __init__(self, place: tuple[int, int], sentence: str) -> None:
        self.place, self.sentence = place, sentence


class _Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, where `no` is false, 1:30 is 90 and 1e-3 is a text; this resolves the YAML 1.2 core."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012
    count = depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        self.count, self.depth = self.count + 1, self.depth + 1
        check_size((event.start_mark.line + 1, event.start_mark.column + 1), self.count, self.depth)
        node = super().compose_node(parent, index)
        self.depth -= 1
        tag = getattr(event, "tag", None)
        if tag is not None and node is not None:
            node.tag = _TAGGED + tag  # a written tag, even a harmless one such as !!int
        return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", regex(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", regex(r"^(?:~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", regex(r"^[-+]?[0-9]{1,300}$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    regex(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)
_TAGGED = "written "
_FORBIDDEN = regex(r"[\x00\ud800-\udfff]")
"""Characters that an escape may write, and that no path and no encoded text can have."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where values of a suite are written: a file, or an option.

    shown: the path or the option, as messages show it.
    folder: to which relative paths in it are relative.
    is_file: whether its values have lines.
    """

    shown: str
    folder: FilePath
    is_file: bool = True


LINES = 2**20
"""Lines of one source, more than a text of the largest size has. Line 5 of source 2 of a suite is 2 * LINES + 5."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A YAML text as plain data, or several that were joined.

    data: the plain data.
    values: path -> (line, column) of the value, from 1.
    keys: path -> (line, column) of the key, from 1.
    errors: (line, column, path, sentence) each.
    unread: paths of values that have an error of their own and are None in the data.
    merges: node of a merged mapping, by its id -> key -> (node of the key, node of the value).
    sources: where the values are written; the number of a value's source is that of its line divided by `LINES`.
    defaults: path of a value that an item has by default -> its path below `defaults`.
    """

    data: Any
    values: dict[Path, tuple[int, int]] = field(default_factory=dict)
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)
    errors: list[tuple[int, int, Path, str]] = field(default_factory=list)
    unread: set[Path] = field(default_factory=set)
    merges: dict[int, dict[str, tuple[yaml.Node, yaml.Node]]] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)
    defaults: dict[Path, Path] = field(default_factory=dict)

    @property
    def is_set(self) -> bool:
        """Whether some values were set by an option or in Python."""
        return any(not source.is_file for source in self.sources)

    def source_of(self, path: Path) -> Source:
        """Return where a value is written, or the nearest value around it."""
        at = path
        while at not in self.values and at:
            at = at[:-1]
        if not self.sources:  # a mapping of a plugin
            return Source(shown="<mapping>", folder=FilePath.cwd())
        return self.sources[self.values.get(at, (1, 1))[0] // LINES]

    def shown(self, place: tuple[int, int]) -> str:
        """Return a place as messages show it: "suite.yaml:3:5", or the option."""
        number, line = divmod(place[0], LINES)
        source = self.sources[number]
        return f"{source.shown}:{line}:{place[1]}" if source.is_file else source.shown


def parse(text: str) -> Document:
    """Return the document in a text. Its errors are in `errors` and never raised."""
    if found := Reader.NON_PRINTABLE.search(text):
        return _refused(place_in(text, found.start()), f"not YAML: {_not_allowed(found.group())}")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        document = Document(data=None)
        data = None if node is None else _value(node, (), document)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(text for text in (error.context, error.problem) if text)
        return _refused((mark.line + 1, mark.column + 1) if mark else (1, 1), f"not YAML: {printable(reason)}")
    except Endless as error:
        return _refused(error.place, error.sentence)
    except (ValueError, OverflowError):  # PyYAML takes any digits for those of a character or of a version
        mark = loader.get_mark()
        return _refused((mark.line + 1, mark.column + 1), "not YAML: an escape or a version is out of range")
    return replace(document, data=data)


def place_in(text: str, index: int) -> tuple[int, int]:
    """Return the (line, column) of a character of a text, from 1. A byte order mark takes no column."""
    lines = text[:index].removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return len(lines), len(lines[-1]) + 1


def text_problem(text: str, *, is_key: bool = False) -> str:
    """Return why a suite may not have this text as a value or a key, or an empty text."""
    if found := _FORBIDDEN.search(text):
        return _not_allowed(found.group())
    most = _LONGEST_KEY if is_key else _LONGEST_TEXT
    return "" if len(text) <= most else f"a {'key' if is_key else 'text'} of {len(text)} characters; at most {most}"


def check_size(place: tuple[int, int], count: int, depth: int) -> None:
    """Raise Endless at the first value that is one too many, or too deep."""
    if count > _MOST_VALUES:
        raise Endless(place, f"more than {_MOST_VALUES} values")
    if depth > _DEEPEST:
        raise Endless(place, f"nested more than {_DEEPEST} deep")


def _not_allowed(character: str) -> str:
    return f"the character U+{ord(character):04X} is not allowed"


def _refused(place: tuple[int, int], sentence: str) -> Document:
    return Document(data=None, errors=[(*place, (), sentence)], unread={()})


def quoted(text: str) -> str:
    """Return a text as a key or a value of a suite, in quotes if YAML would read the bare text as something else.

    Characters that are not visible are escaped.
    """
    uses = {f"key: {text}": {"key": text}, f"{text}: value": {text: "value"}, f"{{{text}: {text}}}": {text: text}}
    documents = [(parse(written), meant) for written, meant in uses.items()]
    is_plain = is_printable(text)
    if is_plain and all(not document.errors and document.data == meant for document, meant in documents):
        return text
    written = yaml.safe_dump(text, default_style='"', width=float("inf"), allow_unicode=is_plain)
    return str(written).removesuffix("\n")


def _value(node: yaml.Node, path: Path, document: Document) -> Any:
    place = (node.start_mark.line + 1, node.start_mark.column + 1)
    check_size(place, len(document.values) + 1, len(path) + 1)  # aliases of aliases grow without end
    document.values[path] = place
    if node.tag.startswith(_TAGGED):
        tag = node.tag.removeprefix(_TAGGED).replace("tag:yaml.org,2002:", "!!")
        return _unread(document, node, path, f"the tag {printable(tag)} is not allowed")
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, (*path, index), document) for index, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, document)
    text: str = node.value
    if problem := text_problem(text):
        return _unread(document, node, path, problem)
    kind = node.tag.rpartition(":")[2]
    if kind == "null":
        return None
    if kind == "float":  # 1e999 stays a text, as .inf does
        return float(text) if isfinite(float(text)) else text
    return {"bool": lambda: text == "true", "int": lambda: int(text)}.get(kind, lambda: text)()


def _unread(document: Document, node: yaml.Node, path: Path, sentence: str) -> None:
    """Add an error of a value that is not read."""
    document.unread.add(path)
    _add_error(document, node, path, sentence)


def _mapping(node: yaml.MappingNode, path: Path, document: Document) -> dict[str, Any]:
    result: dict[str, Any] = {}
    merges: list[yaml.Node] = []
    for key_node, value_node in node.value:
        place = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag.startswith(_TAGGED):
            _add_error(document, key_node, path, "a key must be a word")
            continue
        key = key_node.value
        if problem := text_problem(key, is_key=True):
            _add_error(document, key_node, path, problem)
            continue
        if key in result or (_is_merge(key_node) and merges):
            first = document.keys[(*path, key)]
            _add_error(document, key_node, (*path, key), f"the key '{key}' is there already, in line {first[0]}")
            continue
        document.keys[(*path, key)] = place
        if _is_merge(key_node):
            merges = _merged_nodes(value_node, path, document)
        else:
            result[key] = _value(value_node, (*path, key), document)
    merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for other in merges:
        for key, pair in _pairs(other, path, document).items():
            merged.setdefault(key, pair)
    for key, (key_node, value_node) in merged.items():
        if key not in result:  # keys of the mapping itself come first
            document.keys[(*path, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            result[key] = _value(value_node, (*path, key), document)
    return result


def _is_merge(key: yaml.Node) -> bool:
    """Return whether a key is the merge key of YAML 1.1, `<<` without quotes."""
    return key.value == "<<" and getattr(key, "style", None) is None


def _merged_nodes(node: yaml.Node, path: Path, document: Document) -> list[yaml.Node]:
    """Return the mappings that a merge key names, the first of which has the last word."""
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    for other in nodes:
        if not isinstance(other, yaml.MappingNode):
            sentence = "'<<' merges a mapping, or a list of mappings, such as *base"
            _add_error(document, other, (*path, "<<"), sentence)
    return list({id(other): other for other in nodes if isinstance(other, yaml.MappingNode)}.values())


def _pairs(node: yaml.Node, path: Path, document: Document, depth: int = 1) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """Return key -> (node of the key, node of the value) of a mapping, with the keys that it merges itself.

    path: of the mapping that merges this one.
    document: gets the errors of the mapping, which has none yet if it is written after `<<`, and keeps the result, so
        that aliases of aliases cost no time; a mapping in itself adds nothing.
    depth: the number of mappings that merge each other.
    """
    if id(node) in document.merges:
        return document.merges[id(node)]
    place = (node.start_mark.line + 1, node.start_mark.column + 1)
    check_size(place, sum(map(len, document.merges.values())), depth)
    found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    document.merges[id(node)] = found
    merges: list[yaml.Node] = []
    lines: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag.startswith(_TAGGED):
            _add_error(document, key, path, "a key must be a word")
        elif problem := text_problem(key.value, is_key=True):
            _add_error(document, key, path, problem)
        elif key.value in lines:
            sentence = f"the key '{key.value}' is there already, in line {lines[key.value]}"
            _add_error(document, key, (*path, key.value), sentence)
        else:
            lines[key.value] = key.start_mark.line + 1
            if _is_merge(key):
                merges = _merged_nodes(value, path, document)
            else:
                found[key.value] = (key, value)
    for other in merges:
        for name, pair in _pairs(other, path, document, depth + 1).items():
            found.setdefault(name, pair)
    return found


def _add_error(document: Document, node: yaml.Node, path: Path, sentence: str) -> None:
    """Add an error at a node, unless the node has that error already, since an alias may repeat it."""
    place = (node.start_mark.line + 1, node.start_mark.column + 1)
    is_known = any((*place, sentence) == (*error[:2], error[3]) for error in document.errors)
    if not is_known and len(document.errors) < MOST_ERRORS:
        document.errors.append((*place, path, sentence))


def flow(value: Any) -> str:
    """Return plain data as YAML on one line, in flow style, with the keys in their order."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(key)}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return quoted(value) if isinstance(value, str) else str(value)
