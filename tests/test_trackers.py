"""Plugins that track runs: what they are notified of, when, and that nothing they do reaches the run."""

import ast
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from robharness import api
from robharness.errors import StoreError
from robharness.interrupts import Stopped
from robharness.plugins import discover, observers
from robharness.report import build
from robharness.report.notifications import CellNotifications
from robharness.report.renderers.json import as_data
from robharness.store import Store

HERE = Path(__file__).parent
TRACKER, TOYS = str(HERE / "tracker.py"), str(HERE / "toys.py")
PAGE = HERE.parent / "docs/how-to/trackers.md"
CORRUPTIONS = [{"corruption": "toys/speckle", "severity": [1, 3]}]


@pytest.fixture
def source(suite):
    """Two labels of one model, whose cells have the same keys, and a model of other cells."""
    models = [{"model": "toys/net", "label": "Net", "reference": True}, {"model": "toys/net", "label": "Twin"},
              {"model": "toys/net", "label": "Large", "what": "undecided"}]  # fmt: skip
    return suite(models=models, attacks=[{"attack": "toys/sign", "eps": ["1/8", "1/4"]}], corruptions=CORRUPTIONS)


@pytest.fixture
def tracked(tmp_path, monkeypatch):
    """Run a suite with the tracker; give the results and the notifications."""
    file = tmp_path / "tracked.jsonl"
    monkeypatch.setenv("TRACKED", str(file))

    def run(source, plugins=(TOYS, TRACKER), **options):
        file.write_text("")
        try:
            found = api.run(source, store=tmp_path / "store", plugins=list(plugins), **options)
        except BaseException as error:
            found = error
        return found, [json.loads(line) for line in file.read_text().splitlines()]

    return run


def numbers_of(report):
    """(model, perturbation) -> the numbers of the cell in the JSON, under the names that trackers get."""
    found = {}
    for cell in as_data(report)["cells"]:
        named = {}
        for name, interval in (("accuracy", "interval"), ("robust_accuracy", "robust_interval"),
                               ("relative_drop", "relative_drop_interval")):  # fmt: skip
            low, high = cell[interval] or (None, None)
            named |= {name: cell[name], f"{name}_low": low, f"{name}_high": high}
        named["n"] = cell["n"]
        found[cell["model"], cell["perturbation"]] = {name: value for name, value in named.items() if value is not None}
    return found


@pytest.mark.parametrize("options", [{}, {"workers": 1}], ids=["in this process", "in a subprocess"])
def test_a_run_is_tracked_from_its_beginning_to_its_end(tracked, source, tmp_path, options):
    found, [started, *cells, finished] = tracked(source, **options)
    assert (started["hook"], finished["hook"]) == ("started", "finished") and {cell["hook"] for cell in cells} == {
        "cell"
    }
    assert {line["process"] for line in (started, *cells, finished)} == {os.getpid()}
    assert started["models"] == ["Net", "Twin", "Large"]
    assert started["cells"] == [result.cell.name for result in found.cells] and started["missing"] == 15
    assert started["n"] == 40 and started["store"] == str(tmp_path / "store")
    assert started["parameters"]["data"] == "toys/pixels/test" and started["parameters"]["seed"] == 0
    assert started["parameters"].get("workers") == options.get("workers")
    expected = numbers_of(build(found))
    assert len(cells) == len(expected) == 15  # those of the label with the same keys as well
    for cell in cells:
        assert cell["metrics"] == expected[cell["model"], cell["perturbation"]] and cell["complete"]
    assert len(next(cell["metrics"] for cell in cells if cell["kind"] == "attack")) == 10
    assert {cell["key"] for cell in cells} == {result.cell.key for result in found.cells}
    order = [(cell["model"], cell["kind"]) for cell in cells]
    for label in found.labels:  # since drops need it
        assert order.index((label, "clean")) < order.index((label, "attack"))
    [weak] = [cell for cell in cells if (cell["model"], cell["perturbation"]) == ("Large", "sign(linf, 1/8)")]
    assert weak["parameters"] == {"kind": "attack", "norm": "linf", "eps": 0.125}
    assert finished["complete"] is True and finished["n"] == [40] * 15
    _, again = tracked(source, **options)
    assert [line["hook"] for line in again] == ["started", "finished"] and again[0]["missing"] == 0


def test_the_clean_cell_is_notified_first_if_both_are_stored_before_either_has_its_turn(tracked, source, tmp_path):
    found, _ = tracked(source)
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    plan = found.plan
    notifications = CellNotifications(plan, Store(tmp_path / "store"), discover([TOYS, TRACKER]))
    (tmp_path / "elsewhere").rename(tmp_path / "store")
    (tmp_path / "tracked.jsonl").write_text("")
    for kind in ("attack", "clean"):
        notifications(next(cell for cell in plan.cells if (cell.model.label, cell.kind) == ("Large", kind)))
    lines = map(json.loads, (tmp_path / "tracked.jsonl").read_text().splitlines())
    assert [(line["model"], line["kind"]) for line in lines] == [("Large", "clean"), ("Large", "attack")]


