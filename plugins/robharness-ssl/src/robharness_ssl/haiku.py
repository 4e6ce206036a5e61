"""Reading of BYOL's checkpoint, a pickle of Haiku's parameters, without running its code.

The publisher's training writes it by dill: {"experiment_state": a named tuple of online and target parameters and
states, "step", "rng"}. Only NumPy's arrays are rebuilt; every other class of the pickle becomes a record of its
arguments. Source: google-deepmind/deepmind-research, byol/utils/checkpointing.py, byol/byol_experiment.py.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robharness import UserError, for_shell

ONLINE_PARAMS, ONLINE_STATE = 0, 2
"""Places in the named tuple. The evaluation takes the online network, not its average, the target network."""

_NAMES: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"^.*block_group_(\d)/~/block_(\d+)/~/conv_(\d)$", lambda m: f"layer{int(m[1]) + 1}.{m[2]}.conv{int(m[3]) + 1}"),
    (
        r"^.*block_group_(\d)/~/block_(\d+)/~/batchnorm_(\d)$",
        lambda m: f"layer{int(m[1]) + 1}.{m[2]}.bn{int(m[3]) + 1}",
    ),
    (r"^.*block_group_(\d)/~/block_(\d+)/~/shortcut_conv$", lambda m: f"layer{int(m[1]) + 1}.{m[2]}.downsample.0"),
    (r"^.*block_group_(\d)/~/block_(\d+)/~/shortcut_batchnorm$", lambda m: f"layer{int(m[1]) + 1}.{m[2]}.downsample.1"),
    (r"^[^/]*/~/initial_conv(?:_1)?$", lambda m: "conv1"),
    (r"^[^/]*/~/initial_batchnorm(?:_1)?$", lambda m: "bn1"),
    (r"^classifier$", lambda m: "fc"),
)
"""Names of Haiku's modules -> torchvision's."""
_PARTS = {"w": "weight", "b": "bias", "scale": "weight", "offset": "bias"}
_STATISTICS = {"/~/mean_ema": ".running_mean", "/~/var_ema": ".running_var"}


def read(path: Path) -> dict[str, Tensor]:
    """Return the online encoder and the classifier of a checkpoint, with torchvision's names.

    Raises UserError if the file is no such checkpoint.
    """
    try:
        with path.open("rb") as file:
            content = _Reader(file).load()
        fields = content["experiment_state"].arguments
        params, state = _mapping(fields[ONLINE_PARAMS]), _mapping(fields[ONLINE_STATE])
        found: dict[str, Tensor] = {}
        for module, values in params.items():
            for part, value in _mapping(values).items():
                if not module.startswith(("projector", "predictor")):
                    found[f"{_renamed(module)}.{_PARTS.get(part, part)}"] = _tensor(part, value)
        for module, values in state.items():
            if not module.startswith(("projector", "predictor")):
                found[_renamed(module)] = _tensor("average", _mapping(values)["average"])
        return found
    except OSError as error:
        raise UserError(f"{path} is no checkpoint: {error.strerror or error}. Try: ls -l {for_shell(path)}") from error
    except Exception as error:  # a damaged pickle may do anything
        raise UserError(
            f"{path} is no checkpoint of BYOL, as pretrain_res50x1.pkl is: {type(error).__name__}: {error}. "
            f"Try: ls -l {for_shell(path)}"
        ) from error


class _Record(dict[Any, Any]):
    """An instance of a class that is not imported. It keeps the arguments and ignores what else a pickle does to it."""

    arguments: tuple[Any, ...] = ()

    def __new__(cls, *arguments: Any) -> _Record:
        record = super().__new__(cls)
        record.arguments = arguments
        return record

    def __init__(self, *arguments: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Ignore an element of a list."""


class _ArrayType(_Record):
    """The class of NumPy's arrays, which pickles name as an argument; calling it makes no array."""


class _Reader(pickle.Unpickler):
    """An unpickler that knows NumPy's arrays alone."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Return one of NumPy's own functions for arrays, or a class of records in place of anything else."""
        module, name = module_name.replace("numpy._core", "numpy.core"), global_name
        known = {
            ("numpy.core.multiarray", "_reconstruct"): _array,
            ("numpy.core.multiarray", "scalar"): _Record,
            ("numpy", "ndarray"): _ArrayType,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _bytes,
        }
        return known.get((module, name)) or type(re.sub(r"\W", "_", name) or "Record", (_Record,), {})


def _array(*arguments: Any) -> Any:
    """Return an empty array, which the pickle then fills; NumPy compares the length of the values with the shape."""
    return np.ndarray(0, np.int8) if arguments[0] is _ArrayType else _Record(*arguments)


def _bytes(text: str, encoding: str) -> bytes:
    """Return the bytes that pickles of protocol 2 hold as a text."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _mapping(value: Any) -> Mapping[str, Any]:
    """Return the mapping that is given, or that a record such as Haiku's FlatMapping was made of."""
    inner = value.arguments[0] if isinstance(value, _Record) and len(value.arguments) == 1 else value
    if not isinstance(inner, Mapping):
        raise ValueError(f"{type(inner).__name__} where parameters by name are expected")
    return inner


def _renamed(module: str) -> str:
    """Return torchvision's name of a module of Haiku; names without a counterpart stay."""
    ending = next((ending for ending in _STATISTICS if module.endswith(ending)), "")
    bare = module.removesuffix(ending)
    for pattern, name in _NAMES:
        if match := re.match(pattern, bare):
            bare = name(match)
            break
    return bare + _STATISTICS.get(ending, "")


def _tensor(part: str, value: Any) -> Tensor:
    """Return a tensor in torch's order.

    value: a kernel (height, width, in, out) or (in, out), a bias, or statistics (1, 1, 1, channels).
    """
    tensor = torch.from_numpy(np.array(value))
    if part == "w":
        return tensor.permute(3, 2, 0, 1).contiguous() if tensor.ndim == 4 else tensor.t().contiguous()
    return tensor.reshape(-1)
