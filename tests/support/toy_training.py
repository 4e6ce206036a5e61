"""A small suite whose network is trained, and the artefacts of its trainings."""

import time
from pathlib import Path

from robharness import api
from robharness.planning import artefacts

HERE = Path(__file__).parents[1]
"""The folder of the core's tests, and of their plugins."""
LEARNER, TOYS = str(HERE / "learner.py"), str(HERE / "toys.py")
PLUGINS = [LEARNER, TOYS]
NET = {"model": "learner/net", "label": "Net"}
SIGN = {"attack": "toys/sign", "eps": ["1/16", "1/8"]}


def suite(*models, **changes):
    base = {
        "robharness": 1,
        "name": "learning",
        "data": {"name": "learner/shades", "split": "test"},
        "models": list(models) or [NET],
        "attacks": [SIGN],
    }
    return base | changes


def plan(source, store, **options):
    return api.plan(source, store=store, plugins=PLUGINS, **options)


def artefact(source, store, index=0):
    """Return the artefact of a model of the suite, whether or not it exists."""
    planned = plan(source, store)
    return planned.trained_models[index].artefact


def sha_of(store):
    """{hash: sha256 of the weights} of all that is whole."""
    return {row["name"]: artefacts.sha256_of(Path(store) / "artefacts" / row["name"])
            for row in artefacts.listing(Path(store)) if not row["state"]}  # fmt: skip


def wait_for(what, seconds=90):
    """Wait until `what()` is true, and return its value."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.01)
    return found
