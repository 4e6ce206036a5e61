"""Training: a recipe to weights. Killed at any moment, it goes on from its last checkpoint to the same weights.

Nothing random carries over from step to step: the order of an epoch and every view are drawn by (seed, epoch, step), so
a checkpoint is the state of modules and optimiser and a number. Processes of `torchrun` share each batch.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from robharness import UserError
from robharness_contrastive import data, optim, probe, video
from robharness_contrastive.augment import AUGMENTATIONS
from robharness_contrastive.data import Source, Views, named
from robharness_contrastive.networks import Classifier, Encoder, encoder
from robharness_contrastive.objectives import (
    CrossEntropy,
    InfoNCE,
    Learner,
    MoCoObjective,
    Moment,
    Objective,
    SimSiamObjective,
    SwAVObjective,
    rank,
    world,
)
from robharness_contrastive.params import (
    TCLR,
    Clusters,
    Contrastive,
    MoCo,
    Recipe,
    SimSiam,
    Supervised,
    SwAV,
)
from robharness_contrastive.video import TCLRObjective

if TYPE_CHECKING:
    from robharness import TrainingJob

CHECKPOINT, METRICS, WEIGHTS = "checkpoint.pt", "metrics.jsonl", "weights.safetensors"
TENSORBOARD = "tensorboard"
"""A folder of its event files, where the recipe asks for them."""
COLLAPSED = 0.02
"""Spread of unit features below which all pictures have become one point."""
STUCK = 0.01
"""Of ln K: a loss of prototypes that is so near to where it started late in training has learned nothing."""


def train(job: TrainingJob) -> None:
    """Make the weights of a recipe in job.folder. Raises UserError for a loss that is no number, and for a collapse.

    A recipe without a probe makes an encoder and its projection; job.base has these for one with a probe, or else they
    are made first.
    """
    recipe: Any = job.params
    fabric = _fabric(job.device, recipe)
    if not (job.folder / WEIGHTS).is_file():  # else whoever made them was killed before they were put in their place
        _make(job, fabric)
    fabric.barrier()


def _make(job: TrainingJob, fabric: Fabric) -> None:
    recipe: Any = job.params
    load = video.load if recipe.preprocessing else data.load
    source = load(job.datasets["train"], recipe, fabric.device)
    trained, kept = data.split(source, recipe.hold_out, job.seed)
    if job.base is None:
        net, beside, own_head = _made(job, fabric, trained)
    else:
        net, beside, own_head = _of_base(recipe, job.base / WEIGHTS, fabric.device)
    if rank() == 0:
        state = _on_host(net.state_dict(), "encoder.") | beside
        if own_head is not None or recipe.probe is not None:
            classifier = _classifier(job, net, own_head, trained)
            if len(kept):
                how = "own" if own_head is not None else recipe.probe.kind
                _note_once(job.folder, {"probe": how, "held_out": probe.accuracy(classifier, kept)})
            state = _on_host(classifier.state_dict()) | beside
        _finish(state, job.folder)


def _made(job: TrainingJob, fabric: Fabric, trained: Source) -> tuple[Encoder, dict[str, Tensor], nn.Module | None]:
    """An encoder, what is kept beside it, and the classifier that was trained with it."""
    recipe: Any = job.params
    examples = _by_clusters(job, fabric, trained) if isinstance(recipe, Clusters) else trained
    net, objective = _encoder(job, fabric, examples, "")
    own = objective.head if isinstance(objective, CrossEntropy) and not recipe.refit else None
    projection = getattr(objective, "projection", None)
    return net, _on_host(projection.state_dict(), "projection.") if projection is not None else {}, own


def _of_base(
    recipe: Recipe, weights: Path, device: torch.device
) -> tuple[Encoder, dict[str, Tensor], nn.Module | None]:
    state = load_file(weights)
    net = encoder(recipe.network, recipe.data, recipe.shape)
    net.load_state_dict({key.removeprefix("encoder."): v for key, v in state.items() if key.startswith("encoder.")})
    return net.to(device), {key: v for key, v in state.items() if key.startswith("projection.")}, None


def _classifier(job: TrainingJob, net: Encoder, own_head: nn.Module | None, trained: Source) -> Classifier:
    recipe: Any = job.params
    if own_head is not None:
        classifier = Classifier(net, net.width, recipe.n_classes)
        classifier.head = own_head  # type: ignore[assignment]
        return classifier
    plain = AUGMENTATIONS["digits" if recipe.augmented == "digits" else "supervised"]
    seen = data.views(trained, plain, 1, job.seed)
    return probe.fit(recipe.probe, net, trained, recipe.n_classes, seen, job.seed)


def _on_host(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}{name}": value.detach().cpu().contiguous() for name, value in state.items()}


def build(recipe: Recipe, weights: Path) -> nn.Module:
    """The classifier of an artefact: (N, *shape) in [0, 1] -> logits (N, classes)."""
    from robharness.checkpoints import Layout, load

    with torch.device("meta"):
        net = encoder(recipe.network, recipe.data, recipe.shape)
        classifier = Classifier(net, net.width, recipe.n_classes)
    load(classifier, weights, [Layout(name="contrastive", drop=(r"projection\.",))])
    return classifier


# --- the loop --------------------------------------------------------------------------------------------------------


def _encoder(job: TrainingJob, fabric: Fabric, source: Source, stage: str) -> tuple[Encoder, Objective]:
    """An encoder trained for the recipe's objective. stage: a prefix of the checkpoint's name."""
    recipe: Any = job.params
    per_process, rest = divmod(recipe.batch, world())
    steps_an_epoch = len(source) // recipe.batch
    if rest or not steps_an_epoch:
        examples = "videos" if recipe.preprocessing else "pictures"
        why = f"{world()} processes share" if rest else f"{len(source)} {examples} do not fill"
        raise UserError(f"{why} batches of {recipe.batch} {examples}; write another `batch:`")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(named(job.seed, stage, "weights"))  # noqa: TID251 (initial weights draw from it alone)
        net = encoder(recipe.network, recipe.data, recipe.shape)
        objective = _objective(recipe, net.width, len(source), stage)
        learner = Learner(net, objective)
    if world() > 1 and fabric.device.type == "cuda":
        learner = nn.SyncBatchNorm.convert_sync_batchnorm(learner)
    learner.to(fabric.device)
    optimizer = optim.optimizer(recipe, learner)
    place = job.folder / f"{stage}{CHECKPOINT}"
    begin = _resume(place, learner, optimizer, fabric.device)
    if begin < recipe.epochs:
        wrapped, fabric_optimizer = fabric.setup(learner, optimizer)
        views = data.views(source, AUGMENTATIONS[recipe.augmented], objective.views, job.seed, objective.cut)
        _forget(job.folder, stage, begin)
        for epoch in range(begin, recipe.epochs):
            noted = _epoch(job, fabric, wrapped, fabric_optimizer, source, views, epoch, steps_an_epoch, per_process)
            _look(objective, noted, epoch, recipe)  # before it is kept: who tries again must not go on from there
            if rank() == 0:
                _note(job.folder, {"stage": stage or "encoder", "epoch": epoch + 1, **noted})  # first: see `_forget`
                if recipe.tensorboard:
                    _show(job.folder / TENSORBOARD, stage, epoch + 1, noted)
                _save(place, epoch + 1, learner, optimizer)
    return learner.encoder, objective  # type: ignore[return-value]


def _epoch(
    job: TrainingJob,
    fabric: Fabric,
    learner: Any,
    optimizer: Any,
    source: Source,
    views: Views,
    epoch: int,
    steps: int,
    per_process: int,
) -> dict[str, float]:
    """One pass over the examples; the means of what was noted."""
    recipe: Any = job.params
    order = torch.from_numpy(np.random.default_rng([job.seed, 2, epoch]).permutation(len(source)))
    own = slice(rank() * per_process, (rank() + 1) * per_process)
    objective, net = learner.module.objective, learner.module.encoder
    sums: dict[str, Tensor] = {}
    began = time.perf_counter()
    learner.train()
    for step in range(steps):
        at = epoch * steps + step
        rows = order[step * recipe.batch : (step + 1) * recipe.batch][own]
        moment = Moment(epoch=epoch, epochs=recipe.epochs, step=at, steps=recipe.epochs * steps, batch=recipe.batch)
        ends = (step + 1) % recipe.accumulate == 0 or step + 1 == steps
        with fabric.no_backward_sync(learner, enabled=not ends and world() > 1):
            loss = learner(views(rows, at), source.labels[rows.to(fabric.device)], moment)
            fabric.backward(loss.value / recipe.accumulate)
        if ends:
            objective.before_step(moment)
            optim.set_rate(optimizer, optim.rate(recipe, at, steps))
            optimizer.step()
            optimizer.zero_grad()
            objective.after_step(net)
        for name, value in {"loss": loss.value.detach(), **loss.notes}.items():
            sums[name] = sums.get(name, 0) + value
        if step % 50 == 49 or step + 1 == steps:
            _tell(job, recipe, objective, epoch, step + 1, steps, sums, began)
    return {name: float(_mean(fabric, value / steps)) for name, value in sums.items()}


def _mean(fabric: Fabric, value: Tensor) -> Tensor:
    """Over processes."""
    reduced = fabric.all_reduce(value)
    assert isinstance(reduced, Tensor)
    return reduced


def _look(objective: Objective, noted: dict[str, float], epoch: int, recipe: Recipe) -> None:
    """Raises UserError where training has gone wrong for good."""
    where = f"in epoch {epoch + 1} of {recipe.epochs}"
    if not math.isfinite(noted["loss"]):
        raise UserError(
            f"the loss is no number any more {where}. What usually helps: a smaller `lr:`, a longer `warmup:`, "
            f"`precision: 32-true`"
        )
    if noted.get("spread", 1) < COLLAPSED:
        raise UserError(
            f"the features of all pictures have become one point {where} (spread {noted['spread']:.3f}). What usually "
            f"helps: a smaller `lr:`, a longer `warmup:`, a larger `batch:`, stronger augmentation"
        )
    late = epoch + 1 >= max(5, recipe.epochs // 4)
    start = objective.start
    if isinstance(objective, SwAVObjective) and late and noted["loss"] > (1 - STUCK) * start:
        raise UserError(
            f"the loss is still {noted['loss']:.3f}, and {start:.3f} is where it started, {where}: nothing is learned. "
            f"What usually helps: fewer `prototypes:`, a smaller `lr:`, a longer `frozen:`, a larger `temperature:`"
        )


def _tell(
    job: TrainingJob, recipe: Recipe, objective: Objective, epoch: int, step: int, steps: int, sums: Any, began: float
) -> None:
    from robharness import Progress

    if rank() != 0:
        return
    rate = step * recipe.batch / (time.perf_counter() - began)
    left = ((recipe.epochs - epoch) * steps - step) * recipe.batch / rate
    job.progress(
        Progress(
            epoch=epoch + 1, epochs=recipe.epochs, loss=float(sums["loss"]) / step, start=objective.start,
            floor=objective.floor, rate=rate, left=left,
        )
    )  # fmt: skip


def _objective(recipe: Any, width: int, examples: int, stage: str) -> Objective:
    if isinstance(recipe, Supervised):
        return CrossEntropy(recipe, width, examples)
    if isinstance(recipe, SwAV):
        return SwAVObjective(recipe, width, examples)
    if isinstance(recipe, MoCo):
        return MoCoObjective(recipe, width, examples)
    if isinstance(recipe, SimSiam):
        return SimSiamObjective(recipe, width, examples)
    if isinstance(recipe, TCLR):
        return TCLRObjective(recipe, width, examples)
    is_classes = (isinstance(recipe, Clusters) and stage == "") or type(recipe) is Contrastive
    return InfoNCE(recipe, width, examples, classes=is_classes)


def _by_clusters(job: TrainingJob, fabric: Fabric, source: Source) -> Source:
    """The examples with clusters of SimCLR's features for labels: the first stage."""
    from sklearn.cluster import KMeans

    recipe: Any = job.params
    net, _ = _encoder(job, fabric, source, "simclr-")
    h = probe.features(net, source).cpu().numpy()
    found = KMeans(recipe.clusters, n_init=10, random_state=job.seed).fit_predict(h)
    labels = torch.from_numpy(found).long().to(fabric.device)
    share = torch.stack([torch.bincount(source.labels[labels == k]).max() for k in labels.unique()]).sum()
    if rank() == 0:
        _note_once(job.folder, {"stage": "clusters", "clusters": recipe.clusters, "purity": float(share) / len(labels)})
    return source.labelled(labels)


