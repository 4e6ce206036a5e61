"""Files that an identity names by their content: one that changes before its use is refused."""

import hashlib
import json
import os
import textwrap
from pathlib import Path

import pytest

from robharness.cli import main
from robharness.session import Session

PLUGIN = """
    from dataclasses import dataclass
    from pathlib import Path

    import numpy as np
    import torch

    from robharness import AttackSpec, Cost, DatasetSpec, File, InputSpec, ModelSpec, ThreatModel, hookimpl


    class Data:
        ids, labels = [f"e{i}" for i in range(8)], [i % 2 for i in range(8)]

        def read(self, index):
            return np.full((2, 2, 1), 255 * (index % 2), np.uint8)


    class Net(torch.nn.Module):
        def forward(self, x):
            return torch.stack([0.5 - x.mean((1, 2, 3)), x.mean((1, 2, 3)) - 0.5], 1)


    @dataclass(frozen=True, kw_only=True)
    class Params:
        table: Path | None = None
        then: str = ""


    def build(params, weights):
        for name in [name for name in params.then.split() if name]:  # what another process may do at that moment
            file, _, content = name.partition("=")
            (Path(weights if isinstance(weights, Path) else weights["body"]).parent / file).write_text(content)
        return Net()


    class Still:
        def __init__(self, params):
            self.params = params

        def perturb(self, model, batch, eps, rng):
            if self.params.then:
                self.params.table.write_text(self.params.then)
            return batch.x


    @hookimpl
    def robharness_datasets():
        yield DatasetSpec(name="data", summary="", labels="two", splits=(), open=lambda root, split: Data())


    @hookimpl
    def robharness_models():
        files = {"first": File(path="first.bin"), "second": File(path="second.bin"),
                 "parts": {"body": File(path="first.bin"), "head": File(path="second.bin")}}
        for name, weights in files.items():
            yield ModelSpec(name=name, summary="", input=InputSpec(shape=(1, 2, 2)), labels="two", params=Params,
                            weights=weights, build=build)


    @hookimpl
    def robharness_attacks():
        yield AttackSpec(name="still", summary="", access="decision", params=Params, randomness="none", build=Still,
                         threat=lambda params: ThreatModel(norm="linf"), cost=lambda params: Cost())


    def later():
        import beside  # a neighbour, which counts as source

        return "names.json"
"""
FILES = {"data/first.bin": "1", "data/second.bin": "2", "table.txt": "t", "plugin.py": textwrap.dedent(PLUGIN),
         "beside.py": "x = 1", "names.json": "[]"}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()  # else the code would name these files, which makes them a part of the plugin
    for name, content in FILES.items():
        Path(name).write_text(content)
    return tmp_path


def suite(*models, **attack):
    named = [{"label": f"Net {number}", **model} for number, model in enumerate(models)]
    attacks = {"attacks": [{"attack": "plugin/still", "eps": 0.5, **attack}]} if attack else {}
    return {
        "robharness": 1,
        "name": "changes",
        "data": {"name": "plugin/data", "split": "all"},
        "models": named,
    } | attacks


def failures(results):
    return [failure.error for result in results.cells for failure in result.failures]


def test_weights_that_are_swapped_while_an_earlier_model_runs_are_refused(folder):
    models = {"model": "plugin/first", "then": "second.bin=swapped"}, {"model": "plugin/second"}
    Path("suite.yaml").write_text(json.dumps(suite(*models)))
    command = ["run", "suite.yaml", "-p", "plugin.py", "--data-root", "data"]
    assert main(command) == 3
    session = Session.open("suite.yaml", plugins=["plugin.py"], data="data")
    first, second = session.results().cells
    assert first.is_complete and first.accuracy == 1 and second.n == 0 and not second.failures
    assert second.cell.identity["model"]["weights"] == hashlib.sha256(b"swapped").hexdigest()
    stored = [json.loads(path.read_text()) for path in Path(".robharness").rglob("*.failed.json")]
    sentence = f"its weights file {folder / 'data/second.bin'} changed since the run was planned. Try: the same command"
    assert [record["error"] for record in stored] == [f"plugin/second: {sentence}"]
    assert main(command) == 0


CASES = {
    "weights": ({"model": "plugin/first"}, {}, "data/first.bin", "weights file {folder}/data/first.bin changed"),
    "one of several": (
        {"model": "plugin/parts"},
        {},
        "data/second.bin",
        "weights file {folder}/data/second.bin changed",
    ),
    "an option": ({"model": "plugin/first", "table": "table.txt"}, {}, "table.txt", "its option 'table' changed"),
    "an attack's option": (
        {"model": "plugin/first"},
        {"table": "table.txt"},
        "table.txt",
        "its option 'table' changed",
    ),
    "the plugin": ({"model": "plugin/first"}, {}, "plugin.py", "which belongs to its plugin plugin.py, changed"),
    "a neighbour": (
        {"model": "plugin/first"},
        {},
        "beside.py",
        "which belongs to its plugin plugin.py, changed",
    ),
    "a named file": ({"model": "plugin/first"}, {}, "names.json", "which belongs to its plugin plugin.py, changed"),
}


@pytest.mark.parametrize("how", ["other content", "other content of the old size and time", "gone"])
@pytest.mark.parametrize("case", CASES)
def test_a_file_that_changes_between_plan_and_use_is_refused(folder, case, how):
    model, attack, file, sentence = CASES[case]
    session = Session.open(suite(model, **attack), plugins=["plugin.py"], data=folder / "data")
    before, facts = Path(file).read_text(), os.stat(file)
    if how == "gone":
        Path(file).unlink()
    else:
        Path(file).write_text(before.replace("1", "3").replace("2", "3").replace("t", "u").replace("[]", "{}"))
    if how == "other content of the old size and time":
        os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    session.compute()
    found = session.results()
    errors = failures(found)
    assert errors and all("Try: " in error for error in errors)
    assert how == "gone" or all(sentence.format(folder=folder) in error for error in errors)
    assert [result.n for result in found.cells] == [8, 0][: len(found.cells)] if attack else [0]
    Path(file).write_text(before)


def test_an_attack_that_writes_its_own_file_is_refused(folder):
    session = Session.open(suite({"model": "plugin/first"}, table="table.txt", then="other"), plugins=["plugin.py"],
                           data=folder / "data")  # fmt: skip
    session.compute()
    (error,) = failures(session.results())
    assert "the file or folder of its option 'table' changed since the run was planned" in error
