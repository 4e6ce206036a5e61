"""`robharness plan SUITE`: show cells, their progress, their cost and warnings; compute nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from robharness.cli import options
from robharness.cli.output import duration, echo_json, echo_rows, results_console
from robharness.store.passes import Passes, PassTotals
from robharness.store.speeds import seconds_per_pass
from robharness.text import COMMAND_LENGTH, SENTENCE_LENGTH, TITLE_LENGTH, counted, printable, styled

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from robharness.planning.cells import Cell, Plan
    from robharness.planning.planned import Product
    from robharness.session import Session
    from robharness.store import Store

WAITS = {
    "training": "the cell waits for the training of its model",
    "weights": "the cell waits for weights that are not on this machine",
    "data": "the cell waits for data that are not on this machine",
}
DONE = {"training": "untrained", "weights": "needs weights", "data": "needs data"}
HEADINGS = ("model", "perturbation", "done", "forward", "backward", "key")


@click.command("plan")
@options.suite_options
@options.audit
@click.option("--why", is_flag=True, help="Show why each cell is to be computed: how it differs from the stored cells.")
@options.with_incomplete_session
def command(session: Session, why: bool, as_json: bool) -> int:
    """Show the cells of SUITE (done, partial, missing), their cost, the time left, and warnings; compute nothing.

    Cells whose data or weights are not on this machine are shown as well, with their cost.

    Exit codes: 0 the suite can run, 2 usage error, or data or weights are missing.
    """
    from robharness.session import require

    facts = as_data(session.plan, session.store, why=why)
    if as_json:
        echo_json(facts)
    else:
        _show(facts, session.plan.command("train"))
    require(session.plan)
    return 0


def as_data(planned: Plan, store: Store, *, why: bool = False) -> dict[str, Any]:
    """Return the plan as dicts, lists and plain values.

    why: whether each cell gets the reason why it is to be computed, None if it is complete.

    Keys of the plan:
    passes_left: forward and backward passes of one example each; a gradient is one of both. Those of a fit count once
        for each model and budget, although a run repeats the fit in each process that computes the cell.
    fits_left: those of `passes_left` that fit attacks.
    fit_forward, fit_backward: of a cell, passes that fit its attack, in all; 0 for attacks that are not fitted.
    passes_from: of a cell, "recorded" if stored outcomes of the same attack in this suite say how many passes it makes
        per example, else "declared", as the attack says, for an example that does not leave early.
    seconds_left: at the speed of the last runs in the store, without trainings; None if a model has not run yet.
    untrained: the labels of models that are to be trained first.
    waits: of a cell, whether it has no key yet; `waits_for` says for what: "training", "weights", "data" or "".
    n: null if the data are missing and neither the suite nor their record says how many they are. The passes left are
        then those of one example per cell.
    missing: a sentence about each resource that is not on this machine.
    """
    from robharness.engine.provenance import outdated_outcomes, outdated_trainings, stored_provenance
    from robharness.findings import sentences
    from robharness.store.expected import checks

    store = store.listed()
    checked, n = checks(planned), planned.n or 1  # of data that are missing, perhaps nobody knows the number
    recorded = _Recorded()
    verified = store.map(lambda cell: store.verify(cell.key, planned.n, checked[cell.key]), planned.cells)
    for cell, stored in zip(planned.cells, verified, strict=True):
        recorded.add(cell, stored.passes)
    cells = []
    shared: set[tuple[str, str]] = set()
    fits: dict[tuple[str, ...], dict[str, int]] = {}
    every = {model.label: model.entry.name for model in planned.suite.models}
    left = {label: {"forward": 0, "backward": 0} for label in every}
    reasons = _Reasons(store) if why else None
    for cell in _in_order(planned):
        missing = sum(stop - start for start, stop in store.missing(cell.key, n)) if cell.key else n
        cost = cell.cost
        made = recorded.of(cell)
        passes = made or Passes(cost.forwards, cost.gradients + cost.shared_gradients)
        gradients, perturbation = passes.gradients, cell.perturbation
        if cost.shared_gradients and perturbation is not None:
            mark = (cell.model.label, f"{perturbation.entry.name} {perturbation.params}")
            if mark in shared or not missing:
                gradients = max(0, gradients - cost.shared_gradients)
            else:
                shared.add(mark)
        fit = recorded.fit_of(cell) or Passes(cost.fit_forwards, cost.fit_gradients)
        fit_passes = {"forward": round(fit.forwards + fit.gradients), "backward": round(fit.gradients)}
        if missing and fit.total and (fit_mark := _fit_mark(cell)) not in fits:
            fits[fit_mark] = fit_passes
            for kind, count in fit_passes.items():
                left[cell.model.label][kind] += count
        forward, backward = 1 + passes.forwards + gradients, gradients
        left[cell.model.label]["forward"] += round(missing * forward)
        left[cell.model.label]["backward"] += round(missing * backward)
        cells.append(
            {
                "model": cell.model.label,
                "data": cell.data.name,
                "kind": cell.kind,
                "perturbation": cell.short_name,
                "n": planned.n or None,
                "done": n - missing,
                "forward": round(forward),
                "backward": round(backward),
                **{f"fit_{kind}": count for kind, count in fit_passes.items()},
                "passes_from": "recorded" if made else "declared",
                "key": cell.key or None,
                "waits": not cell.key,
                "waits_for": cell.waits_for,
                **({"why": reasons.of(cell, n) if missing else None} if reasons else {}),
            }
        )
    outdated = outdated_outcomes(planned, stored_provenance(planned, store))
    findings = [*planned.findings, *outdated_trainings(planned), *outdated, *store.findings]
    return {
        "suite": planned.suite.name,
        "title": planned.suite.title,
        "n": planned.n or None,
        "settings": list(planned.suite.settings),
        "cells": cells,
        "pixels": planned.pixels,
        "untrained": [model.label for model in planned.untrained],
        "made_first": _made_first(planned),
        "passes_left": {kind: sum(passes[kind] for passes in left.values()) for kind in ("forward", "backward")},
        "fits_left": {kind: sum(passes[kind] for passes in fits.values()) for kind in ("forward", "backward")},
        "seconds_left": _seconds_left([(every[label], sum(passes.values())) for label, passes in left.items()], store),
        "problems": list(sentences(findings, "error")),
        "warnings": list(sentences(findings, "warning")),
        "findings": [asdict(found) for found in findings],
        "missing": list(map(str, planned.missing)),
    }


def _fit_mark(cell: Cell) -> tuple[str, ...]:
    """Return what cells with the same fit have in common: the model, the networks that it is made on, the attack."""
    perturbation = cell.perturbation
    assert perturbation is not None
    source = perturbation.source or cell.model.label
    return cell.model.label, source, perturbation.entry.name, repr(perturbation.params), str(perturbation.eps)


def _made_first(planned: Plan) -> list[dict[str, Any]]:
    """Return the trainings and the features that cells wait for, in their order, each once.

    Each has `what`; `examples`, the number of examples of all its data; and `for`, the labels that need it.
    """
    from robharness.planning.planned import PlannedFeatures

    found: dict[Path, dict[str, Any]] = {}

    def add(product: Product, label: str) -> None:
        for each in product.prerequisites:
            if each.is_untrained:
                add(each, label)
        if (artefact := product.artefact) is None:
            return
        what = product.label if isinstance(product, PlannedFeatures) else f"training of {product.label}"
        examples = sum(len(dataset.ids) for dataset in artefact.datasets.values())
        labels = found.setdefault(artefact.folder, {"what": what, "examples": examples, "for": []})["for"]
        labels += [label] if label not in labels else []

    for model in planned.untrained:
        add(model, model.label)
    return list(found.values())


def _in_order(planned: Plan) -> list[Cell]:
    """Return all cells in the order of the suite's models, with those that wait for a training."""
    labels = [model.label for model in planned.suite.models]
    return sorted((*planned.cells, *planned.pending_cells), key=lambda cell: labels.index(cell.model.label))


