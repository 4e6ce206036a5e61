"""Runs that differ in their seed: the mean and deviation over them, and seeds that are refused."""

import shutil

import numpy as np
import pytest

import robharness
from robharness import api
from robharness.errors import SuiteError
from robharness.planning import artefacts
from robharness.report import build
from robharness.report.renderers import markdown, terminal
from robharness.report.renderers.json import as_data
from robharness.store import Store
from toy_training import HERE, NET, PLUGINS, plan, suite


def test_each_seed_makes_a_model(seeds):
    _, root, results = seeds
    assert results.labels == ["Net seed 5", "Net seed 6", "Net seed 7", "Short"]
    assert [row["seed"] for row in sorted(artefacts.listing(root), key=lambda row: row["label"])] == [5, 6, 7, 5]
    assert results.suite.reference == "Net seed 5"
    assert len({result.cell.key for result in results.cells}) == len(results.cells)
    alone = plan(suite(NET | {"seed": 6}), root)
    assert not alone.pending_cells  # the same recipe, asked for alone


def test_the_report_gives_mean_and_sample_deviation_over_runs(seeds):
    _, _, results = seeds
    facts = as_data(build(results))
    labels = results.labels[:3]
    assert {numbers["model"] for numbers in facts["runs"]} == {"Net"}
    assert [numbers["perturbation"] for numbers in facts["runs"]] == [
        result.cell.short_name for result in results.cells[: len(facts["runs"])]]  # fmt: skip
    for numbers in facts["runs"]:
        runs = [next(r for r in results.cells if (r.cell.model.label, r.cell.short_name)
                     == (label, numbers["perturbation"])) for label in labels]  # fmt: skip
        accuracies = [run.correct.mean() for run in runs]
        assert (numbers["runs"], numbers["asked"]) == (3, 3)
        assert numbers["accuracy"] == pytest.approx(sum(accuracies) / 3)
        deviation = (sum((a - sum(accuracies) / 3) ** 2 for a in accuracies) / 2) ** 0.5
        assert numbers["accuracy_deviation"] == pytest.approx(deviation)
        if numbers["perturbation"] != "clean":
            drops = [1 - run.correct.mean() / results.clean(label).correct.mean()
                     for label, run in zip(labels, runs, strict=True)]  # fmt: skip
            assert numbers["relative_drop"] == pytest.approx(np.mean(drops))
            assert numbers["relative_drop_deviation"] == pytest.approx(np.std(drops, ddof=1))
    assert max(numbers["accuracy_deviation"] for numbers in facts["runs"]) > 0.01
    assert [cell["expected"] for cell in facts["cells"] if cell["perturbation"] == "clean"] == [0.9, 0.9, 0.9, None]
    assert facts["expected_metrics"] == {"toys/wrong": dict.fromkeys(labels, 0.125)}
    assert {slope["model"] for slope in facts["slopes"]} == {"Net seed 6", "Net seed 7", "Short"}
    assert {slope["reference"] for slope in facts["slopes"]} == {"Net seed 5"}


def test_the_tables_have_a_column_for_all_runs(seeds):
    _, _, results = seeds
    report = build(results)
    text = markdown.render(report)
    numbers = next(each for each in report.runs if each.perturbation == "sign(linf, 1/8)")
    printed = (f"{100 * numbers.accuracy:.1f} ± {100 * numbers.accuracy_deviation:.1f} "
             f"↓{100 * numbers.relative_drop:.0f}% ± {100 * numbers.relative_drop_deviation:.0f}")  # fmt: skip
    assert f"| sign(linf, 1/8) | {printed}<br><sub>3 runs</sub> | " in text
    clean = next(each.accuracy for each in report.runs if each.perturbation == "clean")
    assert "| clean | " in text and f"<sub>published 90.00 ({100 * clean - 90:+.1f})</sub>" in text
    heads = [line for line in text.splitlines() if line.startswith("|  |")]
    both, difference = "|  | Net | Short |", "|  | Short |"  # after the tables of attacks and of corruptions
    assert heads == [both, difference, both, difference, *[both] * 4]  # then slopes, errors, worst class, metric
    assert "±: sample standard deviation over runs, which differ in their seed" in text
    first = next(each for each in report.runs if each.perturbation == "sign(linf, 1/16)")
    spread = (
        f"{100 * first.relative_drop:.0f} % of its accuracy (± {100 * first.relative_drop_deviation:.0f} over 3 runs)"
    )
    assert report.answer[0].startswith(f"Under sign(linf, 1/16), Net loses {spread}; Short loses ")
    assert report.answer[0].endswith("standard deviation over runs, which differ in their seed, not over examples.")
    slopes = text.partition("## Slopes")[2].partition("##")[0]
    assert "<sub>2 of 3 runs</sub>" in slopes
    wrong = [1 - results.clean(label).accuracy for label in results.labels[:3]]
    value = f"{np.mean(wrong):.4g} ± {np.std(wrong, ddof=1):.4g}"
    assert (
        f"| toys/wrong | {value}<br><sub>published 0.125 ({np.mean(wrong) - 0.125:+.4g})</sub><br><sub>3 runs</sub> |"
        in text
    )


