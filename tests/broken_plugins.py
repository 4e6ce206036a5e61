"""A plugin for the tests of the author kit: of every kind one that keeps the contract, called "good", and one for each
rule that breaks it and is called after it.
"""

import itertools
import os
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robharness import (
    PROBE_NOTES,
    AttackSpec,
    ComponentSpec,
    CorruptionSpec,
    Cost,
    DatasetSpec,
    Download,
    File,
    InputSpec,
    Measure,
    MetricSpec,
    MissingResource,
    ModelSpec,
    Perturbed,
    ThreatModel,
    UnreadableExample,
    hookimpl,
)

PROCESS = {"1": 1, "2": 2}.get(os.environ.get("PYTHONHASHSEED", ""), 3)
"""Another number in a process that hashes texts otherwise; remainders of hashes are alike at times."""
COUNTER = itertools.count()
SHAPE, CLASSES = (3, 8, 8), 3

# --- models -----------------------------------------------------------------------------------------------------------


def build(how, weights):
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            draws = np.random.default_rng(next(COUNTER) if how == "same_state_again" else 0)
            values = draws.normal(size=(CLASSES, 192)).astype(np.float32)
            if how == "fresh_process":
                values[0, 0] += PROCESS
            if weights is not None:
                values *= float(weights.read_text())
            if how == "draws-in-build":
                nn.Linear(192, CLASSES)
            if how == "built-from-draws":
                values[0, 0] += float(nn.Linear(1, 1).bias.detach())
            self.body = nn.Flatten()
            self.head = nn.Linear(192, CLASSES + (how == "logits_fit_labels"), bias=False, device="meta")
            self.head.weight = nn.Parameter(torch.from_numpy(np.resize(values, self.head.weight.shape)))
            self.register_buffer("seen", torch.zeros(()))
            self.calls = 0

        def train(self, mode=True):
            return super().train(mode or how == "builds")

        def forward(self, x):
            self.calls += 1
            if how == "input_untouched":
                x.data.clamp_(0.2, 0.8)
            if how == "buffers_unchanged":
                self.seen += 1
            if how == "global_draws_change_nothing":
                np.random.random_sample()
            logits = self.head(self.body(x))
            if how == "input_gradient":
                logits = logits * 0 + torch.arange(CLASSES)
            if how == "no-gradient":
                logits = logits.detach()
            if how == "same_logits_again":
                logits = logits + self.calls / 64
            if how == "neighbours_change_nothing":
                logits = logits - logits.mean(0)
            return logits

    return "no module" if how == "no-module" else Net()


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """how: as one of the names below. classes: many or few."""

    how: str
    labels: Literal["threes", "unheard-of"] = "threes"


def model(name, **changes):
    facts = {
        "summary": name,
        "input": InputSpec(shape=SHAPE),
        "labels": "threes",
        "build": lambda params, weights: build(params.how if params else name, weights),
        "features": "body",
        "licence": "Apache-2.0",
        "paper": "https://example.org/paper",
    }
    return ModelSpec(name=name, **facts | changes)


@hookimpl
def robharness_models():
    alike = ("good", "builds", "logits_fit_labels", "same_logits_again", "same_state_again", "input_gradient",
             "input_untouched", "buffers_unchanged", "global_draws_change_nothing", "neighbours_change_nothing",
             "fresh_process", "no-module", "no-gradient", "draws-in-build", "built-from-draws")  # fmt: skip
    yield from map(model, alike)
    yield model("features_are_vectors", features="neck")
    yield model("licence_stated", licence="")
    yield model("paper_stated", paper=" ")
    yield model("sha256_stated", weights=Download(url="https://example.org/scale.txt"))
    yield model("file-without-sha256",
                weights={"head": File(path="a/scale.txt", get="curl -O https://example.org/scale.txt")})  # fmt: skip
    yield model("asked-for", weights=File(path="scale.txt", get="ask the authors of https://example.org/scales"))
    yield model("weighted", weights=Download(url="https://example.org/scale.txt", sha256="0" * 64))
    yield model("optional", params=ModelOptions, given=lambda params: {"labels": params.labels})


# --- data sets --------------------------------------------------------------------------------------------------------


