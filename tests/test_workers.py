"""Worker processes that crash, are interrupted or share a store give the same outcomes."""

import json
import os
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from robharness import api
from robharness.engine import listeners
from robharness.engine.run import run_plan
from robharness.errors import UserError
from robharness.store import Store

COLUMNS = ("label", "prediction", "correct", "margin", "logit_range", "confidence", "p_true", "size", "attacked")


def outcomes(results):
    """{(label, perturbation): its outcomes, bit by bit}, of complete cells alone."""
    return {
        (result.cell.model.label, result.cell.short_name): [result.columns[name].tobytes() for name in COLUMNS]
        for result in results.cells
        if result.is_complete
    }


def children(parent):
    """Ids of the processes that this one has started and that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, its_parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(its_parent) == parent and state != "Z":
                found.append(int(path.parent.name))
    return found


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what, seconds=90):
    """Wait until `what()` is true, and return its value."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)
    return found


@pytest.fixture
def start(tmp_path, toys, start_process):
    """Start `robharness run` of a suite, in a session of its own, as a terminal does."""

    def call(source, *words, **environment):
        path = tmp_path / "toys.yaml"
        path.write_text(yaml.safe_dump(source))
        words = ["run", path, "-p", toys, "--store", tmp_path / "store", *words]
        return start_process(*words, environment=environment, start_new_session=True)

    return call


def test_a_crashed_worker_costs_at_most_its_current_cell(suite, run, start, toys, tmp_path, monkeypatch):
    """Killed dies over one attack every time, Unborn while it is built; Segfaults and Exits do it once."""
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    monkeypatch.setenv("TOYS_DEATHS", str(deaths))
    monkeypatch.setenv("TOYS_SPARED", str(os.getpid()))
    what = {"Killed": "killed", "Segfaults": "segfaults", "Exits": "exits", "Unborn": "unborn-aborts", "Net": "exact"}
    models = [{"model": "toys/net", "label": label, "what": what[label]} for label in what]
    attacks = [{"attack": "toys/climb", "eps": "1/4"}, {"attack": "toys/climb", "how": "dies", "eps": "1/8"},
               {"attack": "toys/sign", "eps": ["1/8", "1/4"]}]  # fmt: skip
    source = suite(models=models, attacks=attacks)
    process = start(source, "--workers", "2", "--batch-size", "40", TOYS_ONCE="segfaults exits")
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 3, stderr
    assert "Traceback" not in stderr

    died = Counter(path.name.partition("-")[0] for path in deaths.iterdir())
    assert died.pop("aborts") in (2, 3, 4), "each of two workers may build it twice"
    assert died == {"killed": 2, "segfaults": 1, "exits": 1}
    for label, how in [("Killed", "signal 9 (SIGKILL)"), ("Segfaults", "signal 11 (SIGSEGV)"), ("Exits", "exit code 7"),
                       ("Unborn", "signal 6 (SIGABRT)")]:  # fmt: skip
        assert f"{label}: a worker died ({how}); its units were given to another one" in stdout
    dies = "climb(linf, 1/8, how=dies)"
    over = f"Killed · toys/pixels/test · {dies}: toys/climb: 2 workers died over its examples 0 to 39"
    assert f"{over}: signal 9 (SIGKILL)" in stdout
    assert f"failed: {over}: signal 9 (SIGKILL)" in stderr
    built = "toys/net: 2 workers died while they loaded it: signal 6 (SIGABRT)"
    assert f"Unborn · toys/pixels/test · clean and 4 more cells: {built}" in stdout
    assert "6 cells are incomplete" in stderr

    monkeypatch.setenv("TOYS_ONCE", "killed segfaults exits aborts")  # so nothing dies any more
    whole = outcomes(run(source, "undisturbed", batch_size=40))
    assert len(whole) == 25
    lost = {("Killed", dies), *(cell for cell in whole if cell[0] == "Unborn")}
    found = api.load(source, store=tmp_path / "store", plugins=[toys])
    assert outcomes(found) == {cell: bits for cell, bits in whole.items() if cell not in lost}
    assert outcomes(run(source)) == whole, "running again makes it good"


