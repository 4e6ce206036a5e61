"""The contract of components."""

from __future__ import annotations

from robharness.testing.contract import Broken, Subject


def options_have_defaults_that_build(component: Subject) -> None:
    """Its options can be made from their defaults, or from the options that the test gives."""
    if component.entry.spec.params is not None and component.params is None:
        raise Broken("its options cannot be made from their defaults")


RULES = (options_have_defaults_that_build,)