class Pictures:
    def __init__(self, how):
        self.how = how
        self.ids = [f"picture-{i}" for i in range(6)]
        self.labels = [i % CLASSES for i in range(6)]
        if how == "stable_ids":
            turn = next(COUNTER) % 6
            self.ids = self.ids[turn:] + self.ids[:turn]
        if how == "one_id_and_label_each":
            self.ids[3] = self.ids[0]
        if how == "too-few-labels":
            self.labels.pop()
        if how == "labels_in_range":
            self.labels[2] = CLASSES
        if how == "negative-label":
            self.labels[2] = -1
        self.reads, self.shared = 0, np.zeros(SHAPE[::-1], np.uint8)

    def read(self, index):
        if self.how == "draws_nothing":
            np.random.random_sample()
        if self.how == "one-unreadable" and index == 2:
            raise UnreadableExample("it ends too soon")
        image = np.random.default_rng(index).integers(0, 200, SHAPE[::-1], np.uint8)
        if self.how == "pixels":
            return image.astype(np.float32)
        if self.how == "channels-first":
            return image.transpose(2, 0, 1)
        self.reads += 1
        if self.how == "reads_in_any_order":
            return image + np.uint8(self.reads % 50)
        if self.how == "reads_from_threads":
            self.shared[:] = image
            time.sleep(0.002)
            return self.shared.copy()
        if self.how == "fresh_process":
            return image + np.uint8(PROCESS)
        return image


class Video:
    def __init__(self, how, frames):
        self.how, self.frames = how, frames

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, wanted):
        if self.how == "sorts-frames":
            return self.frames[sorted(wanted)]
        return self.frames[wanted[0]] if self.how == "one-frame" else self.frames[wanted]


class Videos(Pictures):
    def read(self, index):
        frames = np.random.default_rng(index).integers(0, 256, (5 + index, 8, 8, 3), np.uint8)
        return frames if self.how == "good-video" else Video(self.how, frames)


def open_lost(root, split):
    raise MissingResource("the lost pictures", where=str(root / "lost"), get="make pictures")


def dataset(name, cls=Pictures, **changes):
    facts = {"summary": name, "labels": "threes", "splits": ("test",), "open": lambda root, split: cls(name)}
    return DatasetSpec(name=name, **facts | changes)


@hookimpl
def robharness_datasets():
    yield from map(dataset, ("good", "stable_ids", "one_id_and_label_each", "labels_in_range", "pixels",
                             "reads_in_any_order", "reads_from_threads", "draws_nothing", "fresh_process",
                             "too-few-labels", "negative-label", "channels-first", "one-unreadable"))  # fmt: skip
    for name in ("good-video", "lazy-video", "sorts-frames", "one-frame"):
        yield dataset(name, Videos, kind="video")
    yield dataset("free", splits=(), open=lambda root, split: Pictures({"torn": "pixels"}.get(split, "good")))
    yield dataset("lost", open=open_lost, splits=("train", "test"))


# --- attacks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Options:
    """norm: of the ball."""

    norm: Literal["linf", "l2"] = "linf"


@dataclass(frozen=True, kw_only=True)
class LinfOptions:
    """norm: of the ball."""

    norm: Literal["linf"] = "linf"


def lead(logits, labels):
    """The best wrong logit minus the true one, (N,)."""
    true = logits.gather(1, labels[:, None])[:, 0]
    return logits.scatter(1, labels[:, None], float("-inf")).amax(1) - true


def mean_lead(logits, labels):
    return lead(logits, labels) / len(logits)


def lengths(values):
    """Of each row, (N, 1, ...), summed in an order that does not depend on how many rows there are."""
    import torch

    squares = [(row.double() ** 2).sum().sqrt() for row in values]
    return torch.stack(squares).float().view(-1, *[1] * (values.ndim - 1))


@dataclass(frozen=True)
class Step:
    """One step along the gradient to the edge of the ball."""

    how: str
    params: Options

    def direction(self, gradient):
        if self.params.norm == "linf":
            return gradient.sign()
        return gradient / lengths(gradient).clamp_min(1e-12)

    def perturb(self, model, batch, eps, rng):
        import torch

        how, x = self.how, batch.x
        if how == "draws_as_declared":
            np.random.random_sample()
        if how == "draws-undeclared":
            rng.uniform("start", ())
        if how == "changes_nothing_else":
            model.net.train()
        if how == "writes-input":
            batch.x.neg_()
        if how == "exact_on_integers":  # a mean over the pass, and a number beside it
            gradient = model.gradient(x, batch.labels, mean_lead).gradient
            step = gradient / (gradient.abs() + 1)
        elif how == "replays":  # numbers that belong to the row
            step = torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], x.shape).astype(np.float32))
        else:
            step = self.direction(batch.gradient(model, lead).gradient)
        if how == "fresh_process":
            step = step * (PROCESS / 4)
        if how == "nothing_at_zero":
            eps = max(eps, 1 / 512)
        eps *= {"keeps_its_threat_model": 2, "reaches_the_optimum": 0.5}.get(how, 1)
        moved = (x + eps * step).clamp(0, 1)
        if how == "leaves-the-box":
            moved = x + eps * step
        return Perturbed(x=moved, notes={"surprise": batch.labels}) if how == "notes_as_declared" else moved


