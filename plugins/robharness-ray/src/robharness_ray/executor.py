"""The executor that starts workers as actors of Ray and waits for their events."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from robharness import UserError
from robharness.engine.executors import (
    Event,
    Plan,
    StartMessage,
    Store,
    Unit,
    WorkerConfig,
    WorkerDied,
    WorkerFailed,
    WorkerWaits,
)
from robharness_ray.actor import WorkerActor

POLL_SECONDS = 0.2
"""The longest wait for events, after which the main process notices Ctrl-C."""
CONNECT_SECONDS = 5.0
"""The longest wait for an answer from $RAY_ADDRESS."""
HEAD = "$(hostname):6379"
"""The address of a cluster that `ray start --head` started on this machine, for a shell."""
PATIENCE_SECONDS = 10.0
"""The time without a place after which a worker reports that it waits."""
GPUS = "ROBHARNESS_RAY_GPUS"
"""The environment variable of the share of a GPU that each worker gets."""


_ACTOR = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"work": 1, "control": 1})(WorkerActor)


class RayWorker:
    """A worker in an actor. It waits for a node with enough free cores and GPUs, and has no unit before.

    events: those of the current command, as references; None without a command.
    """

    def __init__(self, plan: Plan, store: Store, config: WorkerConfig) -> None:
        start = pickle.dumps(StartMessage.of(plan, store, config))
        cores, gpus = _cores(config), _gpus(config)
        self._needs = f"{cores} core{'s' * (cores > 1)}" + (f" and {gpus:g} GPU" if gpus else "")
        self._actor = _ACTOR.options(num_cpus=cores, num_gpus=gpus).remote(sys.path, start)
        self.events: Any = None
        self._is_stopping = False
        self._place = self._actor.place.options(concurrency_group="control").remote()
        self._deadline: float | None = time.monotonic() + PATIENCE_SECONDS

    def load(self, label: str) -> None:
        self._execute("load", label)

    def compute(self, unit: Unit, prefetch: Unit | None) -> None:
        self._execute("compute", unit, prefetch)

    def stop(self) -> None:
        if not self._is_stopping:  # the engine calls it again and again
            self._is_stopping = True
            self._actor.stop.options(concurrency_group="control").remote()

    def close(self) -> None:
        """End the actor at once; it writes each outcome as a whole, or not at all."""
        ray.kill(self._actor)

    def waits(self) -> WorkerWaits | None:
        """Return an event, once, if the actor has no place after some seconds."""
        if self._deadline is None or time.monotonic() < self._deadline:
            return None
        self._deadline = None
        if ray.wait([self._place], timeout=0)[0]:
            return None
        return WorkerWaits(why=f"no node of the Ray cluster has {self._needs} free")

    def next_event(self) -> Event:
        """Return the next event, which is there already."""
        try:
            event: Event = ray.get(next(self.events))
            return event
        except RayActorError as error:
            return _death(error)
        except (RayError, StopIteration) as error:
            return WorkerFailed(error=str(error) or "the actor sent no last event", is_bug=True)

    def _execute(self, *command: Any) -> None:
        options = {"num_returns": "streaming", "concurrency_group": "work"}
        self.events = self._actor.execute.options(**options).remote(*command)


class RayExecutor:
    """Workers as actors of Ray, on the cluster of $RAY_ADDRESS, or of this machine, or else on this machine alone."""

    name = "ray"
    can_respawn = True
    needs_request = True
    is_local = False

    def spawn(self, plan: Plan, store: Store, config: WorkerConfig) -> RayWorker:
        if config.device.partition(":")[0] != "cpu" and config.device != "cuda":
            raise UserError(f"Ray chooses the GPU of a worker, so '{config.device}' has no meaning. Try: --device cuda")
        _connect()
        return RayWorker(plan, store, config)

    def wait(self, workers: Sequence[RayWorker]) -> Iterator[tuple[RayWorker, Event]]:
        streams = [worker.events for worker in workers]
        ready, _ = ray.wait(streams, timeout=POLL_SECONDS)
        ready += ray.wait(streams, num_returns=len(streams), timeout=0)[0] if ready else []
        for worker in workers:
            if worker.events in ready:
                yield worker, worker.next_event()
            elif event := worker.waits():
                yield worker, event


def _connect() -> None:
    """Connect to a cluster, or start Ray on this machine, unless this process is connected already.

    Raises UserError if that fails. Ray itself would look for a cluster that is not there for two minutes.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    if "://" in address:
        raise UserError(f"RAY_ADDRESS is {address}, and workers need HOST:PORT. Try: export RAY_ADDRESS={HEAD}")
    try:
        if port.isdecimal():
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        why = text.splitlines()[0].partition(". ")[0]
        if address:
            raise UserError(f"there is no Ray cluster at {address} ({why}). Try: unset RAY_ADDRESS") from None
        raise UserError(f"Ray cannot be started on this machine: {why}. Try: ray stop") from None


def _cores(config: WorkerConfig) -> int:
    """Return the cores of a worker: its threads, which are one without --threads and OMP_NUM_THREADS."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return config.threads or (int(given) if given.isdecimal() else 0) or 1


def _gpus(config: WorkerConfig) -> float:
    """Return the share of a GPU of a worker: a whole one, or a part if there are more workers than GPUs.

    Raises UserError if $ROBHARNESS_RAY_GPUS is no positive number.
    """
    if config.device == "cpu":
        return 0
    if given := os.environ.get(GPUS):
        try:
            share = float(given)
        except ValueError:
            share = 0
        if not 0 < share < float("inf"):
            raise UserError(f"${GPUS} is '{given}', not a share of a GPU. Try: export {GPUS}=0.5")
        return share
    gpus = int(ray.cluster_resources().get("GPU", 0)) or config.workers
    return 1 / -(-config.workers // gpus)


def _death(error: RayActorError) -> WorkerDied | WorkerFailed:
    """Describe the death of an actor, and whether its node is gone as well; or why its node cannot make one."""
    text = str(error)
    if "raised in its creation task" in text:
        reason = text.strip().splitlines()[-1]
        why = f"a node of the Ray cluster cannot start a worker ({reason}); all nodes need the same packages"
        return WorkerFailed(error=f"{why}. Try: pip install robharness-ray", is_bug=False)
    if "node has died" in text or "node was terminated" in text:
        return WorkerDied(how="its node left the cluster", with_machine=True)
    detail = next((line for line in text.splitlines() if "exit detail" in line), "").partition("exit detail:")[2]
    return WorkerDied(how=f"its process ended{':' if detail else ''}{detail.partition('.')[0]}")