def _seconds_left(passes: list[tuple[str, int]], store: Store) -> float | None:
    """Return the seconds that passes take at the speed of each model's last run; None if a model has not run yet.

    passes: (name of the model, number of passes of one example).
    """
    speeds = seconds_per_pass(store)
    left = [(model, count) for model, count in passes if count]
    if any(model not in speeds for model, _ in left):
        return None
    return sum(count * speeds[model] for model, count in left)


class _Recorded:
    """Passes per example, attacked or not, that the attacks of a plan made for the outcomes that are stored."""

    def __init__(self) -> None:
        self._of_cell: dict[str, PassTotals] = {}
        self._of_attack: dict[tuple[str, str], PassTotals] = {}

    def add(self, cell: Cell, passes: PassTotals | None) -> None:
        if passes is not None and passes.examples:
            self._of_cell[cell.key] = passes
            attack = cell.short_name, cell.count
            self._of_attack[attack] = passes + self._of_attack[attack] if attack in self._of_attack else passes

    def of(self, cell: Cell) -> Passes | None:
        """Return the mean over the cell's other examples, or over the same attack on other models; None without any."""
        found = self._found(cell)
        return found.per_example if found else None

    def fit_of(self, cell: Cell) -> Passes | None:
        """Return the passes of a fit, of the cell or else of the same attack on other models; None without any."""
        found = self._found(cell)
        return found.fit if found else None

    def _found(self, cell: Cell) -> PassTotals | None:
        return self._of_cell.get(cell.key) or self._of_attack.get((cell.short_name, cell.count))


