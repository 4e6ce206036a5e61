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

from robharness.evaluation import loading, probe
from robharness.evaluation.classifier import Classifier, Gradient, NoGradient
from robharness.evaluation.digest import state_digest
from robharness.evaluation.rng import global_draws
from robharness.planning.cells import PlannedModel
from robharness.planning.weights import resolve
from robharness.specs import Download, File, ModelSpec
from robharness.suite import Model
from robharness.testing.contract import Broken, Subject
from robharness.testing.fresh import ask

ROWS = (4, 8)
"""Of a pass: multiples of 4, whose rows keep their bits on CPUs; see `loading.batch_size_candidates`."""


def builds(model: Subject) -> None:
    """`build` gives a torch.nn.Module, all of which goes into eval mode."""
    net = built(model).eval()
    training = [place or type(net).__name__ for place, module in net.named_modules() if module.training]
    if training:
        raise Broken(f"after eval() these parts are in training mode: {', '.join(training[:3])}")


def logits_fit_labels(model: Subject) -> None:
    """The network gives finite logits, (N, classes), as many as its label space has."""
    spec = planned(model).entry.spec
    wanted = model.size_of(spec.labels)
    logits = _classifier(model).logits(inputs(spec, ROWS[0]))
    if logits.shape[1] != wanted:
        raise Broken(f"it gives {logits.shape[1]} logits, and '{spec.labels}' has {wanted} classes")
    if not bool(torch.isfinite(logits).all()):
        raise Broken("some of its logits are no finite numbers")


def same_logits_again(model: Subject) -> None:
    """Two passes of one input give the same logits, bit for bit."""
    classifier, x = _classifier(model), inputs(planned(model).entry.spec, ROWS[0])
    first, second = classifier.logits(x), classifier.logits(x)
    if not torch.equal(first, second):
        raise Broken(f"the second pass moved logits by up to {float((first - second).abs().max()):.3g}")


def same_state_again(model: Subject) -> None:
    """Two builds give the same parameters and buffers."""
    first, second = _state(built(model)), _state(built(model))
    if first != second:
        raise Broken(f"two builds differ in {_changed(first, second)}")


def input_gradient(model: Subject) -> None:
    """Every example has a gradient with respect to its input that is finite and not zero."""
    found = _gradient(_classifier(model), inputs(planned(model).entry.spec, ROWS[0])).gradient
    if not bool(torch.isfinite(found).all()):
        raise Broken("the gradient of the predicted class's logit is not finite")
    if not bool(found.flatten(1).any(1).all()):
        raise Broken("the gradient of the predicted class's logit is zero everywhere for some example")


def input_untouched(model: Subject) -> None:
    """A pass leaves its input as it is."""
    net, x = built(model).eval(), inputs(planned(model).entry.spec, ROWS[0])
    before = x.clone()
    with torch.no_grad():
        net(x)
    if not torch.equal(x, before):
        raise Broken(f"it changed {int((x != before).sum())} of {x.numel()} values of its input")


def buffers_unchanged(model: Subject) -> None:
    """Passes in eval mode, with and without gradients, leave parameters and buffers as they are."""
    classifier, x = _classifier(model), inputs(planned(model).entry.spec, ROWS[0])
    before = _state(classifier.net)
    classifier.logits(x)
    with suppress(NoGradient):  # another check's affair
        _gradient(classifier, x)
    after = _state(classifier.net)
    if before != after:
        raise Broken(f"passes changed {_changed(before, after)}")


def draws_nothing(model: Subject) -> None:
    """Neither `build` nor a pass draws from global random generators."""
    built(model)  # what it imports may draw what it likes, once
    with global_draws() as drawn:
        net = built(model).eval()
    if drawn:
        raise Broken(
            f"`build` draws from the global generator of {' and '.join(drawn)}; build under torch.device('meta'), or "
            f"draw from a torch.Generator"
        )
    x = inputs(planned(model).entry.spec, ROWS[0])
    with global_draws() as drawn, torch.no_grad():
        net(x)
    if drawn:
        raise Broken(f"a pass in eval mode draws from the global generator of {' and '.join(drawn)}")


def neighbours_change_nothing(model: Subject) -> None:
    """A row's logits and gradient are the same alone, padded, and among others, bit for bit, in passes of one shape."""
    spec = planned(model).entry.spec
    for rows in ROWS:
        clips = spec.preprocessing and spec.preprocessing.clips
        found = probe.probe(Classifier(built(model), rows=rows), spec.input.shape, clips)
        if found["rows"] and found["gradients"] is not False:
            return
    what = "gradient" if found["rows"] else "logits"
    raise Broken(f"a row's {what} depend on the other rows of a pass, with {' and with '.join(map(str, ROWS))} rows")


