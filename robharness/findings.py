"""Findings: facts beside the numbers that a reader of results must know, each with a code.

Everything that warns produces findings: the plan, the store, a run, a report, plugins. Reports show them as sentences,
the JSON has their codes, and gates filter by code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from robharness.text import COMMAND_LENGTH, SENTENCE_LENGTH, printable, quoted_commands, sentence

Severity = Literal["error", "warning", "note"]
MAX_NAMED_EXAMPLES = 5
"""The number of examples that a message names."""

CODES: dict[str, tuple[Severity, str]] = {
    # the plan
    "input-sizes-differ": ("warning", "one table holds models of different input sizes under l2 or l1"),
    "mixed-protocols": ("warning", "one table holds models whose classifiers were fitted by different protocols"),
    "slope-input-sizes-differ": ("warning", "slopes compare models of different input sizes"),
    "images-not-encoded": ("warning", "corruptions lack the JPEG encoding of the files that a published mCE is of"),
    "canvas-rescales": ("warning", "images are enlarged by the canvas, or scaled between the canvas and a model"),
    "corruption-does-not-fit": ("error", "a corruption does not take images of this size or with so many channels"),
    "no-reference": ("warning", "no model is the reference, so there are no slopes"),
    "budget-below-half-level": ("warning", "rounding to 8 bits undoes perturbations of this budget"),
    "transfer-stops-early": ("warning", "a transfer attack may stop as soon as its surrogate is wrong"),
    "gradient-precision": ("warning", "attacks take gradients in a lower precision than verdicts"),
    "steps-too-short": ("warning", "the steps of an attack cannot reach the edge of its ball"),
    "attack-advice": ("warning", "an attack plugin advises against its options"),
    "global-randomness": ("warning", "a perturbation draws from global random generators"),
    "audit-attacks-left-out": ("note", "the audit lacks attacks that do not take the inputs of every model"),
    "classes-absent": ("warning", "the data have some of the classes of their label space alone"),
    "data-remark": ("warning", "a data set remarks on its examples, e.g. on files that it leaves out"),
    # trainings
    "training-failed": ("error", "the training of a model failed"),
    "not-trained": ("warning", "cells wait for the training of their models"),
    "training-code-changed": ("warning", "a model was trained by other code than its plugin has now"),
    # cells
    "cell-failed": ("error", "a cell has no outcomes for some examples, because a plugin, a model or data failed"),
    "clean-accuracy-too-low": ("error", "a model is below the clean accuracy that the suite demands"),
    "clean-accuracy-uncertain": (
        "warning",
        "a model is below the clean accuracy that the suite demands, on too few examples to tell",
    ),
    "unreadable-examples": ("warning", "examples cannot be read; they count as wrong in every cell"),
    "logits-not-finite": ("warning", "logits of some examples are not numbers; the examples count as wrong"),
    "attack-alarm": ("warning", "an attack reports examples that it could not attack properly"),
    "audit-failed": ("warning", "a check of the audit failed, so that a number may say less than it seems to"),
    "weaker-iterated-attack": ("warning", "an iterated attack is weaker than a single step of the same budget"),
    # how outcomes were computed
    "inexact-passes": ("note", "rounding in a pass depends on other examples in the pass"),
    "state-restored": ("note", "a plugin changed a mode of torch or the state of the process, which was put back"),
    "input-written": ("note", "a model writes into its input, and is measured on copies"),
    "more-outputs-than-classes": ("warning", "a model has more outputs than the data have classes"),
    "left-over": ("note", "a checkpoint has tensors that the network does not use, such as heads of its training"),
    "live-not-identified": ("warning", "a live network cannot be identified, so that its outcomes are never reused"),
    "code-changed": ("warning", "outcomes were computed by other code than the plugins have now"),
    "runtime-changed": ("warning", "some outcomes were computed in another environment than this run's"),
    "library-versions-differ": ("warning", "outcomes of a model were computed with several versions of a library"),
    "mixed-runtime": ("warning", "parts of one cell were computed in different environments"),
    "several-networks": ("warning", "outcomes under one name come from different networks"),
    "batch-size-reduced": ("warning", "memory was too small for the batch size of a pass"),
    # the run
    "worker-waits": ("note", "a worker waits for a machine that it can compute on"),
    "worker-died": ("warning", "a worker died; another worker computes its unit"),
    "worker-not-replaced": ("warning", "a dead worker could not be replaced; the run goes on with fewer workers"),
    "worker-not-closed": ("warning", "the executor of a plugin could not end a worker"),
    "worker-cannot-load": ("warning", "one of the workers cannot load a model that others can load"),
    "outcomes-disappeared": ("warning", "stored outcomes disappeared during the run and are computed again"),
    # the store
    "part-damaged": ("warning", "a file of outcomes is damaged and set aside; its outcomes are missing"),
    "outcomes-differ": ("warning", "files of one cell overlap and hold different predictions"),
    "record-damaged": (
        "warning",
        "a file that describes a cell, a suite, a failure or a submission is damaged; no number depends on it",
    ),
    "no-fsync": ("warning", "the file system of the store has no fsync"),
    "no-locks": ("warning", "the file system of the store has no locks"),
    # numbers and plugins
    "few-examples": ("warning", "slopes come from few examples"),
    "confidences-missing": ("note", "an earlier version stored outcomes without confidences, which calibration needs"),
    "details-left-out": ("note", "calibration and accuracy per class are not computed, since there are many outcomes"),
    "no-mce": ("warning", "a corruption error is no mCE, although the suite names a published table"),
    "metric-failed": ("error", "a metric of a plugin raised an exception"),
    "metrics-not-computed": ("warning", "a report from a store alone lacks the metrics that plugins compute"),
    "metric-unavailable": ("warning", "a metric has no number for a model"),
    "no-gallery": ("note", "a report has no gallery, since the store alone has no images"),
    "gallery-failed": ("warning", "examples of a cell could not be computed again for the gallery"),
    "gallery-left-out": ("note", "a perturbation is not in the gallery, since its examples take too many passes"),
    "gallery-differs": ("warning", "examples of the gallery have another prediction than the stored one"),
    "observer-failed": ("warning", "a plugin raised an exception, or took too long, when it was told of a run"),
    "figures-failed": ("warning", "a plugin raised an exception when it drew figures"),
    # comparisons
    "cells-incomplete": ("warning", "cells of a comparison lack outcomes"),
    "cells-on-one-side": ("warning", "cells that one side of a comparison lacks are not compared"),
    "models-on-one-side": ("note", "models that one side of a comparison lacks are not compared"),
    "n-differs": ("warning", "cells have other examples on the two sides; those that both have are compared"),
    "examples-matched": ("note", "examples stand at other positions on the two sides, and are matched by their ids"),
    "examples-not-known": ("warning", "the ids of examples are not known; equal positions are compared"),
    "conditions-differ": ("warning", "the data, the perturbation or the precision of cells differ between the sides"),
    "conditions-unknown": ("warning", "the data, the perturbation or the precision of cells are not known on a side"),
    "environments-differ": ("warning", "the sides were computed on other devices, or by other code or libraries"),
    "distances-not-compared": ("note", "attacks without a budget are not compared, since their result is a distance"),
    "clusters-unknown": ("warning", "a comparison cannot use the clusters of the suite, since no side has ids"),
    "clusters-unmatched": ("warning", "some ids of examples do not match the clusters of the suite"),
}
"""code -> its severity and its meaning."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A fact that a reader of results must know.

    code: one of `CODES`.
    severity: "error" if cells or numbers are missing or invalid, "warning" if numbers must be read with care, "note" if
        nothing, or little, needs doing.
    subject: the model, cell, metric or plugin that the finding is about; empty for the suite as a whole.
    message: what was found and why it matters, without the subject.
    hint: what to do about it; may be empty.
    """

    code: str
    severity: Severity
    subject: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        """Return one line of visible characters: subject, message, hint."""
        message = sentence(self.message)
        message = f"{printable(self.subject, SENTENCE_LENGTH)}: {message}" if self.subject else message
        return f"{message}; {printable(self.hint, COMMAND_LENGTH)}" if self.hint else message


def finding(code: str, message: str, *, subject: str = "", hint: str = "") -> Finding:
    """Return a finding with the severity of its code. Raises KeyError for a code that is not in `CODES`."""
    return Finding(code=code, severity=CODES[code][0], subject=subject, message=message, hint=hint)


def named_examples(ids: Sequence[str], reasons: Mapping[str, str] | None = None) -> str:
    """Return up to `MAX_NAMED_EXAMPLES` ids as text, and the number of the others.

    reasons: id -> the reason why the example cannot be read, shown in brackets.
    """
    named = []
    for id in ids[:MAX_NAMED_EXAMPLES]:
        reason = (reasons or {}).get(id, "")
        named.append(f"{printable(id)} ({quoted_commands(printable(reason))})" if reason else printable(id))
    more = len(ids) - MAX_NAMED_EXAMPLES
    return f"{', '.join(named)}{f' and {more} more' if more > 0 else ''}"


def sentences(findings: Iterable[Finding], severity: Severity) -> tuple[str, ...]:
    """Return the findings of one severity as sentences, each sentence once."""
    return tuple(dict.fromkeys(str(each) for each in findings if each.severity == severity))
