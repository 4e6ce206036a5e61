"""open_clip's networks with weights from files: a zero-shot classifier, or the image tower alone.

Sources: mlfoundations/open_clip, factory.py, zero_shot_classifier.py; chs20/RobustVLM, README, CLIP_eval/eval_utils.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robharness import UserError, checkpoints, normalized
from robharness.checkpoints import Layout, State
from robharness_clip import options

if TYPE_CHECKING:
    from robharness_clip.options import Visual, ZeroShot

PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that DistributedDataParallel and torch.compile add to every key."""
OPENAI_NUMBERS = (r"input_resolution$", r"context_length$", r"vocab_size$")
"""Keys of OpenAI's files that hold numbers of the architecture."""
TEXT_TOWER = (r"^(text_projection|positional_embedding|token_embedding|transformer|ln_final)", r"text.\1")
"""Rename of the text tower in files of before it had a module of its own."""
CONTAINERS = ("state_dict", "vision_encoder_state_dict")
"""Keys under which open_clip's training and TeCoA's save the state."""
CLASSES_PER_PASS = 10


class Unit(nn.Module):
    """Scales features to length 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (N, D), each divided by its length."""
        return F.normalize(x, dim=-1)


class ZeroShotNetwork(nn.Module):
    """CLIP's image tower with a linear head of the classes' mean text features.

    visual: maps (N, 3, H, W) to image features (N, D).
    weight: (classes, D), text features of length 1, times the logit scale.
    """

    def __init__(self, visual: nn.Module, weight: Tensor) -> None:
        super().__init__()
        self.visual, self.unit = visual, Unit()
        self.head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.head.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.head(self.unit(self.visual(x)))
        return logits


def zero_shot(params: ZeroShot, weights: Any) -> nn.Module:
    """Build the classifier that maps (N, 3, size, size) in [0, 1] to logits (N, classes).

    weights: path of a file with both towers, or paths {"clip": ..., "visual": ...}, whose second holds the image tower.
    The text tower makes the head, and is dropped.
    Raises UserError if a file does not match the network exactly.
    """
    files = dict(weights) if isinstance(weights, Mapping) else {"clip": Path(weights)}
    if set(files) not in ({"clip"}, {"clip", "visual"}):
        raise UserError(
            f"clip/zero-shot takes a file with both towers, and one of an image tower, not {', '.join(files)}. "
            f"Try: set `weights: {{clip: ./clip.pt, visual: ./fare_eps_2.pt}}` in the suite"
        )
    names, config = class_names(params), configuration(params)
    net = network(config)
    load(net, files["clip"], both_towers(net))
    if "visual" in files:
        load(net.visual, files["visual"], image_tower())
    scale = net.logit_scale.exp() if params.logit_scale == "published" else params.logit_scale
    with torch.no_grad():
        weight = text_features(net, config, names, prompts(params)) * scale
    return normalized(ZeroShotNetwork(net.visual, weight), *options.normalization(params))


def encoder(params: Visual, weights: Any) -> nn.Module:
    """Build the image tower that maps (N, 3, size, size) in [0, 1] to features (N, D) of length 1.

    weights: path of a file with the image tower alone or with both towers, or paths as `zero_shot` takes them.
    Raises UserError if a file does not match the network exactly.
    """
    path = weights.get("visual", weights.get("clip")) if isinstance(weights, Mapping) else Path(weights)
    if path is None:
        raise UserError(f"{', '.join(weights)} holds no image tower. Try: set `weights: ./clip.pt` in the suite")
    visual = network(configuration(params)).visual
    load(visual, path, [*image_tower(), *of_both_towers()])
    return normalized(nn.Sequential(visual, Unit()), *options.normalization(params))


def configuration(params: Visual) -> dict[str, Any]:
    """Return open_clip's configuration of the architecture. Raises UserError if this open_clip lacks it."""
    import open_clip

    config = options.architecture(params)[0] or open_clip.get_model_config(params.name)
    if config is None:
        version = open_clip.__version__
        raise UserError(f"open_clip {version} has no '{params.name}'. Try: pip install -U open_clip_torch")
    found = options.used(params)
    quick = config.get("quick_gelu", False) or (found is not None and found.quickgelu)
    return {**config, "quick_gelu": quick if params.quickgelu == "auto" else params.quickgelu}


def network(config: Mapping[str, Any]) -> Any:
    """Return open_clip's network with weights that are drawn, and overwritten later, in eval mode."""
    import open_clip

    given = dict(config)
    kind = open_clip.CustomTextCLIP if given.pop("custom_text", False) else open_clip.CLIP
    try:
        with torch.random.fork_rng(devices=[]):
            return kind(**given).eval()
    except (TypeError, RuntimeError, AssertionError) as error:
        raise UserError(
            f"open_clip {open_clip.__version__} does not build this architecture: {error}. "
            f"Try: pip install -U open_clip_torch timm"
        ) from error


