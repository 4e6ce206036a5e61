"""Components of others: VICReg of the docs against lightly's, and what every role is checked for."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import RidgeClassifier
from torch import nn

import robharness_contrastive as contrastive
from robharness import UserError, discover
from robharness.testing import parametrize_with_checks
from robharness_contrastive import artefact, components, loop, networks, options, params, probe
from robharness_contrastive.augment import BatchAugmenter, augmenter
from robharness_contrastive.data import augmented_views
from robharness_contrastive.networks import encoder

PAGE = Path(__file__).parents[3] / "docs/how-to/train-your-own-objective.md"
SHAPE, CLASSES = (1, 16, 16), 4


def of_bars(**changed):
    return {"data": "bars/bars", "input": SHAPE, "labels": "bars", "classes": CLASSES, "epochs": 2, "batch": 32,
            "augmentation": "digits", **changed}  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The plugins of the page: {name: spec} of each, and their modules."""
    folder, found = tmp_path_factory.mktemp("page"), {}
    for name, text in re.findall(r"^```python (\w+)\.py\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        (folder / f"{name}.py").write_text(text)
        found |= {entry.spec.name: entry.spec for entry in discover([str(folder / f"{name}.py")]).components.values()
                  if entry.origin.namespace == name}  # fmt: skip
    return found


@parametrize_with_checks("robharness_contrastive", only="components/*")
def test_contract(check):
    check()


def test_vicreg_of_the_docs_is_short_and_is_lightlys(page):
    from lightly.loss import VICRegLoss

    text = re.search(r"^```python vicreg\.py\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)[1]
    assert len(text.splitlines()) <= 40
    spec = page["vicreg"]
    draws = np.random.default_rng(0)
    context = contrastive.Context(examples=64, classes=4, batch=32, epochs=1, shape=SHAPE)
    for weights in ((25.0, 25.0, 1.0), (10.0, 5.0, 3.0)):
        given = spec.params(**dict(zip(("invariance", "variance", "covariance"), weights, strict=True)))
        objective = spec.build(given, 8, context)
        a, b = (torch.from_numpy(draws.normal(size=(32, 16)) * 0.7).requires_grad_(True) for _ in range(2))
        theirs = VICRegLoss(*weights)(a, b)
        ours = objective.loss(a, b)
        torch.testing.assert_close(ours, theirs)
        for mine, other in zip(torch.autograd.grad(ours, (a, b)), torch.autograd.grad(theirs, (a, b)), strict=True):
            torch.testing.assert_close(mine, other)


def test_an_encoder_of_foreign_parts_is_trained_stored_and_built_again(job, images, page):
    """Twice the same weights; the classifier is ridge regression as scikit-learn has it."""
    found = []
    for folder in ("a", "b"):
        recipe = params.Encoder(**of_bars(objective=page["vicreg"], network=page["tiny-vit"], lr=0.05,
                                          augmentation=page["shifted"], probe=page["ridge"]))  # fmt: skip
        training = job(recipe, folder)
        loop.train(training)
        found.append(load_file(training.folder / artefact.WEIGHTS))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert {name.split(".")[0] for name in found[0]} == {"encoder", "projection", "head"}
    net = loop.build(recipe, training.folder / artefact.WEIGHTS).eval()
    trunk = loop.trunk(recipe, training.folder / artefact.WEIGHTS).eval()
    x = images.pixels.float() / 255
    with torch.no_grad():
        h, logits = trunk(x), net(x)
        torch.testing.assert_close(net.head(h), logits)
    ridge = RidgeClassifier(alpha=1e-2 * len(h)).fit(h.double().numpy(), images.labels.numpy())
    expected = (torch.from_numpy(ridge.decision_function(h.double().numpy())) + 1) / 2  # their targets are -1 and 1
    torch.testing.assert_close(logits.double(), expected, rtol=1e-2, atol=1e-2)


def test_an_encoder_alone_gives_features(job, images):
    recipe = params.Encoder(**of_bars(objective="cross-entropy", probe=None))
    spec = contrastive.declared_input(recipe)
    assert spec["labels"] == "none" and contrastive.declared_input(params.Supervised(**of_bars(probe=None)))[
        "labels"] == "bars"  # fmt: skip
    training = job(recipe)
    loop.train(training)
    with torch.no_grad():
        assert loop.build(recipe, training.folder / artefact.WEIGHTS).eval()(images.pixels[:3].float()).shape == (
            3,
            128,
        )


@pytest.mark.parametrize("name", ["simclr", "swav"])
def test_the_general_model_trains_as_the_model_of_one_objective_does(job, name):
    own = {"simclr": params.SimCLR(**of_bars(temperature=0.2)),
           "swav": params.SwAV(**of_bars(prototypes=8))}[name]  # fmt: skip
    given = {"simclr": options.SimCLR(temperature=0.2), "swav": options.SwAV(prototypes=8)}[name]
    general = params.Encoder(**of_bars(objective=components.own("objective", name, params=given)))
    weights = []
    for recipe, folder in ((own, "own"), (general, "general")):
        loop.train(training := job(recipe, folder))
        weights.append(load_file(training.folder / artefact.WEIGHTS))
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


# --- what is checked ---


def foreign(make, name="odd", build=None, **more):
    return make(name, build, **more)


@pytest.mark.parametrize(("build", "why"), [
    (lambda options, shape: (nn.Flatten(), 7), "the network python/odd declares 7 features and gives"),
    (lambda options, shape: (nn.Linear(3, 7), 7), "the network python/odd gives no features of inputs .*RuntimeError"),
    (lambda options, shape: nn.Flatten(), "the network python/odd returned Flatten, not a module and its width"),
])  # fmt: skip
def test_a_network_that_does_not_fit_is_an_error(build, why):
    with pytest.raises(UserError, match=why):
        encoder(contrastive.network("odd", build), "bars/bars", SHAPE)


@pytest.mark.parametrize(("build", "why"), [
    (lambda options, width, context: nn.Linear(2, 2), "the objective python/odd is Linear, not a robharness_contr"),
])  # fmt: skip
def test_an_objective_that_does_not_fit_is_an_error(job, build, why):
    with pytest.raises(UserError, match=why):
        loop.train(job(params.Encoder(**of_bars(objective=contrastive.objective("odd", build)))))


class Bad(contrastive.Probe):
    def fit(self, task):
        return nn.Linear(task.width, task.classes, bias=False)


class Tunes(contrastive.Probe):
    def fit(self, task):
        next(task.encoder.parameters()).data.add_(1)
        return nn.Linear(task.width, task.classes)


def test_a_probe_that_does_not_fit_or_changes_the_encoder_is_an_error(images):
    net = encoder("small", "bars/bars", SHAPE)
    bad, tunes = (components.read("probe", contrastive.linear_probe("odd", build), params.Probe)
                  for build in (Bad, Tunes))  # fmt: skip
    with pytest.raises(UserError, match=r"the probe python/odd made Linear.*, not a linear layer with biases from 128"):
        probe.fit(bad, net, images, CLASSES, None, 0)
    with pytest.raises(RuntimeError, match="weights changed, although the probe 'python/odd' must not train it"):
        probe.fit(tunes, net, images, CLASSES, None, 0)


def test_an_augmentation_may_be_a_function_of_seed_and_index(images):
    """A view is drawn by its example, whatever else is in the batch; another form is refused."""

    def brighter(x, size, seed, indices):
        gains = contrastive.Draws(seed, indices.numpy()).between("gain", 0.5, 1.0)
        return x.float() / 255 * gains[:, None, None, None]

    views = augmented_views(images, brighter, 2, seed=3)
    whole, part = views(torch.arange(8), 5), views(torch.tensor([6, 2]), 5)
    assert torch.equal(part[1], whole[1][[6, 2]]) and not torch.equal(whole[0], whole[1])
    wrong = augmented_views(images, lambda x, size, seed, indices: x, 1, seed=3)
    with pytest.raises(TypeError, match=r"the augmentation returned torch.uint8 \(4, 1, 16, 16\), not float32 \(4, "):
        wrong(torch.arange(4), 0)


def test_numbers_of_an_augmentation_change_those_of_its_name():
    recipe = params.SimCLR(**of_bars(augmentation={"scale": (0.3, 1.0), "jitter": 0.5}))
    assert recipe.chosen_augmentation.build() == contrastive.Augmentation(scale=(0.3, 1.0), jitter=0.5)
    digits = params.SimCLR(**of_bars(augmentation={"name": "digits", "rotation": 5.0})).chosen_augmentation.build()
    assert (digits.rotation, digits.flip, digits.warp) == (5.0, 0.0, 0.75)
    assert isinstance(augmenter(digits, 8), BatchAugmenter)


@pytest.mark.parametrize(("numbers", "why"), [
    ({"warp": 1.5}, "warp=1.5 must be a probability"), ({"scale": (0.0, 1.0)}, "scale=.* must be a range of shares"),
    ({"scale": (0.9, 0.3)}, "must be a range"), ({"ratio": (2.0, 1.0)}, "must be a range of ratios"),
    ({"hue": 0.7}, "hue=0.7"), ({"rotation": -3.0}, "rotation=-3.0"), ({"brightness": -1.0}, "brightness=-1.0"),
    ({"brightness": float("nan")}, "brightness=nan"), ({"blur": float("nan")}, "blur=nan"),
])  # fmt: skip
def test_numbers_outside_of_their_range_are_refused(numbers, why):
    with pytest.raises(ValueError, match=why):
        contrastive.Augmentation(**numbers)


def test_a_probe_that_augments_gets_the_milder_views():
    names = {name: params.SimCLR(**of_bars(augmentation=name)).probe_augmentation.name
             for name in ("contrastive", "supervised", "digits", "patches", "blurred")}  # fmt: skip
    assert names == {"contrastive": "supervised", "supervised": "supervised", "digits": "digits",
                     "patches": "supervised", "blurred": "supervised"}  # fmt: skip


class TwoStages(contrastive.Objective):
    """Labels by the sign of the first stage's first feature, which a second objective learns by cross-entropy."""

    seen: list = []  # noqa: RUF012

    def __init__(self, options, width, context):
        super().__init__(options, width, context)
        self.inner = components.own("objective", "cross-entropy").build(width, context)
        first = components.own("objective", "simclr")
        self.first_stage = contrastive.FirstStage(
            name="before", objective=first.build, labels=lambda features, seed: (features[:, 0] > 0).astype(int)
        )

    def forward(self, encode, views, labels, step):
        self.seen.append(set(labels.tolist()))
        return self.inner(encode, views, labels, step)


def test_an_objective_may_have_a_stage_before_it(job):
    training = job(params.Encoder(**of_bars(objective=contrastive.objective("two", TwoStages), lr=0.05)))
    loop.train(training)
    log = (training.folder / artefact.METRICS).read_text()
    assert '"stage": "before-"' in log and '"stage": "labels"' in log
    assert set.union(*TwoStages.seen) <= {0, 1}


def test_importing_the_plugin_imports_no_torch():
    import subprocess

    code = "import sys, robharness_contrastive as c; c.components.OWN; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_encoder_normalises_by_its_data_unless_the_recipe_says_otherwise():
    x = torch.linspace(0, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
    plain = encoder("small", "datasets/cifar-10", (3, 32, 32), normalize=False).eval()
    normalising = encoder("small", "datasets/cifar-10", (3, 32, 32)).eval()
    normalising.trunk.load_state_dict(plain.trunk.state_dict())
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in networks.MEAN_STD["datasets/cifar-10"])
    torch.testing.assert_close(normalising(mean + std * x), plain(x))
    recipe = params.SimCLR(**of_bars(data="datasets/cifar-10", normalize=False, input=(3, 32, 32), augmentation=None))
    assert isinstance(loop._empty_encoder(recipe).normalize, nn.Identity)


@pytest.mark.parametrize(
    ("recipe", "protocol"),
    [
        (params.SimCLR(), "lbfgs probe"),
        (params.SimCLR(probe="sgd"), "sgd probe"),
        (params.SimCLR(probe=None), ""),
        (params.Supervised(), ""),
        (params.Supervised(refit=True), "lbfgs probe"),
    ],
)
def test_a_recipe_declares_how_its_classifier_is_trained(recipe, protocol):
    assert contrastive.declared_input(recipe)["protocol"] == protocol
