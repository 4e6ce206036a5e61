"""`make bench`: what attacks cost beside their bare passes, and beside the peers; ratios within one run.

Every contestant has the same examples and threads. Peers get the network as it is built, as their documentation has it;
where they are said to be in channels last, they get it in the memory format that ours uses. Contestants take turns, the
first round warms up, and medians of the others are compared. Raw seconds are printed. DEVICE=cuda times a GPU instead.
"""

import os
import runpy
import statistics
import time
import warnings
from itertools import count
from pathlib import Path

import pytest
import torch

from ratios import record
from robharness import Batch, api
from robharness.engine import worker
from robharness.evaluation import loading
from robharness.store import Store

HERE = Path(__file__).parent
MNIST, RESNET = str(HERE.parent / "end_to_end/mnist.py"), str(HERE / "resnet.py")
DEVICE = os.environ.get("DEVICE", "cpu")
BATCH, PHOTOS_N = {"cpu": (8, 8), "cuda": (128, 512)}[DEVICE]
PHOTOS = {
    "cpu": {"name": "samples/imagenet-photos", "split": "val"},
    "cuda": {"name": "resnet/shifted", "split": "all"},
}[DEVICE]
LITE0 = {"model": "samples/efficientnet-lite0"}
RESNET50 = {"model": "resnet/resnet50"}
FGSM = ["0.25/255", "0.5/255", "1/255"]
"""Table 1's budgets."""
PGD = ["0.25/255", "1/255"]
STEPS = 6
"""Of the 40 and 10 of Table 1; the ratio is that of a step."""


def suite(model, attacks, data=PHOTOS, **keys):
    return {"robharness": 1, "name": "bench", "data": data, "models": [model], "attacks": attacks, **keys}


class Ours:
    """The unit of a run: attack, check, judge, store; the model is built and pictures are read, as for the others."""

    def __init__(self, folder, source, limit, rows=BATCH, data=None):
        self.plan = api.plan(source, limit=limit, data=data, plugins=[RESNET, MNIST])
        self.loaded = loading.load_model(self.plan, self.plan.models[0], batch_size=rows, device=DEVICE)
        self.images = self.loaded.reader.images(0, self.plan.n)
        self.folder, self.rounds = folder, count()

    @property
    def batch(self):
        return self.loaded.reader.batch(self.images)

    @property
    def net(self):
        """The network as it passes: frozen, and its norms folded."""
        return self.loaded.classifier.net

    def unfrozen(self, memory_format=torch.contiguous_format):
        """The network and the examples as a user of a library has them."""
        model = self.plan.models[0]
        net = model.entry.spec.build(None, model.weights.path if model.weights else None).eval().to(DEVICE)
        batch = self.batch
        x = batch.x.contiguous(memory_format=memory_format)
        return net.to(memory_format=memory_format), Batch(batch.ids, x, batch.labels)

    def __call__(self):
        self.store = Store(self.folder / str(next(self.rounds)))
        span = 0, self.plan.n
        for event in worker.run_unit(self.loaded, self.plan.cells, span, self.store, self.images):
            assert getattr(event, "failure", None) is None, event

    def accuracies(self):
        """Of the attacked cells of the last round."""
        reads = [self.store.read(cell.key, self.plan.n, ["correct"]) for cell in self.plan.cells[1:]]
        return [sum(read.table["correct"].to_pylist()) / self.plan.n for read in reads]


def compare(benchmark, contestants, rounds, targets):
    """Let the contestants take turns. targets: {words: (slower, faster)}: how much longer the one takes."""
    seconds = {name: [] for name in contestants}
    for name in list(contestants) * (rounds + 1):
        begun = time.perf_counter()
        contestants[name]()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values[1:] or values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"{name:28}", " ".join(f"{value:.3f}" for value in values[1:] or values), f"median {medians[name]:.3f} s")
    for words, (slower, faster) in targets.items():
        above, below = (seconds[name][1:] or seconds[name] for name in (slower, faster))
        record(benchmark, words, above, below, better="lower" if faster == "bare" else "higher")
    benchmark.pedantic(lambda: None)


def chunks(batch):
    return zip(batch.x.split(BATCH), batch.labels.split(BATCH), strict=True)


def passes(net, batch, *, gradients, forwards):
    """The limit: so many forward and backward passes of the frozen network per batch, and forward passes."""
    for images, labels in chunks(batch):
        for _ in range(gradients):
            leaf = images.detach().requires_grad_(True)
            torch.autograd.grad(torch.nn.functional.cross_entropy(net(leaf), labels, reduction="sum"), leaf)
        with torch.no_grad():
            for _ in range(forwards):
                net(images)


