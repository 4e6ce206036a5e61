"""The `plan` verb: complete and missing cells, the time left, and the reason of each computation."""

import json
from pathlib import Path

import pytest
import yaml

from robharness import api
from robharness.planning.weights import file_digest
from robharness.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def plan(tmp_path, toys, shell):
    """Return the plan of a suite over the store of the fixture `run`, as data; words: further arguments."""

    def call(source, *words, plugins=(toys,), code=0):
        path = tmp_path / "toys.yaml"
        path.write_text(yaml.safe_dump(source))
        found = shell("plan", path, "--store", tmp_path / "store", *words, plugins=plugins)
        assert found.returncode == code, found.stderr
        return json.loads(found.stdout) if "--json" in words else found.stdout

    return call


def done(facts):
    return {cell["perturbation"]: cell["done"] for cell in facts["cells"]}


def test_cells_are_complete_partial_or_missing(run, plan, suite):
    """40 examples; a clean cell is 1 forward pass, climb 3 gradients and a verdict, sign 1 gradient for all budgets."""
    run(suite(), limit=10)
    grown = suite(attacks=[*suite()["attacks"], {"attack": "toys/sign", "eps": "1/2"}])
    text = plan(grown, "--limit", 10)
    assert "5 cells of 10 examples: 4 done, 0 partial, 1 missing; 20 forward and 10 backward passes" in text
    text = plan(grown)
    forward, backward = 30 * (1 + 4 + 4 + 2) + 40 * 1, 30 * (3 + 3 + 1)
    counted = f"5 cells of 40 examples: 0 done, 4 partial, 1 missing; {forward} forward and {backward} backward passes"
    assert counted in text
    assert "10 of 40" in text and "0 of 40" in text
    run(suite())
    facts = plan(grown, "--json")
    assert set(done(facts).values()) == {40, 0}
    assert facts["passes_left"] == {"forward": 80, "backward": 40}
    assert "all" in plan(grown)


def test_holes_between_shards_are_counted(run, plan, suite):
    for index in (1, 3):
        run(suite(), shard=(index, 4))
    facts = plan(suite(), "--json")
    assert set(done(facts).values()) == {20}
    assert facts["passes_left"] == {"forward": 20 * 11, "backward": 20 * 7}


def test_a_plan_writes_nothing(plan, suite, store):
    plan(suite(), "--why")
    assert not store.root.exists()


# --- time left -----------------------------------------------------------------------------------------------------


def record(store, model="toys/net", rows=8, forward=30, backward=20, seconds=40.0, workers=1, name=None):
    """The record of a run: (forward + backward) x rows passes of one example in so many seconds of its workers."""
    speed = {"model": model, "rows": rows, "forward": forward, "backward": backward, "seconds": seconds, "waited": 0.0}
    facts = {"workers": workers, "speed": {"Some label": speed}}
    store.write_json(store.root / "runs" / f"{name}.json" if name else store.new_run(), facts)


PASSES = 440 + 280
"""That the suite of toys has left."""


def test_the_time_left_is_exact(plan, suite, store):
    record(store, rows=8, forward=30, backward=20, seconds=40.0)  # 0.1 s per pass of an example
    facts = plan(suite(), "--json")
    assert facts["passes_left"] == {"forward": 440, "backward": 280}
    assert facts["seconds_left"] == pytest.approx(PASSES * 0.1, rel=1e-12)
    assert plan(suite(), "--json", "--limit", 10)["seconds_left"] == pytest.approx(PASSES / 4 * 0.1, rel=1e-12)


def test_two_workers_take_half_the_time(plan, suite, store):
    record(store, seconds=40.0, workers=2)
    assert plan(suite(), "--json")["seconds_left"] == pytest.approx(PASSES * 0.1 / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("per_pass", "words"), [(0.1, "72.0 s"), (1.0, "12 min"), (10.0, "2.0 h"), (89 / PASSES, "89.0 s"), (7.4, "89 min")]
)
def test_the_time_left_is_shown_in_a_suitable_unit(plan, suite, store, per_pass, words):
    record(store, seconds=400 * per_pass)
    assert f"; time left: {words}, at the speed of the last run\n" in plan(suite())


def test_the_last_run_of_a_model_gives_its_speed(plan, suite, store):
    record(store, seconds=40.0, name="20261122T100000.000000Z-9-b")
    record(store, seconds=80.0, name="20261122T110000.000000Z-1-a")
    record(store, seconds=9.0, model="toys/large", name="20261122T120000.000000Z-1-a")
    record(store, seconds=0.0, forward=0, backward=0, name="20261122T130000.000000Z-1-a")  # stopped before its 1st unit
    (store.root / "runs" / "20261122T140000.000000Z-1-a.json").write_text("{")
    assert plan(suite(), "--json")["seconds_left"] == pytest.approx(PASSES * 0.2, rel=1e-12)


