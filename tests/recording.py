"""A registry whose corruptions record the images that they return, to compare them with files and outcomes."""

from dataclasses import dataclass, replace
from typing import Any

from robharness.plugins import Registry


@dataclass
class Recording:
    """A corruption around another one. images: (name, severity, id) -> uint8 image."""

    name: str
    inner: Any
    images: dict

    def perturb(self, model, batch, severity, rng):
        found = self.inner.perturb(model, batch, severity, rng)
        for id, image in zip(batch.ids, found.numpy(), strict=True):
            self.images[self.name, severity, id] = image.copy()
        return found


def recorded(registry: Registry) -> dict:
    """Wrap every corruption that is computed in a run, and return the images that they will return."""
    images: dict = {}
    for key, entry in registry.corruptions.items():
        if (build := entry.spec.build) is not None:
            wrapped = replace(
                entry.spec,
                build=lambda params, build=build, name=entry.spec.name: Recording(name, build(params), images),
            )
            registry.corruptions[key] = replace(entry, spec=wrapped)
    return images
