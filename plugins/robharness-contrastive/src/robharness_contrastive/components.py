"""The plugin's objectives, networks, augmentations and probes, declared as those of any other plugin are.

`objective`, `network`, `augmentation` and `linear_probe` make the specs that a plugin yields from the hook
`robharness_components`. Without torch, so that lists are fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from robharness import Component, ComponentSpec
from robharness_contrastive import options, steps

NAMESPACE = "contrastive"
BOTH = frozenset({"image", "video"})
C = TypeVar("C", bound=Component)

Build = Callable[..., Any] | str
"""A class or a function, or "module:name", which is imported at its first call."""


def _spec(
    role: str,
    name: str,
    build: Build,
    options: type | None = None,
    *,
    summary: str = "",
    inputs: frozenset[str] = BOTH,
    paper: str = "",
    revision: int = 1,
) -> ComponentSpec:
    words = summary or str(getattr(build, "__doc__", None) or f"The {role} {name}").strip().partition("\n")[0]
    return ComponentSpec(
        name=name, role=role, summary=words.rstrip("."), build=build, params=options, inputs=frozenset(inputs),  # type: ignore[arg-type]
        paper=paper, revision=revision,
    )  # fmt: skip


def objective(name: str, build: Build, options: type | None = None, **more: Any) -> ComponentSpec:
    """Declare a training objective.

    build: (options, width, context) -> an `Objective`; such as a subclass of it.
        width: of the encoder's features.
        context: a `Context`, with the numbers of examples and classes, the batch and the input's shape.
    options: dataclass of its options.
    more: `summary`, by default the first line of the docstring of `build`; `inputs`, `paper`, `revision`.
    """
    return _spec("objective", name, build, options, **more)


def network(name: str, build: Build, options: type | None = None, **more: Any) -> ComponentSpec:
    """Declare a network.

    build: (options, shape) -> (an nn.Module from inputs (N, *shape) in [0, 1] to features (N, width), width).
        shape: (C, H, W) of images, or (C, T, H, W) of clips.
    options, more: as for `objective`. `inputs` is {"image"} by default.
    """
    return _spec("network", name, build, options, **{"inputs": frozenset({"image"}), **more})


def augmentation(name: str, build: Build, options: type | None = None, **more: Any) -> ComponentSpec:
    """Declare an augmentation.

    build: options -> an `Augmentation`, which is a record of numbers, or a function
        (x, size, seed, indices) -> float32 (N, C, size, size) in [0, 1], or clips (N, C, T, size, size).
        x: uint8 images (N, C, H, W), or clips (N, C, T, H, W).
        seed, indices: select the random numbers, so that a view does not depend on its batch; see `Draws`.
    options, more: as for `objective`.
    """
    return _spec("augmentation", name, build, options, **more)


def linear_probe(name: str, build: Build, options: type | None = None, **more: Any) -> ComponentSpec:
    """Declare a way to train the linear classifier on an encoder's features.

    build: options -> a `Probe`; such as a subclass of it.
    options, more: as for `objective`.
    """
    return _spec("probe", name, build, options, **more)


_OBJECTIVES, _ADVERSARIAL = "robharness_contrastive.objectives", "robharness_contrastive.adversarial"
_IMAGE, _VIDEO = frozenset({"image"}), frozenset({"video"})
_NETWORKS, _PROBES = "robharness_contrastive.networks", "robharness_contrastive.probe"
_augmentation = partial(augmentation, build="robharness_contrastive.steps:unchanged")

OWN: tuple[ComponentSpec, ...] = (
    objective("cross-entropy", f"{_OBJECTIVES}:CrossEntropy", summary="Supervised by cross-entropy"),
    objective(
        "supcon", f"{_OBJECTIVES}:supcon", options.SupCon, summary="Supervised contrastive",
        paper="https://arxiv.org/abs/2004.11362",
    ),
    objective(
        "simclr", f"{_OBJECTIVES}:InfoNCE", options.SimCLR,
        summary="SimCLR, with or without removal of false negatives", paper="https://arxiv.org/abs/2002.05709",
    ),
    objective(
        "clusters", f"{_OBJECTIVES}:ClustersObjective", options.Clusters,
        summary="Supervised contrastive, with clusters of SimCLR features as classes",
    ),
    objective(
        "swav", f"{_OBJECTIVES}:SwAVObjective", options.SwAV, summary="SwAV", paper="https://arxiv.org/abs/2006.09882"
    ),
    objective(
        "moco", f"{_OBJECTIVES}:MoCoObjective", options.MoCo, summary="MoCo v2",
        paper="https://arxiv.org/abs/2003.04297",
    ),
    objective(
        "simsiam", f"{_OBJECTIVES}:SimSiamObjective", options.SimSiam, summary="SimSiam, without negatives",
        paper="https://arxiv.org/abs/2011.10566",
    ),
    objective(
        "cvrl", f"{_OBJECTIVES}:InfoNCE", options.CVRL, summary="CVRL, SimCLR on clips of videos",
        paper="https://arxiv.org/abs/2008.03800",
    ),
    objective(
        "tclr", "robharness_contrastive.video:TCLRObjective", options.TCLR, inputs=_VIDEO,
        summary="TCLR, temporal contrast within a video", paper="https://arxiv.org/abs/2101.07974",
    ),
    objective(
        "rocl", f"{_ADVERSARIAL}:RoCL", options.RoCL, inputs=_IMAGE,
        summary="RoCL, contrast of clean and adversarial views", paper="https://arxiv.org/abs/2006.07589",
    ),
    objective(
        "acl", f"{_ADVERSARIAL}:ACL", options.ACL, inputs=_IMAGE,
        summary="ACL, a clean and an adversarial stream with their own BatchNorm",
        paper="https://arxiv.org/abs/2010.13337",
    ),
    objective(
        "dynacl", f"{_ADVERSARIAL}:DynACL", options.DynACL, inputs=_IMAGE,
        summary="DynACL, ACL with a schedule of augmentation and a momentum encoder",
        paper="https://openreview.net/forum?id=0qmwFNJyxCL",
    ),
    network("small", f"{_NETWORKS}:small", summary="Three convolutions of stride 2"),
    network("resnet18", f"{_NETWORKS}:resnet18", summary="ResNet-18, with CIFAR's stem below 96 pixels"),
    network("resnet50", f"{_NETWORKS}:resnet50", summary="ResNet-50, with CIFAR's stem below 96 pixels"),
    network(
        "r2plus1d-narrow", f"{_NETWORKS}:r2plus1d_narrow", inputs=_VIDEO, summary="R(2+1)D of 50,000 weights"
    ),
    network("r2plus1d-18", f"{_NETWORKS}:r2plus1d_18", inputs=_VIDEO, summary="torchvision's R(2+1)D-18"),
    network(
        "r2plus1d-18-dilated", f"{_NETWORKS}:r2plus1d_18_dilated", inputs=_VIDEO,
        summary="R(2+1)D-18 whose last stage keeps its temporal steps",
    ),
    _augmentation("contrastive", options=steps.Augmentation, summary="The paper's for contrastive objectives (B.3)"),
    _augmentation("supervised", options=steps.Supervised, summary="The paper's for cross-entropy (B.3)"),
    _augmentation("digits", options=steps.Digits, summary="Rotation, crops and brightness, without flips"),
    _augmentation("patches", options=steps.Patches, summary="The paper's, with larger crops"),
    _augmentation("blurred", options=steps.Blurred, summary="SimCLR's for ImageNet"),
    linear_probe(
        "lbfgs", f"{_PROBES}:Logistic", options.Logistic,
        summary="Logistic regression on standardised features at its optimum, without random numbers",
    ),
    linear_probe("sgd", f"{_PROBES}:SGD", options.SGD, summary="SGD on augmented images, as in SupContrast"),
    linear_probe("robust", f"{_PROBES}:RobustSGD", options.Robust, summary="SGD on images under PGD, RoCL's r-LE"),
    linear_probe("finetune", f"{_PROBES}:FineTuning", options.SGD, summary="SGD that trains the encoder as well"),
)  # fmt: skip
"""The plugin's own components, in the order of lists."""