@dataclass(frozen=True)
class Nearest:
    """A step to the boundary as if the model were linear, and a little further; too far by `excess`."""

    params: Options
    excess: float

    def perturb(self, model, batch, eps, rng):
        import torch

        found = batch.gradient(model, lead)
        slope = found.gradient.flatten(1).double()
        slope = slope.abs().sum(1) if self.params.norm == "linf" else slope.square().sum(1).sqrt()
        ahead = (-found.values.double()).clamp(min=0)
        length = (self.excess * ahead / slope.clamp_min(1e-12)).float()
        length = torch.where(length <= 0.999 * eps, length, 0)  # what is out of reach stays where it is
        step = Step("good", self.params).direction(found.gradient)
        return (batch.x + length.view(-1, *[1] * (batch.x.ndim - 1)) * step).clamp(0, 1)


@dataclass(frozen=True)
class Aim:
    """One step towards the class after the true one."""

    params: Options

    def perturb(self, model, batch, eps, rng):
        target = (batch.labels + 1) % model.classes
        step = model.gradient(batch.x, target, lead).gradient
        x = (batch.x - eps * Step("good", self.params).direction(step)).clamp(0, 1)
        return Perturbed(x=x, notes={"target": target})


class Scatter:
    """A step to a corner that a global generator draws."""

    def perturb(self, model, batch, eps, rng):
        import torch

        signs = np.random.choice([-1.0, 1.0], tuple(batch.x.shape)).astype(np.float32)
        return (batch.x + eps * torch.from_numpy(signs)).clamp(0, 1)


class Mix:
    """A step towards the mean of the block."""

    def perturb(self, model, batch, eps, rng):
        return (batch.x + (batch.x.mean(0) - batch.x).clamp(-eps, eps)).clamp(0, 1)


class Look:
    """A probe of audits: the inputs as they are."""

    def perturb(self, model, batch, eps, rng):
        import torch

        notes = {name: torch.zeros(len(batch.x), dtype=getattr(torch, of.__name__)) for name, of in PROBE_NOTES.items()}
        model.gradient(batch.x, batch.labels, lead)
        return Perturbed(x=batch.x, notes=notes)


class Watch:
    """One step along the features' gradient; tells where it came from."""

    def perturb(self, model, batch, eps, rng):
        found = batch.gradient(model, lambda features, labels: features[:, :4].sum(1))
        x = (batch.x + eps * found.gradient.sign()).clamp(0, 1)
        return Perturbed(x=x, notes={"value": batch.features(model)[:, :4].sum(1)})


def attack(name, **changes):
    facts = {
        "summary": name,
        "access": "gradient",
        "params": Options,
        "threat": lambda params: ThreatModel(norm=params.norm),
        "cost": lambda params: Cost(shared_gradients=1),
        "build": lambda params: Step(name, params),
        "randomness": "none",
    }
    return AttackSpec(name=name, **facts | changes)


def too_far(clean, perturbed):
    """Sizes in linf that are not 0 for clean inputs."""
    return (perturbed - clean).flatten(1).abs().amax(1).double() + 1e-4


OFFSET = Measure(name="offset", distance=too_far, absolute_slack=1e-3)


@hookimpl
def robharness_attacks():
    yield from map(attack, ("good", "keeps_its_threat_model", "nothing_at_zero", "changes_nothing_else",
                            "draws_as_declared", "notes_as_declared", "fresh_process",
                            "reaches_the_optimum", "draws-undeclared", "writes-input", "leaves-the-box"))  # fmt: skip
    yield attack("replays", params=LinfOptions, cost=lambda params: Cost())
    yield attack("exact_on_integers", params=LinfOptions, cost=lambda params: Cost(gradients=1))
    yield attack("asks_as_declared", access="scores")
    yield attack("costs_what_it_declares", cost=lambda params: Cost(forwards=1))
    yield attack("promises-too-much", cost=lambda params: Cost(gradients=3))
    for name, excess in (("good-minimal", 1.001), ("finds_the_distance", 1.2)):
        yield attack(name, minimal=True, build=lambda params, excess=excess: Nearest(params, excess))
    yield attack("good-aimed", threat=lambda params: ThreatModel(norm=params.norm, targeted=True), build=Aim,
                 cost=lambda params: Cost(gradients=1))  # fmt: skip
    yield attack("good-global", params=LinfOptions, access="decision", randomness="global",
                 cost=lambda params: Cost(), build=lambda params: Scatter())  # fmt: skip
    yield attack("good-blocks", params=LinfOptions, access="decision", blocks=lambda params: True,
                 cost=lambda params: Cost(), build=lambda params: Mix())  # fmt: skip
    yield attack("good-features", access="features", notes={"value": float}, build=lambda params: Watch(),
                 params=LinfOptions, inputs=frozenset({"image"}))  # fmt: skip
    yield attack("good-probe", notes=dict(PROBE_NOTES), build=lambda params: Look(), params=LinfOptions,
                 cost=lambda params: Cost(gradients=1))  # fmt: skip
    yield attack("good-team", ensemble=True, build=lambda params: {n: Step("good", params) for n in ("one", "two")},
                 params=LinfOptions, cost=lambda params: Cost(shared_gradients=2))  # fmt: skip
    yield attack("measures_as_declared", params=LinfOptions, threat=lambda params: ThreatModel(measure=OFFSET))


