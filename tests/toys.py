"""A plugin of toys for the core's tests, loaded with `-p tests/toys.py`: exact ones, and ones that break every rule.

Exact: pixels are 0 or 1, budgets dyadic, weights small integers, so that all arithmetic is exact in float32, and
outcomes must be bit-equal whatever the batch, the order and the cut of the work.
"""

import ctypes
import hashlib
import os
import signal
import threading
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from robharness import (
    AttackSpec,
    Budget,
    CorruptionSpec,
    Cost,
    DatasetSpec,
    InputSpec,
    MetricSpec,
    MissingResource,
    ModelSpec,
    Perturbed,
    ThreatModel,
    hookimpl,
)

SIDE, CLASSES, EXAMPLES = 8, 3, 40


def integers(name, shape, low, high):
    """Small integers that depend on the name alone."""
    count = int(np.prod(shape))
    draws = b"".join(hashlib.sha256(f"{name} {i}".encode()).digest() for i in range(count // 32 + 1))
    return (np.frombuffer(draws[:count], np.uint8).astype(np.int64) % (high - low + 1) + low).reshape(shape)


DEATHS = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfaults": lambda: ctypes.string_at(0),
    "aborts": os.abort,
    "exits": lambda: os._exit(7),
}


def die(how):
    """End this process as it is done with `how`, or do nothing where that is no way to die.

    $TOYS_DEATHS: a folder that gets a file per death. $TOYS_ONCE: ways to die that happen once, a space between.
    $TOYS_SPARED: a process that must live; it raises instead.
    """
    if how not in DEATHS:
        return
    folder = Path(os.environ["TOYS_DEATHS"])
    if how in os.environ.get("TOYS_ONCE", "").split() and any(folder.glob(f"{how}-*")):
        return
    if os.environ.get("TOYS_SPARED") == str(os.getpid()):
        raise RuntimeError(f"it would be {how} in a process that must live")
    (folder / f"{how}-{os.getpid()}").touch(exist_ok=False)
    DEATHS[how]()


def leave_a_child(path):
    """Fork, as some loaders of data do: the child has all that this process has open, and outlives it.

    path: of a file that says "begun" and later "ended". The child ends when the file is gone, or after two minutes.
    """
    file, deadline = Path(path), time.monotonic() + 120
    file.write_text("begun")
    if os.fork() == 0:
        while file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        if file.exists():
            file.write_text("ended")
        os._exit(0)


def meet(folder, name, count):
    """Wait until `count` processes (or others with a name) are here at the same time."""
    Path(folder, str(name)).touch()
    deadline = time.monotonic() + 60
    while len(list(Path(folder).iterdir())) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} is alone")
        time.sleep(0.01)


class Ahead:
    """Whether one unit is read while another one is computed: both sides wait until they have seen each other.

    $TOYS_AHEAD: examples of the first unit; who reads the next one waits for who computes, and the other way round.
    """

    def __init__(self):
        self.read = []
        self.reads, self.computes = threading.Event(), threading.Event()

    def reading(self, id):
        if threading.current_thread() is threading.main_thread():  # planning reads some images for their sizes
            return
        self.read.append(id)
        if len(self.read) > int(os.environ.get("TOYS_AHEAD", "1000000")):
            self.reads.set()
            if not self.computes.wait(20):
                raise TimeoutError("nobody computes while this is read")

    def computing(self):
        self.computes.set()
        if "TOYS_AHEAD" in os.environ and not self.reads.wait(20):
            raise TimeoutError("nobody reads while this is computed")


AHEAD = Ahead()
HELD = []


