"""The contract of corruptions, on synthetic images or on those of a data set that the author names."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from robharness.errors import PluginNotFound, UnreadableExample, UserError
from robharness.evaluation import referee
from robharness.evaluation.batch import Batch
from robharness.evaluation.images import on_canvas
from robharness.evaluation.rng import ExampleRNG, NoDraws, global_draws, global_seed
from robharness.plugins import discover
from robharness.specs import Corruption, Perturbed
from robharness.suite import Data
from robharness.testing.contract import Broken, Subject, params_of

SIDE, COUNT, FRAMES = 64, 4, 3


def every_severity_runs(corruption: Subject) -> None:
    """Every declared severity runs."""
    for canvas in _canvases(corruption):
        for severity in _spec(corruption).severities:
            try:
                corrupted(corruption, canvas, severity)
            except UserError:
                raise
            except Exception as error:
                raise Broken(f"severity {severity} raised {type(error).__name__}: {error}") from error


def keeps_shape_and_type(corruption: Subject) -> None:
    """The result is a uint8 tensor of the canvas's shape, with the declared notes."""
    spec = _spec(corruption)
    for canvas in _canvases(corruption):
        for severity in spec.severities:
            referee.checked(corrupted(corruption, canvas, severity), canvas.images, notes=spec.notes)


def belongs_to_the_example(corruption: Subject) -> None:
    """An image's corruption is the same in another call, in another order and without other images."""
    spec = _spec(corruption)
    for canvas, severity in itertools.product(_canvases(corruption), spec.severities):
        whole, n = _pixels(corrupted(corruption, canvas, severity)), len(canvas.ids)
        orders: dict[str, Sequence[int]] = {"in another call": range(n)}
        if spec.randomness != "global":  # which gets the same whole blocks in every run
            orders |= {"in another order": range(n - 1, -1, -1), "alone": [n - 1], "with fewer others": [0, n - 1]}
        for condition, rows in orders.items():
            found = _pixels(corrupted(corruption, canvas, severity, list(rows)))
            for row, image in zip(rows, found, strict=True):
                if not torch.equal(image, whole[row]):
                    raise Broken(f"at severity {severity} '{canvas.ids[row]}' is corrupted differently {condition}")


def canvas_untouched(corruption: Subject) -> None:
    """It does not change the images that it is given."""
    for canvas, severity in itertools.product(_canvases(corruption), _spec(corruption).severities):
        batch = _batch(canvas)
        before = batch.canvas.clone()
        corrupted(corruption, canvas, severity, batch=batch)
        if not torch.equal(batch.canvas, before):
            raise Broken(f"severity {severity} writes into the canvas; work on a copy")


def draws_as_declared(corruption: Subject) -> None:
    """Its random numbers come from where `randomness` says: `rng` alone, nowhere, or global generators."""
    spec, canvases = _spec(corruption), _canvases(corruption)
    corrupted(corruption, canvases[0], spec.severities[0])  # imports may draw, once
    for canvas, severity in itertools.product(canvases, spec.severities):
        with global_draws() as drawn:
            corrupted(corruption, canvas, severity, as_declared=True)
        if drawn and spec.randomness != "global":
            raise Broken(f"severity {severity} draws from the global generator of {' and '.join(drawn)}")


RULES = (every_severity_runs, keeps_shape_and_type, belongs_to_the_example, canvas_untouched, draws_as_declared)


class Canvas(NamedTuple):
    """Examples on a canvas.

    ids: N texts.
    images: uint8 (N, H, W, 3), or (N, T, H, W, 3).
    """

    ids: Sequence[str]
    images: Tensor


def corrupted(
    corruption: Subject,
    canvas: Canvas,
    severity: int,
    rows: Sequence[int] | None = None,
    *,
    batch: Batch | None = None,
    as_declared: bool = False,
) -> Tensor | Perturbed:
    """Return the result of a corruption for these rows of a canvas, by default all.

    batch: the rows as a batch, if the caller needs it.
    as_declared: whether draws from `rng` that are not declared raise ContractViolation.
    """
    spec = _spec(corruption)
    batch = batch or _batch(canvas, rows)
    if spec.open is not None:
        built: Corruption = spec.open(corruption.params, corruption.data_root)
    else:
        assert spec.build is not None
        built = spec.build(corruption.params)
    streams = NoDraws if as_declared and spec.randomness != "example" else ExampleRNG
    with global_seed(0) if spec.randomness == "global" else nullcontext():
        return built.perturb(None, batch, severity, streams(0, corruption.entry.name, batch.ids))


@lru_cache(maxsize=1)
def _canvases(corruption: Subject) -> list[Canvas]:
    """Return images with edges, gradients and texture, videos of such images, or the first images of a data set.

    Raises UserError for a stored corruption if the author names no data set.
    """
    spec, images = _spec(corruption), corruption.images
    if images is None and spec.open is not None:
        raise UserError(
            f"{corruption} holds corrupted images of a data set that is not named; write images={{'{spec.name}': "
            f"{{'name': 'datasets/NAME', 'split': 'SPLIT', 'canvas': SIDE}}}}"
        )
    if images is not None:
        return [_of_data(corruption, **images)]
    return [_synthetic(() if kind == "image" else (FRAMES,)) for kind in sorted(spec.inputs)]


def _synthetic(frames: tuple[int, ...]) -> Canvas:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    waves = [60 * np.sin(x / (3 + c)) + 40 * np.cos(y / (7 - c)) + 100 + 60 * (x > y) for c in range(3)]
    noise = np.random.default_rng(0).normal(0, 8, (COUNT, *frames, SIDE, SIDE, 3))
    images = (np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)
    return Canvas([f"made-up-{row}" for row in range(COUNT)], torch.from_numpy(images))


def _of_data(corruption: Subject, name: str, split: str, canvas: int, **options: Any) -> Canvas:
    try:
        entry = corruption.plugin.registry.find("datasets", name)
    except PluginNotFound:
        entry = discover().find("datasets", name)
    dataset = Data(entry=entry, params=params_of(entry, options), split=split).open(corruption.data_root)
    images: dict[str, np.ndarray] = {}
    for index, id in enumerate(dataset.ids):
        with suppress(UnreadableExample):
            images[id] = on_canvas(np.asarray(dataset.read(index)), canvas)
        if len(images) == COUNT:
            break
    if not images:
        raise UserError(f"none of the {len(dataset.ids)} images of {name}/{split} can be read")
    return Canvas(list(images), torch.from_numpy(np.stack(list(images.values()))))


def _batch(canvas: Canvas, rows: Sequence[int] | None = None) -> Batch:
    rows = list(range(len(canvas.ids))) if rows is None else list(rows)
    inputs, labels = torch.zeros(len(rows), 3, 8, 8), torch.zeros(len(rows), dtype=torch.long)
    images = canvas.images[rows].clone()
    frames = torch.arange(images.shape[1]).expand(len(rows), -1) if images.ndim == 5 else None
    return Batch([canvas.ids[row] for row in rows], inputs, labels, images, frames=frames)


def _pixels(returned: Tensor | Perturbed) -> Tensor:
    return returned.x if isinstance(returned, Perturbed) else returned


def _spec(corruption: Subject) -> Any:
    return corruption.entry.spec
