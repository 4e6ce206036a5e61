"""The contract of models."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import PurePath

import numpy as np
import torch
from torch import Tensor, nn

from robharness.evaluation import probe
from robharness.evaluation.building import build_network
from robharness.evaluation.classifier import Classifier, Gradient, NoGradient
from robharness.evaluation.digest import state_digest
from robharness.evaluation.rng import global_draws, global_seed
from robharness.planning.planned import PlannedModel
from robharness.planning.weights import resolve
from robharness.specs import Download, File, ModelSpec
from robharness.suite import Model
from robharness.testing.contract import Broken, Subject
from robharness.testing.fresh import in_fresh_process

BATCH_SIZES = (4, 8)
"""Multiples of 4, with which rows keep their bits on CPUs; see `batch_sizes.batch_size_candidates`."""


def builds(model: Subject) -> None:
    """`build` returns a torch.nn.Module, all parts of which go into eval mode."""
    net = built(model).eval()
    training = [place or type(net).__name__ for place, module in net.named_modules() if module.training]
    if training:
        raise Broken(f"after eval() these parts are in training mode: {', '.join(training[:3])}")


def logits_fit_labels(model: Subject) -> None:
    """The network returns finite logits, (N, classes), with as many classes as its label space."""
    spec = planned(model).entry.spec
    wanted = model.size_of(spec.labels)
    logits = _classifier(model).logits(inputs(spec, BATCH_SIZES[0]))
    if logits.shape[1] != wanted:
        raise Broken(f"it gives {logits.shape[1]} logits, and '{spec.labels}' has {wanted} classes")
    if not bool(torch.isfinite(logits).all()):
        raise Broken("some of its logits are not finite")


def same_logits_again(model: Subject) -> None:
    """Two passes of one input give the same logits, bit for bit."""
    classifier, x = _classifier(model), inputs(planned(model).entry.spec, BATCH_SIZES[0])
    first, second = classifier.logits(x), classifier.logits(x)
    if not torch.equal(first, second):
        raise Broken(f"the second pass moved logits by up to {float((first - second).abs().max()):.3g}")


def same_state_again(model: Subject) -> None:
    """Two builds give the same parameters and buffers."""
    first, second = _state(built(model)), _state(built(model))
    if first != second:
        raise Broken(f"two builds differ in {_changed(first, second)}")


def input_gradient(model: Subject) -> None:
    """The gradient with respect to every example's input is finite and not zero."""
    found = _gradient(_classifier(model), inputs(planned(model).entry.spec, BATCH_SIZES[0])).gradient
    if not bool(torch.isfinite(found).all()):
        raise Broken("the gradient of the predicted class's logit is not finite")
    if not bool(found.flatten(1).any(1).all()):
        raise Broken("the gradient of the predicted class's logit is zero everywhere for some example")


def input_untouched(model: Subject) -> None:
    """A pass does not change its input."""
    net, x = built(model).eval(), inputs(planned(model).entry.spec, BATCH_SIZES[0])
    before = x.clone()
    with torch.no_grad():
        net(x)
    if not torch.equal(x, before):
        raise Broken(f"it changed {int((x != before).sum())} of {x.numel()} values of its input")


def buffers_unchanged(model: Subject) -> None:
    """Passes in eval mode, with and without gradients, do not change parameters and buffers."""
    classifier, x = _classifier(model), inputs(planned(model).entry.spec, BATCH_SIZES[0])
    before = _state(classifier.net)
    classifier.logits(x)
    with suppress(NoGradient):  # `input_gradient` checks that
        _gradient(classifier, x)
    after = _state(classifier.net)
    if before != after:
        raise Broken(f"passes changed {_changed(before, after)}")


def global_draws_change_nothing(model: Subject) -> None:
    """Builds under two global seeds are equal, and a pass in eval mode draws from no global random generator.

    Layers of torch draw their first weights from its global generator, which does no harm if `build` replaces them all.
    """
    x, found = inputs(planned(model).entry.spec, BATCH_SIZES[0]), []
    for seed in (1, 2):
        with global_seed(seed):
            net = built(model).eval()
        with global_draws() as drawn, torch.no_grad():
            logits = net(x)
        if drawn:
            raise Broken(f"a pass in eval mode draws from the global generator of {' and '.join(drawn)}")
        found.append((_state(net), logits))
    (first, first_logits), (second, second_logits) = found
    if first != second:
        raise Broken(
            f"builds under two seeds of the global generators differ in {_changed(first, second)}; load all values "
            f"from the weights, or draw them from a torch.Generator with a seed of its own"
        )
    if not torch.equal(first_logits, second_logits):
        raise Broken("builds under two seeds of the global generators have one state and give other logits")


def neighbours_change_nothing(model: Subject) -> None:
    """In passes of one shape, a row's logits and gradient are bit-equal alone, with padding and among other rows."""
    spec = planned(model).entry.spec
    for size in BATCH_SIZES:
        found = probe.probe(Classifier(built(model), batch_size=size), spec.input.shape, spec.clips)
        if found["rows"] and found["gradients"] is not False:
            return
    what = "gradient" if found["rows"] else "logits"
    sizes = " and with ".join(map(str, BATCH_SIZES))
    raise Broken(f"a row's {what} depend on the other rows of a pass, with {sizes} rows")


