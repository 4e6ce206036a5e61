"""Train an encoder and a classifier by a recipe. A training that was killed resumes to the same weights.

No random state is carried from step to step. The order of an epoch and every view are drawn by (seed, epoch, step), so
a checkpoint holds the states of modules and optimiser and the number of epochs. Processes of `torchrun` share batches.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from robharness import UserError, checkpoints
from robharness_contrastive import artefact, data, dual, hardware, optim, probe, streaming, video
from robharness_contrastive.artefact import CHECKPOINT, WEIGHTS, save_checkpoint
from robharness_contrastive.data import Source, Views, seed_of
from robharness_contrastive.neighbours import NeighbourAccuracy
from robharness_contrastive.networks import Encoder, encoder
from robharness_contrastive.objectives import Context, FirstStage, Learner, Objective, TrainingStep
from robharness_contrastive.options import BRANCHES
from robharness_contrastive.params import Recipe
from robharness_contrastive.processes import of_first, own, rank, synchronised, world
from robharness_contrastive.steps import Augmentation
from robharness_probe.heads import Probed

if TYPE_CHECKING:
    from robharness import TrainingJob

COLLAPSE_SPREAD = 0.02
"""Spread of unit features below which the features of all images count as the same point."""
STUCK_SHARE = 0.01
"""A loss that late in training is within this share of its start has not learned anything, see `advice_if_stuck`."""

Save = Callable[..., None]
"""Writes a checkpoint from the arguments of `artefact.save_checkpoint`."""


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A training with its devices and the functions that it calls."""

    job: TrainingJob
    fabric: Fabric
    save: Save
    make_views: Callable[..., Views]
    neighbours: NeighbourAccuracy | None = None

    @property
    def recipe(self) -> Any:
        return self.job.params

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """The scaler of the loss under `precision: 16-mixed`, else None."""
        return hardware.scaler(self.fabric)


def train(
    job: TrainingJob, *, save: Save = save_checkpoint, make_views: Callable[..., Views] = data.make_views
) -> None:
    """Train the weights of a recipe into job.folder.

    job: a recipe without a probe makes an encoder and its projection. A recipe with one takes these from job.base, or
        else trains them first.
    save: writes a checkpoint after each epoch.
    make_views: makes the views of a step, as `data.make_views`.

    Raises UserError if the loss is not finite, or if the features collapse.
    """
    recipe: Any = job.params
    run = _Run(job=job, fabric=hardware.fabric(job.device, recipe.precision), save=save, make_views=make_views)
    if not (job.folder / WEIGHTS).is_file():  # else a training was killed before its finished folder was committed
        _train(run)


def _train(run: _Run) -> None:
    job, recipe, device = run.job, run.recipe, run.fabric.device
    load = video.load if recipe.is_video else streaming.load
    source = load(job.datasets["train"], recipe, device, message=job.message)
    examples, held_out = data.split(source, recipe.hold_out, job.seed)
    if recipe.knn is not None:
        run = replace(run, neighbours=NeighbourAccuracy(recipe.knn, examples, held_out, recipe.n_classes, job.seed))
    if job.base is None:
        net, projection, own_head = _train_encoder(run, examples)
    else:
        net, projection, own_head = _load_encoder(recipe, job.base / WEIGHTS, device)
    if rank() == 0:
        state = _on_cpu(net.state_dict(), "encoder.") | projection
        if own_head is not None or recipe.probe is not None:
            classifier = _classifier(run, net, own_head, examples)
            if len(held_out):
                kind = "own" if own_head is not None else recipe.probe.name
                artefact.log_once(job.folder, {"probe": kind, "held_out": probe.accuracy(classifier, held_out)})
            state = _on_cpu(classifier.state_dict()) | projection
        artefact.finish(state, job.folder)


def _train_encoder(run: _Run, source: Source) -> tuple[Encoder, dict[str, Tensor], nn.Module | None]:
    """Return a trained encoder, the weights of its projection, and the classifier that was trained with it, if any."""
    learner = _optimise(run, source, "")
    net, projection = learner.trained()
    own_head = learner.objective.head if run.recipe.keeps_head else None
    return net, _on_cpu(projection.state_dict(), "projection.") if projection is not None else {}, own_head


