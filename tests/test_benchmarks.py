"""Ratios of benchmarks: read from a real file of pytest-benchmark, with their spread, and their verdicts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robharness import UserError, statistics
from robharness.comparison.ratios import Ratio
from robharness.gate.benchmarks import read_ratios
from robharness.gate.ratios import check_ratios
from robharness.statistics import Interval

BENCHMARKS = """
import pytest

pytestmark = pytest.mark.benchmark(group="sums", max_time=0.02, min_rounds=9)

def test_long(benchmark):
    benchmark(sum, range(4000))

def test_short(benchmark):
    benchmark.extra_info["reference"] = True
    benchmark(sum, range(1000))

def test_recorded(benchmark):
    benchmark.extra_info.update({
        "ours / bare": {"ratio": 1.04, "low": 1.02, "high": 1.07},
        "theirs / ours": {"ratio": 3.0, "better": "higher"},
        "bytes": 5, "note": {"of": "another kind"},
    })
    benchmark.pedantic(lambda: None, rounds=1)
"""
GATED = str(Path(__file__).with_name("gated.py"))
LONG = "test_sums.py::test_long / test_short, "
OURS, THEIRS = "test_sums.py::test_recorded: ours / bare", "test_sums.py::test_recorded: theirs / ours"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The content of a file that `pytest --benchmark-json` wrote."""
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "test_sums.py").write_text(BENCHMARKS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", "-c", "/dev/null"]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # no worker of xdist
    subprocess.run([*command, "--benchmark-json=b.json"], cwd=folder, env=alone, check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "b.json").read_text())


@pytest.fixture
def read(tmp_path):
    """Read a record of pytest-benchmark from a file."""

    def call(record):
        path = tmp_path / "b.json"
        path.write_bytes(record if isinstance(record, bytes) else json.dumps(record).encode())
        return read_ratios(path)

    return call


def copied(record, name, **changes):
    """The record with other values in the benchmark of this name: of the statistics, or of the benchmark itself."""
    record = json.loads(json.dumps(record))
    [benchmark] = [each for each in record["benchmarks"] if each["name"] == name]
    for key, value in changes.items():
        (benchmark["stats"] if key in benchmark["stats"] else benchmark)[key] = value
    return record


def slower(record, name, factor):
    """The record with longer timings of one benchmark."""
    [stats] = [each["stats"] for each in record["benchmarks"] if each["name"] == name]
    keys = ("min", "max", "median", "q1", "q3")
    return copied(record, name, **{key: factor * stats[key] for key in keys},
                  data=[factor * seconds for seconds in stats["data"]])  # fmt: skip


def verdicts(before, after, *tolerance):
    return {check.name: check.verdict for check in check_ratios(before, after, *tolerance)}


def test_the_ratios_of_a_real_run(written, read):
    found = read(written)
    assert list(found) == [OURS, THEIRS, f"{LONG}median", f"{LONG}minimum"]
    assert found[OURS] == Ratio(ratio=1.04, spread=Interval(1.02, 1.07))
    assert found[THEIRS] == Ratio(ratio=3.0, spread=Interval(3.0, 3.0), better="higher")
    stats = {each["name"]: each["stats"] for each in written["benchmarks"]}
    long, short = stats["test_long"], stats["test_short"]
    assert found[f"{LONG}median"].ratio == pytest.approx(long["median"] / short["median"])
    assert found[f"{LONG}minimum"].ratio == pytest.approx(long["min"] / short["min"])
    for name in ("median", "minimum"):
        assert 1 < found[f"{LONG}{name}"].spread.low <= found[f"{LONG}{name}"].ratio
        assert long["min"] / short["max"] <= found[f"{LONG}{name}"].spread.low
        assert found[f"{LONG}{name}"].spread.high <= long["max"] / short["min"]


def test_a_file_without_the_timings_of_rounds(written, read):
    """A file of --benchmark-save has no timings of rounds: the spread comes from the quartiles."""
    record = json.loads(json.dumps(written))
    for benchmark in record["benchmarks"]:
        del benchmark["stats"]["data"]
    found, whole = read(record), read(written)
    assert list(found) == list(whole)
    for name in found:
        assert found[name].ratio == pytest.approx(whole[name].ratio)
        assert found[name].spread.low <= whole[name].ratio <= found[name].spread.high


