"""`export-corruptions`: files equal to what a run renders, resumed after a kill, from one manifest."""

import hashlib
import io
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from robharness import UserError, discover
from robharness.cli import main
from robharness.export.names import file_names
from robharness.session import Session

HERE = Path(__file__).parent
TOYS, WEATHERED = str(HERE / "toys.py"), str(HERE / "weathered.py")
COMMAND = f"robharness export-corruptions suite.yaml -p {WEATHERED} -p {TOYS} -p more.py"
SQUARES = {"robharness": 1, "name": "squares", "data": {"name": "weathered/squares", "split": "test"}, "canvas": 64,
           "corruptions": [{"corruption": "weathered/fog", "severity": [2, 1]},
                           {"corruption": "weathered/snow", "severity": [1, 2]}]}  # fmt: skip
MORE = '''
import os, time
import numpy as np, torch
from robharness import CorruptionSpec, DatasetSpec, UnreadableExample, hookimpl

class Global:
    """Noise from NumPy's global generator, so that an example's depends on its place in the batch."""
    def perturb(self, model, batch, severity, rng):
        noise = np.random.randint(0, 20, batch.canvas.shape)
        return (batch.canvas.to(torch.int64) + torch.from_numpy(noise)).clamp(0, 255).to(torch.uint8)

class Undeclared(Global):
    pass

class Slow:
    """Tells how far it is, for a test that kills."""
    def perturb(self, model, batch, severity, rng):
        time.sleep(0.05)
        return 255 - batch.canvas + rng.uniform("x", (1, 1, 1)).mul(2).to(torch.uint8)

class Broken:
    ids, labels = [f"class{n % 3}/{n}.jpg" for n in range(20)], [n % 3 for n in range(20)]
    def read(self, index):
        if index == 4:
            raise UnreadableExample("cut off")
        return np.full((8, 8, 3), 10 * index, np.uint8)

class Both(Broken):
    ids = [f"a/{n // 2}.{'jpg' if n % 2 else 'png'}" for n in range(20)]

class Twice(Both):
    def read(self, index):
        return np.full((8, 8, 3), 10 * index, np.uint8)

@hookimpl
def robharness_datasets():
    for name, made in (("broken", Broken), ("both", Both), ("twice", Twice)):
        yield DatasetSpec(name=name, summary="Small", labels="few", splits=("test",),
                          open=lambda root, split, made=made: made())

@hookimpl
def robharness_corruptions():
    yield CorruptionSpec(name="global", summary="Noise", group="noise", build=lambda p: Global(), randomness="global")
    yield CorruptionSpec(name="undeclared", summary="Noise", group="noise", build=lambda p: Undeclared())
    yield CorruptionSpec(name="slow", summary="Turned", group="light", build=lambda p: Slow())
    yield CorruptionSpec(name="other/slow", summary="Turned", group="light", build=lambda p: Slow())
'''