def fresh_process(model: Subject) -> None:
    """A fresh process builds the same state, and its logits are the same, bit for bit."""
    (state, logits), (other_state, other_logits) = digests(model), ask(digests, model)
    if state != other_state:
        raise Broken("a fresh process builds other parameters or buffers")
    if logits != other_logits:
        raise Broken("a fresh process gives other logits, from the same parameters and buffers")


def features_are_vectors(model: Subject) -> None:
    """The submodule that `features` names is there, and its output is finite vectors, (N, D) when flat."""
    spec: ModelSpec = planned(model).entry.spec
    if spec.features is None:  # `given` leaves it out for these options
        return
    net = built(model)
    if spec.features not in dict(net.named_modules()):
        children = ", ".join(name for name, _ in net.named_children())
        raise Broken(f"it has no part '{spec.features}'; its parts are {children}")
    found = Classifier(net, rows=ROWS[0], features=spec.features).with_access("features").features(
        inputs(spec, ROWS[0])
    )  # fmt: skip
    if not found.shape[1] or not bool(torch.isfinite(found).all()):
        raise Broken(f"'{spec.features}' gives {tuple(found.shape)}, with values that are no finite numbers")


def licence_stated(model: Subject) -> None:
    """The spec names the licence of the weights."""
    if not _spec(model).licence.strip():
        raise Broken("`licence` is empty; write the one of the weights, e.g. 'Apache-2.0'")


def paper_stated(model: Subject) -> None:
    """The spec names a paper or a page that describes the model."""
    if not _spec(model).paper.strip():
        raise Broken("`paper` is empty; write its address")


def sha256_stated(model: Subject) -> None:
    """Weights that are served somewhere, file by file, have a sha256."""
    for name, file in _declared(_spec(model)):
        if isinstance(file, File):
            served = re.search(rf"\w+://\S*/{re.escape(PurePath(file.path).name)}\b", file.get)
            url = served[0] if served else None  # else it is made, unpacked or asked for
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
    draws_nothing,
    neighbours_change_nothing,
    fresh_process,
    features_are_vectors,
    licence_stated,
    paper_stated,
    sha256_stated,
)
WHEN = {features_are_vectors: lambda spec: spec.features is not None or spec.given is not None}


@lru_cache(maxsize=1)  # checks come spec by spec, and hashing weights takes seconds
def planned(model: Subject) -> PlannedModel:
    """The model with its options read and its weights found, as a plan has it. Raises UserError."""
    entry = replace(model.entry, spec=_spec(model))
    ref = Model(entry=entry, params=model.params, label=str(model), reference=False, weights=model.files)
    return PlannedModel(ref=ref, weights=resolve(entry, model.files, model.data_root), identity={})


def built(model: Subject) -> nn.Module:
    """The network, built anew: no check sees what another one did to it."""
    return loading.build_network(planned(model))


def inputs(spec: ModelSpec, rows: int) -> Tensor:
    """Inputs of 8-bit pixels, all different and the same every time, (rows, *shape)."""
    pixels = np.random.default_rng(0).integers(0, 256, (rows, *spec.input.shape), np.uint8)
    return torch.from_numpy(pixels).to(torch.float32) / 255


def digests(model: Subject) -> tuple[str, str]:
    """Of the state and of logits."""
    classifier = _classifier(model)
    logits = classifier.logits(inputs(planned(model).entry.spec, ROWS[0]))
    return state_digest(classifier.net), hashlib.sha256(logits.numpy().tobytes()).hexdigest()


def _spec(model: Subject) -> ModelSpec:
    """With the fields that its options decide."""
    spec: ModelSpec = model.entry.spec
    return replace(spec, **(model.entry.spec.given(model.params) if spec.given else {}))


def _classifier(model: Subject) -> Classifier:
    return Classifier(built(model), rows=ROWS[0])


def _gradient(classifier: Classifier, x: Tensor) -> Gradient:
    """Of the predicted class's logit."""
    predicted = classifier.decisions(x).clamp(min=0)
    return classifier.gradient(x, predicted, lambda logits, classes: logits.gather(1, classes[:, None])[:, 0])


def _declared(spec: ModelSpec) -> Iterator[tuple[str, File | Download]]:
    if isinstance(spec.weights, File | Download):
        yield "", spec.weights
    elif isinstance(spec.weights, Mapping):
        yield from spec.weights.items()


def _state(net: nn.Module) -> dict[str, str]:
    """What every parameter and buffer is, by name."""
    found = {}
    for name, value in [*net.named_parameters(), *net.named_buffers()]:
        bits = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        found[name] = f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(bits.tobytes()).hexdigest()}"
    return found


def _changed(before: dict[str, str], after: dict[str, str]) -> str:
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return f"{', '.join(names[:3])}{' and more' if len(names) > 3 else ''}"
