"""Identity at the moment of use: the files that an identity names by their content are compared with it again.

A file that changes between the plan and its use would else be measured under the identity of another one. Weights are
read once more for each model that is loaded, at one or two gigabytes a second; options that name files are read again
only if the size, the times or the inode of a file changed. What changes and changes back meanwhile is not found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robharness.errors import ContractViolation, PluginLoadError, UserError
from robharness.planning.cells import Cell
from robharness.planning.identity import canonical
from robharness.planning.planned import PlannedModel
from robharness.planning.weights import file_digest
from robharness.plugins.loose import changed_file
from robharness.plugins.provenance import origins_of_options
from robharness.plugins.registry import Entry
from robharness.suite import identity_fields


def check_model(model: PlannedModel) -> None:
    """Raise ContractViolation, by the model, if its weights, its options' files or its loose plugin changed.

    Its encoders are checked as well.
    """
    for encoder in model.encoders.values():
        check_model(encoder)
    if model.weights is not None:
        paths, digests = model.weights.path, model.weights.sha256
        named: Mapping[str, Any] = paths if isinstance(paths, Mapping) else {"": paths}
        for name, path in named.items():
            try:
                found = file_digest(path)
            except UserError as error:
                raise ContractViolation(str(error), by="model") from None
            if found != (digests[name] if isinstance(digests, Mapping) else digests):
                raise ContractViolation(f"its weights file {path} {_CHANGED}", by="model")
    if model.identity:
        _check_options(model.ref.params, model.identity, "model")
    _check_source(model.entry, model.ref.params, "model")


def check_perturbation(cell: Cell) -> None:
    """Raise ContractViolation if the options' files or the loose plugin of a cell's perturbation changed."""
    if cell.perturbation is not None and cell.identity:
        _check_options(cell.perturbation.params, cell.identity["perturbation"], "perturbation")
        _check_source(cell.perturbation.entry, cell.perturbation.params, "perturbation")


_CHANGED = "changed since the run was planned. Try: the same command"


def _check_options(params: Any, identity: Mapping[str, Any], by: str) -> None:
    """Compare options with an identity, where each file stands by its sha256."""
    try:
        found = canonical(identity_fields(params))
    except UserError as error:
        raise ContractViolation(str(error), by=by) from None
    for name, value in identity.get("params", {}).items():
        if found.get(name) != value:
            raise ContractViolation(f"the file or folder of its option '{name}' {_CHANGED}", by=by)


def _check_source(entry: Entry, params: Any, by: str) -> None:
    for origin in (entry.origin, *origins_of_options(entry, params).values()):
        try:
            changed = changed_file(origin)
        except PluginLoadError as error:
            raise ContractViolation(str(error), by=by) from None
        if changed is not None:
            raise ContractViolation(
                f"{changed}, which belongs to its plugin {origin.location}, {_CHANGED}; or, if the plugin writes the "
                f"file itself, another folder for it",
                by=by,
            )