class _Reasons:
    """Reasons why cells are to be computed, by comparison with the stored cells."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stored = [
            d for key in store.cell_keys() if store.spans(key) and (d := store.description(key)) is not None
        ]

    def of(self, cell: Cell, n: int) -> str:
        """Return a sentence, e.g. "model.weights: 1f… is stored, now it is 2a…"."""
        if not cell.key:
            return WAITS[cell.waits_for]
        if self._store.spans(cell.key):
            return f"{n - sum(b - a for a, b in self._store.missing(cell.key, n))} of {n} examples are stored"
        if failures := self._store.failures(cell.key):
            return f"the cell failed: {failures[0]}"
        if self._store.description(cell.key) is not None:
            return "the cell was started, but no outcome is stored"
        now = dict(_flat(cell.identity))
        comparable = [stored for stored in self._stored if _subject(stored["identity"]) == _subject(cell.identity)]
        if not comparable:
            return "no comparable cell is stored"
        nearest = min(comparable, key=lambda stored: (len(_changes(dict(_flat(stored["identity"])), now)),
                                                 stored["name"] != cell.name))  # fmt: skip
        return "; ".join(_changes(dict(_flat(nearest["identity"])), now))


def _subject(identity: dict[str, Any]) -> tuple[Any, ...]:
    """Return what comparable cells have in common: model, perturbation, and whether features are stored."""
    return identity["model"]["name"], identity.get("perturbation", {}).get("name"), "features" in identity


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a sentence for each field of an identity that differs."""
    return [
        f"{printable(name)}: {_short(before.get(name))} is stored, now it is {_short(now.get(name))}"
        for name in dict.fromkeys([*now, *before])
        if before.get(name) != now.get(name)
    ]


def _short(value: Any) -> str:
    if value is None:
        return "the default"
    text = printable(value)
    return text if len(text) <= 24 else f"{text[:12]}…"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dicts, by names with dots."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else key)
    else:
        yield name, value