# --- corruptions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spots:
    """Some pixels white: more with the severity, others for every example."""

    how: str

    def perturb(self, model, batch, severity, rng):
        import torch

        how, canvas = self.how, batch.canvas
        if how == "every_severity_runs" and severity == 2:
            raise KeyError("no such severity")
        if how == "draws_as_declared":
            np.random.random_sample()
        shares = rng.uniform("spots", canvas.shape[1:-1])
        if how == "belongs_to_the_example":
            shares = shares.flip(0)
        result = torch.where((shares < severity / 8)[..., None], 255, canvas)
        if how == "keeps_shape_and_type":
            return result.float()
        if how == "canvas_untouched":
            batch.canvas.copy_(result)
            return batch.canvas
        return result


class Stored:
    def __init__(self, root):
        if not (root / "stored").is_dir():
            raise MissingResource("the stored pictures", where=str(root / "stored"), get="make stored")

    def perturb(self, model, batch, severity, rng):
        assert all(id.startswith("picture-") for id in batch.ids)
        return 255 - batch.canvas


def corruption(name, **changes):
    facts = {"summary": name, "group": "noise", "severities": (1, 2), "build": lambda params: Spots(name)}
    return CorruptionSpec(name=name, **facts | changes)


@hookimpl
def robharness_corruptions():
    yield from map(corruption, ("good", "every_severity_runs", "keeps_shape_and_type", "belongs_to_the_example",
                                "canvas_untouched", "draws_as_declared"))  # fmt: skip
    yield corruption("draws-undeclared", randomness="none")
    yield corruption("good-stored", build=None, open=lambda params, root: Stored(root), randomness="none")


# --- components -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Depth:
    depth: int = 3


@dataclass(frozen=True, kw_only=True)
class Named:
    name: str = "x"


@dataclass(frozen=True, kw_only=True)
class Bytes:
    secret: bytes = b"a"
    other: bytes | None = None

    def __post_init__(self):
        object.__setattr__(self, "other", b"b")


@hookimpl
def robharness_components():
    yield ComponentSpec(name="good", role="network", summary="Fine", build=lambda params, shape: shape, params=Depth)
    yield ComponentSpec(name="options_have_identities", role="network", summary="Options that are no plain values",
                        build=lambda params: None, params=Bytes)  # fmt: skip
    yield ComponentSpec(name="has-a-name", role="network", summary="An option that a suite cannot set",
                        build=lambda params: None, params=Named)  # fmt: skip
    yield ComponentSpec(name="values_have_gradients", role="attack-objective", summary="Zeros",
                        build=lambda params: lambda logits, labels: 0 * logits.sum(1))  # fmt: skip
    yield ComponentSpec(name="rows_are_independent", role="attack-objective", summary="Less the mean of all",
                        build=lambda params: lambda logits, labels: logits.amax(1) - logits.mean())  # fmt: skip
    yield ComponentSpec(name="build_is_found", role="network", summary="Nowhere", build="json:nowhere")


# --- metrics ----------------------------------------------------------------------------------------------------------


def worst(results):
    return {label: min(cell.accuracy for cell in results.of(label, "attack")) for label in results.labels}


@hookimpl
def robharness_metrics():
    yield MetricSpec(name="good", summary="The lowest accuracy", compute=worst)
    yield MetricSpec(name="gives_numbers_by_label", summary="Texts", compute=lambda results: {"A": "good", "B": "bad"})
    yield MetricSpec(name="other-labels", summary="Others", compute=lambda results: {"a": 0.0})
    yield MetricSpec(name="same_numbers_again", summary="Counts",
                     compute=lambda results: {"A": float(next(COUNTER))})  # fmt: skip
