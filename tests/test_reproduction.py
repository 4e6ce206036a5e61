"""The page of the paper's claims: every table is what its file of results gives, and the statistics are right."""

import csv
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from robharness import statistics

PAGE = Path(__file__).parents[1] / "docs/explanation/reproduction.md"
FOLDER = PAGE.with_suffix("")
ATTACKS = ["fgsm(linf, 0.05)", "pgd(l2, 0.5, steps=20, rel_step=2.5/20, keep=last)"]
COLUMNS = ["model", "perturbation", "statistic", "value", "low", "high", "n", "complete"]


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("reproduction_tables", FOLDER / "tables.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)  # as if the module were run
        spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def write(path, rows):
    """Write rows (model, perturbation, statistic, value, further columns) as `robharness report` does."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for model, perturbation, statistic, value, *more in rows:
            row = dict(zip(COLUMNS, (model, perturbation, statistic, value), strict=False))
            writer.writerow({"n": 1000, "complete": "true"} | row | dict(*more))


def runs(model, perturbation, values, statistic="accuracy"):
    return [(f"{model} seed {seed}", perturbation, statistic, value) for seed, value in enumerate(values)]


SIMCLR, SUPCON, ORACLE = [0.40, 0.43, 0.37], [0.60, 0.66, 0.57], [0.55, 0.52, 0.61]
CLEAN = [0.98, 0.96, 0.97]


@pytest.fixture
def numbers(tables, tmp_path):
    rows = []
    for model, values in (("SimCLR", SIMCLR), ("SupCon", SUPCON), ("Oracle", ORACLE)):
        rows += [*runs(model, "clean", CLEAN), *runs(model, ATTACKS[0], values)]
    rows += runs("SimCLR", ATTACKS[1], [0.5, 0.5])
    rows += [("SimCLR seed 2", ATTACKS[1], "accuracy", 0.1, {"complete": "false", "n": 7})]
    rows += [("SupCon seed 5", ATTACKS[1], "accuracy", 0.3)]  # whose clean accuracy is not complete
    rows += [("SimCLR seed 0", "worst case linf ≤ 0.05", "accuracy", 0.2)]
    rows += runs("SimCLR", "", [-3.1, -3.2, -3.3], "contrastive/uniformity")
    write(tmp_path / "x.csv", rows)
    return tables.read(tmp_path / "x.csv")


def cells(table):
    """The rows of a table as lists, its head first."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in [lines[0], *lines[2:]]]


def test_every_table_of_the_page_is_what_the_files_give(tables):
    page = PAGE.read_text()
    assert tables.filled(page) == page, "Try: python docs/explanation/reproduction/tables.py"
    assert sorted(name for _, name, _ in tables.MARKED.findall(page)) == sorted([*tables.TABLES, "verdicts"])
    assert not re.search(r"^\|", tables.MARKED.sub("", page), re.MULTILINE), "a table that no file gives"


def test_every_file_of_results_is_small_and_has_a_table(tables):
    for path in FOLDER.glob("*.csv"):
        assert path.stem in {stem for stem, _ in tables.TABLES.values()}
        assert path.stat().st_size < 100_000
        written = re.search(rf"(-o|>) docs/explanation/reproduction/{path.name}\b", PAGE.read_text())
        assert written, "the command that made it"


def test_every_section_has_a_verdict():
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    assert len(sections) == 8
    for section in sections:
        [verdict] = re.findall(r"^\*\*Verdict: (.*)", section, re.MULTILINE)
        assert verdict.startswith(("holds", "does not show", "not tried"))


def test_a_changed_number_of_a_page_is_replaced(tables, tmp_path):
    page = "# T\n\n<!-- table: digits-oracle -->\nold\n<!-- end -->\n\n## A\n\n**Verdict: holds.**\n\n"
    page += "## B\n\n**Verdict: does not\nshow.** Since ...\n\n<!-- table: verdicts -->\n<!-- end -->\n"
    assert "*No results yet: mnist5k_claims.csv.*" in tables.filled(page, tmp_path)
    rows = [row for model in ("SimCLR", "SupCon", "Oracle") for row in runs(model, "clean", CLEAN)]
    for model, values in (("SimCLR", SIMCLR), ("SupCon", SUPCON), ("Oracle", ORACLE)):
        rows += runs(model, ATTACKS[0], values)
    write(tmp_path / "mnist5k_claims.csv", rows)
    made = tables.filled(page, tmp_path)
    assert "| A | holds |\n| B | does not show |\n" in made and "| Oracle | 76 [" in made
    assert tables.filled(made, tmp_path) == made
    assert tables.filled(made.replace("| Oracle | 76 [", "| Oracle | 77 ["), tmp_path) == made


def test_accuracies_and_drops_are_means_over_complete_runs(tables, numbers):
    head, *rows = cells(tables.accuracies(numbers, metrics=["contrastive/u*"]))
    assert head == ["accuracy, %", "clean", "FGSM linf 0.05", "PGD l2 0.5", "uniformity", "runs"]
    assert rows[0] == ["SimCLR", "97.0 ± 1.0", "40.0 ± 3.0", "50.0 ± 0.0", "-3.200 ± 0.100", "3"]
    assert rows[2] == ["Oracle", "97.0 ± 1.0", "56.0 ± 4.6", "-", "-", "3"]
    assert "n = 1,000 examples" in tables.accuracies(numbers)
    _, other, row = cells(tables.drops(numbers, models=["Sup*", "SimCLR", "Absent"]))
    expected = 100 * (1 - np.array(SIMCLR) / CLEAN)
    assert row[2] == f"{expected.mean():.0f} ± {expected.std(ddof=1):.0f}"
    assert row[3] == f"{100 * np.mean([1 - 0.5 / 0.98, 1 - 0.5 / 0.96]):.0f} ± 1", "the third run is not complete"
    assert other[0] == "SupCon" and other[3:] == ["-", "3"]


def test_differences_and_gaps_have_the_intervals_of_the_core(tables, numbers):
    _, row, other = cells(tables.drop_differences(numbers, pairs=[("SimCLR", "SupCon")]))
    simclr, supcon = (1 - np.array(values) / CLEAN for values in (SIMCLR, SUPCON))
    expected = stats.ttest_ind(simclr, supcon, equal_var=False).confidence_interval()
    assert row[1] == f"{100 * (simclr - supcon).mean():.0f} [{100 * expected.low:.0f}, {100 * expected.high:.0f}]"
    assert other == ["PGD l2 0.5", "-"]
    head, row = cells(tables.gaps_closed(numbers))
    closed = statistics.gap_closed_interval(ORACLE, SIMCLR, SUPCON, paired=False)
    assert head[0] == "gap closed from SimCLR to SupCon, %"
    assert tables.with_interval(-0.001, statistics.Interval(-0.5, 0.5), 1) == "0.0 [-0.5, 0.5]"
    gap = (np.mean(ORACLE) - np.mean(SIMCLR)) / (np.mean(SUPCON) - np.mean(SIMCLR))
    assert row == ["Oracle", f"{100 * gap:.0f} [{100 * closed.low:.0f}, {100 * closed.high:.0f}]", "-"]
    assert "intervals over runs" in tables.gaps_closed(numbers)


def test_gaps_of_single_runs_are_those_of_the_report(tables, tmp_path):
    rows = [(model, ATTACKS[0], "accuracy", value) for model, value in (("SimCLR", 0.4), ("SupCon", 0.6), ("P", 0.5))]
    rows += [("P", ATTACKS[0], "gap_closed", 0.5, {"low": 0.1, "high": 0.95, "n": 1})]
    rows += [("Q", ATTACKS[0], "accuracy", 0.7), ("Q", ATTACKS[0], "gap_closed", 1.5, {"low": "-inf", "high": "inf"})]
    rows += [("R", ATTACKS[0], "accuracy", 0.45)]
    write(tmp_path / "x.csv", rows)
    made = tables.gaps_closed(tables.read(tmp_path / "x.csv"))
    assert [row[1] for row in cells(made)[1:]] == ["50 [10, 95]", "150 [?]", "25"]
    assert "intervals over examples" in made


def test_rank_correlations_are_scipys(tables):
    points = np.random.default_rng(1).integers(5, size=(40, 12, 2)).astype(float)
    expected = [stats.spearmanr(each[:, 0], each[:, 1]).statistic for each in points]
    np.testing.assert_allclose(tables.rank_correlation(points), expected)
    assert np.isnan(tables.rank_correlation(np.ones((5, 2))))


def test_correlations_are_over_models(tables, tmp_path):
    rows = []
    for index in range(6):
        rows += [*runs(f"M{index}", "clean", [0.9, 0.8]), *runs(f"M{index}", ATTACKS[0], [0.1 * index, 0.1 * index])]
        rows += runs(f"M{index}", "", [index, index + 1.0], "contrastive/margin")
    write(tmp_path / "x.csv", rows)
    made = tables.read(tmp_path / "x.csv")
    head, row = cells(tables.correlations(made))
    assert head[1] == "FGSM linf 0.05"
    assert row == ["margin", "-1.00 [-1.00, -1.00]"], "a larger margin has a smaller drop in all six"
    assert "means of 4 models" in tables.correlations(made, without=["M0", "M5"])
    _, row = cells(tables.correlations(made, without=["M0", "M1", "M2"]))
    assert row == ["margin", "-"], "three models are too few"
