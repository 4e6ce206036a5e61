"""The result in words: true sentences, their numbers computed again from the outcomes."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robharness import api
from robharness.report import build
from robharness.statistics import drop_difference_interval

ATTACKS = [{"attack": "toys/sign", "eps": ["1/8", "1/4"]}, {"attack": "toys/climb", "eps": "1/8"}]
NAME = "sign(linf, 1/8)"


def models(count):
    return [{"model": "toys/net", "label": f"M{number}", "reference": number == 1} for number in range(count)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The results of seven models."""
    source = {"robharness": 1, "name": "toys", "data": {"name": "toys/pixels", "split": "test"}, "models": models(7),
              "attacks": ATTACKS}  # fmt: skip
    return api.run(source, store=tmp_path_factory.mktemp("store"), plugins=[str(Path(__file__).with_name("toys.py"))])


def having(results, outcomes, count=7):
    """The results of the first models, with other outcomes in some cells: (label, name) -> (n,) bool."""
    labels = results.labels[:count]
    cells = []
    for cell in results.cells:
        if cell.cell.model.label in labels:
            right = outcomes.get((cell.cell.model.label, cell.cell.short_name))
            columns = dict(cell.columns) if right is None else {**cell.columns, "correct": np.asarray(right, bool)}
            cells.append(replace(cell, columns=columns))
    return replace(results, cells=tuple(cells))


def first(right, n=40):
    """The first examples are right."""
    return np.arange(n) < right


def sentences(results):
    return build(results).answer


def test_two_models_are_compared_on_the_same_examples(measured):
    results = having(measured, {("M0", "clean"): first(36), ("M0", NAME): first(9), ("M1", "clean"): first(40),
                                ("M1", NAME): first(30)}, 2)  # fmt: skip
    low, high = drop_difference_interval((first(36), first(40)), (first(9), first(30)))
    assert sentences(results) == (
        f"M0 loses 75 % of its accuracy under {NAME}, M1 25 %; the difference of the drops is 50.0 points, 95 % "
        f"interval {100 * low:.1f} to {100 * high:.1f}, paired on 40 images.",
    )


@pytest.mark.parametrize(("kept", "is_clear"), [(20, False), (22, False), (36, True), (2, True)])
def test_no_difference_is_claimed_if_the_interval_includes_0(measured, kept, is_clear):
    results = having(measured, {("M0", "clean"): first(40), ("M0", NAME): first(kept), ("M1", "clean"): first(40),
                                ("M1", NAME): first(20)[::-1]}, 2)  # fmt: skip
    (sentence,) = sentences(results)
    low = float(re.search(r"95 % interval (-?[\d.]+) to", sentence)[1])
    assert (low > 0) == is_clear
    assert sentence.endswith(": no difference shows at this n.") != is_clear


def test_the_attack_is_chosen_by_the_suite_and_not_by_its_results(measured, suite, run):
    """The first attack at its first budget, although others differ more."""
    outcomes = {("M0", "climb(linf, 1/8)"): first(0), ("M1", "climb(linf, 1/8)"): first(40)}
    assert all(NAME in sentence for sentence in sentences(having(measured, outcomes, 2)))
    turned = run(suite(models=models(2), attacks=ATTACKS[::-1]))
    assert all("climb(linf, 1/8)" in sentence for sentence in sentences(turned))


def test_models_are_compared_with_the_reference_or_with_the_first(measured, suite, run):
    assert [sentence.split()[0] for sentence in sentences(having(measured, {}, 3))] == ["M0", "M2"]
    alike = [{key: value for key, value in model.items() if key != "reference"} for model in models(3)]
    assert [sentence.split()[0] for sentence in sentences(run(suite(models=alike)))] == ["M1", "M2"]


def test_of_many_models_the_extremes_are_named_and_the_others_counted(measured):
    """With intervals that hold for all comparisons: M2's alone excludes 0, but not at their level."""
    kept = {"M0": 4, "M1": 20, "M2": 8, "M3": 20, "M4": 38, "M5": 20, "M6": 20}
    outcomes = {("M2", NAME): first(kept["M2"])}
    for label, right in kept.items():
        outcomes |= {(label, "clean"): first(40), (label, NAME): first(right)[:: -1 if label == "M2" else 1]}
    extremes, counted = sentences(having(measured, outcomes))
    assert extremes.startswith(
        f"Under {NAME}, the lowest and the highest of 7 models: M4 loses 5 % of its accuracy (95"
    )
    assert "; M0 loses 90 % of its accuracy (95 % interval " in extremes and extremes.endswith(", on 40 images.")
    right = first(40)
    alone = drop_difference_interval((right, right), (outcomes["M2", NAME], first(20)))
    joint = drop_difference_interval((right, right), (outcomes["M2", NAME], first(20)), level=1 - 0.05 / 6)
    assert alone.low > 0 > joint.low
    counts = "the drop is larger for 1 of 6 models and smaller for 1; for 4 no difference shows at this n"
    assert counted.startswith(f"Compared with M1 on the same images, {counts}")


