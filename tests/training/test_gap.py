"""The gap between two trained models that a third one closes."""

import numpy as np
import pytest

import robharness
from robharness import api, statistics
from robharness.report import build
from robharness.report.renderers import markdown
from robharness.report.renderers.json import as_data
from robharness.store import Store
from toy_training import PLUGINS, SIGN, suite


@pytest.mark.parametrize("seeds", [3, None])
def test_a_gap_is_closed_by_the_means_of_runs_or_by_single_models(store, seeds):
    several = {} if seeds is None else {"seeds": seeds}
    models = [{"model": "learner/net", "label": label, "epochs": epochs} | several
              for label, epochs in (("Some", 3), ("None", 1), ("All", 12))]  # fmt: skip
    source = suite(*models, attacks=[SIGN], gap=["None", "All"], canvas=8,
                   corruptions=[{"corruption": "toys/speckle", "severity": 3}])  # fmt: skip
    results = api.run(source, store=store, plugins=PLUGINS)
    report = build(results)
    facts, text = as_data(report), markdown.render(report)
    assert facts["gap"] == ("None", "All")
    assert [(gap["model"], gap["perturbation"]) for gap in facts["gaps_closed"]] == [
        ("Some", "sign(linf, 1/16)"), ("Some", "sign(linf, 1/8)"), ("Some", "speckle(3)")]  # fmt: skip
    for gap in facts["gaps_closed"]:
        right, clean = (
            {
                label: [r.correct for r in results.cells
                        if (r.cell.model.ref.run_of or r.cell.model.label, r.cell.short_name) == (label, name)]
                for label in ("None", "Some", "All")
            } for name in (gap["perturbation"], "clean")
        )  # fmt: skip
        none, some, every = (np.mean(right[label]) for label in ("None", "Some", "All"))
        assert gap["closed"] == pytest.approx((some - none) / (every - none)) and gap["runs"] == (seeds or 1)
        drops = {
            label: np.mean([
                1 - left.mean() / before.mean() for left, before in zip(right[label], clean[label], strict=True)
            ])
            for label in right
        }  # fmt: skip
        none, some, every = (int(100 * drops[label] + 0.5) for label in ("None", "Some", "All"))
        assert gap["printed"] == (None if none == every else pytest.approx((none - some) / (none - every)))
        wanted = [right[label] if seeds else right[label][0] for label in ("Some", "None", "All")]
        if seeds:
            wanted = [[run.mean() for run in runs] for runs in wanted]
        assert gap["interval"] == statistics.gap_closed_interval(*wanted, paired=seeds is None)
        is_known = np.isfinite(gap["interval"].low)
        interval = "no gap?" if not is_known else "[{:.0f}, {:.0f}]".format(*(100 * b for b in gap["interval"]))
        row = f"| {gap['perturbation']} | {100 * gap['closed']:.0f} {interval} |"
        assert row in text.partition("## Gap closed")[2]
    assert "fraction of the accuracy gap from None to All that is closed" in text.replace("\n", " ")
    kept = Store(store)
    gone = next(cell for cell in results.plan.cells if cell.model.label.startswith("All") and "1/8" in cell.short_name)
    kept.forget(gone.key)
    report = build(robharness.load(source, store=store, plugins=PLUGINS))
    last = [gap for gap in report.gaps_closed if gap.perturbation == "sign(linf, 1/8)"]
    assert [(gap.runs, gap.asked, len(gap.interval)) for gap in last] == ([(2, 3, 2)] if seeds else [])
    assert ("2 of 3 runs" in markdown.render(report).partition("## Gap closed")[2]) == bool(seeds)
