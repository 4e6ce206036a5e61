"""One pipeline for all verbs, of the command line and of Python: discover, plan, require, train, compute, load."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robharness import suite as suites
from robharness.engine.environment import check_counts, check_device_names, check_devices, check_shard
from robharness.engine.executors.base import AnyExecutor
from robharness.engine.executors.processes import release_processes
from robharness.engine.executors.registered import find_executor
from robharness.engine.listeners import RunListener, Silent, show_finding
from robharness.engine.run import choose_executor, run_plan
from robharness.engine.summary import Summary
from robharness.errors import FetchError, StoreError, UserError, check_folder, indented
from robharness.fetching.needs import by_hint, can_be_fetched
from robharness.fetching.records import Fetched, FetchListener
from robharness.findings import Finding
from robharness.live import live_model
from robharness.locations import Location, absolute, store_location
from robharness.planning import planner
from robharness.planning.cells import Plan
from robharness.planning.commands import DEFAULT_STORE, data_root, plan_options
from robharness.planning.outlining import outline
from robharness.planning.request import PlanRequest
from robharness.plugins.discovery import discover
from robharness.plugins.observers import RUN_FINISHED, announce, observe
from robharness.plugins.process import current_folder
from robharness.plugins.registry import Registry
from robharness.report.notifications import CellNotifications, run_started
from robharness.report.results import Results
from robharness.specs.records import ModelSpec
from robharness.store import Store, results
from robharness.store.artefacts import planned_with_artefacts
from robharness.store.listing import check_folders
from robharness.store.suites import record_suite
from robharness.suite.settings import Overrides, as_settings
from robharness.text import counted
from robharness.training.train import TrainingResult, train_models, untrained

if TYPE_CHECKING:
    from torch import nn

SuiteSource = str | Path | Mapping[str, Any]
"""A YAML file, or its content as a mapping."""


def plan_suite(
    suite: SuiteSource,
    registry: Registry,
    *,
    store: str | Location = DEFAULT_STORE,
    data: str | Path | None = None,
    limit: int | None = None,
    models: Mapping[str, nn.Module | ModelSpec] | None = None,
    overrides: Overrides = None,
) -> Plan:
    """Read a suite and plan its cells; compute nothing.

    models: live networks by label, added to the suite's models.
    overrides: values that are set in the suite.
    Raises SuiteError for a suite that is wrong. Resources that are not on this machine are in `Plan.missing`.
    """
    if "" in (store, data):
        raise UserError("the path of the store or of the folder of data is empty. Try: '.' for the working directory")
    root = data_root(data)
    place = store_location(store)
    check_folder(root, "the folder of data")
    if models is not None and not (isinstance(models, Mapping) and all(isinstance(label, str) for label in models)):
        raise UserError('`models` is a mapping of labels to networks. Try: models={"mine": net}')
    options = plan_options(current_folder(), store=place, root=root, limit=limit)
    words = tuple(chain.from_iterable(options.items()))
    settings = as_settings(overrides)
    loaded = suites.load(suite, registry, models_follow=bool(models), options=words, settings=settings)
    place = absolute(place)
    if models:
        loaded, findings = _with_live_models(loaded, models, registry, root)
        # another process could not plan it again
        planned = planned_with_artefacts(lambda: planner.plan(loaded, root, limit, place), place)
        return dataclasses.replace(planned, findings=(*planned.findings, *findings))
    planned = planned_with_artefacts(lambda: planner.plan(loaded, root, limit, place), place)
    request = PlanRequest(
        suite=suite,
        data_root=root,
        limit=limit,
        options=registry.options,
        working_directory=loaded.working_directory,
        settings=settings,
    )
    return dataclasses.replace(planned, request=request)


def _with_live_models(
    loaded: suites.Suite, models: Mapping[str, nn.Module | ModelSpec], registry: Registry, root: Path
) -> tuple[suites.Suite, list[Finding]]:
    added = [live_model(label, model, loaded, registry, root) for label, model in models.items()]
    live = tuple(model for model, _ in added)
    taken = sorted({model.label for model in loaded.models} & set(models))
    if taken:
        raise UserError(
            f"the suite already has a model with the label '{taken[0]}'. Try: another label for the network"
        )
    loaded = dataclasses.replace(loaded, models=loaded.models + live, has_command=False)
    reasons = [why for metric in loaded.metrics for model in live if (why := suites.unrepresented(metric, model))]
    if reasons:
        raise UserError(f"{reasons[0]}; give a ModelSpec with `features` instead of a network")
    return loaded, [each for _, findings in added for each in findings]


def require(planned: Plan) -> None:
    """Raise a UserError with all resources that are missing, before any computation.

    Those that a person gets in the same way stand in one line. A note of the error is the command that fetches them.
    """
    errors = by_hint(planned.missing)
    if not errors:
        return
    error = errors[0]
    if len(errors) > 1:
        error = UserError(*indented([f"{len(errors)} resources are missing:", *map(str, errors)]))
    note = f"Try: {planned.command('fetch')}"
    if any(map(can_be_fetched, errors)) and note not in getattr(error, "__notes__", ()):
        error.add_note(note)
    raise error


def fetched_plan(planned: Plan, listener: RunListener, *, mirror: str | None = None) -> Plan:
    """Fetch what a plan misses, and return the new plan. Raises FetchError for what cannot be fetched.

    mirror: see `Fetcher`.
    """
    from robharness.fetching.fetch import Fetcher, fetch_missing

    shown = listener if isinstance(listener, FetchListener) else Silent()
    planned, found = fetch_missing(planned, Fetcher(planned.data_root, shown, mirror=mirror))
    require_fetched(found, planned.command("fetch"))
    for each in found:
        listener.message(f"fetched {each.need.what}")
    return planned


def require_fetched(found: Iterable[Fetched], command: str) -> None:
    """Raise a FetchError for what could not be fetched, if there is anything.

    command: the command line that tries again.
    """
    failed = [f"{each.need.what}: {each.error}" for each in found if each.error]
    if failed:
        heading = f"{counted(len(failed), 'resource', 'resources')} could not be fetched:"
        error = FetchError(*indented([heading, *failed]))
        error.add_note(f"What has come is kept. Try: {command}")
        raise error


@dataclass(kw_only=True)
class Session:
    """Registry, plan, store and devices of the work on one suite.

    registry: the plugins.
    plan: the plan of the whole suite; `train` refreshes it.
    store: the folder of results.
    listener: shows progress and messages.
    only: a glob of cells, see `Plan.only`.
    shard: (i, k), the i-th of k parts of the examples, from 1.
    device: as torch names devices, several with commas between.
    threads: of the CPU, per process; chosen if None.
    stop_at_failure: whether the first failed cell or training ends the session's work.
    findings: of the runs and observers of this session.
    """

    registry: Registry
    plan: Plan
    store: Store
    listener: RunListener = field(default_factory=Silent)
    only: str | None = None
    shard: tuple[int, int] | None = None
    device: str = "cpu"
    threads: int | None = None
    stop_at_failure: bool = False
    findings: list[Finding] = field(default_factory=list)
    _has_failed_training: bool = False
    _shown: set[Finding] = field(default_factory=set)

    @classmethod
    def open(
        cls,
        suite: SuiteSource,
        *,
        store: str | Location = DEFAULT_STORE,
        data: str | Path | None = None,
        limit: int | None = None,
        plugins: Sequence[str] = (),
        models: Mapping[str, nn.Module | ModelSpec] | None = None,
        registry: Registry | None = None,
        overrides: Overrides = None,
        is_complete: bool = True,
        fetch: bool = False,
        **options: Any,
    ) -> Session:
        """Discover the plugins and plan the suite.

        registry: in place of discovering `plugins`.
        overrides: values that are set in the suite.
        is_complete: whether data and weights are required. Without them, a session can show its plan and fetch.
        fetch: whether missing data and weights are fetched first.
        options: the fields of the session.
        Raises SuiteError for a suite that is wrong, and UserError if data or weights are missing, or for a count or a
        device that no machine has.
        """
        check_counts(limit=limit, threads=options.get("threads"))
        check_shard(options.get("shard"))
        check_device_names(options.get("device", cls.device))
        registry = registry or discover(plugins)
        planned = plan_suite(suite, registry, store=store, data=data, limit=limit, models=models, overrides=overrides)
        if fetch:
            planned = fetched_plan(planned, options.get("listener") or Silent())
        if is_complete:
            require(planned)
        return cls(registry=registry, plan=planned, store=Store(store_location(store)), **options)

    @cached_property
    def devices(self) -> list[str]:
        """The devices. Raises UserError for a device that torch does not find."""
        return check_devices(self.device)

    def find_workers(self, executor: str | None) -> tuple[AnyExecutor | None, list[str]]:
        """Return the executor with this name, None for the default one, and the devices of its workers.

        Raises UserError for an executor that cannot be used, and for a device that torch does not find. Devices of
        other machines are not looked for.
        """
        found = find_executor(executor, self.registry) if executor else None
        is_local = found is None or found.is_local
        return found, self.devices if is_local else check_device_names(self.device)

    @property
    def selected(self) -> Plan:
        """The part of the plan that `only` and `shard` select."""
        selected = self.plan.only(self.only) if self.only else self.plan
        return selected.shard(*self.shard) if self.shard else selected

    def forget(self, pattern: str) -> None:
        """Remove the stored outcomes of the selected cells that match the glob."""
        store = self.store.listed()
        store.map(store.forget, [cell.key for cell in self.selected.only(pattern).cells])

    def train(self) -> list[TrainingResult]:
        """Train the models that selected cells wait for, and refresh the plan; one record per model that is trained.

        Raises Interrupted after Ctrl-C, UserError for a shard, which cannot train, StoreError for a store that can hold
        no results.
        """
        check_folders(self.store)
        pending = bool(self.selected.pending_cells)
        if pending and self.shard:
            raise untrained(self.selected)
        trained = train_models(
            self.selected, self.store, self.listener,
            device=self.devices[0], threads=self.threads, stop_at_failure=self.stop_at_failure,
        )  # fmt: skip
        self._has_failed_training = any(result.error for result in trained)
        if pending:
            self.plan = planner.refresh(self.plan)
            require(self.plan)
        return trained

    def compute(
        self, *, workers: int | None = None, batch_size: int | None = None, executor: str | None = None
    ) -> Summary:
        """Train the missing models, and compute the selected outcomes that the store misses.

        workers: their number; see `run_plan`.
        batch_size: examples per pass; chosen if None.
        executor: the name of the executor that starts the workers; see `find_executor` and `run_plan`.
        Raises UserError for an executor that cannot be used.

        Plugins are notified that the run begins and of each cell that becomes complete. If the run is interrupted or
        fails, they are also notified that it ended; else `results` does so.
        """
        check_counts(workers=workers, batch_size=batch_size)
        found, devices = self.find_workers(executor)  # before any training: a mistyped name costs no time
        chosen = choose_executor(self.selected, devices, workers, found)
        check_folders(self.store)
        with self._notified(workers=workers, executor=executor):
            if self.selected.pending_cells:
                release_processes()  # a training may take hours
                self.train()
            self._record()
            if not self.selected.cells or (self._has_failed_training and self.stop_at_failure):
                return Summary()
            cells = CellNotifications(self.plan, self.store, self.registry)
            summary = run_plan(
                self.selected, self.store, self.listener,
                devices=devices, workers=workers, threads=self.threads, batch_size=batch_size,
                stop_at_failure=self.stop_at_failure, executor=chosen, observe_cell=cells,
            )  # fmt: skip
            self.findings += summary.findings
            self._shown |= {*summary.findings}
            self._show(cells.finish())
            if summary.interrupted:
                self.notify_end()
        return summary

    @contextmanager
    def _notified(self, **options: str | int | None) -> Iterator[None]:
        """Notify plugins that the run begins, and of its end if it fails; after a second Ctrl-C it stops at once."""
        options |= {
            "only": self.only,
            "shard": "/".join(map(str, self.shard)) if self.shard else None,
            "device": self.device,
            "robharness": version("robharness"),
        }
        self._show(announce(run_started(self.selected, self.store, options), self.registry))
        try:
            yield
        except Exception:
            with suppress(UserError):  # the store may be what failed
                self.notify_end()
            raise

    def notify_end(self) -> None:
        """Notify plugins that the run ended, as `results` does. Nothing is read if no plugin observes that."""
        if self.registry.observers[RUN_FINISHED]:
            self._show(observe(self.results(), self.registry))

    def _show(self, findings: Sequence[Finding]) -> None:
        """Show findings now, and keep them for the report."""
        self.findings += findings
        self.show_findings(findings)

    def _record(self) -> None:
        """Write the record of the suite, by which the store alone is enough for a report."""
        is_computed = self.incomplete_cells > 0
        try:
            record_suite(self.store, outline(self.plan), is_computed=is_computed)
        except StoreError:
            if is_computed:  # else nothing needs to be written, and the store may be one to read only
                raise

    def show_findings(self, findings: Iterable[Finding]) -> None:
        """Show findings to the listener, those of this session's runs excepted, which it has seen."""
        for found in findings:
            if found not in self._shown:
                show_finding(self.listener, found)
                self._shown.add(found)

    def results(self, *, notify: bool = False, confidences: bool = False) -> Results:
        """Load the stored results of the whole suite, complete or not.

        notify: whether the hooks `robharness_run_finished` of plugins get the results.
        confidences: see `robharness.store.results.load`.
        """
        loaded = results.load(self.plan, self.store, confidences=confidences)
        found = Results.with_report(loaded, self.registry, tuple(self.findings))
        if not notify:
            return found
        self.findings += observe(found, self.registry)
        return dataclasses.replace(found, run_findings=tuple(self.findings))

    @property
    def incomplete_cells(self) -> int:
        """The number of selected cells that are not complete, those that wait for a training included."""
        start, stop = self.selected.span
        store = self.store.listed()
        missing = sum(bool(store.missing(cell.key, stop, start)) for cell in self.selected.cells)
        return missing + len(self.selected.pending_cells)