_BY_NAME: Mapping[str, ComponentSpec] = {spec.name: spec for spec in OWN}


def own(role: str, name: str, kind: type[C] = Component, params: Any = None) -> C:  # type: ignore[assignment]
    """Return a component of this plugin, resolved.

    kind: `Component` or a subclass.
    params: its options; None for the defaults.

    Raises ValueError for a name that is not one of this role.
    """
    spec = _BY_NAME.get(name)
    if spec is None or spec.role != role:
        known = [each.name for each in OWN if each.role == role]
        raise ValueError(f"there is no {role} '{name}', only {', '.join(known)}. Try: `{role}: {known[0]}`")
    params = spec.params() if params is None and spec.params is not None else params
    return kind(name, spec=spec, params=params, full_name=f"{NAMESPACE}/{name}")


def read(role: str, value: Any, kind: type[C] = Component, implied: str = "") -> C:  # type: ignore[assignment]
    """Return the component that a value in Python means.

    value: the name of a component of this plugin, a mapping with its options, a `ComponentSpec`, or a `Component`. The
        last is returned unchanged, since a suite's reader resolves it.
    implied: name that a mapping without a name means.

    Raises ValueError.
    """
    if isinstance(value, ComponentSpec):
        params = value.params() if value.params is not None else None
        return kind(f"python/{value.name}", spec=value, params=params, full_name=f"python/{value.name}")
    found = kind.read(value)
    if isinstance(value, Component):
        return found
    resolved = own(role, (found.name or implied).removeprefix(f"{NAMESPACE}/"), kind)
    if not found.options:
        return resolved
    known = resolved.spec.params
    unknown = [key for key in found.options if known is None or key not in known.__dataclass_fields__]
    if unknown:
        raise ValueError(f"the {role} '{resolved.name}' has no option '{unknown[0]}'")
    try:
        params = TypeAdapter(known).validate_python(dict(found.options))
    except ValidationError as error:
        reasons = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
        raise ValueError(f"the options of the {role} '{resolved.name}' are wrong: {reasons}") from None
    return kind(
        resolved.name, found.options, spec=resolved.spec, params=params, full_name=resolved.full_name,
        is_implied=resolved.name == implied,
    )  # fmt: skip