@pytest.mark.parametrize("end", ["once", "twice", "killed"])
def test_ctrl_c_with_workers_keeps_complete_parts_and_ends_all_processes(
    suite, run, start, toys, tmp_path, monkeypatch, end
):
    """The terminal tells all of the foreground at once; killed: the engine itself is, and cannot tell its workers."""
    slow = [f"{i}/64" for i in range(1, 9)]
    source = suite(
        attacks=[{"attack": "toys/sign", "eps": "1/4"}, {"attack": "toys/climb", "how": "slow", "eps": slow}]
    )
    log, seconds = tmp_path / "log", 2 if end == "once" else 60
    process = start(source, "--workers", "2", "--batch-size", "4", TOYS_SLOW=seconds, TOYS_LOG=log)

    def begun():
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return lines if len({process for process, *_ in lines}) == 2 else []

    before = wait_for(begun)
    workers = children(process.pid)
    assert len(workers) == 2
    if end == "killed":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)
    if end == "twice":
        wait_for(lambda: "Ctrl-C again" in process.stderr.readline())
        os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    wait_for(lambda: not any(map(is_alive, workers)))
    assert process.returncode == (-signal.SIGKILL if end == "killed" else 130)
    assert "Traceback" not in stderr
    if end == "once":
        assert "stopping after the current cells" in stderr
        assert f"To go on: robharness run {tmp_path / 'toys.yaml'}" in stderr
    if end == "twice":
        assert "the same command goes on" in stderr

    store, plan = Store(tmp_path / "store"), api.plan(source, plugins=[toys])
    attacks = {float(cell.perturbation.eps): cell for cell in plan.cells if "slow" in cell.short_name}
    ids = plan.data.ids(0, 40)
    in_hand = sorted((float(eps), ids.index(first), int(count)) for _, eps, count, first in begun())
    stored = [(eps, start, stop - start) for eps, cell in attacks.items() for start, stop in store.spans(cell.key)]
    assert sorted(stored) == (in_hand if end == "once" else []), "at once, not after the current cells"
    assert len(in_hand) <= len(before) + 2, "nothing is begun any more; each of the two may just have begun another one"
    [sign] = [cell for cell in plan.cells if "sign" in cell.short_name]
    assert len(store.spans(sign.key)) >= 2, "what is whole is written"
    for cell in plan.cells:
        assert len(store.read(cell.key, 40).positions) == sum(stop - start for start, stop in store.spans(cell.key))
    assert store.notes == []
    assert list((tmp_path / "store").rglob("*.tmp")) == []

    monkeypatch.setenv("TOYS_SLOW", "0")
    monkeypatch.setenv("TOYS_LOG", str(log))
    again, alone = run(source), run(source, "alone")
    assert again.is_complete
    assert outcomes(again) == outcomes(alone)


def test_two_runs_share_one_store_at_once(suite, run, start, tmp_path, monkeypatch):
    """Three processes meet in the attack: one of a run by itself, and one for each device of the other run."""
    source = suite(attacks=[{"attack": "toys/climb", "how": "meets", "eps": ["1/8", "1/4"]}, *suite()["attacks"]])
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    environment = {"TOYS_MEET": meeting, "TOYS_COUNT": 3}
    both = [start(source, "--batch-size", "4", "--json", *words, **environment)
            for words in (["--threads", "1"], ["--threads", "3", "--device", "cpu,cpu"])]  # fmt: skip
    for process in both:
        stdout, stderr = process.communicate(timeout=240)
        assert process.returncode == 0, stderr
        assert json.loads(stdout)["complete"]
    assert len(list(meeting.iterdir())) == 3
    store = Store(tmp_path / "store")
    facts = sorted(((record["workers"], record["threads"], record["devices"]) for record in store.runs()), key=str)
    assert facts == [(1, 1, ["cpu"]), (2, 3, ["cpu", "cpu"])]
    assert all(record["computed"] > 0 and record["failures"] == [] for record in store.runs())
    monkeypatch.setenv("TOYS_MEET", str(meeting))
    monkeypatch.setenv("TOYS_COUNT", "1")
    found = run(source)
    assert len(store.runs()) == 2, "all is there already"
    assert outcomes(found) == outcomes(run(source, "alone"))
    entries = [entry for result in found.cells for entry in result.provenance]
    assert {entry["threads"] for entry in entries} == {1, 3}


@pytest.mark.parametrize(
    "changes",
    [{"attacks": [{"attack": "toys/sign", "eps": "1/2"}]}, {"models": [{"model": "toys/net", "label": "Renamed"}]}],
    ids=["attacks", "label"],
)
def test_a_suite_that_changes_while_workers_start_is_detected(suite, toys, tmp_path, changes):
    """They make the plan again; either it is the one that the engine has, or a sentence says that it is not."""
    path = tmp_path / "toys.yaml"
    path.write_text(yaml.safe_dump(suite()))
    plan, store = api.plan(path, plugins=[toys]), Store(tmp_path / "store")

    class Editor(listeners.Silent):
        def started(self, work, cells):
            path.write_text(yaml.safe_dump(suite(**changes)))

    message = ""
    try:
        run_plan(plan, store, Editor(), workers=1)
    except UserError as error:
        message = str(error)
    is_complete = not any(store.missing(cell.key, 40) for cell in plan.cells)
    assert is_complete or ("suite" in message and "changed" in message)


def test_a_live_network_is_not_sent_to_workers(suite, run, toys, tmp_path):
    mine = (
        api.plan(suite(), plugins=[toys]).models[0].entry.spec.build(SimpleNamespace(what="exact", megabytes=0), None)
    )
    for how in ({"workers": 1}, {"device": "cpu,cpu"}):
        with pytest.raises(
            UserError, match=r"a live network exists in this process alone.*Try: one device and no `work"
        ):
            run(suite(), models={"mine": mine}, **how)
    assert not (tmp_path / "store").exists()
    assert run(suite(), models={"mine": mine}, device="cpu").is_complete
