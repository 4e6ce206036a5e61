"""The contract of components. The plugin that takes components tests what they do."""

from __future__ import annotations

from dataclasses import fields

from robharness.planning.identity import canonical
from robharness.specs.lazy import LazyFunction
from robharness.specs.references import Component
from robharness.suite import identity_fields
from robharness.testing.contract import Broken, Subject


def options_have_identities(component: Subject) -> None:
    """Its options are plain values, so that an identity can hold them, and none of them is called `name`."""
    params = component.params
    if params is not None and Component.KEY in [item.name for item in fields(params)]:
        raise Broken(f"it has an option '{Component.KEY}', which a suite cannot set beside the component's name")
    try:
        canonical(identity_fields(params))
    except TypeError as error:
        raise Broken(str(error)) from None


def build_is_found(component: Subject) -> None:
    """`build` is a function or a class, or names one that can be imported."""
    build = component.entry.spec.build
    if isinstance(build, LazyFunction):
        try:
            build.load()
        except ImportError as error:
            raise Broken(str(error)) from None


RULES = (options_have_identities, build_is_found)
