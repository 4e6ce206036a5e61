"""Train the head that a suite describes, and build the network of its weights."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from robharness import Budget, Progress, UserError, checkpoints, state_digest
from robharness_probe import artefact, fitting, heads, params
from robharness_probe.artefact import CHECKPOINT, WEIGHTS
from robharness_probe.images import TrainingImages
from robharness_probe.loop import Objective, cross_entropy, descend, pgd, trades, trades_pgd
from robharness_probe.processes import rank, synchronised, world

if TYPE_CHECKING:
    from robharness import FeatureBank, TrainingJob


def train(job: TrainingJob) -> None:
    """Train the weights of a head into job.folder, from features or from images.

    Under torchrun, processes share the batches of images; a head on features is trained by the first process alone.

    Raises UserError for data that do not fit the options, and for a loss that is not finite.
    """
    if (job.folder / WEIGHTS).is_file():  # a training was killed before its finished folder was committed
        return
    if isinstance(job.params, params.Images):
        _train_on_images(job)
    elif rank() == 0:
        artefact.finish(_fitted(job, job.features["train"]), job.folder)


def build(options: params.Head, weights: Path) -> nn.Module:
    """Build the network of a head's weights: inputs (N, *shape) in [0, 1] -> logits (N, classes)."""
    state, encoder = checkpoints.read(weights), options.encoder.load()
    if isinstance(options, params.Neighbours):
        head: nn.Module = heads.NearestNeighbours(
            state["bank"], state["labels"], int(state["classes"]), options.k, options.temperature
        )
    elif "prototypes" in state:
        head = heads.Cosine(state["prototypes"], options.scale)  # type: ignore[attr-defined]
    else:
        head = heads.linear(state["head.weight"], state["head.bias"])
    net = heads.Probed(encoder, head)
    if isinstance(options, params.Finetune):
        checkpoints.load(net, state, [checkpoints.Layout(name="fine-tuned network")], where=weights)
    return net


# --- heads on features -----------------------------------------------------------------------------------------------


def _fitted(job: TrainingJob, bank: FeatureBank) -> dict[str, Tensor]:
    """Return the weights of a head on fixed features."""
    options = job.params
    h = torch.from_numpy(np.array(bank.features, dtype=np.float32)).to(job.device)
    labels = torch.from_numpy(np.array(bank.labels, dtype=np.int64)).to(job.device)
    classes = count_classes(options, labels)
    if isinstance(options, params.Retrieval):
        return {"prototypes": _on_cpu(gallery(h.cpu(), bank.ids, job.datasets["train"].ids))}
    if isinstance(options, params.Neighbours):
        if options.k > len(h):
            raise UserError(f"k is {options.k}, and the training data have {len(h)} examples. Try: `k: {len(h)}`")
        return {"bank": _on_cpu(h), "labels": _on_cpu(labels), "classes": torch.tensor(classes)}
    if isinstance(options, params.Centroid) and options.distance == "cosine":
        return {"prototypes": _on_cpu(fitting.cosine_centroids(h, labels, classes))}
    if isinstance(options, params.Centroid):
        weight, bias = fitting.euclidean_centroids(h, labels, classes)
        return {"head.weight": _on_cpu(weight), "head.bias": _on_cpu(bias)}
    if options.solver == "lbfgs":
        head = fitting.logistic(h, labels, classes, options.l2, standardize=options.standardize)
    else:
        head = fitting.descended(h, labels, classes, options, job.seed, _Reporter(job, len(h)).after_epoch)
    _require_finite(head.weight)
    return {f"head.{name}": _on_cpu(value) for name, value in head.state_dict().items()}


def gallery(h: Tensor, ids: Sequence[str], all_ids: Sequence[str]) -> Tensor:
    """Return features in the fixed order of a data set, by the sha256 of the ids; 0 for examples without features.

    h: features (N, D) of the examples with these ids.
    all_ids: ids of all examples of the data set.
    """
    ordered = sorted(all_ids, key=lambda id: hashlib.sha256(id.encode()).digest())
    places = {id: place for place, id in enumerate(ordered)}
    found = h.new_zeros(len(ordered), h.shape[1])
    found[torch.tensor([places[id] for id in ids])] = h
    return found


def count_classes(options: params.Head, labels: Tensor) -> int:
    """Return the number of classes of the training data: as the data set declares it, or the largest label + 1."""
    return max(options.data.classes or 0, int(labels.max()) + 1)


def _require_finite(weight: Tensor) -> None:
    if not bool(weight.isfinite().all()):
        raise UserError("the weights are not finite: training diverged. Try: a smaller `lr:`")


