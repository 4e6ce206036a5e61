"""Specs of every kind, a registry and a small suite, for tests of planning; nothing in the specs computes."""

from dataclasses import dataclass, field
from pathlib import Path

from robharness import (
    AttackSpec,
    Budget,
    CorruptionSpec,
    Cost,
    DatasetSpec,
    Download,
    File,
    InputSpec,
    MetricSpec,
    MissingResource,
    ModelSpec,
    Preprocessing,
    ThreatModel,
    Train,
    specs,
)
from robharness.planning.planner import plan
from robharness.plugins import PluginOrigin, Registry
from robharness.suite import load


@dataclass(frozen=True, kw_only=True)
class NetParams:
    width: int = 8
    note: str = field(default="", metadata={"runtime": True})


@dataclass(frozen=True, kw_only=True)
class PgdParams:
    norm: str = "linf"
    steps: int = 10
    rel_step: Budget | None = None
    restarts: int = 1
    note: str = field(default="", metadata={"runtime": True})


@dataclass(frozen=True, kw_only=True)
class FolderParams:
    folder: bytes = b"x"


@dataclass(frozen=True, kw_only=True)
class LessonParams:
    count: int = 12
    file: Path | None = None
    space: str = "toys"
    folder: Path | None = field(default=None, metadata={"runtime": True})


class Pixels:
    """Twelve examples, in this order or the other way round."""

    def __init__(self, count=12, turned=False, labels=lambda i: i % 3):
        numbers = list(range(count))[:: -1 if turned else 1]
        self.ids = [f"pixel-{i}" for i in numbers]
        self.labels = [labels(i) for i in numbers]

    def read(self, index):
        raise AssertionError("planning reads no picture")


OPENED = {
    "test": Pixels,
    "turned": lambda: Pixels(turned=True),
    "relabelled": lambda: Pixels(labels=lambda i: (i + 1) % 3),
    "more": lambda: Pixels(13),
    "double": lambda: type("Double", (), {"ids": ["a", "a"], "labels": [0, 1]}),
    "uneven": lambda: type("Uneven", (), {"ids": ["a", "b"], "labels": [0]}),
    "empty": lambda: type("Empty", (), {"ids": [], "labels": []}),
    "numbered": lambda: type("Numbered", (), {"ids": [1, 2], "labels": [0, 1]}),
    "unlabelled": lambda: type("Unlabelled", (), {"ids": ["a"], "labels": ["cat"]}),
}


def open_pixels(root, split):
    if split == "lost":
        raise MissingResource("the lost pixels", where=str(root / "pixels"), get="make pixels")
    if split == "crash":
        raise KeyError("index")
    return OPENED[split]()


def attack(name, **changes):
    facts = {
        "summary": "s",
        "access": "gradient",
        "params": PgdParams,
        "threat": lambda params: ThreatModel(norm=params.norm),
        "cost": lambda params: Cost(gradients=params.steps),
        "build": lambda params: None,
    }
    return AttackSpec(name=name, **facts | changes)


def model(name, **changes):
    facts = {
        "summary": "s",
        "input": InputSpec(shape=(1, 8, 8)),
        "labels": "toys",
        "build": lambda params, weights: None,
    }
    return ModelSpec(name=name, **facts | changes)


LESSON = specs.DataRef(name="toy/lesson", split="one")
TRAIN = Train(data=lambda params: {"train": LESSON}, train=lambda job: None)
SPECS = {
    "models": [
        model("net", params=NetParams),
        model("large", input=InputSpec(shape=(1, 16, 16)), preprocessing=Preprocessing(resize=16, crop=16)),
        model("filed", weights=File(path="net.pt", get="make net", sha256="0" * 64)),
        model("taught", params=NetParams, weights=TRAIN),
        model("served", weights=Download(url="https://example.org/net.pt", sha256="0" * 64)),
    ],
    "attacks": [
        attack("fgsm", randomness="none", cost=lambda params: Cost(shared_gradients=1)),
        attack("pgd", advise=lambda params, eps: [f"{params.steps} steps"] if params.steps > 50 else []),
        attack("noise", randomness="global"),
        attack("folder", params=FolderParams, threat=lambda params: ThreatModel(norm="l2")),
        attack("costless", cost=lambda params: 1 / 0),
        attack("unwise", advise=lambda params, eps: 1 / 0),
    ],
    "corruptions": [
        CorruptionSpec(name="fog", summary="s", group="weather", build=lambda params: None),
        CorruptionSpec(name="negative", summary="s", group="light", build=lambda params: None, randomness="none"),
    ],
    "datasets": [
        DatasetSpec(
            name="lesson",
            summary="s",
            labels="toys",
            splits=("one", "two"),
            params=LessonParams,
            open=lambda params, root, split: Pixels(params.count),
            given=lambda params: {"labels": params.space},
        ),
        DatasetSpec(name="exam", summary="s", labels="toys", splits=("one",), open=lambda root, split: Pixels()),
        DatasetSpec(name="pixels", summary="s", labels="toys", splits=(*OPENED, "lost", "crash"), open=open_pixels),
    ],
    "metrics": [MetricSpec(name="wrong", summary="s", compute=lambda results: {})],
}


def registry_of(specs=SPECS, digest=None):
    registry = Registry()
    source = PluginOrigin(namespace="toy", distribution="robharness-toy", version="1.0", digest=digest)
    for kind, some in specs.items():
        for spec in some:
            registry.add(kind, spec, source)
    return registry


def suite(registry=None, **changes):
    keys = {
        "robharness": 1,
        "name": "toys",
        "data": {"name": "toy/pixels", "split": "test"},
        "models": [{"model": "toy/net", "label": "Net"}],
        "attacks": [{"attack": "toy/pgd", "eps": ["1/255"]}],
    }
    return load(keys | changes, registry or registry_of())


def cells(**changes):
    """The plan's cells by their short name."""
    return {cell.short_name: cell for cell in plan(suite(**changes), Path("data")).cells}