def by_foolbox(net, batch, attack, eps):
    """As its documentation says: a bounded model, one call for all budgets."""
    import foolbox

    model = foolbox.PyTorchModel(net, bounds=(0, 1), device=DEVICE)
    for images, labels in chunks(batch):
        foolbox.utils.accuracy(model, images, labels)
        attack(model, images, labels, epsilons=eps)


def by_torchattacks(net, batch, attack, eps):
    """As its documentation says: an attack object per budget, then the model on what it returns."""
    for images, labels in chunks(batch):
        with torch.no_grad():
            net(images).argmax(1)
        for one in eps:
            adversarial = attack(net, eps=one)(images, labels)
            with torch.no_grad():
                net(adversarial).argmax(1)


@pytest.mark.parametrize("model", [RESNET50, LITE0], ids=["resnet50", "lite0"])
def test_fast_gradients(benchmark, tmp_path, model):
    """The clean pass and Table 1's three budgets of FGSM: one gradient serves them all."""
    import foolbox
    import torchattacks

    ours = Ours(tmp_path, suite(model, [{"attack": "attacks/fgsm", "eps": FGSM}]), PHOTOS_N)
    batch, net, unfrozen, channels_last = ours.batch, ours.net, ours.unfrozen(), ours.unfrozen(torch.channels_last)
    eps = [float(cell.perturbation.eps) for cell in ours.plan.cells[1:]]
    foolbox_fgsm = foolbox.attacks.LinfFastGradientAttack()
    contestants = {
        "bare": lambda: passes(net, batch, gradients=1, forwards=3),
        "ours": ours,
        "foolbox": lambda: by_foolbox(*unfrozen, foolbox_fgsm, eps),
        "foolbox, channels last": lambda: by_foolbox(*channels_last, foolbox_fgsm, eps),
        "torchattacks": lambda: by_torchattacks(*unfrozen, torchattacks.FGSM, eps),
        "torchattacks, channels last": lambda: by_torchattacks(*channels_last, torchattacks.FGSM, eps),
    }
    compare(benchmark, contestants, 3, {
        "ours / bare (at most 1.05)": ("ours", "bare"),
        "foolbox / ours (at least 3.2)": ("foolbox", "ours"),
        "foolbox in channels last / ours": ("foolbox, channels last", "ours"),
        "torchattacks / ours (at least 2.5)": ("torchattacks", "ours"),
        "torchattacks in channels last / ours": ("torchattacks, channels last", "ours"),
    })  # fmt: skip


def test_small_steps(benchmark, tmp_path):
    """The clean pass, PGD linf at Table 1's two budgets and PGD l2 at 0.5, on ResNet-50.

    Peers get the network as it is built alone: torchattacks' PGDL2 takes nothing in channels last.
    """
    import foolbox
    import torchattacks

    def attacks(**more):
        common = {"attack": "attacks/pgd", "steps": STEPS, **more}
        return [{**common, "norm": "linf", "eps": PGD}, {**common, "norm": "l2", "eps": ["0.5"]}]

    ours = Ours(tmp_path / "last", suite(RESNET50, attacks(keep="last")), PHOTOS_N)
    best = Ours(tmp_path / "best", suite(RESNET50, attacks()), PHOTOS_N)
    batch, net, unfrozen = ours.batch, ours.net, ours.unfrozen()
    linf, step = [float(cell.perturbation.eps) for cell in ours.plan.cells[1:3]], 2.5 / STEPS
    foolbox_linf = foolbox.attacks.LinfPGD(steps=STEPS, rel_stepsize=step)
    foolbox_l2 = foolbox.attacks.L2PGD(steps=STEPS, rel_stepsize=step)

    def foolboxs():
        by_foolbox(*unfrozen, foolbox_linf, linf)
        by_foolbox(*unfrozen, foolbox_l2, [0.5])

    def torchattackss():
        def of_linf(net, eps):
            return torchattacks.PGD(net, eps=eps, alpha=step * eps, steps=STEPS)

        def of_l2(net, eps):
            return torchattacks.PGDL2(net, eps=eps, alpha=step * eps, steps=STEPS)

        by_torchattacks(*unfrozen, of_linf, linf)
        by_torchattacks(*unfrozen, of_l2, [0.5])

    contestants = {
        "bare": lambda: passes(net, batch, gradients=3 * STEPS, forwards=4),
        "ours, keep: last": ours,
        "ours, keep: best": best,
        "foolbox": foolboxs,
        "torchattacks": torchattackss,
    }
    compare(benchmark, contestants, 1, {
        "ours / bare (at most 1.05)": ("ours, keep: last", "bare"),
        "foolbox / ours (at least 1.4)": ("foolbox", "ours, keep: last"),
        "torchattacks / ours (at least 1.35)": ("torchattacks", "ours, keep: last"),
        "keep: last / keep: best": ("ours, keep: last", "ours, keep: best"),
    })  # fmt: skip