def test_one_model_has_its_own_interval(measured):
    report = build(having(measured, {("M0", "clean"): first(40), ("M0", NAME): first(30)}, 1))
    low, high = next(c for c in report.cells if c.perturbation == NAME).numbers.relative_drop_interval
    interval = f"95 % interval {100 * low:.0f} to {100 * high:.0f}"
    assert report.answer == (f"Under {NAME}, M0 loses 25 % of its accuracy ({interval}), on 40 images.",)


def test_an_attack_that_helps_is_a_gain(measured):
    results = having(measured, {("M0", "clean"): first(20), ("M0", NAME): first(25), ("M1", "clean"): first(40),
                                ("M1", NAME): first(20)}, 2)  # fmt: skip
    (sentence,) = sentences(results)
    start = f"M0 gains 25 % of its accuracy under {NAME}, M1 loses 50 %; the difference of the drops is 75.0 points"
    assert sentence.startswith(start)


def test_a_model_without_a_right_clean_example_has_nothing_to_lose(measured):
    lines = sentences(having(measured, {("M0", "clean"): first(0), ("M0", NAME): first(3)}, 2))
    assert lines[0].startswith(f"Under {NAME}, M1 loses ") and len(lines) == 2
    assert lines[1] == "M0 has no clean image right, so there is no accuracy to lose."


def test_a_robust_count_takes_the_examples_that_are_right_clean_and_attacked(suite, run):
    results = run(suite(models=models(2), count="robust"))
    outcomes = {("M0", "clean"): first(30), ("M0", "climb(linf, 1/8)"): first(15) | ~first(35),
                ("M1", "clean"): first(40), ("M1", "climb(linf, 1/8)"): first(10)}  # fmt: skip
    (sentence,) = sentences(having(results, outcomes, 2))
    assert sentence.startswith("M0 loses 50 % of its accuracy under climb(linf, 1/8), M1 75 %; the difference of the "
                               "drops is 25.0 points")  # fmt: skip


def test_incomplete_cells_are_compared_on_common_examples_and_counted(measured):
    results = having(measured, {}, 2)
    cells = [
        replace(cell, positions=cell.positions[:25], columns={k: v[:25] for k, v in cell.columns.items()})
        if (cell.cell.model.label, cell.cell.short_name) == ("M0", NAME)
        else cell
        for cell in results.cells
    ]
    lines = sentences(replace(results, cells=tuple(cells)))
    assert "paired on 25 of 40 images" in lines[0]
    assert lines[-1] == "1 of 8 cells lacks examples, so these numbers may change."


def test_clean_accuracies_are_the_answer_without_perturbations(suite, run):
    results = run(suite(models=models(2), attacks=None))
    (sentence,) = sentences(results)
    accuracy = 100 * results.clean("M0").accuracy
    assert sentence.startswith(f"M0 is right on {accuracy:.1f} % of the clean images (95 % interval ")
    assert sentence.endswith(", on 40 images.") and "; M1 is right on " in sentence


def test_corruptions_have_slopes_or_mean_accuracies(suite, run):
    corruptions = [{"corruption": "toys/speckle", "severity": [1, 2, 4]}]
    source = suite(models=models(2), attacks=None, corruptions=corruptions, canvas=8)
    (sentence,) = sentences(run(source))
    assert sentence.startswith(
        "Over 3 corruptions, the relative drops of M0 are 1.000 times those of M1 (95 % interval "
    )
    assert sentence.endswith("no difference shows at this n), on 40 images.")
    alone = [{"model": "toys/net", "label": "M0"}]
    report = build(run(source | {"models": alone}))
    mean = next(each for each in report.corruption_means if each.group is None and each.severity is None)
    low, high = mean.interval
    assert report.answer == (
        f"Over 3 corruptions, M0 is right on {100 * mean.accuracy:.1f} % on average (95 % interval {100 * low:.1f} to "
        f"{100 * high:.1f}), on 40 images.",
    )


def test_an_attack_without_a_budget_has_median_distances(suite, run):
    results = run(suite(models=[{"model": "toys/net", "label": "Net"}], attacks=[{"attack": "teams/nearest"}]))
    distances = next(cell.distances for cell in build(results).cells if cell.distances)
    assert sentences(results)[0].startswith(
        "By the perturbations that nearest(linf) finds, half of the predictions of Net are wrong within a distance of "
        f"{distances.median:.4g} (95 % interval {distances.interval.low:.4g} to {distances.interval.high:.4g}), on 40"
    )


def test_nothing_stored_is_said(suite, toys, tmp_path):
    assert sentences(api.load(suite(), store=tmp_path / "empty", plugins=[toys])) == ("No outcomes are stored yet.",)