def test_runs_that_are_not_complete_are_left_out_and_counted(seeds, store):
    source, root, _ = seeds
    shutil.copytree(root, store)
    kept = Store(store)
    planned = plan(source, store)
    gone = next(cell for cell in planned.cells if cell.name.startswith("Net seed 6") and "1/8" in cell.short_name)
    kept.forget(gone.key)
    shutil.rmtree(next(m.artefact.folder for m in planned.trained_models if m.label == "Net seed 7"))
    report = build(robharness.load(source, store=store, plugins=PLUGINS))
    numbers = {each.perturbation: each for each in report.runs}
    assert (numbers["clean"].runs, numbers["clean"].asked) == (2, 3)
    assert numbers[gone.short_name].runs == 1 and numbers[gone.short_name].accuracy_deviation is None
    assert "2 of 3 runs" in markdown.render(report)
    assert "not trained yet: Net seed 7" in " ".join(report.warnings)


def test_one_seed_has_no_deviation_and_the_terminal_shows_all(seeds, capsys):
    from rich.console import Console

    source, root, _ = seeds
    alone = {**source, "models": [NET | {"seeds": 1}], "expected": None, "corruptions": []}
    report = build(robharness.load({k: v for k, v in alone.items() if v is not None}, store=root, plugins=PLUGINS))
    assert [each.accuracy_deviation for each in report.runs] == [None] * 3
    terminal.show(report, Console(width=120))
    printed = capsys.readouterr().out
    assert "(1 run), on" in printed and "± " not in printed.partition("accuracy in")[0]
    assert ["run", "1"] in [line.split() for line in printed.splitlines()]


def test_a_column_is_of_several_runs_or_of_a_single_model():
    with pytest.raises(SuiteError, match="the label 'Net' is taken by the model in line"):
        api.plan(suite(NET | {"seeds": 2}, NET | {"epochs": 3}), plugins=PLUGINS)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"model": "toys/net", "seeds": 2}, "toys/net is not trained here, so that it has no seed; leave 'seeds' out"),
        ({"model": "toys/net", "seed": 2}, "toys/net is not trained here, so that it has no seed; leave 'seed' out"),
        (NET | {"weights": "x.pt", "seed": 2}, "learner/net is not trained here, so that it has no seed; leave 'seed'"),
        (NET | {"seeds": 0}, "Input should be greater than or equal to 1"),
        (NET | {"seed": -1}, "Input should be greater than or equal to 0"),
        (NET | {"seeds": 2.5}, "got 2.5"),
    ],
)
def test_an_invalid_seed_is_refused(model, message):
    with pytest.raises(SuiteError) as caught:
        api.plan(suite(model, data={"name": "toys/pixels", "split": "test"}, attacks=[]), plugins=PLUGINS)
    assert message in str(caught.value)


def test_a_plugins_own_option_called_seed_stays_its_own():
    models = [{"model": "teams/net", "label": str(seed), "seed": seed} for seed in (0, 1)]
    source = suite(*models, data={"name": "toys/pixels", "split": "test"}, attacks=[])
    planned = api.plan(source, plugins=[*PLUGINS, str(HERE / "teams.py")])
    assert [model.ref.params.seed for model in planned.models] == [0, 1]