def test_the_first_benchmark_is_the_reference_unless_another_is_marked(written, read):
    record = json.loads(json.dumps(written))
    for benchmark in record["benchmarks"]:
        benchmark["extra_info"].pop("reference", None)
    assert "test_sums.py::test_short / test_long, median" in read(record)


def test_a_slower_benchmark_regresses_and_a_faster_one_improves(written, read):
    now = read(written)
    assert set(verdicts(now, now).values()) == {"passed"}
    assert set(verdicts(now, read(slower(written, "test_short", 1.0))).values()) == {"passed"}
    much = read(slower(written, "test_long", 10.0))
    checks = {check.name: check for check in check_ratios(now, much)}
    for name in (f"{LONG}median", f"{LONG}minimum"):
        assert checks[name].verdict == "regressed"
        assert checks[name].reason.startswith("it rose from ")
        assert (checks[name].before, checks[name].after) == (now[name].ratio, much[name].ratio)
        assert verdicts(much, now)[name] == "improved"
    assert checks[OURS].verdict == "passed"
    everywhere = read(slower(slower(written, "test_long", 10.0), "test_short", 10.0))
    assert set(verdicts(now, everywhere).values()) == {"passed"}, "another machine changes no ratio"


@pytest.mark.parametrize(
    ("before", "after", "better", "expected"),
    [
        ((1.0, 1.0, 1.0), (1.1, 1.1, 1.1), "lower", "passed"),
        ((1.0, 1.0, 1.0), (1.11, 1.11, 1.11), "lower", "regressed"),
        ((0.9, 1.0, 1.2), (1.25, 1.31, 1.4), "lower", "passed"),  # the spreads are less than a tenth apart
        ((0.9, 1.0, 1.2), (1.33, 1.4, 1.5), "lower", "regressed"),
        ((1.33, 1.4, 1.5), (0.9, 1.0, 1.2), "lower", "improved"),
        ((1.33, 1.4, 1.5), (0.9, 1.0, 1.2), "higher", "regressed"),
        ((0.9, 1.0, 1.2), (1.33, 1.4, 1.5), "higher", "improved"),
        ((1.2, 1.3, 1.4), (1.0, 1.1, 1.15), "higher", "passed"),
    ],
)
def test_a_verdict_needs_two_spreads_that_are_apart_by_more_than_the_tolerance(before, after, better, expected):
    one, other = (
        Ratio(ratio=middle, spread=Interval(low, high), better=better) for low, middle, high in (before, after)
    )
    assert verdicts({"a": one}, {"a": other}) == {"a": expected}
    assert verdicts({"a": one}, {"a": other}, 1000) == {"a": "passed"}