def _load_encoder(
    recipe: Recipe, weights: Path, device: torch.device
) -> tuple[Encoder, dict[str, Tensor], nn.Module | None]:
    state = checkpoints.read(weights)
    net = _empty_encoder(recipe)
    own = {key.removeprefix("encoder."): v for key, v in state.items() if key.startswith("encoder.")}
    checkpoints.load(net, own, [checkpoints.Layout(name="contrastive encoder")], where=weights)
    return net.to(device), {key: v for key, v in state.items() if key.startswith("projection.")}, None


def _classifier(run: _Run, net: Encoder, own_head: nn.Module | None, source: Source) -> Probed:
    recipe, seed = run.recipe, run.job.seed
    if own_head is not None:
        return Probed(net, own_head)
    views = run.make_views(source, recipe.probe_augmentation.build(), 1, seed)
    return probe.fit(recipe.probe, net, source, recipe.n_classes, views, seed)


def _on_cpu(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}{name}": value.detach().cpu().contiguous() for name, value in state.items()}


def build(recipe: Recipe, weights: Path) -> nn.Module:
    """Build the classifier of an artefact: (N, *shape) in [0, 1] -> logits (N, classes); or its encoder alone."""
    if recipe.is_encoder_alone:
        return trunk(recipe, weights)
    net = _empty_encoder(recipe)
    with torch.device("meta"):
        classifier = Probed(net, nn.Linear(net.width, recipe.n_classes))
    layout = checkpoints.Layout(name="contrastive", drop=(r"projection\.",))
    checkpoints.load(classifier, weights, [layout])
    return dual.without_branches(classifier)


def trunk(recipe: Recipe, weights: Path) -> nn.Module:
    """Build the encoder of an artefact: (N, *shape) in [0, 1] -> features (N, width)."""
    net = _empty_encoder(recipe)
    layout = checkpoints.Layout(name="contrastive encoder", prefixes=("encoder.",), drop=(r"projection\.", r"head\."))
    checkpoints.load(net, weights, [layout])
    return dual.without_branches(net)


def _empty_encoder(recipe: Recipe) -> Encoder:
    """Make the recipe's encoder, whose weights are to be loaded, without moving the global random state.

    The plugin's own networks need no memory for that. Others may compute constants of their own, which must be real.
    """
    is_own = "/" not in recipe.network.name
    with torch.random.fork_rng(devices=[]), torch.device("meta") if is_own else contextlib.nullcontext():
        return _encoder(recipe)


def _encoder(recipe: Recipe) -> Encoder:
    """Make the recipe's encoder, with the branches of BatchNorm that its objective needs."""
    net = encoder(recipe.network, recipe.data, recipe.shape, normalize=recipe.normalize)
    options = recipe.branch_options
    return net if options is None else dual.with_branches(net, BRANCHES.index(options.branch))


# --- the loop --------------------------------------------------------------------------------------------------------


def _optimise(run: _Run, source: Source, prefix: str, first: FirstStage | None = None) -> Learner:
    """Train an encoder and an objective for the recipe, or for the first of its stages.

    prefix: of the checkpoint's name, "" in the last stage.
    """
    job, recipe, fabric, stage = run.job, run.recipe, run.fabric, prefix or "encoder"
    is_even, steps_per_epoch = recipe.batch % world() == 0, len(source) // recipe.batch
    if not is_even or not steps_per_epoch:
        examples = "videos" if recipe.is_video else "images"
        possible = min(recipe.batch, len(source)) // world() * world()
        reason = (
            f"{world()} processes cannot share batches of {recipe.batch} {examples} equally" if not is_even
            else f"{len(source)} {examples} do not fill a batch of {recipe.batch} {examples}"
        )  # fmt: skip
        raise UserError(f"{reason}. Try: `batch: {possible}`")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(job.seed, prefix, "weights"))  # noqa: TID251 (only initial weights draw from it)
        net = _encoder(recipe)
        objective = _objective(recipe, net.width, len(source), first)
    if recipe.batch + objective.reserve > len(source):
        raise UserError(
            f"a step needs {objective.reserve} examples beside its batch of {recipe.batch}, but there are "
            f"{len(source)}. Try: `batch: {recipe.batch // 2}` or `replace: reweight`"
        )
    if objective.first_stage is not None:
        source = _label_by_features(run, source, objective.first_stage)
    with torch.random.fork_rng(devices=[]):
        learner = Learner(net, objective)
    synchronised(learner, fabric.device).to(fabric.device)
    optimizer = optim.optimizer(recipe, learner)
    path, scaler = job.folder / f"{prefix}{CHECKPOINT}", run.scaler
    done = artefact.resume(path, learner, optimizer, scaler)
    if done < recipe.epochs:
        wrapped, fabric_optimizer = fabric.setup(learner, optimizer)
        views_of = functools.cache(functools.partial(_views, run, source, objective))
        if rank() == 0:
            artefact.rewind(job.folder, stage, done)
        for epoch in range(done, recipe.epochs):
            views = views_of(objective.strength(epoch))
            means = _epoch(run, wrapped, fabric_optimizer, source, views, epoch, steps_per_epoch)
            _check(objective, means, epoch, recipe)  # before saving: a second try must not resume from a failed epoch
            if rank() == 0:
                if run.neighbours is not None and run.neighbours.is_due(epoch + 1, recipe.epochs):
                    means["knn"] = run.neighbours(learner.trained()[0])
                artefact.log(job.folder, {"stage": stage, "epoch": epoch + 1, **means})  # first, see `rewind`
                if recipe.tensorboard:
                    artefact.write_tensorboard(job.folder, stage, epoch + 1, means)
                run.save(path, epoch + 1, learner, optimizer, scaler)
    return learner


