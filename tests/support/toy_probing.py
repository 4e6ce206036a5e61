"""Suites of probes on the features of small encoders, see `probes.py`."""

from robharness import api
from toy_training import HERE

PROBES = str(HERE / "support" / "probes.py")
PLUGINS = [PROBES, str(HERE / "toys.py")]
TRUNK = {"model": "probes/trunk", "weights": "gone.pt"}


def suite(*models, **changes):
    base = {"robharness": 1, "name": "probing", "data": {"name": "probes/shades", "split": "test"}}
    return base | {"models": list(models)} | changes


def probe(encoder, label="Probe", **options):
    return {"model": "probes/linear", "encoder": encoder, "label": label} | options


def plan(source, store, **options):
    return api.plan(source, store=store, plugins=PLUGINS, **options)
