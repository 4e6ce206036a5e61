"""The gallery: cells and examples are chosen by rules, and what is shown is what was judged."""

import json
import runpy
import signal
import time
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from robharness import api
from robharness.export import choice, thumbnails
from robharness.export.adversarial import export_adversarial
from robharness.export.choice import choose
from robharness.export.gallery import gallery
from robharness.store import Store

TOYS, FILMS = (str(Path(__file__).parent / name) for name in ("toys.py", "films.py"))
MODELS = [{"model": "toys/net", "label": "Net", "reference": True}, {"model": "teams/net", "label": "Other"}]
ATTACKS = [
    {"attack": "toys/climb", "eps": ["1/8", "1/4"]},
    {"attack": "toys/climb", "eps": ["1/16", "1/2"], "nested": True, "steps": 1},
    {"attack": "toys/seeded", "eps": "1/4", "how": "global"},
    {"attack": "teams/neighbours", "eps": "1/4"},
    {"attack": "teams/team", "eps": "1/4"},
    {"attack": "teams/nearest"},
    {"attack": "teams/aim", "eps": "1/4"},
    {"attack": "toys/sign", "eps": "1/4", "eight_bit": True},
    {"attack": "toys/climb", "eps": "1/4", "source": "Other", "steps": 2},
]
EVERYTHING = {
    "models": MODELS, "attacks": ATTACKS, "canvas": 8,
    "corruptions": [{"corruption": "toys/negative", "severity": 1}, {"corruption": "toys/speckle", "severity": [1, 5]}],
}  # fmt: skip


def made(results, number=1000):
    choices, findings = choose(results, number)
    found = gallery(results, choices)
    return found.examples, [*findings, *found.findings]


def pixels(file):
    with Image.open(BytesIO(file)) as image:
        return np.asarray(image).astype(int)


def stored(results, example):
    """The stored row of an example of the gallery, as {column: value}."""
    [result] = [each for each in results.cells if each.cell.key == example.key]
    row = list(result.columns["example"]).index(example.example)
    return {name: result.columns[name][row] for name in result.columns}


@pytest.mark.parametrize("count", ["all", "robust"])
def test_what_is_shown_is_what_was_judged(suite, run, tmp_path, count):
    """Every value is the stored one, and every pixel that of the input that `export-adversarial` writes."""
    results = run(suite(**EVERYTHING, count=count), batch_size=8, limit=20)
    examples, findings = made(results, 120)
    assert results.is_complete and not findings
    inputs = {}
    for exported in export_adversarial(
        results.plan, Store(tmp_path / "no"), tmp_path / "out", device="cpu", batch_size=8
    ):
        for path in exported.folder.glob("*.npz"):
            with np.load(path) as part:
                for example, image in zip(part["examples"], part["images"], strict=True):
                    inputs[exported.cell.key, str(example)] = image
    factor, attacked = thumbnails.largest_side(len(examples)) // 8, 0
    for example in examples:
        row = stored(results, example)
        assert (example.prediction, example.label) == (row["prediction"], row["label"])
        assert np.float32(example.confidence) == row["confidence"] and np.float32(example.margin) == row["margin"]
        clean, moved = (pixels(file) for file in (example.clean, example.perturbed))
        assert clean.shape == moved.shape == (8 * factor, 8 * factor)
        if example.kind == "attack":
            shown = inputs[example.key, example.example][0]
            assert (moved == np.round(255 * shown).repeat(factor, 0).repeat(factor, 1)).all()
            difference = shown - clean[::factor, ::factor] / 255
            grey = np.clip(np.round(255 * (0.5 + example.magnification * difference)), 0, 255)
            assert (pixels(example.perturbation_image)[::factor, ::factor] == grey).all()
            assert np.abs(difference).max() <= 0.5 / example.magnification
            assert np.abs(difference).max() == (example.size or 0)
            attacked += example.size is not None
        else:
            assert example.size is None
    assert attacked > 50
    assert {example.perturbation for example in examples if example.kind == "attack"} == {
        each.cell.short_name for each in results.cells if each.cell.kind == "attack"
    }


