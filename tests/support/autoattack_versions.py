"""Networks on MNIST-5k, and AutoAttack `fast` beside `standard` on them, member by member.

`python autoattack_versions.py FOLDER NETWORK EPS N` trains the network into the folder unless it is there, attacks N
test digits of all classes, and prints one JSON object. Results: docs/explanation/autoattack-fast.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from robharness import Batch, Classifier, ExampleRNG, discover
from robharness_attacks.autoattack import members
from robharness_attacks.params import APGDParams, AutoAttackParams
from robharness_attacks.targets import targets_of


def strided():
    layers = [nn.Conv2d(1, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 16, 5, 2, 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 49, 10))


def hidden():
    layers = [nn.Conv2d(1, 10, 4, 2, 1), nn.ELU(), nn.Conv2d(10, 20, 4, 2, 1), nn.ELU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(20 * 49, 32), nn.ELU(), nn.Linear(32, 10))


def deep():
    layers = [nn.Conv2d(1, 8, 3, 2, 1), nn.GELU(), nn.Conv2d(8, 16, 3, 2, 1), nn.GELU()]
    return nn.Sequential(*layers, nn.Conv2d(16, 32, 3, 2, 1), nn.GELU(), nn.Flatten(), nn.Linear(32 * 16, 10))


NETWORKS = {
    "dev-ce": (strided, "cross-entropy", 0, 10),
    "dev-at": (strided, "adversarial", 0.2, 11),
    "test-ce": (hidden, "cross-entropy", 0, 1),
    "test-at": (deep, "adversarial", 0.2, 2),
    "test-simclr": (deep, "simclr", 0, 3),
}
"""Architecture, training, eps of the training and seed. The version was chosen on the first two networks."""


def digits(split):
    """Return images, (N, 1, 28, 28) in [0, 1], labels, (N,), and ids."""
    data = discover().datasets["samples/mnist-5k"].spec.open(Path(), split)
    images = np.stack([np.asarray(data.read(row)) for row in range(len(data.labels))]).astype("float32") / 255
    return torch.from_numpy(images[..., 0])[:, None], torch.tensor(list(data.labels)), list(data.ids)


def uniform(generator, low, high, shape):
    return torch.from_numpy(generator.uniform(low, high, shape).astype("float32"))


def shuffled(generator, n):
    return torch.from_numpy(generator.permutation(n))


def climb(net, x, labels, eps, generator, steps):
    """Return PGD's examples in linf."""
    moved = uniform(generator, -eps, eps, x.shape)
    for _ in range(steps):
        point = (x + moved).clamp(0, 1).requires_grad_(True)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(net(point), labels), point)
        moved = (point.detach() + eps / 3 * gradient.sign() - x).clamp(-eps, eps)
    return (x + moved).clamp(0, 1)


def view(x, generator):
    """Return shifted images of another contrast with noise."""
    padded = functional.pad(x, (3, 3, 3, 3))
    shift = torch.from_numpy(generator.integers(0, 7, (len(x), 2)))
    across = torch.arange(28)
    rows = torch.arange(len(x))[:, None, None]
    shifted = padded[rows, 0, (shift[:, :1] + across)[:, :, None], (shift[:, 1:] + across)[:, None, :]][:, None]
    contrast = uniform(generator, 0.7, 1.3, (len(x), 1, 1, 1))
    noise = torch.from_numpy(generator.normal(0, 0.15, shifted.shape).astype("float32"))
    return (shifted * contrast + noise).clamp(0, 1)


def fit(net, x, labels, eps, generator, epochs):
    """Train on cross-entropy, of PGD's examples if eps is above 0."""
    optimizer = torch.optim.Adam(net.parameters(), 4e-3)
    for epoch in range(epochs):
        radius = eps * min(1, (epoch + 1) / 4)
        for rows in shuffled(generator, len(x)).split(128):
            inputs = climb(net, x[rows], labels[rows], radius, generator, 3) if eps else x[rows]
            step(optimizer, functional.cross_entropy(net(inputs), labels[rows]))
        for group in optimizer.param_groups:
            group["lr"] *= 0.8


