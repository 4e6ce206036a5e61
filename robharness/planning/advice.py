"""Advice on a suite before it runs: settings that are legal and often unintended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from robharness.findings import Finding, finding, named_examples
from robharness.planning.cells import BLOCK
from robharness.planning.identity import call_plugin
from robharness.planning.names import labels_by_value
from robharness.plugins.calls import call_spec, returned, shown
from robharness.specs.protocols import Dataset
from robharness.suite import Perturbation, Suite
from robharness.text import printable, quoted_commands

HALF_A_LEVEL = Fraction(1, 510)
"""Half of the difference between two of 256 grey levels."""


def advice(suite: Suite) -> Iterator[Finding]:
    """Yield what a reader of the suite's numbers must know before they are computed."""
    yield from _protocols(suite)
    yield from _input_sizes(suite)
    yield from _corruptions(suite)
    yield from _budgets(suite)
    if suite.precision.gradient != "same":
        yield finding(
            "gradient-precision",
            f"attacks take gradients in {suite.precision.gradient}, and predictions are judged in "
            f"{suite.precision.judge}: attacks may be weaker than with gradients in {suite.precision.judge}",
        )
    yield from _transfer(suite)
    yield from _audit(suite)
    distinct: dict[str, Perturbation] = {}
    for perturbation in suite.perturbations:
        distinct.setdefault(replace(perturbation, surrogates=()).name, perturbation)
    for perturbation in distinct.values():
        yield from _perturbation(perturbation)


def data_remarks(name: str, dataset: Dataset) -> Iterator[Finding]:
    """Yield a finding per remark of an opened data set.

    name: of the data set, with its split.
    """
    for remark in remarks_of(dataset):
        yield finding("data-remark", quoted_commands(remark), subject=name)


def remarks_of(dataset: Dataset) -> list[str]:
    """Return the sentences of the optional attribute `remarks`. May raise whatever a plugin raises.

    Raises TypeError for remarks that are no texts.
    """
    remarks = getattr(dataset, "remarks", ())
    found = [remarks] if isinstance(remarks, str) else list(remarks)
    if wrong := [remark for remark in found if not isinstance(remark, str)]:
        raise TypeError(f"its `remarks` hold {shown(wrong[0])}, not a sentence")
    return found


def _protocols(suite: Suite) -> Iterator[Finding]:
    """Yield a finding for classifiers of different protocols in one table; a model without a protocol is none."""
    shared = {model.label: model.run_of or model.label for model in suite.models}
    found = labels_by_value({shared[label]: protocol for label, protocol in suite.protocols.items()})
    if len(found) > 1:
        listed = "; ".join(f"{quoted_commands(printable(name))}: {labels}" for name, labels in found.items())
        yield finding(
            "mixed-protocols",
            f"classifiers of different protocols stand in one table ({listed}): a protocol can move robust accuracy by "
            f"more than the models differ",
            hint="compare models of one protocol, or give all of them the same head",
        )


def _input_sizes(suite: Suite) -> Iterator[Finding]:
    sizes = sorted({"x".join(map(str, model.entry.spec.input.shape[1:])) for model in suite.models})
    norms = sorted({p.measure.name for p in suite.perturbations if p.measure and p.measure.grows})
    if len(sizes) > 1 and norms:
        yield finding(
            "input-sizes-differ",
            f"models of different input sizes ({', '.join(sizes)}) stand in one table under {' and '.join(norms)}: "
            f"the same eps is a smaller change per pixel of a larger input",
        )
    if len(sizes) > 1 and suite.reference and any(p.kind == "corruption" for p in suite.perturbations):
        message = f"slopes compare models of different input sizes ({', '.join(sizes)})"
        yield finding("slope-input-sizes-differ", message)


def _corruptions(suite: Suite) -> Iterator[Finding]:
    corruptions = [p for p in suite.perturbations if p.kind == "corruption"]
    has_published_baseline = suite.baseline is not None and not isinstance(suite.baseline, str)
    if has_published_baseline and suite.compat == "none" and any(not p.is_stored for p in corruptions):
        yield finding(
            "images-not-encoded",
            f"corruptions are rendered without JPEG encoding, but the errors of {suite.baseline.name} were measured on "  # type: ignore[union-attr]
            f"JPEG files: an mCE is not comparable with published ones",
            hint="to encode them: write `compat: imagenet-c`",
        )
    if corruptions and suite.reference is None:
        yield finding("no-reference", "no slopes: no model is marked `reference: true`")


