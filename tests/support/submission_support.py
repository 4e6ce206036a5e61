"""Processes of jobs, and what a store holds."""

from pathlib import Path

from robharness.store import Store


def children(pid):
    """The child processes of a process."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def stored(folder, plan):
    """All outcomes of a store, bit by bit: {key: {column: values}}, with bytes for numbers."""
    store = Store(folder)
    found = {}
    for cell in plan.cells:
        table = store.read(cell.key, plan.n).table
        found[cell.key] = {
            name: table[name].to_pylist() if name == "example" else table[name].to_numpy().tobytes()
            for name in table.column_names
        }
    return found
