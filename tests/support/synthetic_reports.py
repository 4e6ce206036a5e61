"""Reports that nothing was run for: of invented outcomes, or of the numbers of the paper's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from robharness import statistics
from robharness.report.details import (
    Calibration,
    CalibrationBin,
    ClassAccuracy,
    ClassNumbers,
    Distances,
    Gain,
    GainSummary,
    GapClosed,
)
from robharness.report.records import CellNumbers, Numbers, Report, SlopeNumbers
from robharness.statistics import Interval

GROUPS = {"noise": ["gaussian_noise", "shot_noise", "impulse_noise"], "blur": ["defocus_blur", "glass_blur",
          "motion_blur", "zoom_blur"], "weather": ["snow", "frost", "fog"], "digital": ["brightness", "contrast",
          "elastic_transform", "pixelate", "jpeg_compression"]}  # fmt: skip
ATTACKS = {"fgsm(linf)": ("linf", ("0.25/255", "0.5/255", "1/255", "2/255")),
           "pgd(linf, steps=40, rel_step=2.5/40, keep=last)": ("linf", ("0.25/255", "1/255")),
           "pgd(l2, steps=10)": ("l2", ("0.1", "0.25", "0.5"))}  # fmt: skip


def numbers(clean: float, accuracy: float, n: int) -> Numbers:
    """Return the numbers of a cell with intervals about as wide as those of independent examples."""
    interval = statistics.accuracy_interval(round(accuracy * n), n)
    if accuracy == clean:
        return Numbers(n=n, accuracy=accuracy, interval=interval)
    drop, half = (clean - accuracy) / clean, (interval.high - interval.low) / 2 / clean
    return Numbers(n=n, accuracy=accuracy, interval=interval, robust_accuracy=accuracy, robust_interval=interval,
                   relative_drop=drop, relative_drop_interval=Interval(drop - half, drop + half))  # fmt: skip


def cell(model: str, perturbation: str, clean: float, accuracy: float, n: int = 1000, **facts: object) -> CellNumbers:
    fields = {"data": "toys/test", "kind": "clean" if perturbation == "clean" else "attack", "norm": None, "eps": None,
              "severity": None, "group": None, "title": perturbation} | facts  # fmt: skip
    return CellNumbers(model=model, perturbation=perturbation, numbers=numbers(clean, accuracy, n), complete=True,
                       key=f"{model}/{perturbation}", **fields)  # fmt: skip


def report(cells: Sequence[CellNumbers], **facts: object) -> Report:
    models = tuple(dict.fromkeys(each.model for each in cells))
    fields = {"suite": "synthetic", "title": "Synthetic", "data": "toys/test", "n": 1000, "compat": "none",
              "reference": models[0], "count": "all", "complete": True, "models": models, "worst_cases": (),
              "corruption_means": (), "slopes": (), "corruption_errors": (), "gap": None, "gaps_closed": (),
              "gain": None, "gains": (), "gain_summaries": (), "metrics": {}, "published_metrics": {},
              "published_sources": (), "findings": ()} | facts  # fmt: skip
    return Report(cells=tuple(cells), **fields)


def invented(labels: Sequence[str], *, seed: int = 0, runs: Mapping[str, str] | None = None, n: int = 1000,
             severities: Sequence[int] = (1, 2, 3, 4, 5), details: bool = True) -> Report:  # fmt: skip
    """Return a report on these models with attacks, smallest perturbations, corruptions and all details.

    runs: label of a run -> the label that runs share.
    """
    draw, cells = np.random.default_rng(seed), []
    for at, label in enumerate(labels):
        clean, frail = 0.78 - 0.2 * draw.random(), 1 + 0.08 * at + 0.3 * draw.random()
        found = [cell(label, "clean", clean, clean, n)]
        for title, (norm, budgets) in ATTACKS.items():
            for eps in budgets:
                size = float(eval(eps)) * (255 if norm == "linf" else 4)
                name = f"{title[:-1].replace(norm, f'{norm}, {eps}', 1)})"
                facts = {"norm": norm, "eps": eps, "title": title}
                found.append(cell(label, name, clean, clean * np.exp(-frail * size), n, **facts))
        curve = tuple((float(x), float(clean * np.exp(-3 * frail * x))) for x in np.linspace(0, 1, 101))
        nearest = cell(label, "deepfool(l2)", clean, clean * 0.01, n, norm="l2")
        found.append(replace(nearest, distances=Distances(n=n, found=n, median=0.2, interval=Interval(0.18, 0.22),
                     quartiles=(0.1, 0.4), curve=curve, area=0.21 / frail, area_until=0.5)))  # fmt: skip
        for group, names in GROUPS.items():
            for name in names:
                base = (sum(map(ord, name)) % 17 + 3) / 60
                for severity in severities:
                    drop = min(0.97, frail * base * (0.5 + 0.4 * severity) + 0.02 * draw.random())
                    found.append(cell(label, f"{name}({severity})", clean, clean * (1 - drop), n, kind="corruption",
                                      severity=severity, group=group, title=name))  # fmt: skip
        cells += [_detailed(each, draw) if details and each.kind != "corruption" else each for each in found]
    return report(cells, slopes=tuple(slopes(cells)), run_of=dict(runs or {}), n=n)


def slopes(cells: Sequence[CellNumbers]) -> list[SlopeNumbers]:
    """Return the slopes of all models but the first, over all corruptions."""
    drops: dict[str, dict[str, float]] = {}
    for each in cells:
        if each.kind == "corruption" and each.numbers.relative_drop is not None:
            drops.setdefault(each.model, {})[each.perturbation] = each.numbers.relative_drop
    if not drops:
        return []
    reference, *others = drops
    found = []
    for model in others:
        base, own = (np.array([drops[which][name] for name in drops[reference]]) for which in (reference, model))
        value = float((base * own).sum() / (base**2).sum())
        found.append(SlopeNumbers(model=model, reference=reference, group=None, severity=None, n=1000,
                     corruptions=len(base), asked=len(base), slope=value, interval=Interval(value - 0.05, value + 0.05),
                     corruption_interval=None, few_examples=False))  # fmt: skip
    return found


def _detailed(each: CellNumbers, draw: np.random.Generator) -> CellNumbers:
    accuracy, n = each.numbers.accuracy or 0.0, each.numbers.n
    bins = []
    for at in range(15):
        low, high = at / 15, (at + 1) / 15
        count = int(n * (at + 1) ** 2 / 1240)
        right = min(1.0, accuracy * (low + high) / 2 + 0.1 * draw.random())
        bins.append(CalibrationBin(low=low, high=high, n=count, confidence=(low + high) / 2 if count else None,
                    accuracy=right if count else None,
                    interval=statistics.accuracy_interval(round(right * count), count) if count else None))  # fmt: skip
    calibration = Calibration(n=n, ece=0.07 + (1 - accuracy) / 2, confidence=0.8, confidence_when_wrong=0.7,
                              bins=tuple(bins))  # fmt: skip
    values = sorted(min(1.0, accuracy * (0.4 + 0.9 * draw.random())) for _ in range(10))
    lowest = tuple(ClassAccuracy(label=(7 * at) % 10, n=n // 10, accuracy=value,
                   interval=statistics.accuracy_interval(round(value * n / 10), n // 10, 0.995))
                   for at, value in enumerate(values))  # fmt: skip
    classes = ClassNumbers(classes=10, lowest=lowest, worst=lowest[0].accuracy, worst_interval=lowest[0].interval)
    return replace(each, calibration=calibration, classes=classes)


def gaps(cells: Sequence[CellNumbers], start: str, end: str, models: Sequence[str]) -> tuple[GapClosed, ...]:
    """Return the gaps closed by these models."""
    by = {(each.model, each.perturbation): each.numbers.accuracy or 0.0 for each in cells}
    return tuple(
        GapClosed(model=model, perturbation=name, runs=1, asked=1, interval=None, printed=None,
                  closed=(by[model, name] - by[start, name]) / (by[end, name] - by[start, name]))
        for model in models
        for name in dict.fromkeys(each.perturbation for each in cells if each.kind != "clean")
    )  # fmt: skip


def with_gains(found: Report, base_of: Mapping[str, str]) -> Report:
    """Return the report with the gains of these models over their bases, and with their medians and mean."""
    by = {(each.model, each.perturbation): each.numbers.accuracy or 0.0 for each in found.cells}
    names = list(dict.fromkeys(each.perturbation for each in found.cells if each.kind == "attack"))
    gains = tuple(
        Gain(model=model, base=base, perturbation=name, runs=1, asked=1, interval=None, reason="",
             gain=statistics.gain(by[model, name], by[base, name]))
        for model, base in base_of.items() for name in names
    )  # fmt: skip
    own = {model: [each.gain for each in gains if each.model == model] for model in base_of}
    medians = [GainSummary(statistic="median", model=model, value=float(np.median(values)), gains=len(names),
                           asked=len(names)) for model, values in own.items()]  # fmt: skip
    mean = float(np.mean([each.gain for each in gains]))
    total = GainSummary(statistic="mean", model=None, value=mean, gains=len(gains), asked=len(gains))
    return replace(found, gain=dict(base_of), gains=gains, gain_summaries=(*medians, total))


def of_the_paper(
    number: int, rows: Mapping[str, Mapping[str, list]], columns: Sequence[Mapping], **facts: object
) -> Report:
    """Return a report of a table of attacks in the paper: rows of accuracies in percent by model."""
    cells = []
    for model, row in rows.items():
        clean = row["acc"][0] / 100
        for column, percent in zip(columns, row["acc"], strict=True):
            if column["attack"] == "none":
                cells.append(cell(model, "clean", clean, clean, 10_000))
                continue
            steps = f", steps={column['steps']}" if column.get("steps") else ""
            title = f"{column['attack']}({column['norm']}{steps})"
            named = title.replace(column["norm"], f"{column['norm']}, {column['eps']}", 1)
            cells.append(cell(model, named, clean, percent / 100, 10_000, norm=column["norm"], eps=str(column["eps"]),
                              title=title))  # fmt: skip
    return report(cells, title=f"Table {number}", suite=f"table{number}", n=10_000, **facts)


def table_6(rows: Mapping[str, Mapping], models: Sequence[str]) -> Report:
    """Return a report of the paper's Table 6."""
    cells = []
    for at, model in enumerate(models):
        clean = rows["clean"]["acc"][at] / 100
        for name, row in rows.items():
            if name == "clean":
                cells.append(cell(model, name, clean, clean, 50_000))
            else:
                facts = {"kind": "corruption", "severity": 1, "group": row["group"].lower()}
                cells.append(cell(model, f"imagenet-c/{name}(1)", clean, row["acc"][at] / 100, 50_000,
                                  title=f"imagenet-c/{name}", **facts))  # fmt: skip
    return report(cells, title="Table 6", suite="table6", n=50_000, slopes=tuple(slopes(cells)))
