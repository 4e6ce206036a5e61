"""`export-adversarial`: its files can be judged again, and existing files are kept."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from robharness import api
from robharness.cli import main
from robharness.export.names import comparable, folder_names
from robharness.store import Store

ATTACKS = [{"attack": "teams/team", "eps": ["1/8", "1/4"]}, {"attack": "teams/step", "eps": "1/4"}]


@pytest.fixture
def written(suite, tmp_path, monkeypatch):
    """Write a suite, and give what `export-adversarial` then does with these words: its exit code."""
    monkeypatch.chdir(tmp_path)

    def call(*words, **changes):
        Path("suite.yaml").write_text(json.dumps(suite(**{"attacks": ATTACKS} | changes)))
        plugins = [word for path in PLUGINS for word in ("-p", path)]
        return int(main(["export-adversarial", "suite.yaml", *plugins, "--store", "store", "-o", "out", *words]))

    return call


PLUGINS = [str(Path(__file__).parent / name) for name in ("toys.py", "teams.py")]
TEAM, STEP = Path("out/Net/team(linf, 1_4)"), Path("out/Net/step(linf, 1_4)")


def judged(folder, net):
    """{example: whether it is right} for all the files of a folder."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as part:
            images, labels = torch.from_numpy(part["images"]), torch.from_numpy(part["labels"])
            predictions = net(images).argmax(1)
            assert (predictions.numpy() == part["predictions"]).all()
            assert images.dtype == torch.float32 and 0 <= images.min() <= images.max() <= 1
            new = dict(zip(part["examples"].tolist(), (predictions == labels).tolist(), strict=True))
            assert not set(new) & set(found), "no example twice"
            found |= new
    return found


def test_images_judged_again_give_the_stored_accuracy(written, run, suite, capsys):
    results = run(suite(attacks=ATTACKS), batch_size=8)
    assert written("--batch-size", "8") == 0
    model = results.plan.models[0]
    net = model.entry.spec.build(model.ref.params, None)
    for result in results.cells[1:]:
        folder = Path("out/Net") / result.cell.short_name.replace("/", "_")
        found = judged(folder, net)
        assert found == dict(zip(result.columns["example"], result.correct.tolist(), strict=True))
        assert json.loads((folder / "cell.json").read_text())["key"] == result.cell.key
        assert sorted(path.name for path in folder.iterdir()) == ["00000-00032.npz", "00032-00040.npz", "cell.json"]
    assert f"{TEAM}: 40 images; 0 of 40 stored predictions differ" in capsys.readouterr().out


