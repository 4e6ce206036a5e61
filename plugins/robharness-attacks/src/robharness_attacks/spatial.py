"""Rotations and translations (Engstrom et al., 2019), by bilinear interpolation with zeros outside of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from robharness import Batch, Classifier, ExampleRNG, Perturbed
from robharness_attacks.norms import per_row
from robharness_attacks.objectives import clearly_fooled, lead
from robharness_attacks.params import SpatialParams
from robharness_attacks.threats import LARGEST, LATTICE

PRECISION = 2**10
"""Coordinates are multiples of 1 / PRECISION pixels, so that products of two weights are exact in float32."""
SAME = 1e-6
"""Largest difference of values that count as equal, a few units of float32."""
PROBES = 8
"""Number of pixels at which the measure compares all transformations before it computes whole images."""
RINGS = (5, 10, 20, 30, 45, LARGEST)
"""Magnitudes up to which the measure searches in turn, in degrees."""


class Transformation(NamedTuple):
    """A point of the lattice of transformations.

    angle: counterclockwise, in degrees.
    down, right: shift after the rotation, in multiples of LATTICE degrees of the budget.
    """

    angle: int
    down: int
    right: int

    @property
    def magnitude(self) -> int:
        """The smallest budget that allows it, in degrees."""
        return max(abs(self.angle), LATTICE * abs(self.down), LATTICE * abs(self.right))


def lattice(angles: Sequence[int], shifts: Sequence[int]) -> list[Transformation]:
    """Return all transformations of these angles and shifts, those of a small magnitude first."""
    return sorted(map(Transformation._make, product(angles, shifts, shifts)), key=lambda each: each.magnitude)


def transform(x: Tensor, steps: Sequence[Transformation], degrees_per_pixel: float) -> Tensor:
    """Return each image rotated about its centre and shifted, in the shape and type of x.

    x: (n, ..., H, W) in [0, 1]; the axes between are channels and frames, which move together.
    steps: n transformations, one per image.
    """
    height, width = x.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    flat = x.flatten(1, -3).flatten(2)
    return _sampled(flat, steps, rows.flatten(), columns.flatten(), (height, width), degrees_per_pixel).view(x.shape)


def _sampled(
    flat: Tensor,
    steps: Sequence[Transformation],
    rows: Tensor,
    columns: Tensor,
    sides: tuple[int, int],
    degrees_per_pixel: float,
) -> Tensor:
    """Return the values of transformed images at some pixels, (n, C, P).

    flat: (n, C, H * W), or (1, C, H * W) for one image under all transformations.
    rows, columns: of the P pixels, int64 on the CPU.
    """
    height, width = sides
    angles = [math.radians(step.angle) for step in steps]
    cosine, sine = (torch.tensor([f(angle) for angle in angles], dtype=torch.float64) for f in (math.cos, math.sin))
    pixels = LATTICE / degrees_per_pixel
    shifts = torch.tensor([(step.down, step.right) for step in steps], dtype=torch.float64) * pixels
    v = rows.double() - (height - 1) / 2 - shifts[:, :1]
    u = columns.double() - (width - 1) / 2 - shifts[:, 1:]
    y = cosine[:, None] * v + sine[:, None] * u + (height - 1) / 2
    x = cosine[:, None] * u - sine[:, None] * v + (width - 1) / 2
    y, x = ((each * PRECISION).round() / PRECISION for each in (y, x))
    top, left = y.floor(), x.floor()
    part = ((y - top).float().to(flat.device), (x - left).float().to(flat.device))
    total = torch.zeros(len(steps), flat.shape[1], len(rows), device=flat.device, dtype=flat.dtype)
    for below, beside in product((0, 1), (0, 1)):
        row, column = top.long() + below, left.long() + beside
        is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).to(flat.device)
        weight = (part[0] if below else 1 - part[0]) * (part[1] if beside else 1 - part[1])
        weight = (weight * is_inside.to(flat.device)).to(flat.dtype)
        corner = flat.expand(len(steps), -1, -1).gather(2, place[:, None].expand(-1, flat.shape[1], -1))
        total = total + corner * weight[:, None]
    return total.clamp(0, 1)


def magnitude(clean: Tensor, perturbed: Tensor, degrees_per_pixel: float) -> Tensor:
    """Return the smallest magnitude of a transformation that gives the perturbed image, (N,) float64, in degrees.

    It is the larger of the angle and of `degrees_per_pixel` times the shift along each axis. It is inf if no point of
    the lattice up to LARGEST gives the image.
    """
    found = [_magnitude(one, other, degrees_per_pixel) for one, other in zip(clean, perturbed, strict=True)]
    return torch.tensor(found, dtype=torch.float64)


def _magnitude(clean: Tensor, perturbed: Tensor, degrees_per_pixel: float) -> float:
    """Search rings of the lattice from inside. Few pixels decide which transformations are computed as a whole.

    These are the pixels that changed most, since many transformations agree on a flat background.
    """
    if torch.equal(clean, perturbed):
        return 0.0
    height, width = clean.shape[-2:]
    flat, wanted = clean.flatten(0, -3).flatten(1)[None], perturbed.flatten(0, -3).flatten(1)
    changes = (flat[0] - wanted).abs().sum(0)
    probes = changes.sort(descending=True, stable=True).indices[:PROBES].cpu()
    rows, columns, smaller = probes // width, probes % width, -1
    for ring in RINGS:
        steps = _ring(smaller, ring)
        values = _sampled(flat, steps, rows, columns, (height, width), degrees_per_pixel)
        fits = ((values - wanted[:, probes.to(wanted.device)]).abs() <= SAME).flatten(1).all(1)
        for place in fits.nonzero().flatten().tolist():
            whole = transform(clean[None], [steps[place]], degrees_per_pixel)[0]
            if float((whole - perturbed).abs().max()) <= SAME:
                return float(steps[place].magnitude)
        smaller = ring
    return math.inf


@cache
def _ring(inner: int, outer: int) -> list[Transformation]:
    """Return the transformations with a magnitude above `inner` and up to `outer`, in ascending order."""
    shift = outer // LATTICE
    steps = lattice(range(-outer, outer + 1), range(-shift, shift + 1))
    return [step for step in steps if step.magnitude > inner]


@dataclass(frozen=True)
class Spatial:
    """The transformation of a grid, or of random draws, with the largest lead of a wrong class.

    Small transformations of a grid come first, and an example leaves when the model is clearly fooled. A misclassified
    clean input is not changed.

    Notes:
    angle: counterclockwise, in degrees.
    down, right: shift after the rotation, in pixels.
    """

    params: SpatialParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        scale = float(self.params.degrees_per_pixel)
        steps = self._steps(len(batch), min(eps, LARGEST), rng)
        best = lead(batch.logits(model), batch.labels)
        x, chosen = batch.x.clone(), [Transformation(0, 0, 0)] * len(batch)
        rows, query, queries = (best <= 0).nonzero().flatten(), 0, len(steps[0]) if steps else 0
        best[best <= 0] = -torch.inf
        while len(rows) and query < queries:
            turns = range(query, min(queries, query + max(1, model.batch_size // len(rows))))
            tried = [steps[row][turn] for row in rows.tolist() for turn in turns]
            inputs = transform(batch.x[rows].repeat_interleave(len(turns), 0), tried, scale)
            labels = batch.labels[rows]
            logits = model.logits(inputs)
            leads = lead(logits, labels.repeat_interleave(len(turns))).view(len(rows), -1)
            fooled = clearly_fooled(logits, labels.repeat_interleave(len(turns))).view(len(rows), -1)
            # the first that clearly fools the model counts, or else the strongest, the first of equal ones
            rank = torch.where(fooled.any(1, keepdim=True), fooled.to(leads.dtype), leads)
            turn = (rank == rank.amax(1, keepdim=True)).long().argmax(1)
            used = torch.where(fooled.any(1), turn + 1, len(turns))
            model.discount(len(tried) - int(used.sum()))
            found = leads.gather(1, turn[:, None])[:, 0]
            better = (found > best[rows]) | fooled.any(1)
            at = torch.arange(len(rows), device=rows.device) * len(turns) + turn
            x[rows] = torch.where(per_row(better, x), inputs[at], x[rows])
            best[rows] = torch.where(better, found, best[rows])
            for place in better.nonzero().flatten().tolist():
                chosen[int(rows[place])] = tried[int(at[place])]
            rows, query = rows[~fooled.any(1)], turns.stop
        pixels = LATTICE / scale
        moved = torch.tensor([(step.angle, step.down * pixels, step.right * pixels) for step in chosen]).double()
        return Perturbed(x=x, notes=dict(zip(("angle", "down", "right"), moved.unbind(1), strict=True)))

    def _steps(self, n: int, eps: float, rng: ExampleRNG) -> list[list[Transformation]]:
        """Return the transformations that are tried, for each of n examples, without the identity."""
        identity = Transformation(0, 0, 0)
        if self.params.search == "grid":
            angles, shifts = _evenly(eps, self.params.angles, 1), _evenly(eps, self.params.shifts, LATTICE)
            return [[step for step in lattice(angles, shifts) if step != identity]] * n
        limits = torch.tensor([int(eps), int(eps) // LATTICE, int(eps) // LATTICE])
        draws = [rng.uniform(f"query {query}", (3,)).cpu() for query in range(self.params.queries)]
        numbers = [torch.minimum((draw * (2 * limits + 1)).long(), 2 * limits) - limits for draw in draws]
        return [[Transformation(*each[row].tolist()) for each in numbers] for row in range(n)]


def _evenly(eps: float, count: int, unit: int) -> list[int]:
    """Return numbers that are even from -eps to eps, in units, rounded toward zero, each once."""
    last = max(1, count - 1)
    ends = [Fraction(eps) * (2 * place - (count - 1)) / last / unit for place in range(count)]
    return list(dict.fromkeys(math.trunc(end) for end in ends))