def test_a_cell_is_notified_when_its_last_examples_are_stored(tracked, source):
    _, first = tracked(source, shard=(1, 2))
    assert [line["hook"] for line in first] == ["started", "finished"] and not first[-1]["complete"]
    assert first[0]["parameters"]["shard"] == "1/2"
    found, second = tracked(source, shard=(2, 2))
    assert {(line["model"], line["perturbation"]) for line in second[1:-1]} == set(numbers_of(build(found)))
    assert [line["n"] for line in second[1:-1]] == [40] * 15


def test_cells_whose_clean_cell_failed_are_notified_at_the_end(tracked, suite, tmp_path, monkeypatch):
    rogue = [{"attack": "toys/rogue", "eps": "1/8", "how": "raises"}, {"attack": "toys/sign", "eps": "1/8"}]
    found, received = tracked(suite(attacks=rogue))
    assert [(line["hook"], line.get("perturbation")) for line in received] == [
        ("started", None), ("cell", "clean"), ("cell", "sign(linf, 1/8)"), ("finished", None),
    ]  # fmt: skip
    assert not found.is_complete and received[-1]["complete"] is False


# --- whatever a tracker does ------------------------------------------------------------------------------------------

SAID = {
    "raises": "ValueError: no server",
    "exits": "SystemExit: 0",
    "interrupts": "KeyboardInterrupt",
    "stops": "StopIteration",
    "unprintable": "Unprintable, whose text cannot be printed",
    "hangs": "TimeoutError: it took longer than 0.3 s",
}
HARMLESS = ("moves", "forks", "writes")
HOOKS = {"started": "robharness_run_started", "cell": "robharness_cell_finished", "finished": "robharness_run_finished"}


def test_trackers_change_no_result_and_stop_no_run(tracked, suite, tmp_path, monkeypatch):
    """Each way to misbehave is a plugin of its own, which misbehaves at every hook, beside one that behaves."""
    honest = api.run(suite(), store=tmp_path / "honest", plugins=[TOYS])
    monkeypatch.setattr(observers, "SECONDS", dict.fromkeys(observers.SECONDS, 0.3))
    files = {way: tmp_path / f"{way}.py" for way in (*SAID, *HARMLESS)}
    for file in files.values():
        file.write_text(Path(TRACKER).read_text())
    before = Path.cwd(), sys.stdout, os.environ.get("ROBHARNESS_DATA")
    found, received = tracked(suite(), plugins=(TOYS, *map(str, files.values()), TRACKER))
    assert (Path.cwd(), sys.stdout, os.environ.get("ROBHARNESS_DATA")) == before
    assert found.is_complete and found.suite.name == "toys"
    for one, other in zip(found.cells, honest.cells, strict=True):
        assert one.cell.key == other.cell.key and list(one.columns["margin"]) == list(other.columns["margin"])
    warnings = {(each.subject, each.message) for each in found.report().findings if each.code == "observer-failed"}
    assert warnings == {(f"{hook} of {files[way]}", said) for way, said in SAID.items() for hook in HOOKS.values()}
    calls = [(line.pop("by"), line.pop("process"), line) for line in received]
    expected = [line for by, _, line in calls if by == "tracker"]
    assert [line["hook"] for line in expected] == ["started", *["cell"] * 4, "finished"]
    for way in files:
        mine = [line for by, process, line in calls if by == way and process == os.getpid()]
        if way in SAID:  # the hook of a cell that failed once is not called again
            assert mine == [*expected[:2], expected[-1]], way
        else:
            assert mine == expected, way


def test_warnings_of_trackers_are_shown_at_once(shell, suite, tmp_path, monkeypatch):
    (tmp_path / "s.json").write_text(json.dumps(suite()))
    tracked = {"TRACKED": tmp_path / "tracked.jsonl", "TRACKER": "cell:raises"}
    done = shell("run", "s.json", plugins=[TOYS, TRACKER], **tracked)
    said = f"robharness_cell_finished of {TRACKER}: ValueError: no server; it is not called again in this run"
    assert done.returncode == 0 and done.stderr.count(f"warning: {said}") == 1 and said in done.stdout


def test_an_interrupted_run_is_tracked_to_its_end(tracked, source, monkeypatch):
    monkeypatch.setenv("TRACKER", "cell:types-ctrl-c")
    error, received = tracked(source)
    assert isinstance(error, Stopped)
    assert received[-1]["hook"] == "finished" and received[-1]["complete"] is False
    monkeypatch.delenv("TRACKER")
    found, rest = tracked(source)
    assert found.is_complete and rest[-1]["complete"] is True


