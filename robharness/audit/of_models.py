"""Checks of a model: its passes, its logits and its gradients, from the notes of the probe and from provenance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from robharness.audit.records import AuditCheck
from robharness.audit.shares import (
    ALPHA,
    LARGEST_RANGE,
    MOST_STEPS_UP,
    ROUNDING,
    SLOPE,
    not_measured,
    rare,
    share_of,
    verdict,
)
from robharness.audit.subject import Subject

NO_PROBE = "no attack of the role 'probe' has outcomes"
DRAWS = "find what draws random numbers or keeps a state in its forward pass, or average gradients and predictions"
STATE = "find the code that moves them, in the model or in an attack, and put the model into eval mode"
NEIGHBOURS = "find what mixes the examples of a pass, such as BatchNorm without running statistics"
MASKED = (
    "attack it without the step that hides its gradient, replaced by the identity in the backward pass (Athalye et "
    "al., 2018), and by attacks without gradients"
)


def passes_probe(subject: Subject) -> AuditCheck:
    if subject.refusal:
        return verdict("probe", False, subject.refusal, "correct the model; it has no results before")
    if not subject.clean.n:
        return not_measured("probe", "the model has no outcomes yet")
    return verdict("probe", True, "its logits are its own function of each example", "")


def is_deterministic(subject: Subject) -> AuditCheck:
    return _differs(subject, "deterministic", "repeat_difference", "a second pass", DRAWS)


def is_independent(subject: Subject) -> AuditCheck:
    return _differs(subject, "independent", "neighbour_difference", "passes with other neighbours", NEIGHBOURS)


def _differs(subject: Subject, code: str, note: str, where: str, advice: str) -> AuditCheck:
    """Return the check of a note that is a difference of logits over their range, unless the core refused the model."""
    if subject.refutation(code):
        return verdict(code, False, subject.refutation(code), advice)
    notes = _notes(subject, note)
    if notes is None:
        return not_measured(code, subject.lack("probe", NO_PROBE))
    (by,) = notes
    largest = float(by.max())
    figures = f"logits differ by {largest:.2g} of their range at most in {where}, over {len(by)} examples"
    return verdict(code, largest <= ROUNDING, figures, advice, largest=largest, n=len(by))


def is_unchanged(subject: Subject) -> AuditCheck:
    """Report the failures of cells whose model changed; every stored outcome is of an unchanged one."""
    if subject.refutation("unchanged"):
        return verdict("unchanged", False, subject.refutation("unchanged"), STATE)
    cells = [cell for cell in subject.cells if cell.n]
    if not cells:
        return not_measured("unchanged", "the model has no outcomes")
    figures = f"compared after each batch of {len(cells)} cells"
    return verdict("unchanged", True, figures, "", cells=len(cells))


def has_exact_passes(subject: Subject) -> AuditCheck:
    found = [each for each in subject.findings if each.code == "inexact-passes" and each.subject == subject.label]
    clean = subject.clean
    if not clean.n:
        return not_measured("pass-shapes", "the model has no outcomes")
    near = np.abs(clean.columns["margin"]) <= ROUNDING * clean.columns["logit_range"]
    figures = f"{share_of(near)} are so near the boundary that a pass of another shape can change their prediction"
    large = [each for each in found if each.hint != "nothing needs doing"]
    exact = "" if found else "; passes are exact on this device"
    advice = "compare results of one batch size only"
    return verdict("pass-shapes", not large, figures + exact, advice, near=float(near.mean()), n=clean.n)


def has_finite_logits(subject: Subject) -> AuditCheck:
    cells = [cell for cell in subject.cells if cell.n]
    if not cells:
        return not_measured("finite", "the model has no outcomes")
    bad = sum(cell.not_numbers for cell in cells)
    figures = f"{bad} of {sum(cell.n for cell in cells)} outcomes have logits that are not numbers"
    return verdict("finite", not bad, figures, "find the overflow or the division by 0; such examples count as wrong",
                   count=bad)  # fmt: skip


def has_right_outputs(subject: Subject) -> AuditCheck:
    if not subject.clean.n:
        return not_measured("outputs", "the model has no outcomes")
    found = [each for each in subject.findings if each.code == "more-outputs-than-classes"
             and each.subject == subject.label]  # fmt: skip
    figures = found[0].message if found else "no class beyond those of the data"
    return verdict("outputs", not found, figures, found[0].hint if found else "")


def has_moderate_logits(subject: Subject) -> AuditCheck:
    clean = subject.clean
    if not clean.n:
        return not_measured("logit-scale", "the model has no outcomes")
    spans = np.asarray(clean.columns["logit_range"], float)
    median = float(np.median(spans))
    figures = f"the median range of logits is {median:.3g}, over {clean.n} examples"
    advice = "divide the logits by a constant, which changes no prediction; attacks lose their last digits else"
    return verdict("logit-scale", bool(median <= LARGEST_RANGE), figures, advice, median=median, n=clean.n)


def has_loss_gradient(subject: Subject) -> AuditCheck:
    what = "have a gradient of the cross-entropy that underflows to 0"
    advice = "divide the logits by a constant, or attack a margin: attacks on the cross-entropy do nothing here"
    return _rare(subject, "saturation", "underflow", what, advice)


def has_gradients(subject: Subject) -> AuditCheck:
    return _rare(subject, "gradient-zero", "zero_gradient", "have a gradient of 0", MASKED)


def has_finite_gradients(subject: Subject) -> AuditCheck:
    notes = _notes(subject, "nan_gradient")
    if notes is None:
        return not_measured("gradient-finite", subject.lack("probe", NO_PROBE))
    share = share_of(notes[0].astype(bool))
    advice = "find the operation whose derivative is infinite, such as a root at 0"
    figures = f"{share} have a gradient that is not a number"
    return verdict("gradient-finite", not share.found, figures, advice, share=share.value, n=share.n)


def has_fine_resolution(subject: Subject) -> AuditCheck:
    notes = _notes(subject, "blind_step")
    if notes is None:
        return not_measured("resolution", subject.lack("probe", NO_PROBE))
    what = "keep every logit after a step of all pixels"
    if (largest := float(notes[0].max())) > 0:
        what += f" of up to {largest * 255:.3g}/255"
    advice = f"find what rounds inputs or features; {MASKED}"
    return rare("resolution", notes[0] > 0, what, advice)


def has_rising_gradient(subject: Subject) -> AuditCheck:
    notes = _notes(subject, "gradient_rise", "random_rise")
    if notes is None:
        return not_measured("gradient-direction", subject.lack("probe", NO_PROBE))
    rise, other = notes
    share = share_of(rise > other)
    figures = f"a step along the gradient's sign raises the loss more than a random one for {share}"
    return verdict("gradient-direction", share.high >= MOST_STEPS_UP, figures, MASKED, share=share.value, n=share.n)


def has_true_slope(subject: Subject) -> AuditCheck:
    """Compare the median slope with both of its bounds, by a sign test each."""
    notes = _notes(subject, "gradient_rise", "predicted_rise")
    if notes is None:
        return not_measured("gradient-slope", subject.lack("probe", NO_PROBE))
    rise, predicted = notes
    usable = predicted > 0
    if not usable.any():
        return not_measured("gradient-slope", "no example has a gradient that predicts a rise")
    slopes = rise[usable] / predicted[usable]
    median = float(np.median(slopes))
    figures = f"the median loss rises {median:.3g} times as much as predicted, over {int(usable.sum())} examples"
    sides = share_of(slopes < 1 / SLOPE), share_of(slopes > SLOPE)
    passed = all(side.low_at(ALPHA / 2) <= 0.5 for side in sides)
    return verdict("gradient-slope", passed, figures, MASKED, median=median, n=int(usable.sum()))


def _rare(subject: Subject, code: str, note: str, what: str, advice: str) -> AuditCheck:
    notes = _notes(subject, note)
    return (
        not_measured(code, subject.lack("probe", NO_PROBE))
        if notes is None
        else rare(code, notes[0].astype(bool), what, advice)
    )


def _notes(subject: Subject, *names: str) -> list[np.ndarray] | None:
    """Return notes of the probe for the examples that it saw, (n,) float64 each; None without any."""
    probes = subject.added("probe")
    if not probes:
        return None
    columns = [np.asarray(probes[0].columns[name], float) for name in names]
    seen = ~np.isnan(columns).any(axis=0)
    return [column[seen] for column in columns] if seen.any() else None


MODEL_CHECKS: tuple[Callable[[Subject], AuditCheck], ...] = (
    passes_probe,
    is_deterministic,
    is_independent,
    is_unchanged,
    has_exact_passes,
    has_finite_logits,
    has_right_outputs,
    has_moderate_logits,
    has_loss_gradient,
    has_gradients,
    has_finite_gradients,
    has_rising_gradient,
    has_true_slope,
    has_fine_resolution,
)
