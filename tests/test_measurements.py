"""One cell of results by the words of a person, with numbers that show their interval and n."""

import copy
import dataclasses
import json
import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from robharness import Budget, UserError, api, statistics
from robharness.report.measurements import Measured
from robharness.store.failures import Failure

TOYS = str(Path(__file__).parent / "toys.py")
NET, OTHER = {"model": "toys/net", "label": "Net"}, {"model": "toys/net", "label": "Other"}
SUITE = {
    "robharness": 1,
    "name": "toys",
    "canvas": 8,
    "data": {"name": "toys/pixels", "split": "test"},
    "models": [NET],
    "attacks": [{"attack": "toys/climb", "eps": ["1/8", "1/4"]}, {"attack": "toys/sign", "eps": ["1/8"]}],
    "corruptions": [{"corruption": "toys/speckle", "severity": [1, 3]}],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("measurements")


@pytest.fixture(scope="module")
def results(store):
    """A model under three attacks and two corruptions."""
    return api.run(SUITE, store=store / "one", plugins=[TOYS])


@pytest.fixture(scope="module")
def two(store, results):
    """Results of two labels of one model."""
    return api.load(SUITE | {"models": [NET, OTHER]}, store=store / "one", plugins=[TOYS])


@pytest.mark.parametrize(
    ("words", "filters", "expected"),
    [
        ("clean", {}, "clean"),
        ("climb(linf, 1/8)", {}, "climb(linf, 1/8)"),
        ("climb(linf)", {"eps": "1/4"}, "climb(linf, 1/4)"),
        ("climb", {"eps": 0.125}, "climb(linf, 1/8)"),
        ("climb", {"eps": Budget("2/8"), "norm": "linf", "model": "Net"}, "climb(linf, 1/4)"),
        ("toys/climb", {"eps": Fraction(1, 8)}, "climb(linf, 1/8)"),
        ("sign", {}, "sign(linf, 1/8)"),
        ("speckle", {"severity": 3}, "speckle(3)"),
        ("toys/speckle", {"severity": 1}, "speckle(1)"),
    ],
)
def test_words_name_one_cell_with_the_numbers_of_the_report(results, words, filters, expected):
    found = results.cell(words, **filters)
    [cell] = [cell for cell in results.report().cells if cell.perturbation == expected]
    assert found.name == f"Net · toys/pixels/test · {expected}"
    assert (found.key, found.n, found.complete) == (cell.key, 40, True)
    assert type(found.accuracy) is Measured
    assert found.accuracy == cell.numbers.accuracy
    right = round(40 * found.accuracy)
    assert found.accuracy.interval == found.interval == statistics.accuracy_interval(right, 40)
    assert found.accuracy.n == 40
    if expected != "clean":
        assert found.robust_accuracy == cell.numbers.robust_accuracy
        assert found.relative_drop == cell.numbers.relative_drop
        assert found.relative_drop.interval == cell.numbers.relative_drop_interval


@pytest.mark.parametrize(
    ("words", "filters", "expected"),
    [
        ("clim", {}, "no cell 'clim'; did you mean 'climb'? There are clean, climb(linf, 1/8), climb(linf, 1/4), "
         "sign(linf, 1/8), speckle(1) and 1 more. Try: cell(\"climb(linf, 1/8)\", model=\"Net\")"),
        ("climb", {}, "'climb' names 2 cells: Net · climb(linf, 1/8), Net · climb(linf, 1/4). "
         "Try: cell(\"climb(linf, 1/8)\", model=\"Net\")"),
        ("climb", {"eps": "8/255"}, "no cell 'climb' with eps 8/255; there are climb(linf, 1/8), climb(linf, 1/4). "
         "Try: cell(\"climb(linf, 1/8)\", model=\"Net\")"),
        ("climb", {"eps": "much"}, "eps: 'much' is not a number such as 0.5 or 8/255. Try: eps=\"1/255\""),
        ("climb", {"norm": "l2"}, "no cell 'climb' with norm l2; there are"),
        ("speckle", {"severity": 2}, "no cell 'speckle' with severity 2; there are speckle(1), speckle(3)."),
        ("sign", {"model": "Nett"}, "no model 'Nett'; did you mean 'Net'? There are Net. Try: results.labels"),
        (5, {}, "a cell is named by a text, not by a value of the type int. Try: cell(\"clean\")"),
        ("si\x1b[2Jgn", {}, "no cell 'si\\x1b[2Jgn'"),
    ],
)  # fmt: skip
def test_no_cell_or_several_are_an_error_that_lists_cells(results, words, filters, expected):
    with pytest.raises(UserError) as caught:
        results.cell(words, **filters)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_the_call_that_an_error_suggests_names_one_cell(two):
    with pytest.raises(UserError, match=r"'sign' names 2 cells: Net · sign\(linf, 1/8\), Other · sign") as caught:
        two.cell("sign")
    call = str(caught.value).partition("Try: ")[2]
    assert eval(f"two.{call}").name == "Net · toys/pixels/test · sign(linf, 1/8)"
    assert two.cell("sign", model="Other").accuracy == two.cell("sign", model="Net").accuracy


def test_missing_outcomes_are_an_error(store):
    empty = api.load(SUITE, store=store / "none", plugins=[TOYS])
    with pytest.raises(UserError, match=r"speckle\(3\) is incomplete: 0 of 40 examples have outcomes\. Try: "):
        empty.cell("speckle", severity=3, partial=True)
    half = api.run(SUITE, store=store / "half", plugins=[TOYS], shard=(1, 2))
    with pytest.raises(UserError, match=r"20 of 40 examples have outcomes\. .*, or cell\(\.\.\., partial=True\)"):
        half.cell("sign")
    assert (half.cell("sign", partial=True).n, half.cell("sign", partial=True).complete) == (20, False)
    assert half.cell("sign", partial=True).robust_accuracy.n == 20


def test_numbers_that_need_the_clean_cell_are_refused_without_it(store, results):
    failure = Failure(start=0, stop=40, blame="toys", error="none can be read")
    cells = (results.clean("Net").discarded(failure), *results.cells[1:])
    lacking = dataclasses.replace(results, cells=cells)
    found = lacking.cell("sign")
    assert found.accuracy == results.cell("sign").accuracy
    for number in ("robust_accuracy", "relative_drop"):
        with pytest.raises(UserError, match=r"clean is incomplete: 0 of 40 examples have outcomes; none can be read"):
            getattr(found, number)


def test_failures_are_named(store, results):
    failing = SUITE | {"corruptions": [{"corruption": "toys/bad", "severity": [1]}]}
    found = api.run(failing, store=store / "one", plugins=[TOYS])
    with pytest.raises(UserError, match=r"bad\(1\) is incomplete: 0 of 40 examples have outcomes; .*uint8"):
        found.cell("bad")


def test_undefined_numbers_are_an_error(store, results):
    with pytest.raises(UserError, match=r"clean: there is no robust accuracy of a clean cell\. Try: \.accuracy"):
        _ = results.cell("clean").robust_accuracy
    robust = api.run(SUITE | {"count": "robust"}, store=store / "robust", plugins=[TOYS])
    found = robust.cell("sign")
    assert 0 <= found.robust_accuracy <= 1
    with pytest.raises(UserError, match=r"not all examples were attacked.* Try: \.robust_accuracy"):
        _ = found.accuracy
    assert repr(found) == f"<Net · toys/pixels/test · sign(linf, 1/8): robust {found.robust_accuracy:.6g}, n = 40>"
    assert repr(results.cell("clean")) == "<Net · toys/pixels/test · clean: accuracy 0.775, n = 40>"


def test_a_measured_number_is_a_float_that_shows_its_interval():
    interval = statistics.accuracy_interval(76, 200)
    number = Measured(0.38, interval, 200)
    assert repr(number) == str(number) == "0.38 (95 % interval 0.3132 to 0.4515, n = 200)"
    assert repr(Measured(2 / 3, None, 3)) == "0.666667 (n = 3)"
    assert f"{number:.1%}" == "38.0%"
    assert number == 0.38 and number < 0.4 and number >= np.float64(0.38) and hash(number) == hash(0.38)
    for plain in (number + 0, 1 - number, number * 2, -number, round(number, 1), abs(number), float(number)):
        assert type(plain) is float
    assert json.loads(json.dumps({"accuracy": number})) == {"accuracy": 0.38}
    for same in (pickle.loads(pickle.dumps(number)), copy.copy(number), copy.deepcopy(number)):
        assert (same, same.interval, same.n) == (0.38, interval, 200)
    assert isinstance(number.interval, statistics.Interval)
