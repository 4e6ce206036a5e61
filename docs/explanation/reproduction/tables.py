"""Write the tables of reproduction.md from the CSV files beside this module, so that no number of a table is typed.

    python docs/explanation/reproduction/tables.py

A table stands between the lines `<!-- table: NAME -->` and `<!-- end -->` of the page, and `TABLES` has a function for
each NAME. The table "verdicts" collects the lines `**Verdict: ...**` of the sections. The files are written by
`robharness report`, with the commands of the page. A table whose file is missing says so. Tests compare every table of
the page with its file.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from report_numbers import Numbers, Runs, read

from robharness import statistics

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "reproduction.md"
MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
VERDICT = re.compile(r"^\*\*Verdict: ([^*]+?)\.?\*\*", re.MULTILINE)
RESAMPLES = 10_000
"""Number of bootstrap resamples of an interval for a rank correlation."""

SUPERVISED = ("SupCon", "SimCLR", "Cross-entropy", "Cross-entropy refitted")
WITHOUT_LABELS = ("SimCLR", "SwAV *", "MoCo v2", "SimSiam")
WITH_LABELS = ("SupCon", "Oracle", "Cross-entropy", "Cross-entropy refitted")

# --- numbers as text -------------------------------------------------------------------------------------------------


def spread(values: Runs, digits: int, scale: float = 1) -> str:
    """Return the mean and the sample standard deviation over runs, "-" without values."""
    if not values:
        return "-"
    mean, deviation = statistics.mean_and_deviation([scale * value for value in values.values()])
    return f"{mean:z.{digits}f}" if deviation is None else f"{mean:z.{digits}f} ± {deviation:.{digits}f}"


def with_interval(value: float, interval: statistics.Interval | None, digits: int = 0, scale: float = 1) -> str:
    """Return a number with both ends of its 95 % interval; "?" if the interval has no ends."""
    text = f"{scale * value:z.{digits}f}"
    if interval is None:
        return text
    if not all(map(math.isfinite, interval)):
        return f"{text} [?]"
    return "{} [{:z.{}f}, {:z.{}f}]".format(text, scale * interval.low, digits, scale * interval.high, digits)


def heading(name: str) -> str:
    """Return the short name of a perturbation or metric, such as "PGD linf 0.02"."""
    kind, _, rest = name.partition("(")
    words = {"fgsm": "FGSM", "pgd": "PGD", "features": "features", "ddn": "DDN", "autoattack": "AutoAttack"}
    if not rest:
        return name.partition("/")[2] or name
    budget = [part.strip(" )") for part in rest.split(",") if "=" not in part]
    return " ".join([words.get(kind, kind), *budget])


def table(head: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> str:
    """Return a table in Markdown, and a line below it.

    Columns of numbers are to the right; without a note, all columns are texts.
    """
    rule = "---:" if note else "---"
    lines = [head, ["---", *[rule] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + (f"\n{note}\n" if note else "")


# --- tables ----------------------------------------------------------------------------------------------------------


def accuracies(numbers: Numbers, models: Sequence[str] = ("*",), metrics: Sequence[str] = ()) -> str:
    """Return clean and attacked accuracies in %, and metrics, a row per model.

    models, metrics: patterns.
    """
    columns, measured = ["clean", *numbers.attacks], numbers.measured(metrics)
    rows = [
        [
            model,
            *(spread(numbers.of(model, name), 1, 100) for name in columns),
            *(spread(numbers.of(model, name), 3) for name in measured),
            str(len(numbers.of(model, "clean"))),
        ]
        for model in numbers.models(models)
    ]
    head = ["accuracy, %", *map(heading, columns), *map(heading, measured), "runs"]
    return table(head, rows, over_runs(numbers))


def drops(numbers: Numbers, models: Sequence[str], metrics: Sequence[str] = ()) -> str:
    """Return clean accuracies, metrics and relative drops under attack in %, a row per model.

    models, metrics: patterns.
    """
    measured = numbers.measured(metrics)
    rows = [
        [
            model,
            spread(numbers.of(model, "clean"), 1, 100),
            *(spread(numbers.of(model, name), 3) for name in measured),
            *(spread(numbers.drops(model, name), 0, 100) for name in numbers.attacks),
            str(len(numbers.of(model, "clean"))),
        ]
        for model in numbers.models(models)
    ]
    head = ["relative drop, %", "clean accuracy", *map(heading, measured), *map(heading, numbers.attacks), "runs"]
    return table(head, rows, over_runs(numbers))


def measurements(numbers: Numbers, metrics: Sequence[str]) -> str:
    """Return clean accuracies and metrics, a row per model.

    metrics: patterns.
    """
    measured = numbers.measured(metrics)
    rows = [
        [
            model,
            spread(numbers.of(model, "clean"), 1, 100),
            *(spread(numbers.of(model, name), 3) for name in measured),
            str(len(numbers.of(model, "clean"))),
        ]
        for model in numbers.accuracies
    ]
    return table(["", "clean accuracy, %", *map(heading, measured), "runs"], rows, over_runs(numbers))


def over_runs(numbers: Numbers) -> str:
    """Return the line below a table of means over runs."""
    return f"n = {numbers.examples:,} examples; mean ± sample standard deviation over runs."


def drop_differences(numbers: Numbers, pairs: Sequence[tuple[str, str]]) -> str:
    """Return how much larger the mean relative drop of the first model of a pair is than that of the second.

    Differences are in points, with Welch's intervals over runs.
    """
    rows = [
        [heading(attack), *(_difference(*(numbers.drops(model, attack) for model in pair)) for pair in pairs)]
        for attack in numbers.attacks
    ]
    head = ["difference of drops, points", *(f"{first} − {second}" for first, second in pairs)]
    return table(head, rows, "95 % intervals over runs.")


def _difference(first: Runs, second: Runs) -> str:
    sides = [np.array([*runs.values()], np.float64) for runs in (second, first)]
    if not all(map(len, sides)):
        return "-"
    interval = None
    with suppress(statistics.EmptySample):
        interval = statistics.mean_difference_interval(sides[0], sides[1])
    return with_interval(float(sides[1].mean() - sides[0].mean()), interval, 0, 100)


def gaps_closed(numbers: Numbers, models: Sequence[str] = ("*",), ends: tuple[str, str] = ("SimCLR", "SupCon")) -> str:
    """Return how much of the gap from one model to another the other models close, in %, by accuracy.

    models: patterns.
    """
    rows = [
        [model, *(_gap(numbers, model, ends, attack) for attack in numbers.attacks)]
        for model in numbers.models(models)
        if model not in ends
    ]
    is_single = all(len(runs) == 1 for each in numbers.accuracies.values() for runs in each.values())
    note = f"95 % intervals over {'examples' if is_single else 'runs'}; [?]: the gap may be 0."
    return table([f"gap closed from {ends[0]} to {ends[1]}, %", *map(heading, numbers.attacks)], rows, note)


def _gap(numbers: Numbers, model: str, ends: tuple[str, str], attack: str) -> str:
    if attack in numbers.gaps.get(model, {}):
        return with_interval(*numbers.gaps[model][attack], 0, 100)
    three = [[*numbers.of(name, attack).values()] for name in (model, *ends)]
    if not all(three):
        return "-"
    interval = None
    try:
        closed = statistics.gap_closed(*(float(np.mean(runs)) for runs in three))
        interval = statistics.gap_closed_interval(*three, paired=False)
    except statistics.ZeroBase:
        return "-"
    except statistics.EmptySample:
        pass
    return with_interval(closed, interval, 0, 100)


def gains(numbers: Numbers) -> str:
    """Return the relative gain of attacked accuracy over the base in %, as the report has it, a row per model."""
    attacks = [name for name in numbers.attacks if any(name in found for found in numbers.gains.values())]
    rows = [
        [model, *(with_interval(*found[name], 1, 100) if name in found else "-" for name in attacks)]
        for model, found in numbers.gains.items()
    ]
    head = ["gain over the plain form, %", *map(heading, attacks)]
    note = "; [?]: runs that all agree give none" if any("[?]" in cell for row in rows for cell in row) else ""
    return table(head, rows, f"95 % intervals over runs{note}.")


def cosines(path: Path) -> str:
    """Return mean cosines of positive pairs and of pairs of one class in the first and in the last epoch, a row per
    share of false negatives.

    path: a file of `python -m robharness_contrastive.curves`.
    """
    found: dict[float, dict[str, dict[int, list[float]]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for kind in ("positive", "same_class", "other_class"):
                epochs = found.setdefault(float(row["false_negatives"]), {}).setdefault(kind, {})
                epochs.setdefault(int(row["epoch"]), []).append(float(row[kind]))
    rows = []
    for share, kinds in sorted(found.items()):
        first, last = min(kinds["positive"]), max(kinds["positive"])
        cells = [
            [spread({str(run): value for run, value in enumerate(kinds[kind][at])}, 2) for at in (first, last)]
            for kind in kinds
        ]
        rows.append([f"{share:.2f}", *(cell for pair in cells for cell in pair), str(len(kinds["positive"][last]))])
    names = ("positive pairs", "pairs of one class", "other pairs")
    head = ["m/N", *(f"{name}, {when} epoch" for name in names for when in ("first", "last")), "runs"]
    return table(head, rows, "Mean cosines of projections over an epoch; mean ± sample standard deviation over runs.")


def correlations(numbers: Numbers, without: Sequence[str] = ()) -> str:
    """Return rank correlations over models, of the mean metric with the mean relative drop, a row per metric.

    without: models that are left out.
    """
    models = [name for name in numbers.accuracies if name not in without]
    rows = [
        [heading(metric), *(_correlation(_points(numbers, models, metric, attack)) for attack in numbers.attacks)]
        for metric in numbers.measured(["*"])
    ]
    head = ["rank correlation with the drop", *map(heading, numbers.attacks)]
    note = f"Spearman's, over the means of {len(models)} models, with 95 % bootstrap intervals over models."
    return table(head, rows, note)


def _points(numbers: Numbers, models: Sequence[str], metric: str, attack: str) -> statistics.Floats:
    """Return the mean metric and the mean drop of each model that has both, (n, 2)."""
    pairs = [(numbers.of(model, metric), numbers.drops(model, attack)) for model in models]
    return np.array([[np.mean([*runs.values()]) for runs in pair] for pair in pairs if all(pair)]).reshape(-1, 2)


def _correlation(points: statistics.Floats) -> str:
    """Return Spearman's rank correlation of points (n, 2) with its interval; "-" for fewer than four points."""
    if len(points) < 4:
        return "-"
    draws = np.random.default_rng(0).integers(len(points), size=(RESAMPLES, len(points)))
    resampled = rank_correlation(points[draws])
    return with_interval(float(rank_correlation(points)), statistics.percentile_interval(resampled), 2)


