"""Plugins: hooks, discovery, the registry."""

from robharness.plugins.discovery import GROUP, discover, installed_plugins, take_plugin
from robharness.plugins.loose import loose_plugin
from robharness.plugins.provenance import code_digest, dependency_versions, requirements_that_hold
from robharness.plugins.registry import KINDS, Entry, PluginOrigin, Problem, Registry

__all__ = [
    "GROUP",
    "KINDS",
    "Entry",
    "PluginOrigin",
    "Problem",
    "Registry",
    "code_digest",
    "dependency_versions",
    "discover",
    "installed_plugins",
    "loose_plugin",
    "requirements_that_hold",
    "take_plugin",
]
