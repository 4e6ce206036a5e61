"""Modes of torch, NumPy and PIL that a caller has set change no outcome, and are the same after a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ImageFile

from robharness.errors import UserError
from robharness.evaluation.modes import kept_modes, neutral_modes

PRECISIONS = ("cuda.matmul", "cudnn", "cudnn.conv", "cudnn.rnn", "mkldnn", "mkldnn.matmul", "mkldnn.conv")


def snapshot() -> dict[str, Any]:
    """The modes of this thread, as plain data."""
    backends: Any = torch.backends
    found: dict[str, Any] = {
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.empty(0).device),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": [getattr(backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")],
        "flash": backends.cuda.flash_sdp_enabled(),
        "denormal": float(torch.tensor(1e-40, dtype=torch.float32, device="cpu") * 1) > 0,
        "hooks": len(torch.nn.modules.module._global_forward_hooks),
        "modes": torch._C._len_torch_function_stack(),
        "truncated": ImageFile.LOAD_TRUNCATED_IMAGES,
        "numpy": np.geterr(),
        "product": str(torch.mm(torch.ones(2, 2, device="cpu"), torch.ones(2, 2, device="cpu")).dtype),
    }
    for device in ("cpu", "cuda"):
        found[f"autocast {device}"] = [torch.is_autocast_enabled(device), str(torch.get_autocast_dtype(device))]
    try:
        found["matmul"] = torch.get_float32_matmul_precision()
        found["allow_tf32"] = backends.cudnn.allow_tf32
    except RuntimeError:
        found["matmul"] = found["allow_tf32"] = "mixed"
    for path in PRECISIONS:
        holder = backends
        for name in path.split("."):
            holder = getattr(holder, name)
        found[path] = getattr(holder, "fp32_precision", None)
    return found


def fresh() -> dict[str, Any]:
    """The modes of a fresh process."""
    code = "import json, test_modes; print(json.dumps(test_modes.snapshot()))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def spoil(dtype: torch.dtype = torch.float64) -> None:
    """Set every mode that is a plain setting to another value."""
    torch.set_default_dtype(dtype)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.enabled = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True
    torch.backends.cuda.enable_flash_sdp(False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_anomaly_enabled(True)
    torch.set_flush_denormal(True)
    torch.set_autocast_dtype("cpu", torch.float16)
    ImageFile.LOAD_TRUNCATED_IMAGES = True


def test_a_block_has_the_modes_of_a_fresh_process_and_the_callers_come_back(tmp_path, monkeypatch):
    expected = fresh()
    monkeypatch.chdir(tmp_path)
    hook = torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: output * 0)
    with neutral_modes():  # so that this test leaves nothing behind
        spoil()
        torch.set_default_device("meta")
        with (
            torch.inference_mode(),
            torch.autocast("cpu", torch.float16),
            torch.device("meta"),
            np.errstate(all="raise"),
        ):
            before, threads = snapshot(), torch.get_num_threads()
            assert before != expected and before["device"] == "meta"
            state = torch.get_rng_state()
            with neutral_modes(threads + 1) as used:
                assert used == threads + 1
                inside = snapshot()
                torch.nn.Linear(2, 2)  # draws
                spoil(torch.float16)
                torch.set_default_device("meta")
                (tmp_path / "sub").mkdir()
                os.chdir(tmp_path / "sub")
            after = snapshot()
            assert torch.equal(torch.get_rng_state(), state)
    hook.remove()
    assert inside == expected
    assert after == before
    assert torch.get_num_threads() == threads and Path.cwd() == tmp_path
    assert not torch.nn.modules.module._global_forward_hooks


def test_recent_settings_of_precision_come_back():
    with neutral_modes():
        torch.backends.cudnn.conv.fp32_precision = "ieee"
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        before = snapshot()
        with neutral_modes():
            inside = snapshot()
            torch.backends.cudnn.allow_tf32 = False
            torch.set_float32_matmul_precision("high")
        after = snapshot()
    assert inside["cudnn.conv"] == "tf32" and inside["mkldnn.matmul"] == "none"
    assert after == before


def test_hooks_of_saved_tensors_and_other_backends_are_neutral():
    x = torch.ones(3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor * 0):
        before = torch.backends.mkldnn.enabled
        with torch.backends.mkldnn.flags(enabled=False):
            with neutral_modes():
                assert torch.backends.mkldnn.enabled is before
                (gradient,) = torch.autograd.grad((x * x).sum(), x)
            assert torch.backends.mkldnn.enabled is False
        (ambient,) = torch.autograd.grad((x * x).sum(), x)
    assert gradient.tolist() == [2, 2, 2] and ambient.tolist() == [0, 0, 0]


def test_a_transform_of_torch_func_is_refused():
    def measured(x):
        with neutral_modes():
            return x.sum()

    with pytest.raises(UserError, match=r"within torch\.func"):
        torch.func.grad(measured)(torch.ones(2))


def test_what_a_plugin_changes_is_put_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    before = snapshot()
    with kept_modes():
        assert snapshot() == before
        spoil()
        torch.set_grad_enabled(False)
        torch.set_default_device("meta")
        torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: output * 0)
        os.chdir("sub")
        assert snapshot() != before
    assert snapshot() == before and Path.cwd() == tmp_path


def test_modes_of_the_caller_hold_within_a_plugins_call():
    with torch.device("meta"), kept_modes():
        assert torch.empty(0).is_meta
