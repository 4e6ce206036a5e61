"""The plugin with small networks, of the sizes of `ssl_publishers`, in place of those of the published size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import robharness_ssl
from robharness import ModelSpec, hookimpl
from robharness_ssl import adversarial, table


def shrunk(entry: Any) -> Any:
    """Return an entry of a table with a small network; patches, registers, pooling and padding stay.

    Encoders for CIFAR-10 have small inputs, and stay as they are.
    """
    if isinstance(entry, adversarial.Encoder):
        return entry
    if isinstance(entry.network, table.ResNet):
        return replace(entry, network=replace(entry.network, blocks=(1, 1, 1, 1), base=4))
    return replace(entry, network=replace(entry.network, width=48, depth=5, heads=3))


@hookimpl
def robharness_models() -> Iterator[ModelSpec]:
    for spec in robharness_ssl.robharness_models():
        build: Any = spec.build
        yield replace(spec, build=partial(build.func, shrunk(build.args[0])))
