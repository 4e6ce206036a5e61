"""On an accelerator: exact arithmetic gives the same bits there as on the CPU."""

import pytest
import torch

from robharness import api

COLUMNS = ("prediction", "correct", "margin", "logit_range", "size")
ATTACKS = [
    {"attack": "toys/climb", "eps": ["1/8", "1/4"]},
    {"attack": "toys/climb", "eps": ["1/16", "1/8"], "steps": 2, "nested": True},
    {"attack": "toys/sign", "eps": ["1/8"]},
]


@pytest.mark.gpu
def test_outcomes_of_exact_networks_are_those_of_the_cpu(suite, run):
    source = suite(attacks=ATTACKS, corruptions=[{"corruption": "toys/speckle", "severity": [1, 4]}], canvas=8)
    ours = run(source, "gpu", device="cuda", batch_size=8)
    for gpu, cpu in zip(ours.cells, run(source, "cpu", batch_size=8).cells, strict=True):
        assert gpu.is_complete, gpu.failures
        for name in COLUMNS:
            assert gpu.columns[name].tobytes() == cpu.columns[name].tobytes(), gpu.cell.name


@pytest.mark.gpu
def test_draws_from_the_gpus_generator_are_noticed():
    from robharness.rng import global_draws

    with global_draws() as drawn:
        torch.empty(1, device="cuda").uniform_()
    assert drawn == ["torch"]


@pytest.mark.gpu
def test_a_device_is_checked():
    assert api.check_devices("cuda") == ["cuda"]