def test_there_is_no_time_for_a_model_that_never_ran(run, plan, suite, store):
    assert plan(suite(), "--json")["seconds_left"] is None
    assert "; time left: unknown before the first run\n" in plan(suite())
    models = [*suite()["models"], {"model": "toys/large", "label": "Large"}]
    record(store)
    assert plan(suite(models=models), "--json")["seconds_left"] is None
    record(store, model="toys/large", seconds=80.0)
    both = plan(suite(models=models), "--json")
    assert both["seconds_left"] == pytest.approx(PASSES * 0.1 + PASSES * 0.2, rel=1e-12)


def test_a_real_run_gives_the_time_left(run, plan, suite, store):
    run(suite(), limit=10, batch_size=4)
    (speed,) = store.runs()[-1]["speed"].values()
    facts = plan(suite(), "--json")
    passes = sum(facts["passes_left"].values())
    assert passes == PASSES * 3 / 4
    assert 0 < facts["seconds_left"] < float("inf")
    measured = speed["seconds"] / (4 * (speed["forward"] + speed["backward"]))
    assert facts["seconds_left"] == pytest.approx(passes * measured, rel=1e-9)
    run(suite())
    assert plan(suite(), "--json")["seconds_left"] == 0
    assert "time left" not in plan(suite())


# --- why -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def why(plan):
    """Return the reason of each computation, by the name of the cell."""

    def call(source, *words, **options):
        return {
            cell["perturbation"]: cell["why"] for cell in plan(source, "--why", "--json", *words, **options)["cells"]
        }

    return call


ALL_THERE = {"clean": None, "climb(linf, 1/8)": None, "climb(linf, 1/4)": None, "sign(linf, 1/8)": None}


def test_reasons_when_nothing_or_some_or_all_is_stored(run, why, plan, suite):
    assert why(suite()) == dict.fromkeys(ALL_THERE, "no comparable cell is stored")
    run(suite(), limit=10)
    assert why(suite()) == dict.fromkeys(ALL_THERE, "10 of 40 examples are stored")
    assert why(suite(), "--limit", 10) == ALL_THERE
    run(suite(), shard=(4, 4))
    assert why(suite()) == dict.fromkeys(ALL_THERE, "20 of 40 examples are stored")
    text = plan(suite(), "--why")
    assert "Net, climb(linf, 1/8): 20 of 40 examples are stored\n" in text
    assert "are stored" not in plan(suite())
    assert not any("why" in cell for cell in plan(suite(), "--json")["cells"])


def test_the_reason_names_a_changed_option(run, why, suite):
    run(suite())
    attacks = [{"attack": "toys/climb", "eps": ["1/8", "1/4"], "steps": 4}, {"attack": "toys/sign", "eps": ["1/8"]}]
    assert why(suite(attacks=attacks)) == {
        "clean": None,
        "climb(linf, 1/8, steps=4)": "perturbation.params.steps: the default is stored, now it is 4",
        "climb(linf, 1/4, steps=4)": "perturbation.params.steps: the default is stored, now it is 4",
        "sign(linf, 1/8)": None,
    }
    run(suite(attacks=attacks), store="store")
    attacks[0]["steps"] = 5
    changed = why(suite(attacks=attacks))
    assert changed["climb(linf, 1/8, steps=5)"].startswith("perturbation.params.steps: ")
    assert changed["climb(linf, 1/8, steps=5)"].endswith(" stored, now it is 5")


def test_the_reason_names_an_option_reset_to_its_default(run, why, suite):
    attacks = [{"attack": "toys/climb", "eps": "1/8", "steps": 5, "restarts": 2}]
    run(suite(attacks=attacks))
    attacks = [{"attack": "toys/climb", "eps": "1/8", "restarts": 2}]
    sentence = "perturbation.params.steps: 5 is stored, now it is the default"
    assert why(suite(attacks=attacks)) == {"clean": None, "climb(linf, 1/8, restarts=2)": sentence}


def test_the_reason_names_the_seed_only_for_cells_that_draw(run, why, suite):
    run(suite())
    seeded = "perturbation.seed: 0 is stored, now it is 7"
    assert why(suite(seed=7)) == ALL_THERE | {"climb(linf, 1/8)": seeded, "climb(linf, 1/4)": seeded}


def test_the_reason_names_two_changed_fields(run, why, suite):
    run(suite())
    attacks = [{"attack": "toys/climb", "eps": ["1/8"], "step": "1/4"}]
    assert why(suite(seed=7, attacks=attacks))["climb(linf, 1/8, step=1/4)"] == (
        "perturbation.params.step: the default is stored, now it is 1/4; "
        "perturbation.seed: 0 is stored, now it is 7"
    )  # fmt: skip