def test_an_export_needs_no_store_and_prints_json(written, capsys):
    assert written("--only", "team*", "--limit", "10", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == {
        "cell": "Net · toys/pixels/test · team(linf, 1/4)", "folder": str(TEAM), "n": 10, "unreadable": 0,
        "stored": 0, "differing": 0, "error": None,
    }  # fmt: skip
    assert len(lines) == 2 and not STEP.exists() and not Path("store").exists()


def test_existing_files_are_kept_and_no_position_is_written_twice(written, suite, run):
    assert written("--limit", "10") == 0
    [first] = TEAM.glob("*.npz")
    before = first.stat().st_mtime_ns, first.read_bytes()
    assert written("--batch-size", "4") == 0
    assert (first.stat().st_mtime_ns, first.read_bytes()) == before
    results = run(suite(attacks=ATTACKS))
    net = results.plan.models[0].entry.spec.build(results.plan.models[0].ref.params, None)
    assert len(judged(TEAM, net)) == len(judged(STEP, net)) == 40


def test_a_folder_holds_one_cell(written, capsys):
    assert written("--limit", "10") == 0
    assert written("--limit", "10", attacks=[{**ATTACKS[1], "step": "1/2"}]) == 0
    other = [{"model": "toys/net", "label": "Net", "what": "drifting"}]
    assert written("--limit", "10", models=other) == 2
    stderr = capsys.readouterr().err
    assert "holds another cell of that name. Try another folder: out-2" in stderr


def test_predictions_that_are_not_the_stored_ones_are_counted(written, run, suite, tmp_path, capsys):
    """As after an update of a library: the store holds another prediction for five examples."""
    results = run(suite(attacks=ATTACKS))
    cell = results.cells[-1].cell
    columns = {name: results.cells[-1].columns[name] for name in results.cells[-1].columns}
    columns["prediction"] = np.where(np.arange(40) < 5, 2 - columns["prediction"] // 2, columns["prediction"])
    changed = int((columns["prediction"] != results.cells[-1].columns["prediction"]).sum())
    store = Store(tmp_path / "store")
    for part in store.folder(cell.key).glob("*.parquet"):
        part.unlink()
    store.write_part(cell.key, 0, columns, {})
    assert written() == 3
    assert f"{STEP}: 40 images; {changed} of 40 stored predictions differ" in capsys.readouterr().out
    assert changed > 0


def test_errors_of_writing_and_attacking_are_reported(written, capsys):
    assert written(attacks=None) == 2
    assert "these cells include no attack to export" in capsys.readouterr().err
    assert written("--limit", "10", attacks=[ATTACKS[0] | {"how": "oversteps"}, ATTACKS[1]]) == 3
    out = capsys.readouterr().out
    assert "failed: Net · toys/pixels/test · team(linf, 1/8, how=oversteps): teams/team: its budget is" in out
    assert f"{STEP}: 10 images; none stored\n" in out  # the other attack is written
    Path("out/Net").rename("elsewhere")
    Path("out/Net").write_text("a file")
    assert written("--limit", "10") == 2
    stderr = capsys.readouterr().err
    assert "out/Net" in stderr and "Traceback" not in stderr


def test_images_of_every_model_and_norms_in_their_names(suite, teams, tmp_path):
    """Nothing of a label is a folder of its own."""
    from robharness.export.adversarial import export_adversarial

    models = [{"model": "toys/net", "label": "a/b"}, {"model": "teams/net", "label": "c"},
              {"model": "toys/net", "label": ".."}, {"model": "toys/net", "label": "C"}]  # fmt: skip
    planned = api.plan(suite(models=models, attacks=ATTACKS[1:]), plugins=teams, limit=4)
    made = list(export_adversarial(planned, Store(tmp_path / "none"), tmp_path / "out", device="cpu"))
    folders = [m.folder.relative_to(tmp_path / "out").parts for m in made]
    assert [parts[1] for parts in folders] == ["step(linf, 1_4)"] * 4
    assert [parts[0].partition("-")[0] for parts in folders] == ["a_b", "c", "__", "C"]
    assert len({parts[0].casefold() for parts in folders}) == 4
    assert os.listdir(tmp_path) == ["out"]


NAMES = ["..", ".", "...", "", " ", "/etc/passwd", "a/../../b",
         "a\0b", "\x1b[31m", ".git", "NUL", "com1.txt", "a.", "a ",
         "A", "a", "\u00e9", "e\u0301", "\u202egnp", "x" * 300, "\u00e9" * 200, "a_b", "a/b", "\udcff"]  # fmt: skip


def test_any_texts_get_different_names_below_a_folder(tmp_path):
    found = folder_names(NAMES)
    assert list(found) == NAMES
    assert len({comparable(name) for name in found.values()}) == len(NAMES)
    for name in found.values():
        path = tmp_path / name / "inside"
        path.mkdir(parents=True)
        assert path.resolve().parent.parent == tmp_path.resolve()
        assert len(os.fsencode(name)) <= 130 and not name.startswith(".") and not name.endswith((".", " "))
    assert len(os.listdir(tmp_path)) == len(NAMES)
    assert folder_names(["Net", "pgd(linf, 1_4)"]) == {"Net": "Net", "pgd(linf, 1_4)": "pgd(linf, 1_4)"}


DAMAGES = {
    "emptied": ("00000-00032.npz", lambda path: path.write_bytes(b"")),
    "cut": ("00000-00032.npz", lambda path: path.write_bytes(path.read_bytes()[:200])),
    "a folder": ("00000-00032.npz", lambda path: (path.unlink(), path.mkdir())),
    "a pipe": ("00000-00032.npz", lambda path: (path.unlink(), os.mkfifo(path))),
    "texts as predictions": ("00000-00032.npz", lambda path: np.savez(path, examples=np.array(["a"]),
                                                                      predictions=np.array(["a"]))),
    "no arrays": ("00000-00032.npz", lambda path: np.savez(path, images=np.zeros(1))),
    "an uneven number": ("00000-00032.npz", lambda path: np.savez(path, examples=np.array(["a"]),
                                                                  predictions=np.array([1, 2]))),
    "no description": ("cell.json", lambda path: path.write_text("")),
    "a list": ("cell.json", lambda path: path.write_text("[]")),
    "deep": ("cell.json", lambda path: path.write_text("[" * 10**5)),
}  # fmt: skip


def test_a_damaged_export_is_named_and_its_remedy_works(written, capsys):
    assert written("--limit", "34", "--batch-size", "8", attacks=ATTACKS[1:]) == 0
    for name, damage in DAMAGES.values():
        damage(STEP / name)
        assert written("--limit", "34", "--batch-size", "8", attacks=ATTACKS[1:]) == 2
        stderr = capsys.readouterr().err
        assert name in stderr and "is damaged (" in stderr and "Traceback" not in stderr
        os.system(stderr.strip().rpartition("write it again: " if name != "cell.json" else "again: ")[2])
        assert written("--limit", "34", "--batch-size", "8", attacks=ATTACKS[1:]) == 0
