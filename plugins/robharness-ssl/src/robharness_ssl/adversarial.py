"""Encoders of adversarial contrastive training on CIFAR-10: files, options and source of each. Imports no torch.

Every fact is from the public code, at the commit that is named beside it. No publisher prints a sha256, and none serves
its files at a direct address: they are on pages of file hosts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from robharness import File, InputSpec, ModelSpec, Page
from robharness.specs import conventions

if TYPE_CHECKING:
    from torch import nn

BRANCHES: Mapping[str, int] = MappingProxyType({"adversarial": 1, "clean": 0})
"""Branch -> its number in `bn_list`: the publishers' `bn_names` are "normal" (0) and "pgd" (1)."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Parameters of an encoder with two BatchNorms per layer.

    branch: "adversarial" takes the BatchNorms that saw attacked images, as the publisher's evaluations do; "clean"
        those that saw clean images.
    """

    branch: Literal["adversarial", "clean"] = "adversarial"


@dataclass(frozen=True, kw_only=True)
class MomentumBranch(Branch):
    """Parameters of DynACL's encoders.

    momentum: true takes the momentum encoder, `encoder_k`, as the publisher's evaluations do; false the encoder that
        was trained by gradients, `encoder_q`.
    """

    momentum: bool = True


@dataclass(frozen=True, kw_only=True)
class ThreeBranches:
    """Parameters of AdvCL's encoder, which has three BatchNorms per layer.

    branch: "adversarial" takes the BatchNorms of images attacked by the contrastive loss, as the publisher's
        evaluation does; "clean" those of clean images; "pseudo-labels" those of images attacked by the loss of
        pseudo-labels.
    """

    branch: Literal["adversarial", "clean", "pseudo-labels"] = "adversarial"


@dataclass(frozen=True, kw_only=True)
class Stem:
    """Parameters of DeACL's encoder.

    padding: of the first convolution, in pixels. The publisher's network has 2, which gives maps of 34 x 34. No file
        shows it.
    """

    padding: Literal[1, 2] = 2


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """An encoder of adversarial contrastive training: a ResNet-18 with CIFAR's stem.

    name: name of the model, without namespace.
    publisher: for messages and lists.
    file: where the file is expected, and the page that has it.
    inside: the keys that lead to the state; tried in order.
    params: class of the options; None if there are none.
    branches: branch -> number of its BatchNorms in `bn_list`; empty if a layer has one BatchNorm.
    is_normalized: whether the network normalises its inputs by buffers of the file, `normalize.mean` and `.std`.
    prefix: of the encoder's keys, which no encoder lacks; empty if they have none.
    rename, drop: as of `robharness.checkpoints.Layout`.
    finetuned: the keys of a suite by which the publisher's fine-tuned network is read.
    """

    name: str
    publisher: str
    file: File
    licence: str
    paper: str
    inside: tuple[tuple[str, ...], ...] = (("state_dict",), ())
    params: type | None = None
    branches: Mapping[str, int] = field(default_factory=dict)
    is_normalized: bool = True
    prefix: str = ""
    rename: tuple[tuple[str, str], ...] = ()
    drop: tuple[str, ...] = ()
    finetuned: str = "`model: supervised/cifar10-resnet18`"


_DOWNSAMPLE = ((r"\.downsample\.conv\.", ".downsample.0."), (r"\.downsample\.bn\.", ".downsample.1."))
"""The names of shortcuts in resnet_multi_bn.py of ACL, DynACL and AdvCL, and torchvision's."""
_NOT_STATED = "not stated"
_DRIVE = "https://drive.google.com/file/d"
_ON_A_DRIVE = "on a drive for browsers"

# Kim-Minseon/RoCL at b6d5185. src/utils.py, `checkpoint`: {"epoch", "acc", "model", "optimizer_state", "rng_state"} of
# the network in DistributedDataParallel, beside the projector in a file of its own. src/models/resnet.py: no
# normalisation. No checkpoint is published.
_ROCL = Encoder(
    name="rocl-resnet18",
    publisher="RoCL",
    file=File(
        path="weights/rocl-resnet18.t7",
        get="set `weights: ./own.t7` in the suite; RoCL publishes no files, see https://github.com/Kim-Minseon/RoCL",
    ),
    inside=(("model",),),
    is_normalized=False,
    rename=((r"\.shortcut\.", ".downsample."),),
    licence=_NOT_STATED,
    paper="https://arxiv.org/abs/2006.07589",
)

# VITA-Group/Adversarial-Contrastive-Learning at 399eabd. train_simCLR.py: {"epoch", "state_dict", "optim"}, bn_names
# ["normal", "pgd"]; models/resnet_multi_bn.py: `fc` is a projection head of two or three layers, `normalize` has
# ImageNet's mean and std for CIFAR, too; readme.md: evaluation by `--cvt_state_dict --bnNameCnt 1`.
_ACL = Encoder(
    name="acl-resnet18",
    publisher="ACL",
    file=File(
        path="weights/acl-resnet18.pt",
        origin=Page(url=f"{_DRIVE}/1d5gZgqMpXl0-RiWH6sUcBvZZXJc2OrRF/view", reason=f"ACL_DS, {_ON_A_DRIVE}"),
    ),
    params=Branch,
    branches=BRANCHES,
    rename=_DOWNSAMPLE,
    drop=(r"fc\.(?:fc|bn)\d\.",),
    licence=_NOT_STATED,
    paper="https://arxiv.org/abs/2010.13337",
)

