"""A comparison with everything that it needs: the same examples, its models, means over runs, and findings."""

from __future__ import annotations

from dataclasses import replace

from robharness.comparison.compare import NAMED, compare
from robharness.comparison.examples import aligned
from robharness.comparison.findings import comparison_findings
from robharness.comparison.labels import chosen
from robharness.comparison.records import Comparison, Side
from robharness.comparison.requests import Request
from robharness.comparison.runs import runs_differences


def build(before: Side, after: Side, request: Request, *, changed: int = NAMED) -> Comparison:
    """Compare two sides on the examples that both have.

    before, after: one object for two models of one suite.
    request: the labels that are asked for, and the words of messages.
    changed: the number of changed examples of each kind that are named per cell.
    Raises UserError for labels that do not exist, and for results on different examples.
    """
    models = chosen(before, after, request)
    before, after, moved = aligned(before, after)
    found = compare(
        before, after, models.pairs, title=_title(before, after, models.pairs or models.runs), changed=changed
    )
    runs = [each for first, second in models.runs for each in runs_differences(before, after, first, second)]
    findings = comparison_findings(before, after, found, all_models=request.models is None)
    every = dict.fromkeys((*moved, *found.findings, *findings))
    return replace(found, runs=tuple(runs), findings=tuple(every))


def _title(before: Side, after: Side, pairs: tuple[tuple[str, str], ...]) -> str:
    suite = after.suite if before.suite == after.suite else f"{before.suite} and {after.suite}"
    if len(pairs) > 1:
        return f"{suite}: {len(pairs)} models before and after"
    [(first, second)] = pairs
    return f"{suite}: {second} before and after" if first == second else f"{suite}: {second} compared with {first}"
