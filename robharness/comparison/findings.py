"""Findings of a comparison: other examples, protocols, conditions, environments, and cells that are not compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from robharness.comparison.records import CellDifference, Comparison, MeasuredCell, Side, pair_name
from robharness.findings import Finding, finding
from robharness.text import printable, quoted_commands

ENVIRONMENT = ("device", "threads", "precision", "gradient_precision", "compiled", "sources", "versions")
"""Keys of provenance that are named if they differ between the sides, for any two models."""
OF_ONE_MODEL = ("rows", "folded", "memory_format", "model_plugin")
"""Keys that are named if they differ between the sides of one model, perhaps with other weights."""
OF_CELLS = ("perturbation_plugin", "data_plugin")
NAMED = 6
"""The number of facts that a message names with both values."""
LONGEST_VALUE = 40


class _Pair(NamedTuple):
    """A cell on both sides."""

    difference: CellDifference
    before: MeasuredCell
    after: MeasuredCell


def comparison_findings(
    before: Side, after: Side, comparison: Comparison, *, all_models: bool = True
) -> Iterator[Finding]:
    """Yield findings about what the numbers of a comparison stand on, several cells of one cause in one finding.

    all_models: whether all models that both sides have are compared, so that those of one side alone are named.
    """
    pairs = [
        _Pair(each, before.by_name[each.other, each.perturbation], after.by_name[each.model, each.perturbation])
        for each in comparison.cells
    ]
    yield from _incomplete(pairs)
    yield from _on_one_side(before, after, comparison, all_models=all_models)
    yield from _numbers(pairs)
    yield from _protocols(before, after, comparison)
    yield from _conditions(pairs)
    yield from _environments(pairs)
    for side in dict.fromkeys((before, after)):
        yield from side.findings


def _incomplete(pairs: Sequence[_Pair]) -> Iterator[Finding]:
    found: dict[str, dict[str, None]] = {}
    for pair in pairs:
        sides = (
            [("", pair.after)] if pair.before is pair.after else [("before: ", pair.before), ("after: ", pair.after)]
        )
        for side, cell in sides:
            if not cell.is_complete:
                reason = f": {quoted_commands('; '.join(cell.failures))}" if cell.failures else ""
                message = f"{side}outcomes of {cell.n_expected - cell.n:,} of {cell.n_expected:,} examples are missing"
                found.setdefault(f"{message}{reason}", {})[cell.name] = None
    for message, names in found.items():
        yield finding("cells-incomplete", message, subject=_named([*names]))


def _on_one_side(before: Side, after: Side, comparison: Comparison, *, all_models: bool) -> Iterator[Finding]:
    compared_before = {label for label, _ in comparison.pairs}
    compared_after = {label for _, label in comparison.pairs}
    for side, names, compared, where in (
        (before, comparison.only_before, compared_before, "before"),
        (after, comparison.only_after, compared_after, "after"),
    ):
        if names:
            yield finding("cells-on-one-side", f"{where} alone has this; it is not compared", subject=_named(names))
        others = [label for label in side.labels if label not in compared]
        if others and all_models:
            yield finding("models-on-one-side", f"{where} alone has this; it is not compared", subject=_named(others))


def _numbers(pairs: Sequence[_Pair]) -> Iterator[Finding]:
    found: dict[tuple[int, int, int], list[str]] = {}
    for each, _, _ in pairs:
        if min(each.n_before, each.n_after) and each.n < max(each.n_before, each.n_after):  # else it is incomplete
            found.setdefault((each.n, each.n_before, each.n_after), []).append(each.name)
    for (n, n_before, n_after), names in found.items():
        compared = f"the {n:,} that both have are compared" if n else "both have none of them"
        message = f"before has {n_before:,} examples and after {n_after:,}; {compared}"
        yield finding("n-differs", message, subject=_named(names))


def _protocols(before: Side, after: Side, comparison: Comparison) -> Iterator[Finding]:
    """Yield a finding for pairs of models whose classifiers were fitted by different protocols, as far as known."""
    found: dict[tuple[str, str], list[str]] = {}
    for other, model in comparison.pairs:
        one, two = before.protocols.get(other, ""), after.protocols.get(model, "")
        if one and two and one != two:
            found.setdefault((one, two), []).append(pair_name(other, model))
    for (one, two), names in found.items():
        message = (
            f"classifiers of different protocols are compared: {quoted_commands(printable(one))} before, "
            f"{quoted_commands(printable(two))} after; the protocol alone can move robust accuracy"
        )
        hint = "compare models of one protocol"
        yield finding("mixed-protocols", message, subject=_named(names), hint=hint)


def _conditions(pairs: Sequence[_Pair]) -> Iterator[Finding]:
    found: dict[str, list[str]] = {}
    unknown = []
    for each, before, after in pairs:
        if each.conditions == "changed":
            facts = _differing(_flat_conditions(before.identity), _flat_conditions(after.identity))
            same_data = before.data == after.data
            facts = facts if same_data else {"data": (before.data, after.data), **facts}
            found.setdefault(_facts(facts) or "its data, its perturbation or its precision", []).append(each.name)
        elif each.conditions == "unknown" and each.n:
            unknown.append(each.name)
    for facts_text, names in found.items():
        message = f"not measured in the same way on both sides: {facts_text}"
        yield finding("conditions-differ", message, subject=_named(names))
    if unknown:
        message = "one side does not say how it was measured, so that data, perturbation and precision may differ"
        yield finding("conditions-unknown", message, subject=_named(unknown))


def _flat_conditions(identity: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in identity.items() if name not in ("model", "features")}
    flat = _flat(kept)
    flat.pop("perturbation.features", None)
    return flat


def _environments(pairs: Sequence[_Pair]) -> Iterator[Finding]:
    found: dict[str, list[str]] = {}
    for each, before, after in pairs:
        if before is after or not (before.environments and after.environments):
            continue
        is_one_model = _model(before) == _model(after)
        names = (*ENVIRONMENT, *OF_CELLS, *(OF_ONE_MODEL if is_one_model else ()))
        facts = _differing(_environment(before, names), _environment(after, names), both=True)
        if facts:
            found.setdefault(_facts(facts), []).append(each.name)
    for facts_text, cells in found.items():
        message = f"computed in different environments: {facts_text}"
        yield finding("environments-differ", message, subject=_named(cells))


def _model(cell: MeasuredCell) -> str:
    """Return the full name of a model; its label if the name is not known."""
    model = cell.identity.get("model")
    return str(model.get("name", cell.model)) if isinstance(model, Mapping) else cell.model


def _environment(cell: MeasuredCell, names: Iterable[str]) -> dict[str, Any]:
    """Return the values of these facts, several of one fact as text, such as "1 and 4"."""
    values: dict[str, dict[str, None]] = {}
    for environment in cell.environments:
        for name, value in _flat({name: environment[name] for name in names if name in environment}).items():
            if not name.endswith(".stands_on"):  # whose versions are below `versions`, as far as they change outcomes
                values.setdefault(name, {})[str(value)] = None
    return {name: " and ".join(sorted(several)) for name, several in values.items()}


def _differing(
    before: Mapping[str, Any], after: Mapping[str, Any], *, both: bool = False
) -> dict[str, tuple[Any, Any]]:
    """Return the facts that differ with their values before and after.

    both: whether facts that one side lacks are left out.
    """
    names = [name for name in {**before, **after} if not both or (name in before and name in after)]
    found = {name: (before.get(name, "default"), after.get(name, "default")) for name in names}
    return {name: values for name, values in found.items() if values[0] != values[1]}


def _facts(facts: Mapping[str, tuple[Any, Any]]) -> str:
    shown = [f"{printable(name)} {_short(one)} before, {_short(other)} after" for name, (one, other) in facts.items()]
    more = f"; {len(shown) - NAMED} more" if len(shown) > NAMED else ""
    return "; ".join(shown[:NAMED]) + more


def _short(value: Any) -> str:
    return printable(value, LONGEST_VALUE)


def _named(names: Sequence[str]) -> str:
    """Return the first of several names and the number of the others."""
    return f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"


def _flat(facts: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = value
    return flat