@pytest.fixture
def export(tmp_path, monkeypatch):
    """Write a suite, and give what `export-corruptions` then does with these words: its exit code."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.py").write_text(MORE)

    def call(*words, **changes):
        suite = {key: value for key, value in (SQUARES | changes).items() if value is not None}
        Path("suite.yaml").write_text(json.dumps(suite))
        plugins = [word for path in (WEATHERED, TOYS, "more.py") for word in ("-p", path)]
        return int(main(["export-corruptions", "suite.yaml", *plugins, "-o", "out", "--display", "none", *words]))

    return call


def files(folder="out"):
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(Path(folder).rglob("*")) if path.is_file()}  # fmt: skip


def seen_by_a_model(recorded, tmp_path, limit=None, **changes):
    """(corruption, severity, id) -> the 8-bit image that a run passes to the model."""
    registry = discover([WEATHERED, str(tmp_path / "more.py")])
    seen = recorded(registry)
    models = [{"model": "weathered/even", "label": "Even"}]
    source = SQUARES | changes | {"models": models}
    session = Session.open(source, store=tmp_path / "store", limit=limit, registry=registry)
    session.compute(batch_size=4)
    assert session.results().is_complete
    return seen


def test_a_file_equals_what_a_run_renders_in_another_batch(export, recorded, tmp_path):
    corruptions = [*SQUARES["corruptions"], {"corruption": "more/global", "severity": 3}]
    (tmp_path / "more.py").write_text(MORE)
    seen = seen_by_a_model(recorded, tmp_path, corruptions=corruptions)
    assert export(corruptions=corruptions) == 0
    assert len(seen) == 5 * 60
    for (name, severity, id), image in seen.items():
        with Image.open(f"out/{name}/{severity}/{int(id) % 2}/{id}.png") as written:
            np.testing.assert_array_equal(np.asarray(written), image[..., 0])
    assert len(files()) == 5 * 60 + 1


def test_an_array_equals_what_a_run_renders_in_the_data_sets_order(export, recorded, tmp_path):
    (tmp_path / "more.py").write_text(MORE)
    seen = seen_by_a_model(recorded, tmp_path)
    assert export("--layout", "cifar-c") == 0
    assert sorted(files()) == ["fog.npy", "labels.npy", "robharness.json", "snow.npy"]
    labels = np.load("out/labels.npy")
    assert labels.dtype == np.uint8 and labels.tolist() == 2 * [n % 2 for n in range(60)]
    for name in ("fog", "snow"):
        array = np.load(f"out/{name}.npy")
        assert (array.dtype, array.shape) == (np.uint8, (120, 64, 64, 1))
        for row, image in enumerate(array):
            np.testing.assert_array_equal(image, seen[name, 1 + row // 60, f"{row % 60:02}"])


@pytest.mark.parametrize("layout", ["imagenet-c", "cifar-c"])
def test_a_killed_export_resumes_to_the_same_files(export, start_process, layout):
    corruptions = [{"corruption": name, "severity": [1, 2]} for name in ("more/slow", "weathered/fog")]
    whole = ("--layout", layout, "-o", "whole")
    assert export(*whole, corruptions=corruptions) == 0
    words = ["export-corruptions", "suite.yaml", "-p", WEATHERED, "-p", "more.py", "-o", "out", "--layout", layout]
    killed = start_process(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(Path("out").rglob("slow/1/*/*.png")) and not Path("out/slow.npy.count").exists():
        assert killed.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")}
    assert files() != files("whole")
    assert export("--layout", layout, corruptions=corruptions) == 0
    assert files() == files("whole")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_same_again_writes_nothing_and_a_larger_limit_adds(export, capsys):
    assert export("--limit", "20") == 0
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")}
    assert len(before) == 80
    capsys.readouterr()
    assert export("--limit", "20", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == {"corruption": "fog(1)", "n": 20, "made": 0, "unreadable": 0, "error": None}
    assert len(lines) == 4
    assert export() == 0
    assert len(list(Path("out").rglob("*.png"))) == 240
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert export(corruptions=[{"corruption": "weathered/frost", "severity": 1}]) == 0
    manifest = json.loads(Path("out/robharness.json").read_text())
    assert sorted(manifest["corruptions"]) == ["fog", "frost", "snow"]
    assert (manifest["seed"], manifest["data"]["canvas"], manifest["suite"]) == (0, 64, "squares")
    assert manifest["corruptions"]["fog"]["revision"] == 1


@pytest.mark.parametrize(
    ("words", "changes", "differ"),
    [
        ((), {"seed": 1}, "seed"),
        ((), {"canvas": 32}, "data"),
        (("--layout", "cifar-c"), {}, "layout"),
        ((), {"corruptions": [{"corruption": "more/other/slow", "severity": 1}]}, "slow"),
    ],
)
def test_a_folder_with_another_manifest_is_refused(export, capsys, words, changes, differ):
    slow = [{"corruption": "more/slow", "severity": 1}]
    assert export("--limit", "5", corruptions=slow) == 0
    before = files()
    assert export(*(words or ("--limit", "5")), **{"corruptions": slow} | changes) == 2
    assert f"out holds images with another {differ}. Try another folder: out-2" in capsys.readouterr().err
    assert files() == before
    Path("out/robharness.json").write_text("[1]")
    assert export("--limit", "5", corruptions=slow) == 2
    assert "out/robharness.json is no manifest of robharness" in capsys.readouterr().err


def test_usage_errors_are_one_sentence(export, capsys):
    def refusal(*words, **changes):
        assert export(*words, **changes) == 2
        text = capsys.readouterr().err
        assert "Traceback" not in text and len(text.strip().splitlines()) == 1
        return text

    assert "suite.yaml has nothing to render: it has no corruptions" in refusal(corruptions=[])
    both = [{"corruption": name, "severity": 1} for name in ("more/slow", "more/other/slow")]
    assert "more/slow and more/other/slow (or one with two sets of options) would both be written to 'slow'" in refusal(
        corruptions=both
    )
    uneven = [{"corruption": "weathered/fog", "severity": 1}, {"corruption": "weathered/snow", "severity": 2}]
    assert "give all corruptions the same severities" in refusal("--layout", "cifar-c", corruptions=uneven)
    assert "remove the limit" in refusal("--layout", "cifar-c", "--limit", "5")
    undeclared = [{"corruption": "more/undeclared", "severity": 1}]
    assert export(corruptions=undeclared) == 3
    assert "draws from the global generator of numpy.random" in capsys.readouterr().out
    twice = {
        "data": {"name": "more/twice", "split": "test"},
        "corruptions": [{"corruption": "more/slow", "severity": 1}],
    }
    text = refusal(**twice)
    assert "'a/0.png' and 'a/0.jpg' of more/twice would both be written to 'a/0.png'. Rename one of them, or" in text
    assert text.strip().endswith(f"which need that every example can be read. Try: {COMMAND} -o out --layout cifar-c")
    broken = twice | {"data": {"name": "more/broken", "split": "test"}}
    assert "'class1/4.jpg' cannot be read, and an array needs every example" in refusal(
        "--layout", "cifar-c", "-o", "other", **broken
    )
    both = refusal("--layout", "cifar-c", "-o", "third", **twice | {"data": {"name": "more/both", "split": "test"}})
    assert "'a/2.png' cannot be read, and an array needs every example; mend or remove the example. Then type: " in both
    assert both.strip().endswith("-o third-2 --layout cifar-c")
    Path("out").rename("elsewhere")
    Path("out").write_text("a file")
    assert "out" in refusal()


def test_the_remedy_for_an_array_that_lacks_an_example_works(export, capsys):
    broken = {
        "data": {"name": "more/broken", "split": "test"},
        "corruptions": [{"corruption": "more/slow", "severity": 1}],
    }
    assert export("--layout", "cifar-c", **broken) == 2
    remedy = capsys.readouterr().err.strip().partition(f"Try: {COMMAND} ")[2]
    assert remedy == "-o out-2 --layout imagenet-c"
    assert export(*remedy.split(), **broken) == 3
    assert "19 images written" in capsys.readouterr().out


def test_unreadable_examples_are_left_out_and_reported(export, capsys):
    broken = {
        "data": {"name": "more/broken", "split": "test"},
        "corruptions": [{"corruption": "more/slow", "severity": 1}],
    }
    assert export(**broken) == 3
    assert "slow(1): 19 images written, 0 existed already; 1 examples cannot be read" in capsys.readouterr().out
    assert not Path("out/slow/1/class1/4.png").exists() and Path("out/slow/1/class2/5.png").exists()


def test_progress_is_shown_as_by_a_run(export):
    from rich.console import Console

    from robharness.cli.progress import ProgressDisplay

    stream = io.StringIO()
    display = ProgressDisplay("rich", Console(file=stream, force_terminal=True, width=100))
    display.begin(40, "pictures", "two corruptions")
    for done in (16, 4):
        display.advance(done, "fog(1)")
    display._bar.refresh()
    assert "20/40" in stream.getvalue() and "fog(1)" in stream.getvalue()
    display.finished()


def test_an_export_needs_no_model_and_builds_no_network(export, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *_: pytest.fail("a network was called"))
    assert export("--limit", "3", models=[{"model": "weathered/even", "weights": "nowhere.pt"}]) == 0


def test_a_damaged_unfinished_array_is_named_and_its_remedy_works(export, capsys):
    corruptions = [{"corruption": "more/other/slow", "severity": 1}]
    assert export("--layout", "cifar-c", corruptions=corruptions) == 0
    before, array = files(), Path("out/slow.npy")
    content, other = array.read_bytes(), io.BytesIO()
    np.save(other, np.load(array)[1:])
    for part, count in ((content, b"x"), (content, b"99"), (b"no array", b"1"), (other.getvalue(), b"1")):
        array.unlink()
        Path("out/slow.npy.part").write_bytes(part)
        Path("out/slow.npy.count").write_bytes(count)
        assert export("--layout", "cifar-c", corruptions=corruptions) == 2
        stderr = capsys.readouterr().err
        assert "out/slow.npy.part is damaged (" in stderr and "Traceback" not in stderr
        os.system(stderr.strip().partition("To write it again: ")[2])
        assert export("--layout", "cifar-c", corruptions=corruptions) == 0 and files() == before
    Path("out/robharness.json").write_text("[" * 10**5)
    assert export("--layout", "cifar-c", corruptions=corruptions) == 2
    assert "out/robharness.json is no manifest of robharness. Try another folder: out-2" in capsys.readouterr().err


@pytest.mark.parametrize("id", ["../a", "/a", "a/../../b", "a\0", "a\\b", "", "x" * 250, "a\nb"])
def test_an_id_that_is_no_path_below_a_folder_is_refused(id):
    names = SimpleNamespace(ids=["0.png", id], labels=[0, 1])
    data = SimpleNamespace(dataset=names, entry=SimpleNamespace(name="more/data"))
    with pytest.raises(UserError, match=r"Try: the command for arrays"):
        file_names(data, "none", "the command for arrays")


@pytest.mark.parametrize("other", ["A.png", "a.PNG", "\u00e9.png"])
def test_ids_that_are_one_file_on_some_systems_are_refused(other):
    ids = ["a.png", "e\u0301.png", other]
    data = SimpleNamespace(dataset=SimpleNamespace(ids=ids, labels=[0] * 3), entry=SimpleNamespace(name="more/data"))
    with pytest.raises(UserError, match=r"would both be written to .* Try: the command for arrays"):
        file_names(data, "none", "the command for arrays")
