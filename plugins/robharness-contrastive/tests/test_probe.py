"""Probes equal scikit-learn's, leave encoders unchanged, and pass gradients to the images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from robharness import state_digest
from robharness_contrastive import components, probe
from robharness_contrastive.networks import encoder
from robharness_contrastive.options import Robust
from robharness_contrastive.params import Probe
from robharness_probe.heads import Probed

SHAPE, CLASSES = (1, 16, 16), 4


def chosen(kind="lbfgs", **options):
    """A probe by its kind, with options."""
    return components.read("probe", {"kind": kind, **options}, Probe)


@pytest.fixture
def plain(images):
    """Views without augmentation."""
    return lambda rows, step: [images.pixels[rows].float() / 255]


def net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # noqa: TID251 (initial weights)
        return encoder("small", "bars/bars", SHAPE)


def test_the_optimum_is_scikit_learns():
    draws = np.random.default_rng(0)
    x = draws.normal(size=(300, 6))
    labels = (x[:, :3] @ draws.normal(size=(3, 3)) + draws.normal(size=(300, 3))).argmax(1)
    h = x * np.array([1, 10, 0.1, 3, 1, 0]) + 5  # the last feature is constant
    l2 = 1e-2
    head = probe.logistic(torch.from_numpy(h).float(), torch.from_numpy(labels), 3, l2)
    scaled = StandardScaler().fit(h)
    theirs = LogisticRegression(C=1 / (l2 * len(h)), tol=1e-10, max_iter=10_000).fit(scaled.transform(h), labels)
    logits = head(torch.from_numpy(h).float()).detach()
    expected = torch.from_numpy(theirs.decision_function(scaled.transform(h))).float()
    torch.testing.assert_close(logits - logits.mean(1, keepdim=True), expected - expected.mean(1, keepdim=True),
                               rtol=1e-3, atol=1e-3)  # fmt: skip


@pytest.mark.parametrize("kind", ["lbfgs", "sgd", "robust"])
def test_the_encoder_is_not_changed(images, kind, plain):
    trunk = net()
    before, buffers = state_digest(trunk), {name: value.clone() for name, value in trunk.named_buffers()}
    options = {"lbfgs": {}, "sgd": {"epochs": 2}, "robust": {"epochs": 2, "steps": 2, "eps": 0.1}}[kind]
    found = probe.fit(chosen(kind, **options), trunk, images, CLASSES, plain, 0)
    assert state_digest(trunk) == before and not found.training
    assert all(torch.equal(value, buffers[name]) for name, value in trunk.named_buffers())
    assert any(name.endswith("running_mean") for name in buffers)


def test_a_changed_encoder_is_an_error(images, plain):
    trunk = net()

    def changing(rows, step):
        trunk.train()(torch.ones(2, *SHAPE))  # in training mode, the statistics of batch norm change
        return plain(rows, step)

    with pytest.raises(RuntimeError, match="the encoder's weights changed, although the probe 'sgd'"):
        probe.fit(chosen(kind="sgd", epochs=1), trunk, images, CLASSES, changing, 0)


def test_tuning_changes_the_encoder_and_fits_better(images, plain):
    trunk = net()
    before = state_digest(trunk)
    fixed = probe.fit(chosen(kind="lbfgs"), trunk, images, CLASSES, plain, 0)
    frozen = probe.accuracy(fixed, images)
    tuned = probe.fit(chosen(kind="finetune", epochs=15, lr=0.05, batch=32), trunk, images, CLASSES, plain, 0)
    assert state_digest(trunk) != before
    assert probe.accuracy(tuned, images) >= max(0.9, frozen)


def test_sgd_approaches_the_optimum_and_is_deterministic(images, plain):
    trunk = net()
    h = probe.features(trunk, images)

    def after(epochs):
        found = probe.fit(
            chosen(kind="sgd", epochs=epochs, lr=1.0, batch=40), trunk, images, CLASSES, plain, 0
        )  # fmt: skip
        return found.head, float(F.cross_entropy(found.head(h), images.labels).detach())

    losses = [after(epochs)[1] for epochs in (1, 10, 100)]
    best = float(F.cross_entropy(probe.logistic(h, images.labels, CLASSES, 1e-6)(h), images.labels).detach())
    assert losses == sorted(losses, reverse=True) and losses[0] - losses[-1] > 0.3 and losses[-1] > best
    assert torch.equal(after(10)[0].weight, after(10)[0].weight)


def test_adversarial_images_stay_in_the_ball_and_raise_the_loss(images, plain):
    classifier = probe.fit(chosen(), net(), images, CLASSES, plain, 0)
    x, labels = images.pixels.float() / 255, images.labels
    options = Robust(eps=0.05, steps=5)
    found = probe.attacked(classifier, x, labels, options, np.random.default_rng(0))
    assert (found - x).abs().max() <= 0.05 + 1e-6 and found.min() >= 0 and found.max() <= 1
    with torch.no_grad():
        assert F.cross_entropy(classifier(found), labels) > F.cross_entropy(classifier(x), labels)


def test_a_robust_probe_is_more_robust(images, plain):
    """A clean probe relies on features that an attack changes easily; features differ in sensitivity."""
    trunk = net()
    common, of_pgd = {"epochs": 60, "lr": 0.3, "batch": 40}, {"eps": 0.06, "steps": 5}
    kinds = {"sgd": chosen("sgd", **common), "robust": chosen("robust", **common, **of_pgd)}
    left = {}
    for kind, component in kinds.items():
        classifier = probe.fit(component, trunk, images, CLASSES, plain, 0)
        x = images.pixels.float() / 255
        found = probe.attacked(classifier, x, images.labels, kinds["robust"].params, np.random.default_rng(1))
        with torch.no_grad():
            left[kind] = float((classifier(found).argmax(1) == images.labels).float().mean())
    assert left["robust"] > left["sgd"]


def test_gradients_go_through_the_probe_to_the_images(images, plain):
    classifier = probe.fit(chosen(), net(), images, CLASSES, plain, 0)
    x = (images.pixels[:8].float() / 255).requires_grad_(True)
    F.cross_entropy(classifier(x), images.labels[:8], reduction="sum").backward()
    assert (x.grad.flatten(1).norm(dim=1) > 0).all()
    with torch.no_grad():
        step = 1e-3 * x.grad.sign()
        assert F.cross_entropy(classifier(x + step), images.labels[:8]) > F.cross_entropy(
            classifier(x), images.labels[:8]
        )


def test_features_are_the_input_of_the_classifiers_head(images):
    classifier = Probed(net(), nn.Linear(128, CLASSES)).eval()
    seen = []
    classifier.features.register_forward_hook(lambda module, given, out: seen.append(out))
    with torch.no_grad():
        logits = classifier(images.pixels[:4].float() / 255)
        torch.testing.assert_close(classifier.head(seen[0]), logits)
    torch.testing.assert_close(probe.features(classifier.encoder, images.subset(torch.arange(4))), seen[0])
    assert isinstance(classifier.features, nn.Identity)