def _fabric(device: str, recipe: Recipe) -> Fabric:
    kind, _, index = device.partition(":")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator="cuda" if kind == "cuda" else "cpu",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if processes > 1 else [int(index)] if index else 1,
        num_nodes=processes // int(os.environ.get("LOCAL_WORLD_SIZE", processes)) if processes > 1 else 1,
        strategy="ddp" if processes > 1 else "auto",
        precision=recipe.precision,
    )
    fabric.launch()
    return fabric


# --- files -----------------------------------------------------------------------------------------------------------


def _finish(state: dict[str, Tensor], folder: Path) -> None:
    """The weights in their file, whole or not there; what training went on from is not needed any more."""
    beside = folder / f"{WEIGHTS}.writing"
    save_file(state, beside)
    beside.replace(folder / WEIGHTS)
    for place in folder.glob(f"*{CHECKPOINT}"):
        place.unlink()


def _save(place: Path, epoch: int, learner: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Whole, or as it was before."""
    beside = place.with_suffix(".writing")
    with beside.open("wb") as file:
        torch.save({"epoch": epoch, "learner": learner.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(place)


def _resume(place: Path, learner: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> int:
    """Put back what the checkpoint has; the epochs that are done."""
    if not place.is_file():
        return 0
    found = torch.load(place, map_location=device, weights_only=True)
    learner.load_state_dict(found["learner"])
    optimizer.load_state_dict(found["optimizer"])
    return int(found["epoch"])


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    path = folder / METRICS
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except ValueError:
            return  # torn by a kill


def _forget(folder: Path, stage: str, epochs: int) -> None:
    """Lines of epochs that will be trained again, and of what comes behind them."""
    if rank() != 0:
        return
    kept = []
    for line in _lines(folder):
        if (line.get("stage") == (stage or "encoder") and line["epoch"] > epochs) or "held_out" in line:
            break
        kept.append(line)
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in kept))


def _show(folder: Path, stage: str, epoch: int, noted: dict[str, float]) -> None:
    """Raises UserError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("`tensorboard: true` needs a package. Try: pip install tensorboard") from None
    with SummaryWriter(str(folder)) as writer:
        for name, value in noted.items():
            writer.add_scalar(f"{stage or 'encoder'}/{name}", value, epoch)


def _note_once(folder: Path, line: dict[str, Any]) -> None:
    """What a run that goes on finds noted already."""
    if not any(line.keys() == there.keys() for there in _lines(folder)):
        _note(folder, line)


def _note(folder: Path, line: dict[str, Any]) -> None:
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(line) + "\n")