def _budgets(suite: Suite) -> Iterator[Finding]:
    small = [p for p in suite.perturbations if p.norm == "linf" and p.eps and p.eps < HALF_A_LEVEL]
    if small:
        is_rounded = all(p.eight_bit for p in small)
        yield finding(
            "budget-below-half-level",
            "less than half a grey level, 0.5/255, so rounding to 8 bits removes it: such inputs exist in floating "
            "point only",
            subject=", ".join(p.name for p in small),
            hint="" if is_rounded else "eight_bit: true judges the rounded inputs, too",
        )


def _transfer(suite: Suite) -> Iterator[Finding]:
    """Yield one finding for each transfer attack that may stop early, whatever its surrogates and budgets."""
    attacks: dict[str, list[Perturbation]] = {}
    for perturbation in suite.perturbations:
        if perturbation.surrogates and not call_plugin(perturbation.entry, _runs_to_end, perturbation):
            attacks.setdefault(replace(perturbation, surrogates=()).title, []).append(perturbation)
    for title, some in attacks.items():
        sources = list(dict.fromkeys(perturbation.source for perturbation in some))
        yield finding(
            "transfer-stops-early",
            f"an attack that stops as soon as {sources[0] if len(sources) == 1 else 'its source'} is wrong changes "
            f"inputs little and rarely fools another model",
            subject=some[0].name if len(some) == 1 else f"{title} from {named_examples(sources)}",
            hint="prefer options that use all steps, such as keep: last",
        )


def _audit(suite: Suite) -> Iterator[Finding]:
    """Yield a finding for the attacks of an audit that do not take the inputs of every model."""
    kinds = {model.entry.spec.input.kind for model in suite.models}
    unfit = suite.unfit_audit_attacks
    crafted = {p.name for p in unfit if p.surrogates and kinds <= p.entry.spec.inputs}
    if crafted:
        sizes = labels_by_value(
            {model.label: "x".join(map(str, model.entry.spec.input.shape)) for model in suite.models}
        )
        listed = "; ".join(f"{size}: {labels}" for size, labels in sizes.items())
        reason = f"inputs ({listed})" if len(sizes) > 1 else "preprocessing"
        yield finding(
            "audit-attacks-left-out",
            f"the audit has no attacks that are crafted on another model, since the models differ in their {reason}",
            hint="audit models of the same inputs and preprocessing in a suite of their own",
        )
    if others := [p.name for p in unfit if p.name not in crafted]:
        verb = "it does" if len(others) == 1 else "they do"
        inputs = " and ".join(f"{kind}s" for kind in sorted(kinds))
        message = f"left out of the audit, since {verb} not take {inputs}"
        yield finding("audit-attacks-left-out", message, subject=named_examples(others))


def _runs_to_end(perturbation: Perturbation) -> bool:
    """Return whether an attack is known to go on after the model is wrong. Raises TypeError for other values."""
    function = perturbation.entry.spec.runs_to_end
    return function is not None and returned("runs_to_end", call_spec(function, perturbation.params), bool)


def _advised(perturbation: Perturbation) -> list[str]:
    """Return the sentences of an attack's plugin. Raises TypeError if the plugin returned something else."""
    lines = call_spec(perturbation.entry.spec.advise, perturbation.params, perturbation.eps)
    found = [] if isinstance(lines, str) else list(lines)  # once, as it may be a generator
    if isinstance(lines, str) or not all(isinstance(line, str) for line in found):
        raise TypeError(f"its function `advise` returned {shown(lines)}, not a sequence of sentences")
    return found


def _travel(perturbation: Perturbation) -> Fraction | None:
    """Return the length of all steps of an attack. Raises TypeError if the plugin returned something else."""
    length = call_spec(perturbation.entry.spec.travel, perturbation.params, perturbation.eps)
    if length is not None and (isinstance(length, bool) or not isinstance(length, float | int | Fraction)):
        raise TypeError(f"its function `travel` returned {shown(length)}, not a number or None")
    return None if length is None else Fraction(length)


def _perturbation(perturbation: Perturbation) -> Iterator[Finding]:
    entry, name = perturbation.entry, perturbation.name
    if perturbation.kind == "attack" and entry.spec.travel is not None and perturbation.eps:
        length = call_plugin(entry, _travel, perturbation)
        if length is not None and length < perturbation.eps:
            yield finding(
                "steps-too-short",
                f"its steps reach at most {float(length / perturbation.eps):.3g} eps, so they cannot reach the edge of "
                f"the ball from the input",
                subject=name,
                hint="more steps, or larger ones",
            )
    if perturbation.kind == "attack" and entry.spec.advise is not None:
        for line in call_plugin(entry, _advised, perturbation):
            yield finding("attack-advice", quoted_commands(line), subject=name)
    if entry.spec.randomness == "global":
        message = f"uses global random generators, seeded per block of {BLOCK} examples"
        yield finding("global-randomness", message, subject=name)