def test_a_run_that_fails_is_tracked_to_its_end(tracked, source):
    class Full:
        """A listener on a disk that becomes full."""

        def cell_done(self, cell, span, failure):
            raise StoreError("the disk is full")

        def __getattr__(self, name):
            return lambda *_: None

    error, received = tracked(source, listener=Full())
    assert str(error) == "the disk is full"
    assert [line["hook"] for line in received] == ["started", "finished"] and received[-1]["complete"] is False


# --- the page ---------------------------------------------------------------------------------------------------------


def example(name):
    [text] = re.findall(rf"^```python {name}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return text


READ = """
import json, sys
from robharness.cli import main

code = main(sys.argv[1:])
import mlflow

client, found = mlflow.MlflowClient(), []
[experiment] = [each for each in client.search_experiments() if each.name != "Default"]
for run in client.search_runs([experiment.experiment_id]):
    files = [each.path for each in client.list_artifacts(run.info.run_id)]
    texts = {path: mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{path}") for path in files}
    found.append({"name": run.info.run_name, "status": run.info.status, "id": run.info.run_id, "texts": texts,
                  "params": run.data.params, "metrics": run.data.metrics, "tags": run.data.tags})
print("RUNS", json.dumps([experiment.name, found]))
sys.exit(code)
"""


def test_mlflow_has_the_numbers_of_the_report(source, tmp_path, run_process):
    """In the files of MLflow, read by its client."""
    folder = Path(sys.prefix) / "mlflow"
    assert folder.is_dir(), "MLflow has a folder of its own. Try: make test"
    (tmp_path / "mlflow_tracker.py").write_text(example("mlflow_tracker.py"))
    (tmp_path / "s.json").write_text(json.dumps(source))
    environment = {
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
        "MLFLOW_TRACKING_URI": "file:./mlruns",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    words = ("run", "s.json", "-p", "./mlflow_tracker.py", "-p", TOYS)
    done = run_process(*words, program=("-c", READ), environment=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "observer-failed" not in done.stdout and "robharness_" not in done.stdout + done.stderr
    experiment, runs = json.loads(done.stdout.partition("RUNS ")[2])
    report = api.load(source, store=tmp_path / ".robharness", plugins=[TOYS]).report()
    expected = numbers_of(report)
    [parent] = [run for run in runs if "mlflow.parentRunId" not in run["tags"]]
    assert experiment == "toys" and (parent["name"], parent["status"]) == ("toys", "FINISHED")
    assert parent["params"]["data"] == "toys/pixels/test" and parent["params"]["seed"] == "0"
    assert parent["tags"]["command"].startswith("robharness run s.json -p ./mlflow_tracker.py")
    assert parent["texts"]["cells.csv"].count("\n") == 1 + len(expected)
    cells = {cell.key: cell for cell in report.cells}
    children = [run for run in runs if run["tags"].get("mlflow.parentRunId") == parent["id"]]
    assert len(children) == len(runs) - 1 == len(expected) == 15
    for run in children:
        tags, cell = run["tags"], cells[run["tags"]["key"]]
        assert run["metrics"] == pytest.approx(expected[tags["model"], tags["perturbation"]], rel=1e-12)
        assert run["params"]["kind"] == cell.kind and run["params"].get("norm") == cell.norm
        assert run["status"] == "FINISHED" and run["name"] == f"{tags['model']}, {tags['perturbation']}"


def test_the_example_for_weights_and_biases_runs_with_its_calls_recorded(source, tracked, tmp_path, monkeypatch):
    """W&B itself is no tool of the tests: its functions are replaced, and only the example's own side is tested."""
    calls, text = [], example("wandb_tracker.py")
    called = {node.func.attr for node in ast.walk(ast.parse(text))
              if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("wandb.")}  # fmt: skip
    recorded = {name: lambda *args, _name=name, **options: calls.append((_name, args, options)) for name in called}
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(**recorded, run=SimpleNamespace(summary={})))
    (tmp_path / "wandb_tracker.py").write_text(text)
    found, _ = tracked(source, plugins=(TOYS, str(tmp_path / "wandb_tracker.py")))
    assert not found.run_findings
    expected = numbers_of(found.report())
    logged = [args[0] for name, args, _ in calls if name == "log"]
    numbers = {key: value for each in logged[:-1] for key, value in each.items()}
    assert numbers == {f"{model}/{what}/{name}": value for (model, what), some in expected.items()
                       for name, value in some.items()}  # fmt: skip
    assert calls[0][0] == "init" and calls[-1] == ("finish", (), {"exit_code": 0})


def test_the_examples_have_about_20_lines():
    for name in ("mlflow_tracker.py", "wandb_tracker.py"):
        assert len([line for line in example(name).splitlines() if line.strip()]) <= 20
