"""The ways in which a call of `tests/wild.py` raises, and the registry of that plugin and the toys."""

from pathlib import Path

from robharness.plugins import Registry, loose_plugin, take_plugin

HERE = Path(__file__).parents[1]
TOYS, WILD = (str(HERE / name) for name in ("toys.py", "wild.py"))

RAISED = {
    "error": "ValueError: as many plugins raise",
    "exit": "SystemExit: 0",
    "cancelled": "CancelledError",
    "interrupt": "KeyboardInterrupt",
    "generator": "GeneratorExit",
    "mute": "Mute, whose text cannot be printed",
}
"""The ways to raise, and the text by which each is reported."""


def wild_registry():
    registry = Registry()
    for path in (TOYS, WILD):
        take_plugin(registry, *loose_plugin(Path(path)))
    return registry
