"""The gain of trained models over the models that they build on."""

import numpy as np
import pytest

import robharness
from robharness import api, statistics
from robharness.report import build
from robharness.report.renderers import latex, markdown
from robharness.report.renderers.json import as_data
from robharness.store import Store
from toy_training import PLUGINS, SIGN, suite

GAIN = {"Some": "None", "All": "Some"}
ATTACKS = [f"sign(linf, {eps})" for eps in ("1/32", "1/16", "1/8")]


@pytest.fixture(scope="module", params=[3, None], ids=["runs", "single"])
def case(request, tmp_path_factory):
    """The number of seeds, the suite, the results and the store."""
    several = {} if request.param is None else {"seeds": request.param}
    models = [{"model": "learner/net", "label": label, "epochs": epochs} | several
              for label, epochs in (("Some", 6), ("None", 3), ("All", 12))]  # fmt: skip
    source = suite(*models, attacks=[SIGN | {"eps": ["1/32", "1/16", "1/8"]}], gain=GAIN, canvas=8,
                   corruptions=[{"corruption": "toys/speckle", "severity": 3}])  # fmt: skip
    store = tmp_path_factory.mktemp("gain") / "store"
    return request.param, source, api.run(source, store=store, plugins=PLUGINS), store


def outcomes(results, label, name):
    """The outcomes of a model's runs under a perturbation."""
    return [r.correct for r in results.cells
            if (r.cell.model.ref.run_of or r.cell.model.label, r.cell.short_name) == (label, name)]  # fmt: skip


def test_gains_are_of_unrounded_means_with_the_interval_of_examples_or_of_runs(case):
    seeds, _, results, _ = case
    facts = as_data(build(results))
    assert facts["gain"] == GAIN
    places = [(gain["model"], gain["base"], gain["perturbation"]) for gain in facts["gains"]]
    assert sorted(places) == sorted(
        (model, base, name) for model, base in GAIN.items() for name in ATTACKS)  # fmt: skip
    reasons = set()
    for gain in facts["gains"]:
        ours, base = (outcomes(results, gain[key], gain["perturbation"]) for key in ("model", "base"))
        assert (gain["runs"], gain["asked"]) == (seeds or 1, seeds or 1)
        wanted = [[run.mean() for run in runs] if seeds else runs[0] for runs in (ours, base)]
        interval = statistics.gain_interval(*wanted, paired=seeds is None)
        reason = "base is 0" if not np.any(base) else "" if np.isfinite(interval.low) else "base may be 0"
        assert gain["reason"] == reason
        assert gain["interval"] == (None if reason else interval)
        assert gain["gain"] == (None if reason else pytest.approx(np.mean(ours) / np.mean(base) - 1))
        reasons.add(reason)
    assert reasons == {"", "base may be 0"} | ({"base is 0"} if seeds is None else set())


def test_the_median_of_each_model_and_the_mean_of_all(case):
    found = build(case[2])
    by_model = {model: [gain.gain for gain in found.gains if gain.model == model and not gain.reason] for model in GAIN}
    medians = {each.model: each for each in found.gain_summaries if each.statistic == "median"}
    (mean,) = (each for each in found.gain_summaries if each.statistic == "mean")
    for model, gains in by_model.items():
        assert medians[model].value == pytest.approx(np.median(gains))
        assert (medians[model].gains, medians[model].asked) == (len(gains), 3) and len(gains) in (2, 3)
    assert mean.value == pytest.approx(np.mean([*by_model["Some"], *by_model["All"]]))
    assert (mean.model, mean.gains, mean.asked) == (None, sum(map(len, by_model.values())), 6)


def test_the_table_has_gains_with_intervals_their_medians_and_their_mean(case):
    found = build(case[2])
    table = markdown.render(found).partition("## Gain")[2].partition("## ")[0]
    assert "| Some | All |" in table
    for name in ATTACKS:
        entries = []
        for model in GAIN:
            (gain,) = (each for each in found.gains if (each.model, each.perturbation) == (model, name))
            if gain.reason:
                entries.append(gain.reason)
                continue
            entries.append("{:.1f} [{:.1f}, {:.1f}]".format(*(100 * x + 0.0 for x in (gain.gain, *gain.interval))))
        assert f"| {name} | {' | '.join(entries)} |" in table
    some, every, mean = found.gain_summaries
    assert table.count("| median |") == 1 and f"| median | {100 * some.value:.1f}<br><sub>2 of 3 gains</sub> |" in table
    assert f"| {100 * every.value:.1f}{'' if every.gains == 3 else '<br><sub>2 of 3 gains</sub>'} |" in table
    words = " ".join(table.split())
    assert "relative improvement of the attacked accuracy (Some over None; All over Some), in %" in words
    assert f"mean of {mean.gains} of 6 gains {100 * mean.value:.1f}" in words
    assert rf"\(\uparrow\){100 * found.gains[0].gain:.1f}\%" in latex.render(found)


def test_what_is_missing_is_counted(case):
    """An attack on one run of All is gone: its gain is of fewer runs, or is gone itself, and the summaries say so."""
    seeds, source, results, store = case
    kept = Store(store)
    key = next(cell.key for cell in results.plan.cells
               if cell.model.label.startswith("All") and cell.short_name == "sign(linf, 1/16)")  # fmt: skip
    kept.forget(key)
    found = build(robharness.load(source, store=store, plugins=PLUGINS))
    last = [gain for gain in found.gains if (gain.model, gain.perturbation) == ("All", "sign(linf, 1/16)")]
    assert [(gain.runs, gain.asked, len(gain.interval)) for gain in last] == ([(2, 3, 2)] if seeds else [])
    table = markdown.render(found).partition("## Gain")[2]
    assert ("2 of 3 runs" in table) == bool(seeds)
    (median,) = (each for each in found.gain_summaries if each.model == "All")
    before = next(each for each in build(results).gain_summaries if each.model == "All")
    assert (before.gains - median.gains, median.asked) == (0 if seeds else 1, 3)
    assert api.run(source, store=store, plugins=PLUGINS).is_complete