# PKU-ML/DYNACL at 7d143db. train_DynACL.py: `model.pt` has encoder_q and encoder_k, `model_encoder_k.pt` the latter
# alone, without a prefix, but `model_encoder_k_EPOCH.pt` has both again. `validate` and the forward pass without `swap`
# (models/resnet_multi_bn.py, `resnet18_momentum`) take encoder_k. README.md evaluates by `--bnNameCnt 1`; test_LF.py
# reads no keys with a prefix. LPAFT_AFF.py (DynACL++) and test_AFF.py (fine-tuning) write both branches and `fc` of one
# layer, for pseudo-labels and for labels. `normalize` is as ACL's.
_DYNACL = Encoder(
    name="dynacl-resnet18",
    publisher="DynACL",
    file=File(
        path="weights/dynacl-resnet18.pt",
        origin=Page(url=f"{_DRIVE}/1Z1TBKMzRLHyGT9ZavtBQsqnU8k9zRAxj/view", reason=f"DynACL, CIFAR10, {_ON_A_DRIVE}"),
    ),
    params=MomentumBranch,
    branches=BRANCHES,
    rename=_DOWNSAMPLE,
    drop=(r"fc\.(?:fc|bn)\d\.",),
    licence=_NOT_STATED,
    paper="https://arxiv.org/abs/2303.01289",
)

# LijieFan/AdvCL at 24cb7a6. pretraining_advCL.py: {"model", "epoch", "rng_state"} of the network in DataParallel,
# bn_names ["normal", "pgd", "pgd_ce"]; models/resnet_cifar_multibn_ensembleFC.py: no normalisation, five classifiers of
# pseudo-labels, three heads; utils.py, `load_BN_checkpoint`: evaluation by bn_list.1. The repository publishes no file;
# GodXuxilie/RobustSSL_Benchmark at 19dc714 trained one, and reads it without normalisation, too.
_ADVCL = Encoder(
    name="advcl-resnet18",
    publisher="AdvCL",
    file=File(
        path="weights/advcl-resnet18.pt",
        origin=Page(
            url="https://www.dropbox.com/s/fzwg9gcf4ty5oji/AdvCL.pt?dl=0",
            reason=f"trained by RobustSSL_Benchmark, {_ON_A_DRIVE}",
        ),
    ),
    inside=(("model",), ("state_dict",), ()),
    params=ThreeBranches,
    branches=MappingProxyType({**BRANCHES, "pseudo-labels": 2}),
    is_normalized=False,
    rename=_DOWNSAMPLE,
    drop=(r"fc_\d{3}\.", r"head_(?:ce|proj|pred)\."),
    finetuned="`model: supervised/cifar10-resnet18` and `normalize: none`",
    licence="MIT (the code)",
    paper="https://arxiv.org/abs/2111.01124",
)

# pantheon5100/DeACL at 3fb81e3. A checkpoint of Lightning: `backbone` is the student, `momentum_backbone` the teacher,
# which no attack has seen. solo/methods/base_for_adversarial_training.py and adv_finetune.py: first convolution with
# padding 2, `resnet18_NormalizeInput` with mean (.4914, .4822, .4465) and std (.247, .243, .261), read strictly.
# GodXuxilie/RobustSSL_Benchmark at 19dc714 reads it into a network with padding 1.
_DEACL = Encoder(
    name="deacl-resnet18",
    publisher="DeACL",
    file=File(
        path="weights/deacl-resnet18.ckpt",
        origin=Page(
            url=f"{_DRIVE}/1yc38miWGY57sHS6W6aY_k5t69Gt5v5fm/view",
            reason=f"DeACL, SimCLR as the teacher, {_ON_A_DRIVE}",
        ),
    ),
    params=Stem,
    prefix="backbone.",
    drop=(r"momentum_backbone\.", r"(?:momentum_)?classifier(?:_adv)?\.", r"(?:momentum_)?projector\.", r"queue"),
    licence=_NOT_STATED,
    paper="https://arxiv.org/abs/2207.10899",
)

ENCODERS: tuple[Encoder, ...] = (_ROCL, _ACL, _DYNACL, _ADVCL, _DEACL)


def specs() -> Iterator[ModelSpec]:
    """Yield the encoders as models, each without a classifier."""
    for entry in ENCODERS:
        yield ModelSpec(
            name=entry.name,
            summary=f"{entry.publisher} ResNet-18, adversarially trained on CIFAR-10: the encoder alone",
            input=InputSpec(shape=(3, 32, 32)),
            labels=conventions.NO_LABELS,
            build=partial(_build, entry),
            weights=entry.file,
            params=entry.params,
            features="",
            licence=entry.licence,
            paper=entry.paper,
        )


def _build(entry: Encoder, params: Any, weights: Any) -> nn.Module:
    from robharness_ssl import branches

    return branches.encoder(entry, params, weights)