def fresh_process(model: Subject) -> None:
    """A fresh process builds the same state, and its logits are bit-equal."""
    (state, logits), (other_state, other_logits) = digests(model), in_fresh_process(digests, model)
    if state != other_state:
        raise Broken("a fresh process builds other parameters or buffers")
    if logits != other_logits:
        raise Broken("a fresh process gives other logits, from the same parameters and buffers")


def features_are_vectors(model: Subject) -> None:
    """The submodule that `features` names exists, and its flat output is finite vectors, (N, D)."""
    spec: ModelSpec = planned(model).entry.spec
    if spec.features is None:  # `given` removes it for these options
        return
    net = built(model)
    if spec.features not in dict(net.named_modules()):
        children = ", ".join(name for name, _ in net.named_children())
        raise Broken(f"it has no part '{spec.features}'; its parts are {children}")
    found = Classifier(net, batch_size=BATCH_SIZES[0], features=spec.features).with_access("features").features(
        inputs(spec, BATCH_SIZES[0])
    )  # fmt: skip
    if not found.shape[1] or not bool(torch.isfinite(found).all()):
        raise Broken(f"'{spec.features}' gives {tuple(found.shape)}, with values that are not finite")


def licence_stated(model: Subject) -> None:
    """The spec states the licence of the weights."""
    if not _spec(model).licence.strip():
        raise Broken("`licence` is empty; write the one of the weights, e.g. 'Apache-2.0'")


def paper_stated(model: Subject) -> None:
    """The spec states a paper or a page that describes the model."""
    if not _spec(model).paper.strip():
        raise Broken("`paper` is empty; write the address of one")


def sha256_stated(model: Subject) -> None:
    """Every file of weights that has an address to download from has a sha256."""
    for name, file in _declared(_spec(model)):
        if isinstance(file, File):
            served = re.search(rf"\w+://\S*/{re.escape(PurePath(file.path).name)}\b", file.get)
            url = served[0] if served else None  # other files are made, unpacked or requested
        else:
            url = file.url
        if url and not file.sha256:
            called = f"'{name}' of its weights" if name else "its weights"
            raise Broken(f"{called}, {url}, have no sha256; get the file and type: sha256sum FILE")


RULES = (
    builds,
    logits_fit_labels,
    same_logits_again,
    same_state_again,
    input_gradient,
    input_untouched,
    buffers_unchanged,
    global_draws_change_nothing,
    neighbours_change_nothing,
    fresh_process,
    features_are_vectors,
    licence_stated,
    paper_stated,
    sha256_stated,
)
WHEN = {features_are_vectors: lambda spec: spec.features is not None or spec.given is not None}


@lru_cache(maxsize=1)  # checks are in the order of specs, and hashing weights takes seconds
def planned(model: Subject) -> PlannedModel:
    """Return the model as a plan has it, with its options read and its weights found. Raises UserError."""
    entry = replace(model.entry, spec=_spec(model))
    ref = Model(entry=entry, params=model.params, label=str(model), reference=False, weights=model.files)
    return PlannedModel(ref=ref, weights=resolve(entry, model.files, model.data_root), identity={})


def built(model: Subject) -> nn.Module:
    """Build the network again, so that no check sees changes of another check."""
    return build_network(planned(model))


def inputs(spec: ModelSpec, n: int) -> Tensor:
    """Return inputs of 8-bit pixels, (n, *shape), that differ from each other and are the same at every call."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, *spec.input.shape), np.uint8)
    return torch.from_numpy(pixels).to(torch.float32) / 255


def digests(model: Subject) -> tuple[str, str]:
    """Return digests of the state and of logits."""
    classifier = _classifier(model)
    logits = classifier.logits(inputs(planned(model).entry.spec, BATCH_SIZES[0]))
    return state_digest(classifier.net), hashlib.sha256(logits.numpy().tobytes()).hexdigest()


def _spec(model: Subject) -> ModelSpec:
    """Return the spec with the fields that depend on its options."""
    spec: ModelSpec = model.entry.spec
    return replace(spec, **(model.entry.spec.given(model.params) if spec.given else {}))


def _classifier(model: Subject) -> Classifier:
    return Classifier(built(model), batch_size=BATCH_SIZES[0])


def _gradient(classifier: Classifier, x: Tensor) -> Gradient:
    """Return the gradient of the predicted class's logit."""
    predicted = classifier.decisions(x).clamp(min=0)
    return classifier.gradient(x, predicted, lambda logits, classes: logits.gather(1, classes[:, None])[:, 0])


def _declared(spec: ModelSpec) -> Iterator[tuple[str, File | Download]]:
    """Yield the names and sources of the declared files; the name of a single one is empty."""
    if isinstance(spec.weights, File | Download):
        yield "", spec.weights
    elif isinstance(spec.weights, Mapping):
        yield from spec.weights.items()


def _state(net: nn.Module) -> dict[str, str]:
    """Return a digest of every parameter and buffer, by name."""
    found = {}
    for name, value in [*net.named_parameters(), *net.named_buffers()]:
        bits = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        found[name] = f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(bits.tobytes()).hexdigest()}"
    return found


def _changed(before: dict[str, str], after: dict[str, str]) -> str:
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return f"{', '.join(names[:3])}{' and more' if len(names) > 3 else ''}"
