"""The speed of models in earlier runs."""

from __future__ import annotations

from contextlib import suppress

from robharness.store.folder import StoreFolder


def seconds_per_pass(store: StoreFolder) -> dict[str, float]:
    """Return the seconds of a run that one pass of one example took, by full name of the model, in its last run."""
    found: dict[str, float] = {}
    for run in store.runs():
        with suppress(AttributeError, KeyError, TypeError, ZeroDivisionError):  # a record in another format
            for speed in run["speed"].values():
                done = (speed["forward"] + speed["backward"]) * speed["rows"]
                if done and speed["seconds"]:
                    found[speed["model"]] = speed["seconds"] / done / run["workers"]
    return found