def test_a_ratio_that_one_side_lacks_and_one_that_is_read_in_the_other_direction():
    one, other = Ratio(ratio=1.0, spread=Interval(1.0, 1.0)), Ratio(ratio=1.0, spread=Interval(1, 1), better="higher")
    assert verdicts({"a": one, "b": one, "c": one}, {"b": one, "c": other, "d": one}) == {
        "a": "missing", "b": "passed", "c": "incompatible", "d": "new",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda record: b"\x00\xff", "it is not UTF-8"),
        (lambda record: json.dumps(record).encode()[:-400], "it is not JSON: "),
        (lambda record: b"[" * 100_000, "its JSON is nested too deeply"),
        (lambda record: [record], "it is no JSON object"),
        (lambda record: {"machine_info": {}}, "it is no file of pytest-benchmark, since it has no `benchmarks`"),
        (lambda record: {"benchmarks": 5}, "benchmarks: Input should be a valid list"),
        (lambda record: copied(record, "test_long", median="fast"), "benchmarks.0.stats.median: Input should be"),
        (lambda record: copied(record, "test_long", min=float("nan")), "benchmarks.0.stats.min: Input should be"),
        (lambda record: copied(record, "test_long", q1=9.0, data=None), "contradict each other"),
        (lambda record: copied(record, "test_long", extra_info={"a\x1b": {"ratio": 2, "low": 3}}),
         "the ratio 'a\\x1b' of test_long: it is not positive, or not between `low` and `high`"),
        (lambda record: copied(record, "test_long", extra_info={"a": {"ratio": 2, "hihg": 3}}), "hihg: Unexpected"),
        (lambda record: copied(record, "test_long", extra_info={"a": {"ratio": -1}}), "ratio: Input should be greater"),
        (lambda record: {"benchmarks": 2 * record["benchmarks"]}, "it has two ratios of the name"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_is_one_sentence(written, read, change, expected):
    with pytest.raises(UserError) as caught:
        read(change(written))
    sentence = str(caught.value)
    assert expected in sentence
    assert "b.json cannot be read: " in sentence
    assert sentence.endswith(". To write it: pytest --benchmark-only --benchmark-json=benchmarks.json")
    assert sentence.isprintable()


def test_a_file_without_ratios_and_one_that_is_absent(written, read, tmp_path):
    alone = {"benchmarks": [each for each in written["benchmarks"] if each["name"] == "test_long"]}
    zero = copied(written, "test_short", min=0.0)
    zero = copied(zero, "test_recorded", extra_info={})
    for record in ({"benchmarks": []}, alone, zero):
        with pytest.raises(UserError, match="have no ratio: none is recorded"):
            read(record)
    with pytest.raises(UserError, match=r"cannot be read: No such file or directory\. Try: ls -ld"):
        read_ratios(tmp_path / "none.json")
    with pytest.raises(UserError, match="it is a folder, not a file"):
        read_ratios(tmp_path)


def test_spreads_of_few_and_of_many_rounds():
    """Closed forms: the range of few values, and the fourth smallest of many."""
    few = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    assert statistics.median_ratio(few, np.ones(5)) == (3.0, (1.0, 5.0))
    assert statistics.median_ratio(np.ones(5), few) == (1 / 3, (1 / 5, 1.0))
    assert statistics.minimum_ratio(few, np.ones(1)) == (1.0, (1.0, 3.0))  # (1 - 3/5)^5 is 1 %, (1 - 2/5)^5 is 8 %
    many = np.arange(1.0, 1001.0)
    assert statistics.minimum_ratio(many, np.ones(3)).spread == (1.0, 4.0)
    ratio, spread = statistics.median_ratio(many, np.ones(3))
    assert ratio == 500.5
    assert spread == pytest.approx((500.5 - 2.24 * 1000**0.5 / 2, 500.5 + 2.24 * 1000**0.5 / 2), abs=2)
    for ratio_of in (statistics.median_ratio, statistics.minimum_ratio):
        with pytest.raises(statistics.EmptySample):
            ratio_of(np.ones(0), few)


@pytest.mark.parametrize(("n", "least"), [(5, 0.95), (20, 0.95), (200, 0.95)])
def test_the_spread_of_a_ratio_of_medians_covers_the_true_ratio(n, least):
    """Skewed timings, as those of a busy machine."""
    draws = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        above, below = 2 * draws.lognormal(sigma=0.5, size=n), draws.lognormal(sigma=0.5, size=n)
        low, high = statistics.median_ratio(above, below).spread
        covered += low <= 2 <= high
    assert covered / 400 >= least


def test_the_minimum_of_resamples_lies_in_its_spread():
    """The bootstrap that the rank is a closed form of, drawn."""
    draws = np.random.default_rng(0)
    for n in (5, 20, 300):
        values = draws.lognormal(size=n)
        resampled = np.min(draws.choice(values, (20_000, n)), axis=1)
        low, high = statistics.minimum_ratio(values, np.ones(1)).spread
        assert low == values.min()
        assert np.mean(resampled > high) <= 0.03
        assert np.mean(resampled >= high) > 0.025, "no smaller bound would do"


# --- with the cells of a suite -------------------------------------------------------------------------------------


@pytest.fixture
def shell_plugins():
    return [GATED]


@pytest.fixture
def gate(tmp_path, shell):
    """A folder with a suite and its weight; a function that checks it, with the ratios of a file by their values."""
    (tmp_path / "s.yaml").write_text(json.dumps({
        "robharness": 1, "name": "halves", "data": {"name": "gated/halves", "split": "test"},
        "models": [{"model": "gated/net", "label": "Net", "weights": "./net.json"}],
    }))  # fmt: skip
    (tmp_path / "net.json").write_text("0")

    def check(*words, **ratios):
        recorded = {key: {"ratio": value, "low": value / 1.01, "high": value * 1.01} for key, value in ratios.items()}
        stats = dict.fromkeys(("min", "max", "median", "q1", "q3"), 0.0) | {"rounds": 1}
        benchmarks = [{"fullname": "t.py::t", "extra_info": recorded, "stats": stats}]
        (tmp_path / "b.json").write_text(json.dumps({"benchmarks": benchmarks}))
        return shell("check", "s.yaml", "--limit", 10, *(["--benchmark", "b.json"] if ratios else []), *words)

    return check


def test_check_gates_ratios_beside_the_cells(gate, tmp_path):
    written = gate("--update", one=1.0, two=3.0)
    assert written.returncode == 0, written.stderr
    assert "2 ratios of benchmarks changed" in written.stdout
    baseline = tmp_path / "s.baseline.json"
    content = baseline.read_bytes()
    assert json.loads(content)["benchmarks"]["t.py::t: two"]["ratio"] == 3.0
    same = gate(one=1.05, two=3.0)
    assert same.returncode == 0, same.stdout
    slower = gate(one=1.3, two=3.0)
    assert slower.returncode == 1
    assert "1 of 2 ratios of benchmarks did not pass:" in slower.stdout
    assert (
        "t.py::t: one regressed: it rose from 1 (spread 0.9901 to 1.01) to 1.3 (spread 1.287 to 1.313)" in slower.stdout
    )
    assert slower.stdout.rstrip().endswith("--baseline s.baseline.json --update --benchmark b.json")
    assert gate("--benchmark-tolerance", 40, one=1.3, two=3.0).returncode == 0
    assert gate(one=1.0).returncode == 3
    assert "t.py::t: two is missing: not in the file of benchmarks" in gate(one=1.0).stdout
    faster = gate(one=0.5, two=3.0, three=1.0)
    assert faster.returncode == 0
    assert "1 of 3 ratios of benchmarks improved:" in faster.stdout
    assert gate().returncode == 0, "benchmarks that are not given are not compared"
    gate("--update")
    assert baseline.read_bytes() == content, "an update without benchmarks keeps those of the file"
    assert gate("--update", one=1.3, two=3.0).returncode == 0
    assert gate(one=1.3, two=3.0).returncode == 0
    data = json.loads(gate("--json", one=1.9, two=3.0).stdout)
    assert [(each["verdict"], each["after"]) for each in data["benchmarks"]] == [("regressed", 1.9), ("passed", 3.0)]
    assert data["exit_code"] == 1


def test_a_baseline_whose_ratio_is_outside_its_spread_and_one_that_is_no_file(gate, tmp_path):
    gate("--update", one=1.0)
    baseline = tmp_path / "s.baseline.json"
    baseline.write_text(baseline.read_text().replace('"ratio": 1.0', '"ratio": 2.0'))
    damaged = gate(one=1.0)
    assert damaged.returncode == 4
    assert "the ratio 't.py::t: one': it is not positive, or not between `low` and `high`" in damaged.stderr
    (tmp_path / "b.json").write_text("[]")
    for words, expected in (
        (("--benchmark", "none.json"), "the benchmarks none.json cannot be read: No such file or directory"),
        (("--benchmark", "s.yaml"), "it is no file of pytest-benchmark"),
        (("--benchmark-tolerance", "-1"), "-1"),
    ):
        wrong = gate(*words)
        assert wrong.returncode == 2
        assert expected in wrong.stderr
    (tmp_path / "other").mkdir()
    folder = gate("--baseline", "other", one=1.0)
    assert folder.returncode in (2, 4)