def _on_cpu(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous()


# --- heads on images -------------------------------------------------------------------------------------------------


def _train_on_images(job: TrainingJob) -> None:
    """Train a linear head on images, and the encoder as well for fine-tuning. It resumes to the same weights."""
    options: params.Images = job.params
    device, tunes_encoder = torch.device(job.device), isinstance(options, params.Finetune)
    augmentation: Any = {"crop": options.crop, "pad": options.pad, "flip": options.flip}
    images = TrainingImages(job.datasets["train"], options.encoder, seed=job.seed, **augmentation)
    size, rest = divmod(options.batch, world())
    if rest:
        possible = options.batch // world() * world() or world()
        reason = f"{world()} processes cannot share batches of {options.batch} images equally"
        raise UserError(f"{reason}. Try: `batch: {possible}`")
    encoder = options.encoder.load()
    before = state_digest(encoder)
    with torch.no_grad():
        width = encoder.eval()(torch.zeros(2, *options.encoder.input.shape)).shape[1]
    classes = count_classes(options, images.labels)
    net = heads.Probed(encoder, heads.linear(torch.zeros(classes, width), torch.zeros(classes)))
    synchronised(net, device).to(device)
    learner = net if tunes_encoder else net.head
    optimizer = _optimizer(options, net)
    done = artefact.resume(job.folder / CHECKPOINT, learner, optimizer)
    reporter = _Reporter(job, len(images))
    steps = max(1, len(images) // options.batch)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.from_numpy(np.random.default_rng([job.seed, 3, epoch]).permutation(len(images)))
        whole = order[: steps * options.batch]
        own = torch.cat([part.chunk(world())[rank()] for part in whole.split(options.batch)])
        for x, labels in images.batches(own, size, epoch):
            yield x.to(device), labels.to(device)

    def after_epoch(epoch: int) -> None:
        if epoch == 1:
            images.report_unreadable(job.message)
        _require_finite(next(net.head.parameters()))
        if tunes_encoder and world() > 1:  # buffers other than BatchNorm's; a resumed process has those of the first
            for buffer in net.buffers():
                dist.broadcast(buffer, 0)
        if rank() == 0:
            reporter.after_epoch(epoch)
            artefact.save_checkpoint(job.folder / CHECKPOINT, epoch, learner, optimizer)

    if rank() == 0:
        artefact.rewind(job.folder, "head", done)
    loss = trades(options.beta) if isinstance(options, params.AFF) else cross_entropy
    with _shared(Objective(net, loss), device) as objective, torch.random.fork_rng(devices=[]):

        def seeded(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            torch.manual_seed(seed_of(job.seed, epoch, rank()))  # noqa: TID251 (dropout alone draws from it)
            return batches(epoch)

        def rate(epoch: int, step: int) -> float:
            share, milestones = step / steps, options.milestones
            return options.lr * fitting.decay(
                options.schedule, epoch, share, options.epochs, options.warmup, milestones
            )

        descend(
            net, seeded, optimizer, epochs=range(done, options.epochs), rate=rate, tunes_encoder=tunes_encoder,
            attack=_attack(options, job.seed), objective=objective, after_step=reporter.after_step,
            after_epoch=after_epoch,
        )  # fmt: skip
        if rank() == 0:
            state = {name: _on_cpu(value) for name, value in (net if tunes_encoder else net.head).state_dict().items()}
            if not tunes_encoder and state_digest(net.encoder) != before:
                raise RuntimeError("the encoder's weights changed, although this head must not train it")
            artefact.finish(state if tunes_encoder else {f"head.{key}": v for key, v in state.items()}, job.folder)


def _attack(options: params.Images, seed: int) -> Any:
    """Return the attack of the training images, or None for clean images."""
    if not isinstance(options, params.Adversarial):
        return None
    eps, step = float(options.eps), float(options.eps * (options.rel_step or Budget(1)))
    ball: Any = {"eps": eps, "step": step, "steps": options.steps}
    state: dict[int, np.random.Generator] = {}

    def attacked(net: nn.Module, x: Tensor, labels: Tensor, epoch: int) -> Tensor:
        if epoch not in state:
            state.clear()
            state[epoch] = np.random.default_rng([seed, 6, epoch, 0])
        start: Any = {"rng": state[epoch], "part": (rank(), world())}
        if isinstance(options, params.AFF):
            return trades_pgd(net, x, **ball, **start)
        return pgd(net, x, labels, **ball, **start)

    return attacked


def _optimizer(options: params.Images, net: heads.Probed) -> torch.optim.Optimizer:
    head_lr = options.head_lr if isinstance(options, params.Finetune) else None
    groups: list[dict[str, Any]] = [
        {"params": list(net.head.parameters()), "factor": (head_lr or options.lr) / options.lr}
    ]
    if isinstance(options, params.Finetune):
        groups.append({"params": list(net.encoder.parameters())})
    common: Any = {"lr": options.lr, "weight_decay": options.weight_decay}
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, **common)
    return torch.optim.SGD(groups, momentum=options.momentum, **common)


class _Reporter:
    """Shows the progress of a training, and logs the mean loss of every epoch."""

    def __init__(self, job: TrainingJob, examples: int) -> None:
        self._job, self._examples = job, examples
        self._begun, self._seen, self._start = time.perf_counter(), 0, 0.0
        self._sum, self._count = 0.0, 0

    def after_step(self, epoch: int, images: int, loss: Tensor) -> None:
        self._sum, self._count = self._sum + float(loss) * images, self._count + images
        self._show(epoch, images * world(), self._sum / self._count)

    def after_epoch(self, epoch: int, loss: float | None = None) -> None:
        """epoch: number of epochs that are done. loss: mean of the last one; that of its steps if None."""
        mean = self._sum / max(1, self._count) if loss is None else loss
        if loss is not None:
            self._show(epoch - 1, self._examples, loss)
        artefact.log(self._job.folder, {"stage": "head", "epoch": epoch, "loss": mean})
        self._sum, self._count = 0.0, 0

    def _show(self, epoch: int, images: int, loss: float) -> None:
        self._seen, self._start = self._seen + images, self._start or loss
        rate, epochs = self._seen / (time.perf_counter() - self._begun), self._job.params.epochs
        left = max(0.0, ((epochs - epoch) * self._examples - self._count * world()) / rate)
        self._job.progress(
            Progress(epoch=epoch + 1, epochs=epochs, loss=loss, start=self._start, floor=0.0, rate=rate, left=left)
        )


@contextmanager
def _shared(objective: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Give an objective whose gradients are averaged over the processes of torchrun; itself in one process."""
    if world() == 1:
        yield objective
        return
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield nn.parallel.DistributedDataParallel(objective, find_unused_parameters=True)
    dist.barrier()


def seed_of(*words: Any) -> int:
    """Return a seed of 63 bits that is addressed by these words."""
    text = "\x1f".join(map(str, words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