def test_an_example_of_a_later_block_is_that_of_the_run(suite, run):
    """Attacks that draw from global generators do so per block of examples, from its first one on."""
    results = run(suite(attacks=[{"attack": "toys/seeded", "eps": "1/4", "how": "global"}]), batch_size=8)
    [choice], _ = choose(results, 24)
    examples, findings = made(results, 24)
    assert len(examples) == 24 and not findings
    assert {position // 16 for position in choice.positions} == {0, 1, 2}
    for example in examples:
        assert np.float32(example.margin) == stored(results, example)["margin"]


def test_decoded_images_are_within_the_budget(suite, run):
    results = run(suite(attacks=[{"attack": "toys/climb", "eps": ["1/32", "1/4"]}]))
    examples, _ = made(results, 6)
    assert len(examples) == 6
    for example in examples:
        eps = 1 / 4 if "1/4" in example.perturbation else 1 / 32
        difference = np.abs(pixels(example.perturbed) - pixels(example.clean)).max()
        assert 0 < difference <= 255 * eps + 0.5
        assert example.magnification == {1 / 4: 2, 1 / 32: 10}[eps]
        assert np.ptp(pixels(example.perturbation_image)) > 128


def test_corrupted_images_are_those_of_the_corruption(suite, run):
    results = run(
        suite(models=MODELS, attacks=None, canvas=8, corruptions=[{"corruption": "toys/negative", "severity": 1}])
    )
    examples, _ = made(results, 4)
    assert len(examples) == 4
    for example in examples:
        assert (pixels(example.perturbed) == 255 - pixels(example.clean)).all()
        assert (example.size, example.magnification) == (None, 0.5)


def test_examples_are_the_same_for_all_models_and_a_mix(suite, run):
    results = run(suite(models=MODELS, attacks=[{"attack": "toys/climb", "eps": ["1/8", "1/4"]}]))
    examples, _ = made(results, 24)
    by_model = {label: [(e.perturbation, e.example) for e in examples if e.model == label] for label in results.labels}
    assert by_model["Net"] == by_model["Other"]
    assert [len(found) for found in by_model.values()] == [12, 12]
    assert [example.model for example in examples] == ["Net", "Other"] * 12
    for label in results.labels:
        assert {example.fooled for example in examples if example.model == label} == {True, False}


def test_an_example_that_is_wrong_anyway_is_not_fooled(suite, run):
    """Such examples come last, after those on which all models are right."""
    results = run(suite(models=MODELS, attacks=[{"attack": "toys/climb", "eps": "1/4"}]))
    examples, _ = made(results, 80)
    assert len(examples) == 80
    wrong = [example for example in examples if example.clean_prediction != example.label]
    assert wrong and not any(example.fooled for example in wrong)
    assert all(e.fooled == (e.prediction != e.label) for e in examples if e.clean_prediction == e.label)
    right = np.logical_and.reduce([results.clean(label).correct for label in results.labels])
    [choice] = choose(results, 2 * int(right.sum()))[0]
    assert right[list(choice.positions)].all()
    [choice] = choose(results, 2 * int(right.sum()) + 2)[0]
    count = np.sum([results.clean(label).correct for label in results.labels], axis=0)
    assert {int(count[position]) for position in choice.positions} == {2, 1} and 0 in count


def test_the_number_of_examples(suite, run):
    results = run(suite(**EVERYTHING), limit=8)
    for number in (0, 1, 2, 3, 7, 24):
        choices, _ = choose(results, number)
        count = sum(len(each.cells) * len(each.positions) for each in choices)
        assert count == (number - number % 2 if number > 1 else number)


def test_perturbations_in_turn(suite, run):
    """The largest budgets and the corruptions of each group come first, the smallest budgets last, none between."""
    results = run(suite(**EVERYTHING | {"attacks": [{"attack": "toys/climb", "eps": ["1/16", "1/8", "1/4"]},
                                                    {"attack": "toys/sign", "eps": ["1/8"]}]}), limit=16)  # fmt: skip

    def names(number):
        return [choice.cells[0].cell.short_name for choice in choose(results, 2 * number)[0]]

    assert names(1) == ["climb(linf, 1/4)"]
    assert names(2) == ["climb(linf, 1/4)", "negative(1)"]
    assert names(4) == ["climb(linf, 1/4)", "sign(linf, 1/8)", "negative(1)", "speckle(5)"]
    assert names(9) == ["climb(linf, 1/16)", "climb(linf, 1/4)", "sign(linf, 1/8)", "negative(1)", "speckle(5)"]


def test_the_cost_is_bounded(suite, run):
    """A dear attack is left out and named; the rest takes no more passes than the bound."""
    attacks = [{"attack": "toys/climb", "eps": "1/4", "steps": 250}, {"attack": "toys/climb", "eps": "1/8", "steps": 3}]
    results = run(suite(attacks=attacks), limit=4, batch_size=4)
    choices, [found] = choose(results, 24)
    assert [choice.cells[0].cell.short_name for choice in choices] == ["climb(linf, 1/8)"]
    assert [choice.passes for choice in choices] == [1 + 3 * 3] and choices[0].passes <= choice.MOST_PASSES
    assert found.code == "gallery-left-out" and found.severity == "note"
    assert str(found).startswith("climb(linf, 1/4, steps=250): it is not in the gallery: its examples take about 751 ")
    assert found.hint == ""  # no command line can read a suite that is a mapping


def test_failures_are_findings(suite, run, tmp_path, monkeypatch):
    """An attack that raises now, a model that cannot be built now, data that cannot be read now."""
    monkeypatch.setenv("TOYS_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("TOYS_SLOW", "0")
    attacks = [{"attack": "toys/climb", "eps": "1/4", "how": "slow"}, {"attack": "toys/sign", "eps": "1/4"}]
    results = run(suite(attacks=attacks, models=MODELS), limit=8)
    monkeypatch.delenv("TOYS_SLOW")
    examples, findings = made(results, 8)
    assert {example.perturbation for example in examples} == {"sign(linf, 1/4)"}
    assert [(found.code, found.subject) for found in findings] == [
        ("gallery-failed", "Net"),
        ("gallery-failed", "Other"),
    ]
    assert "climb(linf, 1/4, how=slow)" in findings[0].message and "KeyError" in findings[0].message
    monkeypatch.setenv("TOYS_TORN", " ".join(results.cells[0].columns["example"]))
    examples, findings = made(results, 8)
    assert not examples and [found.code for found in findings] == ["gallery-failed"] * 2
    assert "the archive is closed" in findings[0].message


def test_other_predictions_than_the_stored_ones_are_a_finding(suite, run, tmp_path):
    """Change every stored prediction, as an update of a library may."""
    source = suite(attacks=[{"attack": "toys/sign", "eps": "1/4"}])
    cell = run(source).cells[1]
    columns = {name: cell.columns[name] for name in cell.columns}
    columns["prediction"] = (columns["prediction"] + 1) % 3
    columns["correct"] = columns["prediction"] == columns["label"]
    store = Store(tmp_path / "store")
    for part in store.folder(cell.cell.key).glob("*.parquet"):
        part.unlink()
    store.write_part(cell.cell.key, 0, columns, {})
    results = api.load(source, store=tmp_path / "store", plugins=[TOYS])
    examples, [found] = made(results, 5)
    assert (found.code, found.severity, found.subject) == ("gallery-differs", "warning", "Net")
    assert found.message.startswith("5 of the 5 examples of the gallery have another prediction than the stored one")
    assert all(example.prediction != stored(results, example)["prediction"] for example in examples)


def test_the_middle_frame_of_videos_and_no_unreadable_example(tmp_path):
    suite = {"robharness": 1, "name": "films", "data": {"name": "films/films", "split": "torn"}, "canvas": "auto",
             "models": [{"model": "films/net", "label": "Net"}], "attacks": [{"attack": "films/step", "eps": "1/255"}],
             "corruptions": [{"corruption": "films/grainy", "severity": 1}]}  # fmt: skip
    films = SimpleNamespace(**runpy.run_path(FILMS))
    results = api.run(suite, store=tmp_path / "store", plugins=[FILMS])
    examples, findings = made(results, 100)
    assert not findings and len(examples) == 2 * 19
    assert "film-03" not in {example.example for example in examples}
    for example in examples:
        row = stored(results, example)
        assert example.prediction == row["prediction"] and np.float32(example.margin) == row["margin"]
        whole = films.film(int(example.example[-2:]))
        factor = pixels(example.clean).shape[0] // 6
        clean = pixels(example.clean)[::factor, ::factor]
        assert any((frame[:, 1:7] == clean).all() for frame in whole)
        if example.kind == "attack":
            assert np.abs(pixels(example.perturbed) - pixels(example.clean)).max() == 1


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 40, 30), (3, 300, 200), (3, 224, 224), (2, 9, 500), (4, 5, 60, 60)])
def test_images_of_any_shape_have_a_bounded_size(shape):
    draws = np.random.default_rng(0)
    clean = torch.from_numpy((draws.integers(0, 256, shape) / 255).astype("float32"))
    moved = (clean + torch.from_numpy(draws.uniform(-8 / 255, 8 / 255, shape).astype("float32"))).clamp(0, 1)
    for examples in (1, 24, 500):
        side = thumbnails.largest_side(examples)
        files = [thumbnails.png(thumbnails.fitted(thumbnails.visible(x), side)) for x in (clean, moved)]
        before, after = map(pixels, files)
        assert max(before.shape) <= side <= 224 and 3 * examples * max(map(len, files)) <= thumbnails.MOST_BYTES
        assert np.abs(after - before).max() <= 9
        assert before.ndim == (3 if shape[0] == 3 else 2)


