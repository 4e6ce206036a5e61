"""Clusters of examples, by a part of their ids that a regular expression of the suite finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from robharness.text import is_printable, printable

LONGEST_PATTERN = 200
"""Characters of the regular expression."""


def cluster_texts(pattern: str, ids: Sequence[str]) -> list[str]:
    """Return the part of each id that all examples of its cluster share.

    pattern: a regular expression, searched anywhere in an id. Its first group is the part, else the whole match.
    Returns an empty text for each id that the expression does not match. The search is that of RE2, whose time is
    linear in the length of an id for every expression, so that a suite cannot stall the program.
    Raises ValueError, with the reason, for anything else than such an expression.
    """
    import pyarrow
    from pyarrow import compute

    texts, whole = pyarrow.array(ids, pyarrow.string()), rf"(?s:^.*?)({pattern})(?s:.*$)"
    try:
        compute.match_substring_regex(pyarrow.array([""]), pattern)  # whose message quotes the pattern alone
        matches = compute.match_substring_regex(texts, whole)
    except pyarrow.ArrowInvalid as error:
        reason = str(error).removeprefix("Invalid regular expression: ")
        raise ValueError(f"it is no regular expression of RE2: {printable(reason)}") from None
    try:
        found = compute.replace_substring_regex(texts, whole, r"\2", max_replacements=1)
    except pyarrow.ArrowInvalid:  # it has no group of its own
        found = compute.replace_substring_regex(texts, whole, r"\1", max_replacements=1)
    parts: list[str] = compute.if_else(matches, found, "").to_pylist()
    return parts


def cluster_numbers(pattern: str, ids: Mapping[int, str], n: int) -> tuple[list[int], int]:
    """Return the number of the cluster of each of n positions, and of how many ids the expression matches none.

    ids: of the examples by position, as far as they are known. An example without an id, or with one that does not
        match, is a cluster by itself.
    """
    texts = dict(zip(ids, cluster_texts(pattern, list(ids.values())), strict=True))
    parts = [texts.get(position) or position for position in range(n)]
    of_part = {part: number for number, part in enumerate(dict.fromkeys(parts))}
    return [of_part[part] for part in parts], sum(not text for text in texts.values())


def _checked(pattern: str) -> str:
    if not is_printable(pattern):
        raise ValueError("it must be one line of visible characters")
    cluster_texts(pattern, [""])
    return pattern


ClusterPattern = Annotated[str, Field(min_length=1, max_length=LONGEST_PATTERN), AfterValidator(_checked)]
"""A regular expression that finds an example's cluster in its id."""