def _show(facts: dict[str, Any], training: str) -> None:
    """Print the plan.

    training: the command that only trains.
    """
    from robharness.planning.names import labels_by_value

    console = results_console()
    _show_cells(facts["cells"], console)
    done = sum(cell["done"] == cell["n"] for cell in facts["cells"])
    partial = sum(0 < cell["done"] < (cell["n"] or 1) for cell in facts["cells"])
    passes = facts["passes_left"]
    examples = f"{facts['n']} examples" if facts["n"] else "an unknown number of examples, shown for one each"
    console.print(
        f"{len(facts['cells'])} cells of {examples}: {done} done, {partial} partial, "
        f"{len(facts['cells']) - done - partial} missing; {passes['forward']} forward and "
        f"{passes['backward']} backward passes of one example{_time(facts)}",
        soft_wrap=True,
    )
    if any((fits := facts["fits_left"]).values()):
        text = f"of these, fits of attacks take {fits['forward']} forward and {fits['backward']} backward passes"
        _print(console, f"{text}, once per model and budget")
    if known := sum(cell["passes_from"] == "recorded" and cell["done"] < (cell["n"] or 1) for cell in facts["cells"]):
        cells = "1 cell that is" if known == 1 else f"{known} cells that are"
        _print(console, f"passes of {cells} not done: as many as stored outcomes of the same attack took")
    for setting in facts["settings"]:
        _print(console, f"set: {printable(setting, SENTENCE_LENGTH)}")
    for path, labels in labels_by_value(facts["pixels"]).items():
        _print(console, f"pixels{f' of {labels}' if labels else ''}: {path}")
    if facts["untrained"]:
        pending = sum(cell["waits_for"] == "training" for cell in facts["cells"])
        text = f"{pending} of these cells wait for the training of {', '.join(facts['untrained'])}"
        _print(console, f"{printable(text, SENTENCE_LENGTH)}. To train only: {training}")
    for kind in ("weights", "data"):
        if waiting := sum(cell["waits_for"] == kind for cell in facts["cells"]):
            text = "of these cells waits" if waiting == 1 else "of these cells wait"
            _print(console, f"{waiting} {text} for {kind} that are not on this machine")
    own = {f"training of {label}" for label in facts["untrained"]}
    for made in facts["made_first"] if any(made["what"] not in own for made in facts["made_first"]) else ():
        labels = f", for {', '.join(made['for'])}" if not made["what"].startswith("training") else ""
        text = f"before: {made['what']}, {counted(made['examples'], 'example', 'examples')}{labels}"
        _print(console, printable(text, SENTENCE_LENGTH))
    for cell in facts["cells"]:
        if cell.get("why"):
            name = printable(f"{cell['model']}, {cell['perturbation']}", TITLE_LENGTH)
            _print(console, f"{name}: {printable(cell['why'], SENTENCE_LENGTH)}")
    for severity, lines, style in (("warning", facts["warnings"], "yellow"), ("error", facts["problems"], "red")):
        for line in lines:
            _print(console, f"{severity}: {line}", style)


def _show_cells(cells: list[dict[str, Any]], console: Console) -> None:
    """Print a row per cell: a table on a terminal, else a line each, with the model's label in every line."""
    rows = []
    for cell in cells:
        done = "all" if cell["done"] == cell["n"] else f"{cell['done']} of {cell['n']}"
        done = DONE.get(cell["waits_for"], done)
        names = [printable(cell[part], TITLE_LENGTH) for part in ("model", "perturbation")]
        rows.append([*names, done, str(cell["forward"]), str(cell["backward"]), (cell["key"] or "")[:8]])
    if not console.is_terminal:
        echo_rows([HEADINGS, *rows])
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in HEADINGS:
        is_name = name in ("model", "perturbation")
        table.add_column(name, justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold")
    label = None
    for row in rows:
        if label not in (None, row[0]):
            table.add_section()
        table.add_row(styled(row[0] if row[0] != label else ""), *map(styled, row[1:]))
        label = row[0]
    console.print(table)


def _print(console: Console, line: str, style: str = "") -> None:
    console.print(styled(line, style, COMMAND_LENGTH), soft_wrap=True)


def _time(facts: dict[str, Any]) -> str:
    seconds = facts["seconds_left"]
    if not any(facts["passes_left"].values()) or not facts["n"]:
        return ""
    if seconds is None:
        return "; time left: unknown before the first run"
    return f"; time left: {duration(seconds)}, at the speed of the last run"