def _views(run: _Run, source: Source, objective: Objective, strength: float) -> Views:
    """Return the views of a step, under an augmentation of this strength. Raises UserError if it cannot be changed."""
    component = run.recipe.chosen_augmentation
    augmentation = component.build()
    if strength != 1:
        if not isinstance(augmentation, Augmentation):
            raise UserError(
                f"the augmentation {component.name} is a function, whose strength cannot change, as the objective "
                f"{run.recipe.training_objective.name} wants it. Try: `augmentation: contrastive`"
            )
        augmentation = augmentation.at(strength)
    return run.make_views(source, augmentation, objective.views, run.job.seed, objective.sample_clips)


def _epoch(
    run: _Run, learner: Any, optimizer: Any, source: Source, views: Views, epoch: int, steps: int
) -> dict[str, float]:
    """Train for one pass over the examples. Returns the means of the loss and of the objective's notes."""
    recipe, fabric = run.recipe, run.fabric
    order = torch.from_numpy(np.random.default_rng([run.job.seed, 2, epoch]).permutation(len(source)))
    objective, net = learner.module.objective, learner.module.encoder
    sums: dict[str, Tensor] = {}
    started = time.perf_counter()
    learner.train()
    batches = [order[n * recipe.batch : (n + 1) * recipe.batch][own(recipe.batch)] for n in range(steps)]
    if objective.reserve:
        batches = [torch.cat([rows, _reserve(run, objective.reserve, order, n, epoch * steps + n)])
                   for n, rows in enumerate(batches)]  # fmt: skip
    schedule = [(rows, epoch * steps + n) for n, rows in enumerate(batches)]
    with contextlib.closing(data.in_order(views, schedule)) as views_of_steps:  # threads that decode end with it
        for number, ((rows, global_number), batch_views) in enumerate(zip(schedule, views_of_steps, strict=True)):
            step = TrainingStep(
                epoch=epoch, epochs=recipe.epochs, step=global_number, steps=recipe.epochs * steps, batch=recipe.batch,
                seed=run.job.seed, rows=rows.numpy(),
            )  # fmt: skip
            first = number - number % recipe.accumulate  # of the steps whose gradients are accumulated
            accumulated = min(recipe.accumulate, steps - first)
            is_update = number + 1 == first + accumulated
            with fabric.no_backward_sync(learner, enabled=not is_update and world() > 1):
                loss = learner(batch_views, source.labels[rows.to(fabric.device)], step)
                fabric.backward(loss.value / accumulated)
            if is_update:
                if run.scaler is not None:
                    run.scaler.unscale_(optimizer.optimizer)
                objective.before_step(step)
                optim.set_rate(optimizer, optim.rate(recipe, epoch * steps + first, steps))
                optimizer.step()
                optimizer.zero_grad()
                objective.after_step(net)
            for name, value in {"loss": loss.value.detach(), **loss.notes}.items():
                sums[name] = sums.get(name, 0) + value
            if rank() == 0 and (number % 50 == 49 or number + 1 == steps):
                _report_progress(run, objective, epoch, number + 1, steps, float(sums["loss"]), started)
    return {name: float(_mean(fabric, value / steps)) for name, value in sums.items()}


