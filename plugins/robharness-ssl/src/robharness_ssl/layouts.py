"""The layouts of the publishers' files: where they have the encoder, how they name it, and what else they have.

Source: the code that writes and reads the files, in the repositories that `table` names.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional

from robharness.checkpoints import Layout, State


def _inner(publisher: str, branch: str, *others: str) -> Layout:
    """Return the layout of a training checkpoint of DistributedDataParallel, in which a branch is the encoder.

    The branch's `fc` or `head`, a projection head of several layers, is left out.
    """
    return Layout(
        name=f"{publisher}'s pre-training",
        inside=("state_dict",),
        prefixes=(f"module.{branch}.",),
        drop=(r"(?:fc|head)\.\d", *(rf"module\.{other}" for other in others)),
    )


_WHOLE: dict[str, Any] = {
    "inside": ("state_dict",),
    "prefixes": ("module.",),
    "rename": ((r"^(?:fc|head)\.", "head."), (r"^(?!head\.)", "encoder.")),
}
"""A checkpoint of main_lincls.py (MoCo v3, SimSiam): the whole network, encoder and classifier."""

_TWINS: dict[str, Any] = {"prefixes": ("module.backbone.",), "drop": (r"module\.projector\.", r"module\.bn\.")}
_SELF_DISTILLED: dict[str, Any] = {
    "prefixes": ("module.", "backbone."),
    "drop": (r"head\.(?:mlp|last_)", "masked_embed$"),
}
"""A backbone with the projection head of DINO or iBOT; iBOT's student has `masked_embed`, too."""


def _resampled(state: State, *, registers: int, offset: float, antialias: bool) -> State:
    """Return DINOv2's state for 224 px, in timm's names.

    The position embedding of 37 x 37 patches is interpolated to 16 x 16 as the publisher's forward pass does it. The
    publisher adds none to registers, timm zeros.
    """
    if "pos_embed" not in state:
        return state
    first, patches = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
    side, new = math.isqrt(patches.shape[1]), 16
    if side not in (0, new) and side**2 == patches.shape[1]:
        grid = patches.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        scale = {"scale_factor": ((new + offset) / side,) * 2} if offset else {"size": (new, new)}
        grid = functional.interpolate(grid, mode="bicubic", antialias=antialias, **scale)
        patches = grid.permute(0, 2, 3, 1).flatten(1, 2)
    zeros = first.new_zeros(1, registers, first.shape[2])
    return {**state, "pos_embed": torch.cat([first, zeros, patches], dim=1)}


def _plain(state: State) -> State:
    return _resampled(state, registers=0, offset=0.1, antialias=False)


def _with_registers(state: State) -> State:
    return _resampled(state, registers=4, offset=0.0, antialias=True)


def _dinov2(convert: Any) -> tuple[Layout, ...]:
    published = Layout(
        name="DINOv2",
        prefixes=("module.", "backbone."),
        # Training divides the blocks into chunks, in which they keep their number: blocks.0.3.
        rename=((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."), (r"^register_tokens$", "reg_token")),
        drop=("mask_token$", r"(?:dino|ibot)_head\."),
        convert=convert,
    )
    return published, replace(published, name="DINOv2's teacher checkpoint", inside=("teacher",))


_DINO = Layout(name="DINO", **_SELF_DISTILLED)
_IBOT = Layout(name="iBOT's backbone", inside=("state_dict",), **_SELF_DISTILLED)
_MAE = Layout(name="MAE", inside=("model",), drop=(r"decoder_", r"mask_token$"))

ENCODERS: dict[str, tuple[Layout, ...]] = {
    "moco-v2": (_inner("MoCo v2", "encoder_q", r"encoder_k\.", "queue"),),
    "moco-v3": (
        _inner("MoCo v3", "base_encoder", r"momentum_encoder\.", r"predictor\."),
        Layout(name="MoCo v3's convert_to_deit.py", inside=("model",)),
    ),
    "simsiam": (_inner("SimSiam", "encoder", r"predictor\."),),
    "byol": (Layout(name="BYOL", drop=(r"fc\.",)),),
    "barlowtwins": (
        Layout(name="Barlow Twins' backbone"),
        Layout(name="Barlow Twins' checkpoint", inside=("model",), **_TWINS),
    ),
    "vicreg": (Layout(name="VICReg's backbone"), Layout(name="VICReg's checkpoint", inside=("model",), **_TWINS)),
    "deepcluster-v2": tuple(
        Layout(name=name, inside=inside, prefixes=("module.",), drop=(r"projection_head\.", r"prototypes\."))
        for name, inside in (("DeepCluster v2", ()), ("DeepCluster v2 with training state", ("state_dict",)))
    ),
    "dino": (_DINO, replace(_DINO, name="DINO's full checkpoint", inside=("teacher",))),
    "dinov2": _dinov2(_plain),
    "dinov2-reg": _dinov2(_with_registers),
    "ibot": (_IBOT, replace(_IBOT, name="iBOT's full checkpoint", inside=("teacher",))),
    "mae": (_MAE,),
}
"""Publisher -> the layouts of the encoder alone, with timm's or torchvision's names."""

_FULL_HEAD = Layout(
    name="DINO's linear weights", inside=("state_dict",), prefixes=("module.",), rename=((r"^linear\.", ""),)
)
WHOLE: dict[str, tuple[Layout, ...]] = {
    "moco-v3": (Layout(name="MoCo v3's linear evaluation", **_WHOLE),),
    "simsiam": (Layout(name="SimSiam's linear evaluation", **_WHOLE),),
    "byol": (Layout(name="BYOL", rename=_WHOLE["rename"]),),
    "mae-finetuned": (Layout(name="MAE's fine-tuning", inside=("model",), rename=_WHOLE["rename"]),),
}
"""Publisher -> the layouts of files with encoder and classifier."""

HEADS: dict[str, tuple[Layout, ...]] = {
    "dino": (_FULL_HEAD,),
    "dinov2": (Layout(name="DINOv2's linear head"),),
    "dinov2-reg": (Layout(name="DINOv2's linear head"),),
}
"""Publisher -> the layouts of the linear classifier alone."""
