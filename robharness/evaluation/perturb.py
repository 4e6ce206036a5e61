"""One checked perturbation: an attack or a corruption on a batch."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robharness.errors import ContractViolation
from robharness.evaluation import referee
from robharness.evaluation.batch import Batch
from robharness.evaluation.loading import LoadedModel
from robharness.evaluation.rng import ExampleRNG, NoDraws, global_draws, global_seed
from robharness.planning.cells import BLOCK
from robharness.planning.identity import draw_address
from robharness.store.spans import Span
from robharness.suite import Perturbation

Member = tuple[str, Any]
"""A member of an ensemble and its name, or an attack or a corruption and ""."""


def build_members(perturbation: Perturbation, loaded: LoadedModel) -> dict[str, Any]:
    """What perturbs, by the names of an ensemble's members. Raises ContractViolation."""
    spec = perturbation.entry.spec
    try:
        if perturbation.is_stored:
            mark = perturbation.entry.name, repr(perturbation.params)
            if mark not in loaded.opened:
                loaded.opened[mark] = spec.open(perturbation.params, loaded.data_root)
            return {"": loaded.opened[mark]}
        built = spec.build(perturbation.params)
        return dict(built) if perturbation.is_ensemble else {"": built}
    except Exception as error:
        raise ContractViolation(f"it cannot be built: {type(error).__name__}: {error}") from error


def perturb(
    loaded: LoadedModel, perturbation: Perturbation, turn: Member, batch: Batch
) -> tuple[Tensor, np.ndarray, dict[str, Any]]:
    """The model's inputs after an attack or a corruption, checked; sizes; notes. Raises ContractViolation."""
    attacks = perturbation.kind == "attack"
    view = loaded.classifier.with_access(perturbation.entry.spec.access) if attacks else None
    x, size, notes = perturb_checked(
        perturbation, turn, batch, loaded.seed, view=view, watching=loaded.guard.watching(batch)
    )
    if not attacks:
        x = loaded.reader.inputs(x, batch.cut, are_files=perturbation.is_stored)
    return x, size, notes


def perturb_checked(
    perturbation: Perturbation,
    turn: Member,
    batch: Batch,
    seed: int,
    *,
    view: Any = None,
    watching: AbstractContextManager[None] | None = None,
) -> tuple[Tensor, np.ndarray, dict[str, Any]]:
    """What an attack or a corruption makes of a batch, checked: inputs or 8-bit pictures; sizes; notes.

    view: the model as the attack may see it. watching: around the plugin's call. Raises ContractViolation.
    """
    spec, attacks = perturbation.entry.spec, perturbation.kind == "attack"
    member, attack = turn
    streams = ExampleRNG if spec.randomness == "example" else NoDraws
    like = batch.x if attacks else batch.canvas
    rng = streams(seed, _address(perturbation, member), batch.ids, like.device)
    eps = math.inf if perturbation.eps is None else float(perturbation.eps)
    with watching or nullcontext(), global_draws() as drawn:
        try:
            returned = attack.perturb(view, batch, eps if attacks else perturbation.severity, rng)
        except ContractViolation:
            raise
        except Exception as error:
            raise ContractViolation(f"it raised {type(error).__name__}: {error}") from error
    if drawn and spec.randomness != "global":
        raise ContractViolation(
            f"it draws from the global generator of {drawn[0]}, but does not declare randomness='global'"
        )
    return referee.checked(
        returned, like, notes=perturbation.returned, some_notes=bool(member), eps=eps, norm=perturbation.norm,
        devices={like.device, batch.x.device},
    )  # fmt: skip


def _address(perturbation: Perturbation, member: str) -> str:
    """Of its draws; members of an ensemble draw each their own."""
    return f"{draw_address(perturbation)}{member and ' '}{member}"


def perturb_in_blocks(
    loaded: LoadedModel, perturbation: Perturbation, turn: Member, batch: Batch, span: Span
) -> tuple[Tensor, np.ndarray, dict[str, Any]]:
    """As `_perturb`, for what draws from global generators, with one seeding per fixed block of positions, or lets
    the examples of a block see each other: whole blocks whatever the span, so that results do not depend on how the
    work was cut."""
    address, total = _address(perturbation, turn[0]), len(loaded.reader.data.order)
    is_global = perturbation.entry.spec.randomness == "global"
    found: dict[str, tuple[Any, ...]] = {}
    for start in range(span[0] // BLOCK * BLOCK, span[1], BLOCK):
        try:
            blocks = loaded.reader.batches(loaded.reader.pictures(start, min(start + BLOCK, total)))
        except Exception as error:
            raise ContractViolation(f"{type(error).__name__}: {error}", by="data") from error
        seed = block_seed(loaded.seed, address, start)
        for _, block in (
            each for each in blocks if each[1].cut == batch.cut and each[1].x.shape[1:] == batch.x.shape[1:]
        ):
            with global_seed(seed) if is_global else nullcontext():
                x, size, notes = perturb(loaded, perturbation, turn, block)
            for row, example in enumerate(block.ids):
                found[example] = (x[row], size[row], {name: column[row] for name, column in notes.items()})
    rows = [found[example] for example in batch.ids]
    columns = {name: np.array([row[2][name] for row in rows]) for name in rows[0][2]}
    return torch.stack([row[0] for row in rows]), np.array([row[1] for row in rows]), columns


def block_seed(seed: int, address: str, start: int) -> int:
    """What the global generators are seeded with for the block that starts at this position."""
    return ExampleRNG(seed, address, [f"block {start}"]).integer("seed", 0)