def _reserve(run: _Run, count: int, order: Tensor, number: int, step: int) -> Tensor:
    """Draw examples by seed and step from all that are not in the batch. Returns the part of this process.

    order: of the examples in this epoch.
    number: of the batch in it.
    step: from the start of the training.
    """
    batch = run.recipe.batch
    outside = len(order) - batch
    drawn = np.random.default_rng([run.job.seed, 5, step]).choice(outside, count, replace=False)
    return order[torch.from_numpy(drawn + batch * (drawn >= number * batch))[own(count)]]


def _mean(fabric: Fabric, value: Tensor) -> Tensor:
    """Average a value over processes."""
    reduced = fabric.all_reduce(value)
    assert isinstance(reduced, Tensor)
    return reduced


def _check(objective: Objective, means: dict[str, float], epoch: int, recipe: Recipe) -> None:
    """Raise UserError if training has failed: the loss is not finite, the features collapsed, or nothing is learned."""
    where = f"in epoch {epoch + 1} of {recipe.epochs}"
    slower = f"`lr: {recipe.lr / 3:.2g}`, `warmup: {max(2 * recipe.warmup, 5):g}`"
    if not math.isfinite(means["loss"]):
        raise UserError(f"the loss is not finite {where}: training diverged. Try: {slower} or `precision: 32-true`")
    if means.get("spread", 1) < COLLAPSE_SPREAD:
        raise UserError(
            f"features collapsed {where}: those of all images are nearly the same point (spread "
            f"{means['spread']:.3f}). Try: {slower}, `batch: {2 * recipe.batch}` or a stronger `augmentation:`"
        )
    is_late = epoch + 1 >= max(5, recipe.epochs // 4)
    start = objective.start
    if objective.advice_if_stuck and is_late and means["loss"] > (1 - STUCK_SHARE) * start:
        raise UserError(
            f"the loss is still {means['loss']:.3f} {where}, and it started at {start:.3f}: nothing is learned. "
            f"Try: `lr: {recipe.lr / 3:.2g}`, {objective.advice_if_stuck}"
        )


def _report_progress(
    run: _Run, objective: Objective, epoch: int, step: int, steps: int, loss_sum: float, started: float
) -> None:
    from robharness import Progress

    recipe = run.recipe
    rate = step * recipe.batch / (time.perf_counter() - started)
    seconds_left = ((recipe.epochs - epoch) * steps - step) * recipe.batch / rate
    run.job.progress(
        Progress(
            epoch=epoch + 1, epochs=recipe.epochs, loss=loss_sum / step, start=objective.start, floor=objective.floor,
            rate=rate, left=seconds_left,
        )
    )  # fmt: skip


def _objective(recipe: Recipe, width: int, examples: int, first: FirstStage | None) -> Objective:
    """Make the recipe's objective, or that of its first stage. Raises UserError for one that is no `Objective`."""
    context = Context(
        examples=examples, classes=recipe.n_classes, batch=recipe.batch, epochs=recipe.epochs, shape=recipe.shape
    )
    component = recipe.training_objective
    objective = first.objective(width, context) if first else component.build(width, context)
    if not isinstance(objective, Objective):
        raise UserError(
            f"the objective {component.name} is {type(objective).__name__}, not a robharness_contrastive.Objective"
        )
    return objective


def _label_by_features(run: _Run, source: Source, stage: FirstStage) -> Source:
    """Train the first of two stages. Returns the examples with the labels that it makes of its features."""
    net, _ = _optimise(run, source, f"{stage.name}-", stage).trained()
    found = np.asarray(stage.labels(probe.features(net, source).cpu().numpy(), run.job.seed))
    labels = of_first(torch.from_numpy(found).long().to(run.fabric.device))  # devices may round features differently
    in_majority = torch.stack([torch.bincount(source.labels[labels == k]).max() for k in labels.unique()]).sum()
    if rank() == 0:
        classes, purity = len(labels.unique()), float(in_majority) / len(labels)
        artefact.log_once(run.job.folder, {"stage": "labels", "classes": classes, "purity": purity})
    return source.with_labels(labels)
