"""Clips of training videos, and TCLR's temporal contrast.

Frames are resized once, as the harness resizes them, and kept in memory with 8 bits. If they do not fit, frames are
decoded again for every step. The clips of a step are drawn by (seed, step, video), whatever else is in the batch.
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

from robharness import Dataset, Preprocessing, UnreadableExample, UserError, clip_frames, preprocessed
from robharness_contrastive import data, losses
from robharness_contrastive.augment import Augment, Draws
from robharness_contrastive.networks import mlp
from robharness_contrastive.objectives import Context, Loss, Objective, TrainingStep, spread, unit
from robharness_contrastive.options import TCLR
from robharness_contrastive.params import Recipe
from robharness_contrastive.processes import gather, rank
from robharness_contrastive.steps import Augmentation

ClipSampler = Callable[[Draws, Tensor, int], Tensor]
"""(draws for the videos of a batch, their numbers of frames (B,), number of views) -> frame numbers of each clip, int64
(views, B, T). Numbers beyond the end of a video are mapped into it by `reflect`."""
FrameReader = Callable[[Tensor, Tensor], Tensor]
"""(indices in the data set (B,), frame numbers (B, K)) -> resized frames, uint8 (B, K, C, H, W), on the device."""


class Videos:
    """Labelled videos whose frames have one size.

    read: reads frames.
    indices: (N,), of the videos in their data set.
    counts: (N,), number of frames of each video.
    labels: (N,).
    steps: preprocessing of a video to the clip in evaluation.
    """

    def __init__(
        self, read: FrameReader, indices: Tensor, counts: Tensor, labels: Tensor, steps: Preprocessing
    ) -> None:
        assert steps.clips is not None and isinstance(steps.crop, tuple)
        self.read, self.indices, self.counts, self.labels, self.steps = read, indices, counts, labels, steps
        self.clips, self.size, self.side = steps.clips, steps.crop, steps.crop[-1]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: Tensor) -> Videos:
        host = rows.cpu()
        labels = self.labels[rows.to(self.labels.device)]
        return Videos(self.read, self.indices[host], self.counts[host], labels, self.steps)

    def with_labels(self, labels: Tensor) -> Videos:
        return Videos(self.read, self.indices, self.counts, labels, self.steps)

    def raw_views(
        self, rows: Tensor, count: int, seed: int, sample_clips: ClipSampler | None = None
    ) -> Sequence[Tensor]:
        """Return `count` clips per video, uint8 (B, C, T, H, W) each; H x W is the size before the crop."""
        sample_clips = sample_clips or random_clips(self.clips.length, self.clips.stride)
        numbers = reflect(sample_clips(Draws(seed, rows.numpy()), self.counts[rows], count), self.counts[rows])
        frames = self.read(self.indices[rows], numbers.transpose(0, 1).flatten(1))
        return [clip.transpose(1, 2) for clip in frames.chunk(count, 1)]

    def views(
        self, augmentation: Augmentation | Augment, count: int, seed: int, sample_clips: ClipSampler | None = None
    ) -> data.Views:
        return data.augmented_views(self, augmentation, count, seed, sample_clips)

    def evaluation_batches(self) -> Iterator[Tensor]:
        for rows in data.batch_rows(len(self), (3, self.clips.length, *self.size)):
            numbers = [clip_frames(n, self.clips)[0] for n in self.counts[rows].tolist()]
            frames = self.read(self.indices[rows], torch.tensor(numbers))
            yield v2.functional.center_crop(frames, list(self.size)).transpose(1, 2).float() / 255


def load(
    dataset: Dataset,
    recipe: Recipe,
    device: torch.device | str,
    *,
    max_bytes: int = data.MAX_BYTES,
    message: Callable[[str], None] = lambda text: None,
) -> Videos:
    """Read the videos of a data set; those that cannot be read are left out.

    max_bytes: limit for frames in memory; with more, frames are decoded when they are needed.
    message: gets a sentence that names the videos that are left out.

    Raises UserError if frames are smaller than the recipe's, or differ in size after its resize.
    """
    steps = recipe.preprocessing
    assert steps is not None
    frame_steps = dataclasses.replace(steps, crop=None, clips=None)
    threads = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    indices = range(len(dataset.ids))

    def read(index: int, frames: Sequence[int]) -> np.ndarray:
        return preprocessed(np.asarray(dataset.read(index)[list(frames)]), frame_steps)

    reasons: dict[int, str] = {}

    def length(index: int) -> int:
        try:
            return len(dataset.read(index))
        except (UnreadableExample, OSError) as error:
            reasons[index] = str(error)
            return 0

    counts = torch.tensor(list(threads.map(length, indices)))
    if reasons:
        readable = data.without(dataset, reasons, message)
        return load(readable, recipe, device, max_bytes=max_bytes, message=message)
    try:
        size, smallest = read(0, [0]).shape[1:], (*recipe.shape[-2:], recipe.shape[0])
    except (UnreadableExample, OSError) as error:
        readable = data.without(dataset, {0: str(error)}, message)
        return load(readable, recipe, device, max_bytes=max_bytes, message=message)
    if size[-1] != smallest[-1] or any(side < least for side, least in zip(size[:2], smallest[:2], strict=True)):
        raise UserError(
            f"frames of '{dataset.ids[0]}' are {_format(size)} after their resize, but the recipe says "
            f"{_format(smallest)}. Try: `video: {{resize: {recipe.shape[-1]}}}` or another `input:`"
        )

    def checked(index: int, frames: np.ndarray) -> np.ndarray:
        if frames.shape[1:] != size:
            raise UserError(
                f"frames of '{dataset.ids[index]}' are {_format(frames.shape[1:])} after their resize, but those of "
                f"'{dataset.ids[0]}' are {_format(size)}. Try: `video: {{resize: [{size[0]}, {size[1]}]}}`"
            )
        return frames

    if int(counts.sum()) * int(np.prod(size)) <= max_bytes:
        pixels = np.empty((int(counts.sum()), *size), np.uint8)
        ends = counts.cumsum(0).tolist()

        def store(index: int) -> None:
            count = int(counts[index])
            try:
                frames = read(index, range(count))
            except (UnreadableExample, OSError) as error:
                reasons[index] = str(error)
                return
            pixels[ends[index] - count : ends[index]] = checked(index, frames)

        with threads:
            list(threads.map(store, indices))
        if reasons:
            readable = data.without(dataset, reasons, message)
            return load(readable, recipe, device, max_bytes=max_bytes, message=message)
        reader = _memory_reader(torch.from_numpy(pixels).movedim(-1, 1).contiguous().to(device), counts)
    else:

        def decoded(index: int, frames: Sequence[int]) -> np.ndarray:
            try:
                return checked(index, read(index, frames))
            except (UnreadableExample, OSError) as error:
                raise UserError(f"the training video '{dataset.ids[index]}' cannot be read: {error}") from error

        reader = _decoding_reader(decoded, threads, device)
    labels = torch.tensor([int(label) for label in dataset.labels], device=device)
    return Videos(reader, torch.arange(len(labels)), counts, labels, steps)


def _memory_reader(pixels: Tensor, counts: Tensor) -> FrameReader:
    first = counts.cumsum(0) - counts

    def read_frames(indices: Tensor, numbers: Tensor) -> Tensor:
        return pixels[(first[indices][:, None] + numbers).to(pixels.device)]

    return read_frames


def _decoding_reader(
    read: Callable[[int, Sequence[int]], np.ndarray], threads: ThreadPoolExecutor, device: torch.device | str
) -> FrameReader:
    def read_video(index: int, numbers: list[int]) -> np.ndarray:
        distinct, inverse = np.unique(numbers, return_inverse=True)
        return read(index, distinct.tolist())[inverse]

    def read_frames(indices: Tensor, numbers: Tensor) -> Tensor:
        frames = np.stack(list(threads.map(read_video, indices.tolist(), numbers.tolist())))
        return torch.from_numpy(frames).movedim(-1, 2).to(device)

    return read_frames


def _format(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


# --- clip samplers ---------------------------------------------------------------------------------------------------


def random_clips(length: int, stride: int) -> ClipSampler:
    """Sample one clip uniformly, or two clips at a random distance.

    The probability of a distance between two starts falls linearly, from its largest value at 0 to 0 at the largest
    distance that fits into the video. The first clip is the earlier one. In the source their order is random, which
    makes no difference to a symmetric loss.

    length: frames of a clip.
    stride: between frames.

    Source: Qian et al. 2021, section 3.2, their best sampler.
    """

    def sample(draws: Draws, counts: Tensor, views: int) -> Tensor:
        room = (counts - length * stride).clamp(min=0)
        u, w = draws.uniform("clips", 2).double().unbind(1)
        if views == 1:
            starts = (u * (room + 1)).floor()[None]
        else:
            distance = ((1 - (1 - u).sqrt()) * (room + 1)).floor()
            first = (w * (room - distance + 1)).floor()
            starts = torch.stack([first, first + distance])
        return _clips(starts.long(), length, stride)

    return sample


def global_and_local_clips(length: int, chunks: int, global_stride: int, local_stride: int) -> ClipSampler:
    """Sample TCLR's clips: a global clip, and a local clip at the start of each of its equal chunks; all of them twice.

    length: frames of a clip.
    chunks: number of local clips.
    global_stride, local_stride: between frames.
    """

    def sample(draws: Draws, counts: Tensor, views: int) -> Tensor:
        offsets = torch.arange(chunks) * (length // chunks) * global_stride
        span = max(length * global_stride, int(offsets[-1]) + length * local_stride)
        room = (counts - span).clamp(min=0)
        start = (draws.uniform("clips")[:, 0].double() * (room + 1)).floor().long()
        global_clip = _clips(start[None], length, global_stride)
        local_clips = _clips(start + offsets[:, None], length, local_stride)
        return torch.cat([global_clip, local_clips]).repeat(2, 1, 1)

    return sample


def _clips(starts: Tensor, length: int, stride: int) -> Tensor:
    return starts[..., None] + torch.arange(length) * stride


def reflect(numbers: Tensor, counts: Tensor) -> Tensor:
    """Map frame numbers beyond the end of a video into it by reflection at its ends.

    numbers: (..., B, T).
    counts: (B,), number of frames of each video.
    """
    last = (counts - 1)[:, None]
    remainder = numbers % (2 * last).clamp(min=1)
    return torch.minimum(remainder, 2 * last - remainder)


# --- TCLR ------------------------------------------------------------------------------------------------------------


class TCLRObjective(Objective):
    """TCLR: contrast between videos by global and by local clips, between local clips, and of global with local clips.

    Source: Dave et al. 2022, and their code, DAVEISHAN/TCLR at 850efa9, whose projection has batch norm.
    """

    projection: nn.Module

    def __init__(self, params: TCLR, width: int, context: Context) -> None:
        super().__init__(params, width, context)
        try:
            params.check_shape(context.shape)
        except ValueError as error:
            raise UserError(str(error)) from None
        self.chunks, self.temperature, self.weights = params.chunks, params.temperature, params.terms
        self.views = 2 * (1 + params.chunks)
        self.sample_clips = global_and_local_clips(
            context.shape[1], params.chunks, params.global_stride, params.local_stride
        )
        self.projection = mlp(width, *params.projection)
        rows = (2 * context.batch, 2 * context.batch, 2 * params.chunks, params.chunks + 1)
        bounds = [losses.bounds(count, 1, self.temperature) for count in rows]
        self.start, self.floor = (
            sum(weight * bound for weight, bound in zip(self.weights, each, strict=True))
            for each in zip(*bounds, strict=True)
        )

    def forward(self, encode: nn.Module, views: Sequence[Tensor], labels: Tensor, step: TrainingStep) -> Loss:
        if not hasattr(getattr(encode, "trunk", encode), "over_time"):
            raise UserError("TCLR needs a network with the method `over_time`. Try: `network: r2plus1d-18-dilated`")
        h: Tensor = encode.over_time(torch.cat(list(views)))  # type: ignore[operator]
        if h.shape[2] < self.chunks:
            raise UserError(
                f"the network's features have {h.shape[2]} time steps, fewer than TCLR's {self.chunks} chunks. "
                f"Try: `network: r2plus1d-18-dilated` or `chunks: {h.shape[2]}`"
            )
        h = h.view(2, 1 + self.chunks, len(labels), *h.shape[1:])  # (2, 1 + chunks, B, width, steps)
        z = unit(self.projection(h.mean(-1).flatten(0, 2))).view(*h.shape[:3], -1)
        steps = F.adaptive_avg_pool1d(h[:, 0].flatten(0, 1), self.chunks).transpose(1, 2)  # (2 B, chunks, width)
        z_steps = unit(self.projection(steps.flatten(0, 1))).view(2, len(labels), self.chunks, -1)
        z_global, z_local = z[:, 0], z[:, 1:]
        terms = {
            "instance_global": instance(z_global, self.temperature),
            "instance_local": instance(z_local.flatten(0, 1), self.temperature),
            "local_local": local_local(z_local, self.temperature),
            "global_local": global_local(z_steps, z_local.transpose(1, 2), self.temperature),
        }
        value = torch.stack([weight * term for weight, term in zip(self.weights, terms.values(), strict=True)]).sum()
        return Loss(
            value, {name: term.detach() for name, term in terms.items()} | {"spread": spread(z_global.flatten(0, 1))}
        )


def instance(z: Tensor, temperature: float) -> Tensor:
    """Return the mean over pairs of views of their NT-Xent.

    z: unit rows (V, B, d) of this process; the rows of all processes are negatives.
    """
    local = z.shape[1]
    candidates = gather(z.transpose(0, 1).contiguous()).transpose(0, 1)
    total = candidates.shape[1]
    own = torch.arange(rank() * local, (rank() + 1) * local, device=z.device)
    own, instances = torch.cat([own, own + total]), torch.arange(total, device=z.device).repeat(2)
    pairs = losses.pairs(instances[own], instances, own)
    by_views = [
        losses.contrastive(
            losses.products(z[[a, b]].flatten(0, 1), candidates[[a, b]].flatten(0, 1)) / temperature, pairs
        ).mean()
        for a, b in itertools.combinations(range(len(z)), 2)
    ]
    return torch.stack(by_views).mean()


def local_local(z: Tensor, temperature: float) -> Tensor:
    """Return the mean loss of local clips within their videos.

    A clip's positive is the same clip in the other augmentation; its negatives are the other clips of its video.

    z: unit rows (2, L, B, d).
    """
    chunks, videos = z.shape[1:3]
    rows = z.permute(2, 0, 1, 3).flatten(1, 2)  # (B, 2 L, d)
    clips, own = torch.arange(chunks, device=z.device).repeat(2), torch.arange(2 * chunks, device=z.device)
    return _mean_of_blocks(losses.products(rows, rows) / temperature, losses.pairs(clips, clips, own), videos)


def global_local(steps: Tensor, local: Tensor, temperature: float) -> Tensor:
    """Return the mean loss between time steps of global clips and local clips, over the four pairs of augmentations.

    A step's positive is the local clip of the same chunk, and the other way round; negatives are the others of the
    video.

    steps: time steps of global clips, unit rows (2, B, L, d).
    local: local clips, unit rows (2, B, L, d).
    """
    videos, chunks = local.shape[1:3]
    similarity = torch.einsum("abld,cbmd->acblm", steps, local).flatten(0, 2) / temperature
    both = torch.cat([similarity, similarity.transpose(1, 2)])
    is_same = torch.eye(chunks, dtype=torch.bool, device=local.device)
    return _mean_of_blocks(both, losses.Pairs(is_same, ~is_same), 8 * videos)


def _mean_of_blocks(similarity: Tensor, pairs: losses.Pairs, blocks: int) -> Tensor:
    """Return the mean loss of similarity matrices (blocks, n, m) that all have these pairs."""
    repeated = losses.Pairs(*(each.repeat(blocks, 1) for each in pairs))
    return losses.contrastive(similarity.flatten(0, 1), repeated).mean()