def load(net: nn.Module, path: Path, layouts: Sequence[Layout]) -> None:
    """Fill a network strictly. Raises UserError, which names the file, if no layout matches."""
    content = checkpoints.read(path)
    entries = content if isinstance(content, Mapping) else {}
    inside = next(((key,) for key in CONTAINERS if isinstance(entries.get(key), Mapping)), ())
    fitted = [
        Layout(
            name=each.name,
            inside=inside,
            prefixes=PREFIXES,
            rename=each.rename,
            drop=each.drop,
            convert=partial(_converted, net, each.convert),
        )
        for each in layouts
    ]
    checkpoints.load(net, content, fitted, where=path)


def both_towers(net: nn.Module) -> list[Layout]:
    """Return the layouts of files with both towers."""
    own = Layout(name="open_clip", drop=OPENAI_NUMBERS)
    return [own, Layout(name="open_clip, text tower at the top", drop=OPENAI_NUMBERS, rename=(TEXT_TOWER,))]


def image_tower() -> list[Layout]:
    """Return the layout of files with the image tower alone, as RobustVLM publishes them."""
    return [Layout(name="image tower")]


def of_both_towers() -> list[Layout]:
    """Return the layout of the image tower in files with both towers."""
    return [Layout(name="image tower of open_clip", convert=_visual)]


def _visual(state: State) -> State:
    found = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    if not found:
        raise UserError("it has no image tower, whose keys begin with `visual.`")
    return found


def _converted(net: nn.Module, convert: Any, state: State) -> State:
    """Return a state with single precision for half, and with scalars of the network's shape, as open_clip reads it.

    OpenAI's files hold halves, and every half is a number of single precision.
    """
    state = convert(state) if convert else state
    shapes = {name: value.shape for name, value in net.named_parameters() if value.numel() == 1}
    return {
        name: (value.float() if value.dtype == torch.float16 else value).reshape(
            shapes[name] if name in shapes and value.numel() == 1 else value.shape
        )
        for name, value in state.items()
    }


def class_names(params: ZeroShot) -> Sequence[str]:
    """Return the names of the classes. Raises UserError for a file that holds none, or another number."""
    if params.classnames == "imagenet":
        import open_clip

        return list(open_clip.IMAGENET_CLASSNAMES)
    if not isinstance(params.classnames, Path):
        return list(params.classnames)
    try:
        lines = params.classnames.read_text(encoding="utf-8").splitlines()
        names = tuple(line.strip() for line in lines if line.strip())
        options.check_classes(names, params.labels)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"classnames: {params.classnames}: {reason}. Try: wc -l {params.classnames}") from None
    return names


def prompts(params: ZeroShot) -> Sequence[Any]:
    """Return the templates, as open_clip takes them: texts with {}, or functions of a class name."""
    import open_clip

    known = {"openai-imagenet": open_clip.OPENAI_IMAGENET_TEMPLATES, "simple": open_clip.SIMPLE_IMAGENET_TEMPLATES}
    return known[params.templates] if isinstance(params.templates, str) else params.templates


def text_features(net: Any, config: Mapping[str, Any], names: Sequence[str], templates: Sequence[Any]) -> Tensor:
    """Return the classes' features (classes, D), each the mean over templates, of length 1.

    net: a network of open_clip, whose text tower is not usable afterwards.
    """
    import open_clip

    text = config["text_cfg"]
    tokenizer = open_clip.SimpleTokenizer(
        context_length=text.get("context_length", 77), **(text.get("tokenizer_kwargs") or {})
    )
    tower = TextTower(net)
    found: Tensor = open_clip.build_zero_shot_classifier(tower, tokenizer, names, templates, CLASSES_PER_PASS)
    return found.T.contiguous()


class TextTower:
    """CLIP's text tower, which sees each text up to its end, which saves most of the work.

    Attention is causal and the feature is that of the end, so that positions after it have no effect. A tower with
    other attention or another feature sees all positions.

    net: a network of open_clip, whose positions are cut by each call.
    """

    def __init__(self, net: Any) -> None:
        self.net, tower = net, getattr(net, "text", net)
        self._tower, self._positions, self._mask = tower, tower.positional_embedding, tower.attn_mask
        pool = getattr(tower, "pool_type", None) or getattr(tower, "text_pool_type", None)
        self.is_cut = self._mask is not None and pool == "argmax" and getattr(tower, "cls_emb", None) is None

    def encode_text(self, texts: Tensor, normalize: bool = False) -> Tensor:
        """Return the features (N, D) of tokens (N, positions), as `encode_text` of open_clip's network does."""
        if not self.is_cut:
            whole: Tensor = self.net.encode_text(texts, normalize=normalize)
            return whole
        lengths, parts, order = texts.argmax(dim=-1) + 1, [], []
        for length in sorted(set(lengths.tolist())):
            rows = (lengths == length).nonzero()[:, 0]
            self._tower.positional_embedding = nn.Parameter(self._positions[:length])
            self._tower.attn_mask = self._mask[:length, :length]
            parts.append(self.net.encode_text(texts[rows, :length], normalize=normalize))
            order.append(rows)
        return torch.cat(parts)[torch.cat(order).argsort()]
