"""`python -m robharness.report` shows a demo of the layout, with the first columns of the paper's Table 1."""

from rich.console import Console

from robharness.findings import finding
from robharness.report.records import CellNumbers, Numbers, Report
from robharness.report.renderers.terminal import show
from robharness.statistics import accuracy_interval

N = 50_000
TABLE_1 = {
    "Supervised": {"clean": 76.71, "fgsm(linf, 0.25/255)": 38.20, "fgsm(linf, 0.5/255)": 22.56},
    "SwAV": {"clean": 75.34, "fgsm(linf, 0.25/255)": 23.35, "fgsm(linf, 0.5/255)": 11.47},
    "SimCLR": {"clean": 68.95, "fgsm(linf, 0.25/255)": 24.33, "fgsm(linf, 0.5/255)": 14.43},
}


def _cell(model: str, name: str, percent: float, clean: float) -> CellNumbers:
    drop = None if name == "clean" else (clean - percent) / clean
    return CellNumbers(
        model=model,
        data="ImageNet val",
        kind="clean" if name == "clean" else "attack",
        perturbation=name,
        norm=None if name == "clean" else "linf",
        eps=None if name == "clean" else name.partition(", ")[2].removesuffix(")"),
        severity=None,
        group=None,
        numbers=Numbers(n=N, accuracy=percent / 100, interval=accuracy_interval(round(percent * N / 100), N),
                        relative_drop=drop),
        complete=True,
        key="",
        title="clean" if name == "clean" else "fgsm(linf)",
    )  # fmt: skip


if __name__ == "__main__":
    cells = [_cell(m, name, percent, row["clean"]) for m, row in TABLE_1.items() for name, percent in row.items()]
    demo = Report(
        suite="demo",
        title="Demo: the numbers of the paper's Table 1, not measured",
        data="ImageNet val",
        n=N,
        compat="none",
        reference="Supervised",
        count="all",
        complete=True,
        models=tuple(TABLE_1),
        cells=tuple(cells),
        worst_cases=(),
        corruption_means=(),
        slopes=(),
        corruption_errors=(),
        gap=None,
        gaps_closed=(),
        gain=None,
        gains=(),
        gain_summaries=(),
        metrics={},
        published_metrics={},
        published_sources=("paper, Table 1",),
        findings=(finding("few-examples", "demo of the layout"),),
        answer=("SwAV loses 69 % of its accuracy under fgsm(linf, 0.25/255), Supervised 50 %.",),
    )
    show(demo, Console())