@pytest.mark.parametrize("model", [RESNET50, LITE0], ids=["resnet50", "lite0"])
def test_gradients_in_bfloat16(benchmark, tmp_path, model):
    """PGD with gradients in low precision and verdicts in float32; what it does to accuracy stands beside it."""
    attacks = [{"attack": "attacks/pgd", "eps": PGD, "steps": STEPS, "keep": "last"}]
    full = Ours(tmp_path / "full", suite(model, attacks), PHOTOS_N)
    low = Ours(tmp_path / "low", suite(model, attacks, precision={"gradient": "bfloat16"}), PHOTOS_N)
    compare(benchmark, {"float32": full, "bfloat16": low}, 3, {
        "float32 / bfloat16 (at least 2.5)": ("float32", "bfloat16"),
    })  # fmt: skip
    for eps, one, other in zip(PGD, full.accuracies(), low.accuracies(), strict=True):
        print(f"accuracy at {eps}, n = {full.plan.n}: float32 {one:.3f}, bfloat16 {other:.3f}")


def test_compiled_passes(benchmark, tmp_path):
    """`compile: true` on Lite0: PGD, without the time that compiling takes."""
    attacks = [{"attack": "attacks/pgd", "eps": PGD, "steps": STEPS, "keep": "last"}]
    plain = Ours(tmp_path / "plain", suite(LITE0, attacks), PHOTOS_N)
    compiled = Ours(tmp_path / "compiled", suite(LITE0, attacks, compile=True), PHOTOS_N)
    compare(benchmark, {"as it is": plain, "compiled": compiled}, 4, {"as it is / compiled": ("as it is", "compiled")})
    assert plain.accuracies() == compiled.accuracies()


def test_folded_norms(benchmark, tmp_path):
    """What folding BatchNorm into convolutions brings, which is done by default: ResNet-50, gradients and passes."""
    ours = Ours(tmp_path, suite(RESNET50, []), PHOTOS_N)
    batch, net, plain = ours.batch, ours.net, ours.unfrozen(torch.channels_last)[0].requires_grad_(False)
    compare(benchmark, {
        "gradients": lambda: passes(plain, batch, gradients=2, forwards=0),
        "gradients, folded": lambda: passes(net, batch, gradients=2, forwards=0),
        "passes": lambda: passes(plain, batch, gradients=0, forwards=4),
        "passes, folded": lambda: passes(net, batch, gradients=0, forwards=4),
    }, 5, {
        "gradients: as they are / folded": ("gradients", "gradients, folded"),
        "passes: as they are / folded": ("passes", "passes, folded"),
    })  # fmt: skip


def test_autoattack_at_two_budgets(benchmark, tmp_path):
    """AutoAttack standard on a network for MNIST, 200 examples: one run of ours, two runs of the authors'."""
    import pyautoattack

    weights, eps, n = tmp_path / "mnist.pt", ["0.05", "0.1"], 200
    runpy.run_path(MNIST)["train"](weights)
    model = {"model": "mnist/net", "weights": str(weights)}
    source = suite(model, [{"attack": "attacks/autoattack", "eps": eps}], {"name": "samples/mnist-5k", "split": "test"})
    ours = Ours(tmp_path, source, n, rows=None)
    net, batch = ours.unfrozen()
    left = {}

    def authors():
        for text, cell in zip(eps, ours.plan.cells[1:], strict=True):
            runner = pyautoattack.AutoAttack(net, norm="Linf", eps=float(cell.perturbation.eps), seed=0, device=DEVICE)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _, predicted = runner.run_standard_evaluation(batch.x.clone(), batch.labels.clone(), batch_size=250)
            left[text] = float((predicted == batch.labels).float().mean())

    compare(benchmark, {"ours": ours, "pyautoattack": authors}, 0, {
        "pyautoattack / ours (at least 2)": ("pyautoattack", "ours"),
    })  # fmt: skip
    for text, mine in zip(eps, ours.accuracies(), strict=True):
        print(f"withstand it at {text}, n = {n}: ours {mine:.3f}, the authors' {left[text]:.3f}")