class Pixels:
    def __init__(self, split):
        self.ids = [f"{split}-{i:03d}" for i in range(EXAMPLES)]
        if split == "reversed":  # the examples of "test", enumerated the other way round
            self.ids = [f"test-{i:03d}" for i in reversed(range(EXAMPLES))]
        self.labels = [int(integers(f"label {id}", (1,), 0, CLASSES - 1)[0]) for id in self.ids]

    def read(self, index):
        """$TOYS_SLEEPY: any value, reading takes its time. $TOYS_TORN: ids that cannot be read, a space between.

        $TOYS_HELD: pictures that memory is large enough for, as long as others hold them.
        """
        AHEAD.reading(self.ids[index])
        if "TOYS_SLEEPY" in os.environ:
            time.sleep(int(integers(f"sleep {self.ids[index]}", (1,), 0, 9)[0]) / 500)
        if self.ids[index] in os.environ.get("TOYS_TORN", "").split():
            raise RuntimeError("the archive is closed")
        image = integers(f"pixels {self.ids[index]}", (SIDE, SIDE, 1), 0, 1) * 255
        if self.labels[index] < 2:  # something to learn: a bright quarter tells the class
            rows = slice(0, SIDE // 2) if self.labels[index] == 0 else slice(SIDE // 2, SIDE)
            image[rows, : SIDE // 2] = 255
        image = image.astype(np.uint8)
        if "TOYS_HELD" in os.environ:
            if sum(held() is not None for held in HELD) >= int(os.environ["TOYS_HELD"]):
                raise MemoryError("too many pictures at once")
            HELD.append(weakref.ref(image))
        return image


def open_pixels(root, split):
    if split == "lost":
        raise MissingResource("the lost pixels", where=str(root / "pixels"), get="make pixels")
    return Pixels(split)


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="pixels", summary="Black and white pixels", labels="toys",
                      splits=("test", "reversed", "lost"), open=open_pixels)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NetParams:
    """what: a way to misbehave, or to die, as the attack `dies` makes it. megabytes: that a row of a pass takes."""

    what: str = "exact"
    megabytes: int = 0
    note: str = field(default="", metadata={"runtime": True})


def take(megabytes):
    """Take memory and give it back; pages that nobody writes to cost no more than their addresses."""
    import torch

    torch.empty(megabytes * 2**20, dtype=torch.uint8)


def build(params, weights):
    import torch
    from torch import nn

    if params.what.startswith("unborn-"):
        die(params.what.removeprefix("unborn-"))
    if params.what == "unbuildable":
        raise ValueError("no such layer")
    if params.what == "not-a-module":
        return lambda x: x

    class Exact(nn.Module):
        """A 3 x 3 convolution, ReLU, a linear layer; all weights integers from -2 to 2, the last layer / 64."""

        def __init__(self):
            super().__init__()
            self.what = params.what
            self.convolution = nn.Conv2d(1, 4, 3, padding=1, bias=False)
            self.head = nn.Linear(4 * SIDE * SIDE, CLASSES, bias=False)
            quarter = np.zeros((CLASSES, 4, SIDE, SIDE))
            quarter[0, :, : SIDE // 2, : SIDE // 2] = quarter[1, :, SIDE // 2 :, : SIDE // 2] = 2
            quarter[2] = 0.5
            with torch.no_grad():
                self.convolution.weight.copy_(torch.from_numpy(integers("convolution", (4, 1, 3, 3), -1, 2)))
                noise = integers("head", (CLASSES, 4 * SIDE * SIDE), -1, 1)
                self.head.weight.copy_(torch.from_numpy(quarter.reshape(CLASSES, -1) + noise) / 64)
            if params.what == "drifting":
                with torch.no_grad():
                    self.head.weight += float(os.environ.get("TOYS_DRIFT", "0"))
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, x):
            take(params.megabytes * len(x))
            z = self.head(torch.relu(self.convolution(x)).flatten(1))
            if params.what in ("not-numbers", "undecided"):
                value = torch.nan if params.what == "not-numbers" else 0
                z = torch.where(x.mean((1, 2, 3), keepdim=True)[:, :, 0, 0] > 0.6, value, z)
            if params.what == "random":
                z = z + torch.rand_like(z)  # noqa: TID251 (what the probe must find)
            if params.what == "counting":
                self.passes += 1
            if params.what == "no-gradient":
                z = z.detach()
            if params.what == "crashing":
                raise RuntimeError("size mismatch in layer 3")
            return {"shape": z[:, :, None], "few-classes": z[:, :2]}.get(params.what, z)

    return Exact()


def build_large(params, weights):
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(4 * SIDE * SIDE, CLASSES))


@hookimpl
def robharness_models():
    yield ModelSpec(name="net", summary="An exact network", input=InputSpec(shape=(1, SIDE, SIDE)), labels="toys",
                    build=build, params=NetParams)  # fmt: skip
    yield ModelSpec(name="large", summary="Takes other pixels", input=InputSpec(shape=(1, 2 * SIDE, 2 * SIDE)),
                    labels="toys", build=build_large)  # fmt: skip


