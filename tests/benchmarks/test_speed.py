"""`make bench`: what a run costs beside its bare passes, and beside Foolbox and torchattacks; ratios within one run.

Lite0 on the 20 photos, batch 10: the clean pass and five FGSM budgets. Every contestant has the same threads, batch and
memory format; contestants take turns, and medians of at least five rounds are compared. Raw seconds are printed.
"""

import statistics
import time

import pytest
import torch

from robharness import api, discover, worker
from robharness.store import Store

EPS = [0.25 / 255, 0.5 / 255, 1 / 255, 2 / 255, 4 / 255]
ROUNDS, BATCH = 7, 10
SUITE = {
    "robharness": 1,
    "name": "bench",
    "data": {"name": "samples/imagenet-photos", "split": "val"},
    "models": [{"model": "samples/efficientnet-lite0"}],
    "attacks": [{"attack": "attacks/fgsm", "eps": ["0.25/255", "0.5/255", "1/255", "2/255", "4/255"]}],
}


def bare(net, x, y):
    """The limit: per batch one backward pass and six forward passes of the frozen network."""
    for images, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
        leaf = images.detach().requires_grad_(True)
        logits = net(leaf)
        torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"), leaf)
        with torch.no_grad():
            for _ in EPS:
                net(images)


def by_foolbox(net, x, y):
    """As its documentation says: a bounded model, one call for all budgets."""
    import foolbox

    model = foolbox.PyTorchModel(net, bounds=(0, 1))
    for images, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
        foolbox.utils.accuracy(model, images, labels)
        foolbox.attacks.LinfFastGradientAttack()(model, images, labels, epsilons=EPS)


def by_torchattacks(net, x, y):
    """As its documentation says: an attack object per budget, then the model on what it returns."""
    import torchattacks

    for images, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
        with torch.no_grad():
            net(images).argmax(1)
        for eps in EPS:
            adversarial = torchattacks.FGSM(net, eps=eps)(images, labels)
            with torch.no_grad():
                net(adversarial).argmax(1)


class Ours:
    """The unit of a run: read, decode, attack, check, judge, store; the model is built, as for the others."""

    def __init__(self, folder):
        self.plan = api.plan(SUITE, registry=discover())
        self.loaded = worker.load(self.plan, self.plan.models[0], rows=BATCH)
        self.folder, self.round = folder, 0

    def __call__(self, net, x, y):
        self.round += 1
        store = Store(self.folder / str(self.round))
        worker.run_unit(self.loaded, self.plan.cells, (0, 20), store, lambda cell, failure: failure is None)
        assert all(not store.missing(cell.key, 20) for cell in self.plan.cells)


def unfrozen(plan):
    """The network as a user of a library has it, in the memory format that ours uses."""
    model = plan.models[0]
    net = model.entry.spec.build(None, model.weights.path).eval()
    return net.to(memory_format=torch.channels_last)


@pytest.mark.benchmark(group="five FGSM budgets and the clean pass, Lite0, batch 10")
def test_five_fgsm_budgets(benchmark, tmp_path):
    ours = Ours(tmp_path)
    batch = ours.loaded.reader.read(0, 20)
    frozen, net = ours.loaded.classifier.net, unfrozen(ours.plan)
    contestants = {"bare": (bare, frozen), "ours": (ours, frozen), "foolbox": (by_foolbox, net),
                   "torchattacks": (by_torchattacks, net)}  # fmt: skip
    seconds = {name: [] for name in contestants}
    for name in list(contestants) * (ROUNDS + 1):
        function, network = contestants[name]
        begun = time.perf_counter()
        function(network, batch.x, batch.labels)
        seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first round warms up
    ratios = {
        "ours / bare (at most 1.10)": medians["ours"] / medians["bare"],
        "foolbox / ours (at least 2.5)": medians["foolbox"] / medians["ours"],
        "torchattacks / ours (at least 2)": medians["torchattacks"] / medians["ours"],
    }
    for name, values in seconds.items():
        print(f"{name:14}", " ".join(f"{value:.3f}" for value in values[1:]), f"median {medians[name]:.3f} s")
    for name, ratio in ratios.items():
        print(f"{name:34} {ratio:.2f}")
    benchmark.extra_info.update(ratios)
    benchmark.pedantic(ours, args=(frozen, batch.x, batch.labels), rounds=5)
