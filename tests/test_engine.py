"""Units, resuming, failures, Ctrl-C, and how many passes it all takes."""

import signal
import time

import pytest

from robharness import api
from robharness.engine import listeners, units
from robharness.engine.executors import InProcessExecutor
from robharness.engine.run import run_plan
from robharness.store import Store, uncovered


class Recorder(listeners.Silent):
    """A listener that records its events."""

    def __init__(self):
        self.cells, self.messages, self.work = [], [], None

    def started(self, work, cells):
        self.work = (work, cells)

    def cell_done(self, cell, span, failure):
        self.cells.append((cell.short_name, span, failure))

    def message(self, message):
        self.messages.append(message)


def passes(tmp_path, store="store"):
    speed = Store(tmp_path / store).runs()[-1]["speed"]["Net"]
    return {name: speed[name] for name in ("forward", "backward") if speed[name]}


def test_five_budgets_and_the_clean_cell_cost_one_backward_and_six_forward_passes_a_chunk(suite, run, tmp_path):
    attacks = [{"attack": "toys/sign", "eps": ["1/16", "1/8", "3/16", "1/4", "1/2"]}]
    results = run(suite(attacks=attacks), batch_size=8)
    assert results.is_complete
    assert passes(tmp_path) == {"forward": 6 * 5, "backward": 1 * 5}


def test_passes_do_not_depend_on_which_cells_are_missing(suite, run, tmp_path):
    run(suite(attacks=None), batch_size=8)
    assert passes(tmp_path) == {"forward": 5}
    run(suite(attacks=[{"attack": "toys/climb", "eps": "1/4"}]), batch_size=8)
    assert passes(tmp_path) == {"forward": 4 * 5, "backward": 3 * 5}


def test_only_robust_examples_are_attacked_and_cost_passes(suite, run, tmp_path):
    nested = [{"attack": "toys/climb", "eps": ["1/8", "1/4", "1/2"], "nested": True}]
    results = run(suite(attacks=nested), batch_size=1)
    attacked = sum(int(result.columns["attacked"].sum()) for result in results.of("Net", "attack"))
    assert attacked < 3 * 40
    assert passes(tmp_path) == {"forward": 40 + 4 * attacked, "backward": 3 * attacked}


def test_running_again_computes_nothing(suite, run, tmp_path):
    first = run(suite())
    recorder = Recorder()
    again = run(suite(), listener=recorder)
    assert recorder.work == (0, 0)
    assert recorder.cells == []
    assert len(list((tmp_path / "store" / "runs").iterdir())) == 1
    assert [result.accuracy for result in again.cells] == [result.accuracy for result in first.cells]


def test_a_larger_suite_computes_only_new_cells(suite, run):
    run(suite(), limit=10)
    recorder = Recorder()
    grown = suite(attacks=[*suite()["attacks"], {"attack": "toys/sign", "eps": "1/2"}])
    assert run(grown, limit=24, listener=recorder).is_complete
    assert recorder.work == (3 * 14 + 14 + 24, 5)
    done = sorted((name, span) for name, span, _ in recorder.cells)
    assert ("clean", (10, 24)) in done
    assert ("sign(linf, 1/2)", (0, 10)) in done
    assert ("sign(linf, 1/2)", (10, 24)) in done


def test_units_cover_each_missing_span_once():
    missing = {"a": [(0, 10)], "b": [(3, 5), (8, 20)], "c": []}
    done = []
    while unit := units.next_unit(list(missing), missing, 4):
        (start, stop), due = unit
        assert 0 < stop - start <= 4
        for key in due:
            done += [(key, position) for position in range(start, stop)]
            missing[key] = [rest for gap in missing[key] for rest in uncovered([(start, stop)], gap)]
    expected = [("a", p) for p in range(10)] + [("b", p) for p in (*range(3, 5), *range(8, 20))]
    assert sorted(done) == sorted(expected)