def margin(logits, labels):
    """Largest other logit minus the true one: linear in the logits, so exact."""
    true = logits.gather(1, labels[:, None])[:, 0]
    return logits.scatter(1, labels[:, None], float("-inf")).amax(1) - true


@dataclass(frozen=True, kw_only=True)
class AttackParams:
    """how: a way to misbehave. megabytes: that an example of the batch takes. steps, restarts: as everywhere."""

    how: str = "climb"
    megabytes: int = 0
    steps: int = 3
    restarts: int = 1
    step: Budget = Budget("1/2")

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError("steps must be at least 1")


@dataclass(frozen=True)
class Climb:
    """Sign ascent with a random dyadic start, or a planted mistake."""

    params: AttackParams

    def perturb(self, model, batch, eps, rng):
        import torch

        how, x = self.params.how, batch.x
        take(self.params.megabytes * len(batch))
        if how == "dies":
            die(model.net.what)
        if how == "slow":  # $TOYS_SLOW: seconds. $TOYS_LOG: tells what has begun. $TOYS_CHILD: see leave_a_child
            if "TOYS_CHILD" in os.environ:
                leave_a_child(os.environ["TOYS_CHILD"])
            with Path(os.environ["TOYS_LOG"]).open("a") as log:
                log.write(f"{os.getpid()} {eps} {len(batch)} {batch.ids[0]}\n")
            time.sleep(float(os.environ["TOYS_SLOW"]))
        if how == "meets":  # $TOYS_MEET: a folder. $TOYS_COUNT: processes that meet there
            meet(os.environ["TOYS_MEET"], os.getpid(), int(os.environ["TOYS_COUNT"]))
        if how == "reads-ahead":
            AHEAD.computing()
        draws = self.draws(batch, rng)
        moved = (x + eps * (draws * 4).floor() / 4 - eps / 2).clamp(0, 1)
        for _ in range(self.params.steps):
            objective = (lambda z, y: margin(z, y) / len(z)) if how == "mean-loss" else margin
            found = model.gradient(moved, batch.labels, objective)
            if how == "early-stop" and bool((found.values > 0).float().mean() >= 0.5):
                break
            step = found.gradient.sign()
            if how == "mean-loss":
                step = found.gradient / (found.gradient.abs() + 1 / 64)
            moved = torch.clamp(moved + eps * float(self.params.step) * step, x - eps, x + eps).clamp(0, 1)
        return moved

    def draws(self, batch, rng):
        import torch

        shape = batch.x.shape[1:]
        if self.params.how == "position":  # numbers that belong to the row, not to the example
            return torch.from_numpy(np.random.default_rng(0).random((len(batch), *shape), dtype="float32"))
        if self.params.how == "global":
            return torch.from_numpy(np.random.random_sample((len(batch), *shape)).astype("float32"))
        return rng.uniform("start", shape)


class Sign:
    """One step along the sign of the gradient at the clean point, which all budgets share."""

    def perturb(self, model, batch, eps, rng):
        return (batch.x + eps * batch.gradient(model, margin).gradient.sign()).clamp(0, 1)


