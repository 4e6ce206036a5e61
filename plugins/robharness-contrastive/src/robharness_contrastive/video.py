"""Videos: the clips of them that a step looks at, and TCLR's contrast in time.

Frames are resized once, as the harness resizes them, and kept in memory as 8 bits where they fit; else they are decoded
again for every step. Which clips a step sees of a video is drawn by (seed, step, video), whoever else is in the batch.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from robharness import Dataset, Preprocessing, UserError, clip_frames, preprocessed
from robharness_contrastive import data, losses
from robharness_contrastive.augment import Draws
from robharness_contrastive.networks import mlp
from robharness_contrastive.objectives import Loss, Moment, Objective, gathered, rank, spread, unit
from robharness_contrastive.params import TCLR, Recipe

Cut = Callable[[Draws, Tensor, int], Tensor]
"""(draws for the videos of a batch, how many frames these have (B,), how many views) -> the frames of each clip, int64
(views, B, T). Frames that a video does not have any more are those that it had before, backwards."""
Take = Callable[[Tensor, Tensor], Tensor]
"""(places in the data set (B,), frames of each (B, K)) -> uint8 (B, K, C, H, W), resized, on the device."""


class Videos:
    """Videos whose frames have one size. steps: how they become the clips that are judged. counts, labels: (N,)."""

    def __init__(self, take: Take, places: Tensor, counts: Tensor, labels: Tensor, steps: Preprocessing) -> None:
        assert steps.clips is not None and isinstance(steps.crop, tuple)
        self.take, self.places, self.counts, self.labels, self.steps = take, places, counts, labels, steps
        self.clips, self.size, self.side = steps.clips, steps.crop, steps.crop[-1]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: Tensor) -> Videos:
        at = rows.cpu()
        return Videos(self.take, self.places[at], self.counts[at], self.labels[rows.to(self.labels.device)], self.steps)

    def labelled(self, labels: Tensor) -> Videos:
        return Videos(self.take, self.places, self.counts, labels, self.steps)

    def look(self, rows: Tensor, views: int, seed: int, cut: Cut | None = None) -> Sequence[Tensor]:
        """Clips, uint8 (B, C, T, H, W) each, H x W before they are cropped."""
        cut = cut or at_random(self.clips.length, self.clips.stride)
        frames = in_video(cut(Draws(seed, rows.numpy()), self.counts[rows], views), self.counts[rows])
        found = self.take(self.places[rows], frames.transpose(0, 1).flatten(1))
        return [clip.transpose(1, 2) for clip in found.chunk(views, 1)]

    def plain(self) -> Iterator[Tensor]:
        for rows in data.passes(len(self), (3, self.clips.length, *self.size)):
            frames = [clip_frames(n, self.clips)[0] for n in self.counts[rows].tolist()]
            found = self.take(self.places[rows], torch.tensor(frames))
            yield v2.functional.center_crop(found, list(self.size)).transpose(1, 2).float() / 255


def load(dataset: Dataset, recipe: Recipe, device: torch.device | str) -> Videos:
    """The videos of a data set, in memory where they fit.

    Raises UserError where frames are smaller than the recipe's, or not all of one size after its resize.
    """
    steps = recipe.preprocessing
    assert steps is not None
    frame_steps = dataclasses.replace(steps, crop=None, clips=None)
    threads = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    places = range(len(dataset.ids))

    def read(place: int, frames: Sequence[int]) -> np.ndarray:
        return preprocessed(np.asarray(dataset.read(place)[list(frames)]), frame_steps)

    counts = torch.tensor(list(threads.map(lambda place: len(dataset.read(place)), places)))
    size, smallest = read(0, [0]).shape[1:], (*recipe.shape[-2:], recipe.shape[0])
    if size[-1] != smallest[-1] or any(there < wanted for there, wanted in zip(size[:2], smallest[:2], strict=True)):
        raise UserError(
            f"frames of '{dataset.ids[0]}' are {_x(size)} after their resize, the recipe says {_x(smallest)}; "
            f"write `video: {{resize: {recipe.shape[-1]}}}` or another `input:`"
        )

    def fits(place: int, found: np.ndarray) -> np.ndarray:
        if found.shape[1:] != size:
            raise UserError(
                f"frames of '{dataset.ids[place]}' are {_x(found.shape[1:])} after their resize, those before it "
                f"{_x(size)}; write `video: {{resize: [{size[0]}, {size[1]}]}}`"
            )
        return found

    if int(counts.sum()) * int(np.prod(size)) <= data.MOST:
        pixels = np.empty((int(counts.sum()), *size), np.uint8)
        ends = counts.cumsum(0).tolist()

        def keep(place: int) -> None:
            count = int(counts[place])
            pixels[ends[place] - count : ends[place]] = fits(place, read(place, range(count)))

        with threads:
            list(threads.map(keep, places))
        take = _kept(torch.from_numpy(pixels).movedim(-1, 1).contiguous().to(device), counts)
    else:
        take = _decoded(lambda place, frames: fits(place, read(place, frames)), threads, device)
    labels = torch.tensor([int(label) for label in dataset.labels], device=device)
    return Videos(take, torch.arange(len(labels)), counts, labels, steps)


def _kept(pixels: Tensor, counts: Tensor) -> Take:
    first = counts.cumsum(0) - counts

    def take(places: Tensor, frames: Tensor) -> Tensor:
        return pixels[(first[places][:, None] + frames).to(pixels.device)]

    return take


def _decoded(
    read: Callable[[int, Sequence[int]], np.ndarray], threads: ThreadPoolExecutor, device: torch.device | str
) -> Take:
    def one(place: int, frames: list[int]) -> np.ndarray:
        distinct, back = np.unique(frames, return_inverse=True)
        return read(place, distinct.tolist())[back]

    def take(places: Tensor, frames: Tensor) -> Tensor:
        found = np.stack(list(threads.map(one, places.tolist(), frames.tolist())))
        return torch.from_numpy(found).movedim(-1, 2).to(device)

    return take


def _x(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


# --- cuts ------------------------------------------------------------------------------------------------------------


def at_random(length: int, stride: int) -> Cut:
    """One clip anywhere; or two, which begin so many frames apart that a distance's probability falls linearly to 0.

    Distances are from 0 to all that the video has room for. Source: Qian et al. 2021, section 3.2, whose best sampler
    this is; the two may come in any order there, which a symmetric loss does not see.
    """

    def cut(drawn: Draws, counts: Tensor, views: int) -> Tensor:
        room = (counts - length * stride).clamp(min=0)
        u, w = drawn.uniform("clips", 2).double().unbind(1)
        if views == 1:
            starts = (u * (room + 1)).floor()[None]
        else:
            apart = ((1 - (1 - u).sqrt()) * (room + 1)).floor()
            first = (w * (room - apart + 1)).floor()
            starts = torch.stack([first, first + apart])
        return _clips(starts.long(), length, stride)

    return cut


def global_and_local(length: int, chunks: int, global_stride: int, local_stride: int) -> Cut:
    """TCLR's: a global clip and local ones, the first in each of its equal chunks; and all of them once more."""

    def cut(drawn: Draws, counts: Tensor, views: int) -> Tensor:
        begins = torch.arange(chunks) * (length // chunks) * global_stride
        span = max(length * global_stride, int(begins[-1]) + length * local_stride)
        room = (counts - span).clamp(min=0)
        start = (drawn.uniform("clips")[:, 0].double() * (room + 1)).floor().long()
        whole = _clips(start[None], length, global_stride)
        local = _clips(start + begins[:, None], length, local_stride)
        return torch.cat([whole, local]).repeat(2, 1, 1)

    return cut


def _clips(starts: Tensor, length: int, stride: int) -> Tensor:
    return starts[..., None] + torch.arange(length) * stride


def in_video(frames: Tensor, counts: Tensor) -> Tensor:
    """Frames (..., B, T) that videos of so many (B,) have: behind their ends they go back and forth."""
    last = (counts - 1)[:, None]
    at = frames % (2 * last).clamp(min=1)
    return torch.minimum(at, 2 * last - at)


# --- TCLR ------------------------------------------------------------------------------------------------------------


class TCLRObjective(Objective):
    """Videos told apart, by global and by local clips; clips of one video told apart; and global against local.

    Source: Dave et al. 2022, and their code, DAVEISHAN/TCLR at 850efa9, whose projection has norms of batches.
    """

    def __init__(self, params: TCLR, width: int, examples: int) -> None:
        super().__init__()
        self.chunks, self.temperature, self.weights = params.chunks, params.temperature, params.terms
        self.views = 2 * (1 + params.chunks)
        self.cut = global_and_local(params.shape[1], params.chunks, params.global_stride, params.local_stride)
        self.projection = mlp(width, *params.projection)
        rows = (2 * params.batch, 2 * params.batch, 2 * params.chunks, params.chunks + 1)
        bounds = [losses.bounds(count, 1, self.temperature) for count in rows]
        self.start, self.floor = (
            sum(weight * bound for weight, bound in zip(self.weights, each, strict=True))
            for each in zip(*bounds, strict=True)
        )

    def forward(self, encode: nn.Module, views: Sequence[Tensor], labels: Tensor, moment: Moment) -> Loss:
        h: Tensor = encode.over_time(torch.cat(list(views)))  # type: ignore[operator]
        if h.shape[2] < self.chunks:
            raise UserError(
                f"the network makes {h.shape[2]} steps through time, fewer than TCLR's {self.chunks} chunks; "
                f"write `network: r2plus1d-18-dilated`, or fewer `chunks:`"
            )
        h = h.view(2, 1 + self.chunks, len(labels), *h.shape[1:])  # (2, 1 + chunks, B, width, steps)
        z = unit(self.projection(h.mean(-1).flatten(0, 2))).view(*h.shape[:3], -1)
        steps = F.adaptive_avg_pool1d(h[:, 0].flatten(0, 1), self.chunks).transpose(1, 2)  # (2 B, chunks, width)
        of_steps = unit(self.projection(steps.flatten(0, 1))).view(2, len(labels), self.chunks, -1)
        whole, local = z[:, 0], z[:, 1:]
        terms = {
            "instance_global": instance(whole, self.temperature),
            "instance_local": instance(local.flatten(0, 1), self.temperature),
            "local_local": local_local(local, self.temperature),
            "global_local": global_local(of_steps, local.transpose(1, 2), self.temperature),
        }
        value = torch.stack([weight * term for weight, term in zip(self.weights, terms.values(), strict=True)]).sum()
        return Loss(
            value, {name: term.detach() for name, term in terms.items()} | {"spread": spread(whole.flatten(0, 1))}
        )


def instance(z: Tensor, temperature: float) -> Tensor:
    """The mean NT-Xent of all pairs of views, each pair by itself.

    z: unit rows (V, B, d), of this process; rows of all processes are negatives.
    """
    local = z.shape[1]
    everyone = gathered(z.transpose(0, 1).contiguous()).transpose(0, 1)
    total = everyone.shape[1]
    itself = torch.arange(rank() * local, (rank() + 1) * local, device=z.device)
    itself, names = torch.cat([itself, itself + total]), torch.arange(total, device=z.device).repeat(2)
    pairs = losses.pairs(names[itself], names, itself)
    found = [
        losses.contrastive(z[[a, b]].flatten(0, 1) @ everyone[[a, b]].flatten(0, 1).T / temperature, pairs).mean()
        for a, b in itertools.combinations(range(len(z)), 2)
    ]
    return torch.stack(found).mean()


def local_local(z: Tensor, temperature: float) -> Tensor:
    """The mean over clips: a clip's positive is itself in the other augmentation, its negatives are its video's others.

    z: unit rows (2, L, B, d).
    """
    chunks, videos = z.shape[1:3]
    rows = z.permute(2, 0, 1, 3).flatten(1, 2)  # (B, 2 L, d)
    names, itself = torch.arange(chunks, device=z.device).repeat(2), torch.arange(2 * chunks, device=z.device)
    return _within(rows @ rows.transpose(1, 2) / temperature, losses.pairs(names, names, itself), videos)


def global_local(steps: Tensor, local: Tensor, temperature: float) -> Tensor:
    """The mean over steps and clips: of the clips of its video a step's positive is the one in its place, and of the
    steps a clip's; for all four pairs of augmentations.

    steps: of global clips, local: local clips, unit rows (2, B, L, d).
    """
    videos, chunks = local.shape[1:3]
    similarity = torch.einsum("abld,cbmd->acblm", steps, local).flatten(0, 2) / temperature
    both = torch.cat([similarity, similarity.transpose(1, 2)])
    same = torch.eye(chunks, dtype=torch.bool, device=local.device)
    return _within(both, losses.Pairs(same, ~same), 8 * videos)


def _within(similarity: Tensor, pairs: losses.Pairs, times: int) -> Tensor:
    """The mean loss of blocks (times, n, m) that all have these pairs."""
    repeated = losses.Pairs(*(each.repeat(times, 1) for each in pairs))
    return losses.contrastive(similarity.flatten(0, 1), repeated).mean()