def test_blocks_are_not_cut_in_two():
    missing = {"blocks": [(0, 50)], "other": [(0, 50)]}
    spans = []
    while unit := units.next_unit(list(missing), missing, 20, 16):
        spans.append(unit[0])
        missing = {key: [rest for gap in missing[key] for rest in uncovered([unit[0]], gap)] for key in missing}
    assert spans == [(0, 16), (16, 32), (32, 48), (48, 50)]
    assert units.next_unit(["blocks"], {"blocks": [(4, 50)]}, 4, 16) == ((4, 16), ["blocks"])
    assert units.next_unit(["blocks"], {"blocks": [(4, 50)]}, 4) == ((4, 8), ["blocks"])


def test_units_grow_to_about_a_minute_in_whole_passes():
    size = units.UnitSize(batch_size=8, input_values=3 * 224 * 224)
    assert size.examples(1000) == 8
    size.record(8, 4.0)
    assert size.examples(1000) == 64
    size.record(64, 32.0)
    assert size.examples(1000) == 120
    assert size.examples(50) == 56
    size.record(120, 600.0)
    assert size.examples(1000) == 8
    for _ in range(9):
        size.record(size.examples(10**6), 0.001)
    assert size.examples(10**6) * 4 * 3 * 224 * 224 <= units.MAX_SPAN_BYTES
    assert size.examples(10**6) % 8 == 0


def test_units_get_smaller_towards_the_end_so_that_all_workers_end_together():
    size = units.UnitSize(batch_size=4, input_values=64)
    for _ in range(5):
        size.record(size.examples(10**6), 1.0)
    left, taken = 400, []
    while left:
        taken.append(min(left, size.examples(left, workers=2)))
        left -= taken[-1]
    assert taken[0] == 100 and taken[-1] == 4 and taken == sorted(taken, reverse=True)


def test_after_a_lack_of_memory_units_are_half_as_large():
    size = units.UnitSize(batch_size=64, input_values=3 * 224 * 224)
    for _ in range(9):
        size.record(size.examples(10**6), 0.001)
    before = size.examples(10**6)
    size.shrink(32)
    assert before / 2 - 32 <= size.examples(10**6) <= before / 2
    assert size.examples(10**6) % 32 == 0


def test_a_failed_cell_is_computed_again_by_the_next_run(suite, run, toys, tmp_path):
    models = [{"model": "toys/net", "label": "Net"}]
    source = suite(models=models, attacks=[{"attack": "toys/rogue", "how": "raises", "eps": "1/8"}])
    recorder = Recorder()
    results = run(source, listener=recorder, batch_size=8)
    assert [name for name, _, failure in recorder.cells if failure] == ["rogue(linf, 1/8, how=raises)"]
    assert results.of("Net", "attack")[0].failures[0].traceback.endswith("KeyError: 'delta'\n")
    recorder = Recorder()
    run(source, listener=recorder, batch_size=8)
    assert recorder.work == (40, 1)


def test_a_run_can_stop_at_the_first_failure(suite, toys, tmp_path):
    source = suite(attacks=[{"attack": "toys/rogue", "how": "raises", "eps": ["1/8", "1/4"]}])
    plan, recorder = api.plan(source, plugins=[toys]), Recorder()
    summary = run_plan(plan, Store(tmp_path / "s"), recorder, stop_at_failure=True)
    assert len(summary.failures) == 1
    assert len(recorder.cells) == 1


def test_a_change_of_runtime_factors_is_reported(suite, toys, tmp_path):
    plan, store = api.plan(suite(), plugins=[toys]), Store(tmp_path / "s")
    run_plan(api.plan(suite(), plugins=[toys], limit=10), store, listeners.Silent(), batch_size=4)
    summary = run_plan(plan, store, listeners.Silent(), batch_size=8)
    assert any(
        "rows was 4 when some of it was computed, now it is 8" in warning for warning in map(str, summary.findings)
    )


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_keeps_complete_parts_and_prints_the_resume_command(suite, toys, start_process, tmp_path, signals):
    import yaml

    attacks = [{"attack": "toys/climb", "steps": 2000, "eps": [f"{i}/64" for i in range(1, 40)]}]
    path = tmp_path / "slow.yaml"
    path.write_text(yaml.safe_dump(suite(attacks=attacks)))
    process = start_process("run", path, "-p", toys, "--store", tmp_path / "s", "--batch-size", "4")
    store = Store(tmp_path / "s")
    cells = api.plan(path, plugins=[toys]).cells
    deadline = time.monotonic() + 120
    while not any(store.spans(cell.key) for cell in cells) and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(signals):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert f"robharness run {path}" in stderr if signals == 1 else "the same command goes on" in stderr
    done = {cell.short_name: store.spans(cell.key) for cell in cells}
    assert 0 < sum(map(len, done.values())) < len(cells)
    assert list((tmp_path / "s").rglob("*.tmp")) == []
    assert all(
        len(store.read(cell.key, 40).positions) == sum(b - a for a, b in store.spans(cell.key)) for cell in cells
    )