def test_the_reason_compares_with_the_closest_stored_cell(run, why, suite):
    run(suite(attacks=[{"attack": "toys/climb", "eps": ["1/16", "1/8"]}]))
    attacks = [{"attack": "toys/climb", "eps": ["1/8", "1/4"], "steps": 4}]
    found = why(suite(attacks=attacks))
    assert found["climb(linf, 1/8, steps=4)"] == "perturbation.params.steps: the default is stored, now it is 4"
    farther = found["climb(linf, 1/4, steps=4)"].split("; ")
    assert len(farther) == 2
    assert all(line.startswith(("perturbation.strength: 1/", "perturbation.params.steps: ")) for line in farther)


def test_the_reason_prefers_the_closest_cell_of_the_same_name(run, why, suite):
    """Each has its own budget under another seed, and other budgets under the same seed."""
    climb = [{"attack": "toys/climb", "eps": ["1/16", "1/8", "1/4", "1/2"]}]
    run(suite(attacks=climb), limit=4)
    run(suite(attacks=[{"attack": "toys/climb", "eps": ["3/16", "5/16", "3/8", "5/8"]}], seed=7), limit=4)
    _, *found = why(suite(attacks=climb, seed=7), "--limit", 4).values()
    assert found == ["perturbation.seed: 0 is stored, now it is 7"] * 4


def test_failed_cells_are_not_stored(run, why, suite):
    run(suite(attacks=[{"attack": "toys/rogue", "how": "raises", "eps": "1/8"}]))
    found = why(suite(attacks=[{"attack": "toys/rogue", "how": "raises", "eps": ["1/8", "1/4"]}]))
    failed = found.pop("rogue(linf, 1/8, how=raises)")
    assert failed.startswith("the cell failed: toys/rogue: it raised KeyError: 'delta' (")
    assert found == {"clean": None, "rogue(linf, 1/4, how=raises)": "no comparable cell is stored"}


def test_the_reason_names_changed_weights(run, why, suite, tmp_path):
    weights = tmp_path / "net.pt"
    weights.write_bytes(b"first")
    first = f"{file_digest(weights)[:12]}…"
    models = [{"model": "toys/net", "label": "Net", "weights": str(weights)}]
    run(suite(models=models))
    assert why(suite(models=models)) == ALL_THERE
    weights.write_bytes(b"other")
    sentence = f"model.weights: {first} is stored, now it is {file_digest(weights)[:12]}…"
    assert why(suite(models=models)) == dict.fromkeys(ALL_THERE, sentence)
    sentence = f"model.weights: {first} is stored, now it is the default"
    assert why(suite()) == dict.fromkeys(ALL_THERE, sentence)


def test_the_reason_names_a_changed_option_of_the_model(run, why, suite):
    run(suite())
    models = [{"model": "toys/net", "label": "Net", "what": "drifting"}]
    sentence = "model.params.what: the default is stored, now it is drifting"
    assert why(suite(models=models)) == dict.fromkeys(ALL_THERE, sentence)


def test_the_reason_names_a_changed_canvas(run, why, suite):
    run(suite())
    changed = why(suite(canvas=8))
    assert changed == dict.fromkeys(ALL_THERE, "data.canvas: the default is stored, now it is 8")


def test_the_reason_names_changed_counting(run, why, suite):
    run(suite())
    sentence = "perturbation.count: the default is stored, now it is robust"
    assert why(suite(count="robust")) == dict.fromkeys(ALL_THERE, sentence) | {"clean": None}


def test_the_reason_names_a_changed_loose_file(run, why, suite, tmp_path, toys):
    mine = tmp_path / "toys.py"
    mine.write_text(Path(toys).read_text())
    before = f"{file_digest(mine)[:12]}…"
    api.run(suite(), store=tmp_path / "store", plugins=[str(mine)])
    assert why(suite(), plugins=[str(mine)]) == ALL_THERE
    mine.write_text(f"{mine.read_text()}# another comment\n")
    now = f"{file_digest(mine)[:12]}…"
    for name, sentence in why(suite(), plugins=[str(mine)]).items():
        fields = ["model.source", "data.source", *(["perturbation.source"] if name != "clean" else [])]
        assert sentence.split("; ") == [f"{field}: {before} is stored, now it is {now}" for field in fields]


def test_the_reason_of_a_cell_that_no_run_had(run, why, suite):
    run(suite())
    attacks = [*suite()["attacks"], {"attack": "toys/seeded", "eps": "1/8"}]
    found = why(suite(attacks=attacks))
    assert found == ALL_THERE | {"seeded(linf, 1/8)": "no comparable cell is stored"}