def step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def contrast(net, x, labels, generator):
    """Train the layers before the last one as SimCLR does, and the last one on their outputs."""
    head = nn.Sequential(nn.Linear(net[-1].in_features, 64), nn.ReLU(), nn.Linear(64, 32))
    body = net[:-1]
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], 2e-3)
    for _ in range(12):
        for rows in shuffled(generator, len(x)).split(128):
            views = torch.cat([view(x[rows], generator), view(x[rows], generator)])
            codes = functional.normalize(head(body(views)), dim=1)
            similar = codes @ codes.T / 0.2
            similar.fill_diagonal_(-1e9)
            n = len(rows)
            step(optimizer, functional.cross_entropy(similar, torch.cat([torch.arange(n) + n, torch.arange(n)])))
    with torch.no_grad():
        features = body(x)
    optimizer = torch.optim.Adam(net[-1].parameters(), 1e-2)
    for _ in range(20):
        for rows in shuffled(generator, len(x)).split(256):
            step(optimizer, functional.cross_entropy(net[-1](features[rows]), labels[rows]))


def network(folder, name):
    """Return a trained network, trained into the folder unless it is there."""
    build, training, eps, seed = NETWORKS[name]
    torch.manual_seed(seed)  # noqa: TID251 - a script, not an attack
    net, path, generator = build(), Path(folder) / f"{name}.pt", np.random.default_rng(seed)
    if not path.exists():
        x, labels, _ = digits("train")
        if training == "simclr":
            contrast(net, x, labels, generator)
        else:
            fit(net, x, labels, eps, generator, 8 if eps else 5)
        torch.save(net.state_dict(), path)
    net.load_state_dict(torch.load(path, weights_only=True))
    return net.eval()


def attacked(model, batch, active, eps, version):
    """Return which examples a version breaks, (N,) bool, the totals of its passes, and a record per member.

    A record has the examples that the member gets and breaks, its rows of both kinds, the ranks of the classes that
    broken examples are taken for, by distance and by logit, and the queries of Square that broke them.
    """
    standing, stages = active.clone(), {}
    for member, attack in members(AutoAttackParams(version=version)).items():
        part, before = batch.select(standing), model.rows.copy()
        if not len(part):
            break
        found = attack.perturb(model, part, eps, ExampleRNG(0, member, part.ids, "cpu"))
        rows, predicted = model.rows - before, model.logits(found.x).argmax(1)
        assert (found.x - part.x).abs().max() <= eps + 1e-6
        wrong = predicted != part.labels
        record = {
            "gets": len(part),
            "breaks": int(wrong.sum()),
            "forwards": rows["forwards"],
            "gradients": rows["gradients"],
        }
        if wrong.any():
            for order in ("near", "likely"):
                targets = targets_of(model, part.select(wrong), APGDParams(targets=9, order=order)).classes
                record[order] = (targets == predicted[wrong][:, None]).nonzero()[:, 1].tolist()
            if "queries" in found.notes:
                record["queries"] = torch.as_tensor(found.notes["queries"])[wrong].tolist()
        stages[member] = record
        standing[standing.nonzero().flatten()[wrong]] = False
    forwards, gradients = (sum(stage[kind] for stage in stages.values()) for kind in ("forwards", "gradients"))
    return active & ~standing, forwards + 2 * gradients, stages


def compare(folder, name, eps, n):
    """Return what both versions break of n digits, and their passes per example that is right clean."""
    x, labels, ids = digits("test")
    rows = shuffled(np.random.default_rng(0), len(x))[:n]  # the file is sorted by class
    x, labels, ids = x[rows], labels[rows], [ids[row] for row in rows]
    model, batch = Classifier(network(folder, name), batch_size=128), Batch(ids, x, labels)
    right = batch.logits(model).argmax(1) == labels  # which no version counts
    found = {"network": name, "eps": eps, "n": n, "right": int(right.sum())}
    broken = {}
    for version in ("fast", "standard"):
        broken[version], passes, stages = attacked(model, batch, right, eps, version)
        robust = int((right & ~broken[version]).sum())
        found[version] = {"robust": robust, "passes": passes / int(right.sum()), "members": stages}
    found["only standard"] = int((broken["standard"] & ~broken["fast"]).sum())
    found["only fast"] = int((broken["fast"] & ~broken["standard"]).sum())
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, name, eps, n = sys.argv[1:]
    print(json.dumps(compare(folder, name, float(eps), int(n))))
