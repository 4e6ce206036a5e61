"""YAML as data: no tags, no code, no duplicate keys, numbers as YAML 1.2 reads them, and the place of every value."""

from __future__ import annotations

from dataclasses import dataclass, field
from re import compile as regex
from typing import Any

import yaml

from robharness.text import is_printable

Path = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, where `no` is false, 1:30 is 90 and 1e-3 is a text; this resolves the YAML 1.2 core."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        tag = getattr(self.peek_event(), "tag", None)  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
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
_MOST_VALUES = 100_000
_ENDLESS = f"nested too deeply, or more than {_MOST_VALUES} values"


@dataclass(frozen=True, kw_only=True)
class Document:
    """A YAML text as plain data.

    data: the plain data.
    values: path -> (line, column) of the value, from 1.
    keys: path -> (line, column) of the key, from 1.
    errors: (line, column, path, sentence) each.
    """

    data: Any
    values: dict[Path, tuple[int, int]] = field(default_factory=dict)
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)
    errors: list[tuple[int, int, Path, str]] = field(default_factory=list)


def parse(text: str) -> Document:
    """Return the document in a text. Its errors are in `errors` and never raised."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        reason = ", ".join(text for text in (error.context, error.problem) if text)
        return Document(data=None, errors=[(line, column, (), f"not YAML: {reason}")])
    except yaml.YAMLError as error:
        return Document(data=None, errors=[(1, 1, (), f"not YAML: {' '.join(str(error).split())}")])
    except RecursionError:
        return Document(data=None, errors=[(1, 1, (), _ENDLESS)])
    document = Document(data=None)
    if node is None:
        return document
    try:
        data = _value(node, (), document)
    except RecursionError:
        return Document(data=None, errors=[(1, 1, (), _ENDLESS)])
    return Document(data=data, values=document.values, keys=document.keys, errors=document.errors)


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
    if len(document.values) == _MOST_VALUES:  # aliases of aliases grow without end
        raise RecursionError
    document.values[path] = place
    if node.tag.startswith(_TAGGED):
        tag = node.tag.removeprefix(_TAGGED).replace("tag:yaml.org,2002:", "!!")
        document.errors.append((*place, path, f"the tag {tag} is not allowed"))
        return None
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, (*path, index), document) for index, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, document)
    kind = node.tag.rpartition(":")[2]
    text: str = node.value
    if kind == "null":
        return None
    return {"bool": lambda: text == "true", "int": lambda: int(text), "float": lambda: float(text)}.get(
        kind, lambda: text
    )()


def _mapping(node: yaml.MappingNode, path: Path, document: Document) -> dict[str, Any]:
    result: dict[str, Any] = {}
    merges: list[yaml.Node] = []
    for key_node, value_node in node.value:
        place = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag.startswith(_TAGGED):
            _add_error(document, key_node, path, "a key must be a word")
            continue
        key = key_node.value
        if key in result or (_is_merge(key_node) and merges):
            first = document.keys[(*path, key)]
            document.errors.append((*place, (*path, key), f"the key '{key}' is there already, in line {first[0]}"))
            continue
        document.keys[(*path, key)] = place
        if _is_merge(key_node):
            merges = _merged_nodes(value_node, path, document)
        else:
            result[key] = _value(value_node, (*path, key), document)
    merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    known: dict[int, dict[str, Any]] = {}
    for other in merges:
        merged = {**_pairs(other, path, document, known), **merged}
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
    return [other for other in nodes if isinstance(other, yaml.MappingNode)]


def _pairs(
    node: yaml.Node, path: Path, document: Document, known: dict[int, dict[str, Any]]
) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """Return key -> (node of the key, node of the value) of a mapping, with the keys that it merges itself.

    path: of the mapping that merges this one.
    document: gets the errors of the mapping, which has none yet if it is written after `<<`.
    known: the result by mapping, so that aliases of aliases cost no time; a mapping in itself adds nothing.
    """
    if id(node) in known:
        return known[id(node)]
    found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    known[id(node)] = found
    merges: list[yaml.Node] = []
    lines: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag.startswith(_TAGGED):
            _add_error(document, key, path, "a key must be a word")
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
        for name, pair in _pairs(other, path, document, known).items():
            found.setdefault(name, pair)
    return found


def _add_error(document: Document, node: yaml.Node, path: Path, sentence: str) -> None:
    """Add an error at a node, unless the node has that error already, since an alias may repeat it."""
    place = (node.start_mark.line + 1, node.start_mark.column + 1)
    if not any((*place, sentence) == (*error[:2], error[3]) for error in document.errors):
        document.errors.append((*place, path, sentence))