def test_shrunk_images_are_means_and_shrunk_perturbations_are_not():
    board = (torch.arange(60)[:, None] + torch.arange(60)) % 2
    board = board[None].float()
    assert (thumbnails.fitted(board, 30) == 0.5).all()
    assert set(thumbnails.fitted(board - 0.5, 30, by_mean=False).unique().tolist()) <= {-0.5, 0.5}


def test_magnifications_and_colours():
    found = [thumbnails.magnification(largest) for largest in ([], [0.0], [1.0, 0.2], [0.25], [4 / 255], [0.25 / 255])]
    assert found == [1, 1, 0.5, 2, 20, 500]
    red = torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 4, 4)
    assert pixels(thumbnails.png(thumbnails.visible(red)))[0, 0].tolist() == [255, 0, 0]
    assert pixels(thumbnails.png(thumbnails.visible(red, is_bgr=True)))[0, 0].tolist() == [0, 0, 255]


def test_the_command_line(shell, suite, tmp_path, run_process, toys):
    """A gallery is made if it is asked for, or for a page; stderr says so, and a store alone has none."""
    (tmp_path / "suite.yaml").write_text(json.dumps(suite(name="small")))
    assert shell("run", "suite.yaml", "--store", "store", "--limit", "8").returncode == 0
    done = shell("report", "suite.yaml", "--store", "store", "--limit", "8", "--json")
    assert "gallery" not in done.stderr
    done = shell("report", "small", "--store", "store", "-o", "small.html", plugins=[])
    assert "no-gallery" in (tmp_path / "small.html").read_text() and "computing" not in done.stderr
    program = "import sys; from robharness.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    words = ("report", "suite.yaml", "-p", toys, "--store", "store", "--limit", "8", "-o", "page.html")
    done = run_process(*words, "--gallery", "0", program=("-c", program), cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("0 False\n", "wrote page.html\n")
    done = shell(*words[:2], *words[4:])
    assert done.stderr.startswith("computing 24 examples again for the gallery, about 24 passes; --gallery 0 leaves")
    assert (tmp_path / "page.html").read_text().count("data:image/png") >= 3 * 24


@pytest.mark.parametrize("words", [(), ("--json",), ("-o", "page.md"), ("-o", "page.json")])
def test_a_format_without_gallery_computes_none(shell, suite, tmp_path, words):
    (tmp_path / "suite.yaml").write_text(json.dumps(suite()))
    done = shell("report", "suite.yaml", *words, "--gallery", "4")
    proposed = "page.html" if "-o" in words else "report.html"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"robharness: --gallery 4: only an HTML file has a gallery. Try: -o {proposed}\n"


@pytest.mark.parametrize("words", [("--device", "cuda:99"), ("-o", "absent/page.html"), ("-o", "store")])
def test_what_cannot_be_written_or_computed_is_said_first(shell, suite, tmp_path, words):
    (tmp_path / "suite.yaml").write_text(json.dumps(suite()))
    assert shell("run", "suite.yaml", "--store", "store", "--limit", "8").returncode == 0
    done = shell("report", "suite.yaml", "--store", "store", "--limit", "8", "-o", "page.html", *words)
    assert done.returncode == 2 and "Try: " in done.stderr and "computing" not in done.stderr
    assert not (tmp_path / "page.html").exists()


def test_ctrl_c_leaves_an_earlier_file_as_it_is(start_process, shell, suite, tmp_path, toys):
    source = suite(attacks=[{"attack": "toys/climb", "eps": "1/4", "how": "slow"}])
    (tmp_path / "suite.yaml").write_text(json.dumps(source))
    log = tmp_path / "log"
    words = ("suite.yaml", "-p", toys, "--store", "store", "--limit", "4")
    assert shell("run", "suite.yaml", *words[3:], TOYS_LOG=log, TOYS_SLOW=0).returncode == 0
    log.unlink()
    environment = {"TOYS_LOG": log, "TOYS_SLOW": 60}
    (tmp_path / "report.html").write_text("earlier")
    words = (*words, "-o", "report.html", "--gallery", "4")
    process = start_process("report", *words, cwd=tmp_path, environment=environment)
    deadline = time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "report.html", "store", "suite.yaml"]
    assert (tmp_path / "report.html").read_text() == "earlier"