def test_a_live_network_is_evaluated_with_the_models_of_the_suite(suite, run, toys):
    import torch

    spec = api.plan(suite(), plugins=[toys]).models[0].entry.spec
    mine = spec.build(spec.params(), None)
    results = run(suite(), models={"mine": mine})
    assert results.labels == ["Net", "mine"]
    mine_cells = [r for r in results.cells if r.cell.model.label == "mine"]
    for ours, theirs in zip(results.cells, mine_cells, strict=False):
        assert ours.columns["margin"].tolist() == theirs.columns["margin"].tolist()
    with torch.no_grad():
        mine.head.weight.zero_()
    changed = run(suite(models=None), models={"mine": mine})
    assert {r.cell.key for r in changed.cells}.isdisjoint(r.cell.key for r in mine_cells)
    assert changed.is_complete


def test_a_live_network_is_unchanged_and_needs_a_unique_label(suite, run, toys):
    from robharness.errors import UserError

    spec = api.plan(suite(), plugins=[toys]).models[0].entry.spec
    mine = spec.build(spec.params(), None)
    mine.train()
    assert run(suite(attacks=None), models={"mine": mine}).is_complete
    assert mine.training
    assert all(parameter.requires_grad for parameter in mine.parameters())
    with pytest.raises(UserError, match="the suite already has a model with the label 'Net'"):
        run(suite(), models={"Net": mine})


def test_complete_cells_are_joined_while_others_are_computed(suite, toys, tmp_path):
    """A thread joins the cells of the first model while the second one is computed."""
    models = [{"model": "toys/net", "label": label} for label in ("First", "Second")]
    models[1]["megabytes"] = 1
    plan, store, seen = api.plan(suite(models=models), plugins=[toys]), Store(tmp_path), []

    class Watcher(listeners.Silent):
        def cell_done(self, cell, span, failure):
            if cell.model.label == "Second" and not seen:
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline and not all(map(is_joined, plan.cells[: len(plan.cells) // 2])):
                    time.sleep(0.02)
                seen.extend(map(is_joined, plan.cells))

    def is_joined(cell):
        return store.spans(cell.key) == [(0, plan.n)]

    def passes(keys, missing_spans, size, multiple=1):
        return units.next_unit(keys, missing_spans, 4, multiple)

    run_plan(plan, store, Watcher(), batch_size=4, plan_unit=passes)
    assert seen == [True] * (len(seen) // 2) + [False] * (len(seen) // 2)
    assert all(map(is_joined, plan.cells))


def test_two_labels_of_one_model_compute_no_example_twice(suite, toys, tmp_path):
    """They share the keys of their cells, so that a unit of one of them takes examples from the other."""
    models = [{"model": "toys/net", "label": label} for label in ("Net", "Same")]
    plan = api.plan(suite(models=models, attacks=None), store=tmp_path / "store", plugins=[toys])
    assert len({cell.key for cell in plan.cells}) == 1

    def short(keys, missing, size, multiple):
        return units.next_unit(keys, missing, 4)

    store = Store(tmp_path / "store")
    summary = run_plan(plan, store, Recorder(), workers=2, threads=1, batch_size=4, executor=InProcessExecutor(),
                       plan_unit=short)  # fmt: skip
    assert store.missing(plan.cells[0].key, plan.n) == [] and summary.computed == plan.n