@dataclass(frozen=True)
class Rogue:
    """Every way to break a rule."""

    params: AttackParams

    def perturb(self, model, batch, eps, rng):
        import torch

        x, how = batch.x, self.params.how
        if how == "oversteps":
            return (x + 2 * eps).clamp(0, 1) + (x - 2 * eps).clamp(0, 1) - x
        if how == "leaves-box":
            return x + eps
        if how == "not-finite":
            return torch.full_like(x, torch.nan)
        if how == "shape":
            return x[:, :, :4]
        if how == "type":
            return x.double()
        if how == "not-a-tensor":
            return x.numpy()
        if how == "writes-input":
            batch.x.add_(eps).clamp_(0, 1)
            return batch.x.clone()
        if how == "writes-labels":
            batch.labels.zero_()
            return x
        if how == "changes-weights":
            model.net.head.weight.mul_(0)
            return x
        if how == "train-mode":
            model.net.train()
            return x
        if how == "unfreezes":
            model.net.requires_grad_(True)
            return x
        if how == "halves":
            model.net.half()
            return x
        if how == "removes":
            del model.net.head
            return x
        if how == "writes-logits":  # the usual "mask the true class, then take the largest"
            batch.logits(model).scatter_(1, batch.labels[:, None], -9.0)
            return x
        if how == "writes-gradient":
            batch.gradient(model, margin).gradient.neg_()
            return x
        if how == "doubles":
            model.logits(x.double())
            return x
        if how == "asks-what-is-shared":
            return x + 0 * batch.logits(model).sum()
        if how == "raises":
            raise KeyError("delta")
        if how == "starves":
            raise MemoryError("no memory is large enough")
        if how == "asks":
            model.gradient(x, batch.labels, margin)
            return x
        if how == "draws-globally":
            return (x + eps * torch.from_numpy(np.random.random_sample(x.shape).astype("float32"))).clamp(0, 1)
        if how == "draws-undeclared":
            return (x + eps * rng.uniform("u", x.shape[1:])).clamp(0, 1)
        if how == "notes":
            return Perturbed(x=x, notes={"surprise": [0] * len(x)})
        if how == "short-notes":
            return Perturbed(x=x, notes={"count": [0]})
        if how == "no-notes":
            return Perturbed(x=x, notes={"count": [None] * len(x)})
        return x


def spec(name, build, **changes):
    facts = {
        "summary": f"The attack {name}",
        "access": "gradient",
        "params": AttackParams,
        "threat": lambda params: ThreatModel(norm="linf"),
        "cost": lambda params: Cost(gradients=params.steps),
        "build": build,
    }
    return AttackSpec(name=name, **facts | changes)


@hookimpl
def robharness_attacks():
    yield spec("climb", Climb)
    yield spec("sign", lambda params: Sign(), randomness="none", cost=lambda params: Cost(shared_gradients=1))
    yield spec("seeded", Climb, randomness="global")
    yield spec("rogue", Rogue)
    yield spec("blind", Rogue, access="decision", randomness="none")
    yield spec("counting", Rogue, notes={"count": int})
    yield spec("pictures-only", Climb, inputs=frozenset({"image"}),
               advise=lambda params, eps: ["it is a toy"] if params.steps > 5 else [])  # fmt: skip


@dataclass(frozen=True)
class Flip:
    """Turns pixels over: all of them, or a random share that grows with the severity."""

    share: bool

    def perturb(self, model, batch, severity, rng):
        if not self.share:
            return 255 - batch.canvas
        import torch

        flips = rng.uniform("flips", batch.canvas.shape[1:]) < severity / 8
        return torch.where(flips, 255 - batch.canvas, batch.canvas)


@dataclass(frozen=True, kw_only=True)
class HungryParams:
    """megabytes: that an example of the batch takes, of NumPy's."""

    megabytes: int = 0


@dataclass(frozen=True)
class Hungry:
    params: HungryParams

    def perturb(self, model, batch, severity, rng):
        np.empty((len(batch), self.params.megabytes * 2**20), np.uint8)
        return 255 - batch.canvas


class Bad:
    def perturb(self, model, batch, severity, rng):
        return batch.canvas.float() if severity == 1 else batch.canvas[:, :4]


@hookimpl
def robharness_corruptions():
    yield CorruptionSpec(name="negative", summary="All pixels turned", group="light", severities=(1,),
                         build=lambda params: Flip(share=False), randomness="none")  # fmt: skip
    yield CorruptionSpec(
        name="speckle", summary="Some pixels turned", group="noise", build=lambda params: Flip(share=True)
    )
    yield CorruptionSpec(name="hungry", summary="Takes memory", group="light", build=Hungry, params=HungryParams,
                         severities=(1,), randomness="none")  # fmt: skip
    yield CorruptionSpec(name="bad", summary="Not pixels", group="noise", build=lambda params: Bad(), randomness="none")


@hookimpl
def robharness_metrics():
    yield MetricSpec(name="wrong", summary="Share of clean examples that are wrong",
                     compute=lambda results: {m: 1 - results.clean(m).accuracy for m in results.labels})  # fmt: skip
    yield MetricSpec(name="broken", summary="Divides by zero", compute=lambda results: {"x": 1 / 0})
