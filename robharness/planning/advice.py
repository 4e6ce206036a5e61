"""Advice on a suite before it runs: settings that are legal and often unintended."""

from __future__ import annotations

from fractions import Fraction

from robharness.planning.cells import BLOCK
from robharness.planning.identity import call_plugin
from robharness.suite import Suite

HALF_A_LEVEL = Fraction(1, 510)
"""Half of the difference between two of 256 grey levels."""


def advice(suite: Suite) -> list[str]:
    """Return one sentence for each setting of the suite that a user may not expect, including the plugins' advice."""
    warnings = []
    sizes = sorted({"x".join(map(str, model.entry.spec.input.shape[1:])) for model in suite.models})
    norms = sorted({p.norm for p in suite.perturbations if p.norm in ("l2", "l1")}, key=str)
    corrupts = any(p.kind == "corruption" for p in suite.perturbations)
    if len(sizes) > 1 and norms:
        warnings.append(
            f"models of different input sizes ({', '.join(sizes)}) stand in one table under {' and '.join(norms)}: "
            f"the same eps is a smaller change per pixel of a larger input"
        )
    if len(sizes) > 1 and corrupts and suite.reference:
        warnings.append(f"slopes compare models of different input sizes ({', '.join(sizes)})")
    rendered = any(p.kind == "corruption" and not p.is_stored for p in suite.perturbations)
    if rendered and suite.baseline is not None and not isinstance(suite.baseline, str) and suite.compat == "none":
        warnings.append(
            f"corruptions are rendered without JPEG encoding, but the errors of {suite.baseline.name} were measured on "
            f"JPEG files: an mCE is not comparable with published ones. To encode them: write `compat: imagenet-c`"
        )
    if corrupts and suite.reference is None:
        warnings.append("no slopes: no model is marked `reference: true`")
    invisible = [p.name for p in suite.perturbations if p.norm == "linf" and p.eps and p.eps < HALF_A_LEVEL]
    judged = all(p.eight_bit for p in suite.perturbations if p.name in invisible)
    if invisible:
        warnings.append(
            f"{', '.join(invisible)}: less than half a grey level, 0.5/255, so rounding to 8 bits removes it: "
            f"such inputs exist in floating point only{'' if judged else '; eight_bit: true judges them rounded, too'}"
        )
    for p in suite.perturbations:
        if p.surrogate is not None:
            warnings.append(
                f"{p.name}: an attack that stops as soon as {p.surrogate.label} is wrong changes inputs little and "
                f"rarely fools another model; prefer options that use all steps, such as keep: last"
            )
    if suite.precision.gradient != "same":
        warnings.append(
            f"attacks take gradients in {suite.precision.gradient}, and predictions are judged in "
            f"{suite.precision.judge}: attacks may be weaker than with gradients in {suite.precision.judge}"
        )
    for perturbation in suite.perturbations:
        spec = perturbation.entry.spec
        if perturbation.kind == "attack" and spec.advise is not None:
            advice = call_plugin(perturbation.entry, spec.advise, perturbation.params, perturbation.eps)
            warnings += [f"{perturbation.name}: {line}" for line in advice]
        if spec.randomness == "global":
            warnings.append(f"{perturbation.name}: uses global random generators, seeded per block of {BLOCK} examples")
    return list(dict.fromkeys(warnings))
