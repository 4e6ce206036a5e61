"""The published encoders: network, files, preprocessing, published accuracy and source of each. Imports no torch.

Every fact is from the publisher's public code, at the commit that is named beside it. No sha256 is given, since no
publisher prints one: MoCo v2 and MAE print the beginning of an md5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from robharness import Download, Preprocessing
from robharness.specs import conventions

IMAGENET = conventions.NORMALIZATIONS["imagenet"]
SWAV: conventions.Normalization = ((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))
"""Mean and standard deviation of DeepCluster v2, as of SwAV. Source: facebookresearch/swav, eval_linear.py."""

BILINEAR = Preprocessing(resize=256, crop=224)
BICUBIC = Preprocessing(resize=256, crop=224, interpolation="bicubic")
TENSORFLOW = Preprocessing(resize=256, crop=224, interpolation="bicubic", antialias=False)
"""BYOL cuts the central 224/256 of the shorter side and resizes the piece to 224, by `tf.image.resize` without
antialiasing. The regions are the same, up to rounding to pixels."""


@dataclass(frozen=True, kw_only=True)
class ResNet:
    """A ResNet of bottlenecks, as torchvision's.

    blocks: number of blocks per stage.
    base: width of the bottlenecks per 64 channels.
    padding: "torch" pads a strided layer on both sides; "same" pads as TensorFlow and JAX do.
    """

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    base: int = 64
    padding: Literal["torch", "same"] = "torch"

    @property
    def width(self) -> int:
        """Length of the pooled features."""
        return 2048


@dataclass(frozen=True, kw_only=True)
class ViT:
    """A vision transformer for 224 px.

    patch: side of a patch in pixels.
    width: length of a token.
    depth: number of blocks.
    heads: number of heads of each attention.
    layer_scale: whether the branches of a block are multiplied by learned factors.
    registers: number of register tokens.
    pool: "token" takes the class token after the last LayerNorm; "mean" the mean of patch tokens, and normalises that.
    """

    patch: int
    width: int
    depth: int
    heads: int
    layer_scale: bool = False
    registers: int = 0
    pool: Literal["token", "mean"] = "token"


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokens of a vision transformer that make the representation, each after the last LayerNorm.

    blocks: number of last blocks whose class tokens are concatenated.
    mean: place of the mean of the last block's patch tokens: "after" the class tokens, or "interleaved" with one.
    """

    blocks: int = 1
    mean: Literal["none", "after", "interleaved"] = "none"

    @property
    def count(self) -> int:
        """Length of the representation in tokens."""
        return self.blocks + (self.mean != "none")


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A published encoder.

    name: name of the model, without namespace.
    title: for lists.
    publisher: key of `layouts.ENCODERS`.
    network: its architecture.
    encoder: the file of the encoder.
    head: the file of the linear classifier; of encoder and classifier together if `is_whole`. None if not published.
    is_whole: whether the classifier's file has the encoder, too.
    top1: published accuracy of the linear evaluation, in percent.
    linear: tokens that the linear evaluation takes; None if it takes the network's output.
    preprocessing, normalization: of the publisher's evaluation.
    heads: other files of classifiers by number of blocks (DINOv2).
    """

    name: str
    title: str
    publisher: str
    network: ResNet | ViT
    encoder: Download
    top1: float
    licence: str
    paper: str
    head: Download | None = None
    is_whole: bool = False
    linear: Tokens | None = None
    preprocessing: Preprocessing = BILINEAR
    normalization: conventions.Normalization = IMAGENET

    @property
    def classifier_weights(self) -> Download | Mapping[str, Download]:
        """The files of the classifier. Raises ValueError if none is published."""
        if self.head is None:
            raise ValueError(f"{self.name} has no published classifier")
        return self.head if self.is_whole else {"encoder": self.encoder, "head": self.head}


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """A published network that was fine-tuned with labels, its classifier in the same file.

    name, title, publisher, network, preprocessing, licence, paper: as of `Encoder`.
    file: the file.
    top1: published accuracy, in percent.
    """

    name: str
    title: str
    publisher: str
    network: ViT
    file: Download
    top1: float
    licence: str
    paper: str
    preprocessing: Preprocessing = BICUBIC
    normalization: conventions.Normalization = IMAGENET


_FACEBOOK = "https://dl.fbaipublicfiles.com"
_NONCOMMERCIAL = "CC-BY-NC-4.0"

# facebookresearch/moco at 8976944, README.md ("Models"), main_lincls.py. The README publishes no linear classifier.
_MOCO_V2 = Encoder(
    name="moco-v2-resnet50",
    title="MoCo v2 ResNet-50, 800 epochs",
    publisher="moco-v2",
    network=ResNet(),
    encoder=Download(url=f"{_FACEBOOK}/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar"),
    top1=71.1,
    licence="CC-BY-NC-4.0 (the README), MIT (the LICENSE file)",
    paper="https://arxiv.org/abs/2003.04297",
)


def _moco_v3(name: str, title: str, network: ResNet | ViT, stem: str, linear: str, top1: float) -> Encoder:
    """Return an encoder of facebookresearch/moco-v3 at c349e6e. Source: CONFIG.md, vits.py, main_lincls.py."""
    folder = f"{_FACEBOOK}/moco-v3/{stem}"
    return Encoder(
        name=f"moco-v3-{name}",
        title=f"MoCo v3 {title}",
        publisher="moco-v3",
        network=network,
        encoder=Download(url=f"{folder}/{stem}.pth.tar", name=f"moco-v3-{stem}.pth.tar"),
        head=Download(url=f"{folder}/{linear}.pth.tar", name=f"moco-v3-{stem}-linear.pth.tar"),
        is_whole=True,
        top1=top1,
        licence=_NONCOMMERCIAL,
        paper="https://arxiv.org/abs/2104.02057",
    )


# facebookresearch/simsiam at a7bc177, README.md ("Models and Logs", batch size 256), main_lincls.py.
_SIMSIAM = Encoder(
    name="simsiam-resnet50",
    title="SimSiam ResNet-50, 100 epochs, batches of 256",
    publisher="simsiam",
    network=ResNet(),
    encoder=Download(
        url=f"{_FACEBOOK}/simsiam/models/100ep-256bs/pretrain/checkpoint_0099.pth.tar",
        name="simsiam-100ep-256bs.pth.tar",
    ),
    head=Download(
        url=f"{_FACEBOOK}/simsiam/models/100ep-256bs/linear/model_best.pth.tar",
        name="simsiam-100ep-256bs-linear.pth.tar",
    ),
    is_whole=True,
    top1=68.3,
    licence=_NONCOMMERCIAL,
    paper="https://arxiv.org/abs/2011.10566",
)

# google-deepmind/deepmind-research, byol/README.md ("should evaluate to ~74.4%"), utils/dataset.py, utils/networks.py.
# The file of the pre-training has the classifier that was trained beside the encoder, without gradients to the encoder.
_BYOL_FILE = Download(
    url="https://storage.googleapis.com/deepmind-byol/checkpoints/pretrain_res50x1.pkl",
    name="byol-pretrain_res50x1.pkl",
)
_BYOL = Encoder(
    name="byol-resnet50",
    title="BYOL ResNet-50, 1000 epochs",
    publisher="byol",
    network=ResNet(padding="same"),
    encoder=_BYOL_FILE,
    head=_BYOL_FILE,
    is_whole=True,
    top1=74.4,
    preprocessing=TENSORFLOW,
    licence="Apache-2.0 (the code)",
    paper="https://arxiv.org/abs/2006.07733",
)

# facebookresearch/barlowtwins at 8e8d284, README.md, evaluate.py. The README publishes no linear classifier.
_BARLOW = Encoder(
    name="barlowtwins-resnet50",
    title="Barlow Twins ResNet-50, 1000 epochs",
    publisher="barlowtwins",
    network=ResNet(),
    encoder=Download(url=f"{_FACEBOOK}/barlowtwins/ljng/resnet50.pth", name="barlowtwins-resnet50.pth"),
    top1=73.5,
    licence="MIT",
    paper="https://arxiv.org/abs/2103.03230",
)

# facebookresearch/vicreg at 4e12602, README.md, evaluate.py, resnet.py. The README publishes no linear classifier.
_VICREG = Encoder(
    name="vicreg-resnet50",
    title="VICReg ResNet-50",
    publisher="vicreg",
    network=ResNet(),
    encoder=Download(url=f"{_FACEBOOK}/vicreg/resnet50.pth", name="vicreg-resnet50.pth"),
    top1=73.2,
    licence="MIT",
    paper="https://arxiv.org/abs/2105.04906",
)

# facebookresearch/swav at 06b1b7c, README.md, eval_linear.py. The README publishes a linear classifier of SwAV alone.
_DEEPCLUSTER = Encoder(
    name="deepcluster-v2-resnet50",
    title="DeepCluster v2 ResNet-50, 800 epochs",
    publisher="deepcluster-v2",
    network=ResNet(),
    encoder=Download(url=f"{_FACEBOOK}/deepcluster/deepclusterv2_800ep_pretrain.pth.tar"),
    top1=75.2,
    normalization=SWAV,
    licence=_NONCOMMERCIAL,
    paper="https://arxiv.org/abs/2006.09882",
)


def _dino(name: str, title: str, network: ResNet | ViT, stem: str, linear: Tokens | None, top1: float) -> Encoder:
    """Return an encoder of facebookresearch/dino at 7c446df. Source: README.md, eval_linear.py, vision_transformer.py.

    The linear evaluation of ViT-B interleaves the class token with the mean of the patch tokens: it stacks both as the
    last dimension before it flattens.
    """
    folder = f"{_FACEBOOK}/dino/{stem}_pretrain/{stem}"
    return Encoder(
        name=f"dino-{name}",
        title=f"DINO {title}",
        publisher="dino",
        network=network,
        encoder=Download(url=f"{folder}_pretrain.pth"),
        head=Download(url=f"{folder}_linearweights.pth"),
        linear=linear,
        top1=top1,
        preprocessing=BICUBIC,
        licence="Apache-2.0",
        paper="https://arxiv.org/abs/2104.14294",
    )


def _dinov2(size: str, network: ViT, top1: float, registers: bool = False) -> Encoder:
    """Return an encoder of facebookresearch/dinov2 at b8931f7. Source: README.md, hub/backbones.py, hub/classifiers.py.

    The README states one accuracy per encoder, and does not say for which of its two classifiers.
    """
    stem, kind = f"dinov2_vit{size}14", "_reg4" if registers else ""
    folder = f"{_FACEBOOK}/dinov2/{stem}/{stem}{kind}"
    with_registers = " with registers" if registers else ""
    return Encoder(
        name=f"dinov2-vit{size}14{'-reg' if registers else ''}",
        title=f"DINOv2 ViT-{size.upper()}/14{with_registers}",
        publisher="dinov2-reg" if registers else "dinov2",
        network=replace(network, registers=4) if registers else network,
        encoder=Download(url=f"{folder}_pretrain.pth"),
        head=Download(url=f"{folder}_linear4_head.pth"),
        linear=Tokens(blocks=4, mean="after"),
        top1=top1,
        preprocessing=BICUBIC,
        licence="Apache-2.0",
        paper="https://arxiv.org/abs/2309.16588" if registers else "https://arxiv.org/abs/2304.07193",
    )


def one_layer(encoder: Encoder) -> Encoder:
    """Return an encoder of DINOv2 for its classifier of the last block, instead of the last four."""
    assert encoder.head is not None
    head = Download(url=encoder.head.url.replace("_linear4_head", "_linear_head"))
    return replace(encoder, head=head, linear=Tokens(blocks=1, mean="after"))


def _ibot(name: str, title: str, network: ViT, folder: str, linear: Tokens, top1: float) -> Encoder:
    """Return an encoder of bytedance/ibot at da316d8. Source: README.md, run.sh, evaluation/eval_linear.py.

    The README publishes no linear classifier.
    """
    host = "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot"
    return Encoder(
        name=f"ibot-{name}",
        title=f"iBOT {title}",
        publisher="ibot",
        network=network,
        encoder=Download(url=f"{host}/{folder}/checkpoint_teacher.pth", name=f"ibot-{folder}-teacher.pth"),
        linear=linear,
        top1=top1,
        preprocessing=BICUBIC,
        licence="Apache-2.0",
        paper="https://arxiv.org/abs/2111.07832",
    )


def _mae(size: str, title: str, network: ViT, linear: float, finetuned: float) -> tuple[Encoder, Finetuned]:
    """Return an encoder of facebookresearch/mae at efb2a80, and its fine-tuned network.

    Source: README.md, FINETUNE.md ("this repo (PT/GPU)"), models_vit.py, main_linprobe.py. No linear classifier is
    published. The linear evaluation takes the class token, behind a BatchNorm without weights that it fits.
    """
    short, long = f"vit{size[0]}16", f"vit_{size}"
    licence, paper = _NONCOMMERCIAL, "https://arxiv.org/abs/2111.06377"
    encoder = Encoder(
        name=f"mae-{short}",
        title=f"MAE {title}",
        publisher="mae",
        network=network,
        encoder=Download(url=f"{_FACEBOOK}/mae/pretrain/mae_pretrain_{long}.pth"),
        top1=linear,
        preprocessing=BICUBIC,
        licence=licence,
        paper=paper,
    )
    tuned = Finetuned(
        name=f"mae-{short}-finetuned",
        title=f"MAE {title}, fine-tuned",
        publisher="mae-finetuned",
        network=replace(network, pool="mean"),
        file=Download(url=f"{_FACEBOOK}/mae/finetune/mae_finetuned_{long}.pth"),
        top1=finetuned,
        licence=licence,
        paper=paper,
    )
    return encoder, tuned


_SMALL = ViT(patch=16, width=384, depth=12, heads=6)
_BASE = ViT(patch=16, width=768, depth=12, heads=12)
_LARGE = ViT(patch=16, width=1024, depth=24, heads=16)
_FOUR, _INTERLEAVED = Tokens(blocks=4), Tokens(mean="interleaved")
_MAE_BASE, _MAE_LARGE = _mae("base", "ViT-B/16", _BASE, 67.8, 83.664), _mae("large", "ViT-L/16", _LARGE, 76.0, 85.952)


def _scaled(network: ViT) -> ViT:
    return replace(network, patch=14, layer_scale=True)


ENCODERS: tuple[Encoder, ...] = (
    _MOCO_V2,
    _moco_v3("resnet50", "ResNet-50, 1000 epochs", ResNet(), "r-50-1000ep", "linear-1000ep", 74.6),
    # MoCo v3's ViT-S has 12 heads, where DeiT's and DINO's have 6: README.md, "Note" 2.
    _moco_v3("vits16", "ViT-S/16", replace(_SMALL, heads=12), "vit-s-300ep", "linear-vit-s-300ep", 73.2),
    _moco_v3("vitb16", "ViT-B/16", _BASE, "vit-b-300ep", "linear-vit-b-300ep", 76.7),
    _SIMSIAM,
    _BYOL,
    _BARLOW,
    _VICREG,
    _DEEPCLUSTER,
    _dino("resnet50", "ResNet-50", ResNet(), "dino_resnet50", None, 75.3),
    _dino("vits16", "ViT-S/16", _SMALL, "dino_deitsmall16", _FOUR, 77.0),
    _dino("vits8", "ViT-S/8", replace(_SMALL, patch=8), "dino_deitsmall8", _FOUR, 79.7),
    _dino("vitb16", "ViT-B/16", _BASE, "dino_vitbase16", _INTERLEAVED, 78.2),
    _dino("vitb8", "ViT-B/8", replace(_BASE, patch=8), "dino_vitbase8", _INTERLEAVED, 80.1),
    _dinov2("s", _scaled(_SMALL), 81.1),
    _dinov2("b", _scaled(_BASE), 84.5),
    _dinov2("l", _scaled(_LARGE), 86.3),
    _dinov2("s", _scaled(_SMALL), 80.9, registers=True),
    _dinov2("b", _scaled(_BASE), 84.6, registers=True),
    _dinov2("l", _scaled(_LARGE), 86.7, registers=True),
    _ibot("vits16", "ViT-S/16", _SMALL, "vits_16", _FOUR, 77.9),
    _ibot("vitb16", "ViT-B/16", _BASE, "vitb_16", Tokens(mean="after"), 79.5),
    _MAE_BASE[0],
    _MAE_LARGE[0],
)
FINETUNED: tuple[Finetuned, ...] = (_MAE_BASE[1], _MAE_LARGE[1])