def rank_correlation(points: statistics.Floats) -> statistics.Floats:
    """Return Spearman's rank correlation of points, (..., n, 2) -> (...); nan if a coordinate is the same for all."""
    first, second = (ranks(points[..., axis]) for axis in (0, 1))
    lengths = np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
    return statistics.ratio((first * second).sum(-1), lengths)


def ranks(values: statistics.Floats) -> statistics.Floats:
    """Return the ranks of values along the last axis, minus their mean; equal values share the mean of their ranks."""
    pairs = values[..., :, None], values[..., None, :]
    found: statistics.Floats = ((pairs[0] > pairs[1]).sum(-1) - (pairs[0] < pairs[1]).sum(-1)) / 2.0
    return found


PAIRS = (("SimCLR", "SupCon"), ("SimCLR", "Cross-entropy"), ("SimCLR", "Cross-entropy refitted"))


def of_report(function: Callable[..., str], **options: Any) -> Callable[[Path], str]:
    """Return a function from a file of `robharness report` to a table.

    function: (numbers, **options) -> a table.
    """
    return lambda path: function(read(path), **options)


TABLES: dict[str, tuple[str, Callable[[Path], str]]] = {
    "digits-drops": ("mnist5k_claims", of_report(drops, models=SUPERVISED)),
    "digits-differences": ("mnist5k_claims", of_report(drop_differences, pairs=PAIRS)),
    "digits-oracle": ("mnist5k_claims", of_report(gaps_closed, models=("Oracle",))),
    "settings-accuracies": ("mnist5k_settings", of_report(accuracies)),
    "settings-gaps": ("mnist5k_settings", of_report(gaps_closed)),
    "chosen-accuracies": ("mnist5k_chosen", of_report(accuracies)),
    "chosen-gaps": ("mnist5k_chosen", of_report(gaps_closed)),
    "adversarial": ("mnist5k_adversarial", of_report(accuracies)),
    "adversarial-gains": ("mnist5k_adversarial", of_report(gains)),
    "adversarial-autoattack": ("mnist5k_autoattack", of_report(accuracies)),
    "adversarial-autoattack-gains": ("mnist5k_autoattack", of_report(gains)),
    "digits-uniformity": (
        "mnist5k_claims", of_report(drops, models=WITHOUT_LABELS, metrics=("contrastive/uniformity",)),
    ),
    "digits-metrics": ("mnist5k_claims", of_report(accuracies, metrics=["*"])),
    "digits-margins": ("mnist5k_margins", of_report(measurements, metrics=["*margin"])),
    "digits-correlations": ("mnist5k_claims", of_report(correlations)),
    "digits-correlations-label-free": ("mnist5k_claims", of_report(correlations, without=WITH_LABELS)),
    "objects-drops": ("cifar10_jpeg", of_report(drops, models=("SupCon", "SimCLR", "Oracle", *SUPERVISED[2:]))),
    "objects-differences": ("cifar10_jpeg", of_report(drop_differences, pairs=PAIRS)),
    "objects-oracle": ("cifar10_jpeg", of_report(gaps_closed, models=("Oracle",))),
    "objects-metrics": ("cifar10_jpeg", of_report(accuracies, metrics=["*"])),
    "lemma": ("mnist5k_lemma", cosines),
}  # fmt: skip
"""By name, the file of a table without its suffix, and the function that makes the table of the file."""


def make(name: str, folder: Path = FOLDER) -> str:
    """Return a table in Markdown, or a sentence that names the missing file.

    folder: of the files.
    """
    stem, function = TABLES[name]
    path = folder / f"{stem}.csv"
    return function(path) if path.exists() else f"*No results yet: {path.name}.*\n"


def verdicts(page: str) -> str:
    """Return the headings of a page and the verdict of each as a table in Markdown."""
    found = [section for section in re.split(r"^## ", page, flags=re.MULTILINE) if VERDICT.search(section)]
    rows = [[section.partition("\n")[0], VERDICT.findall(section)[0].replace("\n", " ")] for section in found]
    return table(["claim", "verdict"], rows)


def filled(page: str, folder: Path = FOLDER) -> str:
    """Return the text of a page with all of its tables made again."""

    def fill(found: re.Match[str]) -> str:
        content = verdicts(page) if found[2] == "verdicts" else make(found[2], folder)
        return f"{found[1]}\n{content}\n{found[3]}"

    return MARKED.sub(fill, page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
