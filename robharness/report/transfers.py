"""Transfer of attacks between the models of a suite, from the outcomes of both."""

from __future__ import annotations

from robharness import statistics
from robharness.report.details import Transfer
from robharness.statistics.intervals import Bools, EmptySample, Interval
from robharness.store.results import CellResult, Results


class Transfers:
    """The transfer attacks of some results, by the attacked model, the attack and its surrogates."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self._cells = {
            (result.cell.model.label, p.attack, p.surrogates): result
            for result in results.cells
            if (p := result.cell.perturbation) is not None and p.surrogates
        }

    def of(self, result: CellResult) -> Transfer | None:
        """Return the transfer to the model of a cell; None for other cells than those of transfer attacks."""
        p, label = result.cell.perturbation, result.cell.model.label
        if p is None or not p.surrogates:
            return None
        found = Transfer(attack=p.attack, surrogates=p.surrogates)
        if label in p.surrogates:
            return found
        on_surrogates = [self._cells.get((each, p.attack, p.surrogates)) for each in p.surrogates]
        known = [each for each in on_surrogates if each is not None]
        if len(known) < len(on_surrogates):
            return found
        try:
            there = statistics.transfer_rate(*self._fooled(known, result, []))
        except EmptySample:
            return found
        asymmetry, interval = self._asymmetry(known[0], result) if len(known) == 1 else (None, None)
        return Transfer(attack=p.attack, surrogates=p.surrogates, **there._asdict(), asymmetry=asymmetry,
                        asymmetry_interval=interval)  # fmt: skip

    def _asymmetry(self, source: CellResult, target: CellResult) -> tuple[float | None, Interval | None]:
        """Return the rate minus that of the way back, with its interval; None if there is no way back.

        source, target: the cells of the surrogate and of the model, under the attack that is crafted on the surrogate.
        """
        assert target.cell.perturbation is not None
        names = target.cell.model.label, source.cell.model.label
        back = [self._cells.get((name, target.cell.perturbation.attack, names[:1])) for name in names]
        own, other = back
        if own is None or other is None:
            return None, None
        try:
            return statistics.transfer_asymmetry(
                self._fooled([source], target, [own, other]), self._fooled([own], other, [source, target])
            )
        except EmptySample:
            return None, None

    def _fooled(self, sources: list[CellResult], target: CellResult, others: list[CellResult]) -> tuple[Bools, Bools]:
        """Return which examples fool all sources, and which fool the target, as `statistics.transfer_rate` takes them.

        others: cells that must have the examples as well.
        """
        every = [target, *sources, *others]
        cleans = [self.results.clean(result.cell.model.label) for result in (target, *sources)]
        right = self.results.paired([*every, *cleans])
        attacked, clean = right[: len(every)], right[len(every) :]
        fools_sources = ~attacked[1]
        for each in attacked[2 : 1 + len(sources)]:
            fools_sources = fools_sources & ~each
        for each in clean:
            fools_sources = fools_sources & each
        return fools_sources, ~attacked[0]
