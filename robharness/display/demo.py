"""A simulated run for a look at the live view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from robharness.engine.progress import CellProgress, RunProgress
from robharness.store.failures import Failure


def simulated_run(
    models: int, perturbations: int, *, examples: int = 2000, labels: Sequence[str] = (), fails: bool = True
) -> tuple[RunProgress, Iterator[float]]:
    """Return the progress of a run that nothing computes, and its steps.

    fails: whether a cell of the second model fails.
    labels: of at least so many models; of 40 characters by default.
    Each step yields the seconds that the computation of the next cell takes.
    """
    now = [0.0]
    labels = list(labels or map("resnet50-self-supervised-number-{:02}-of-40".format, range(models)))[:models]
    names = ["clean", *(f"pgd(linf, {step}/255, steps=40)" for step in range(1, perturbations))]
    cells = {
        (label, name): CellProgress(
            label=label, passes=1 if name == "clean" else 81, expected=examples, missing=examples
        )
        for label in labels
        for name in names
    }
    progress = RunProgress(cells, clock=lambda: now[0])

    def steps() -> Iterator[float]:
        size = examples // 4
        for number, label in enumerate(labels):
            for start in range(0, examples, size):
                for row, name in enumerate((*names[1:], names[0])):
                    if cells[label, name].failures:
                        continue
                    seconds = cells[label, name].passes * size / 40_000
                    progress.started(label, name)
                    yield seconds
                    now[0] += seconds
                    progress.left(label, name)
                    if fails and number == 1 and row == 2 and start == 0:
                        failure = Failure(
                            start=start, stop=start + size, blame="demo 1.0", error="PGD: a simulated error"
                        )
                        progress.failed(label, name, (start, start + size), failure, is_given_up=True)
                        continue
                    right = int(size * (0.76 - 0.03 * number) * (0.8 ** (row + 1) if name != "clean" else 1))
                    progress.stored(label, name, (start, start + size), right, seconds)
                progress.unit_done(label, 0.0)

    return progress, steps()
