"""On an accelerator: exact arithmetic gives the same bits there as on the CPU."""

import numpy as np
import pytest
import torch

from robharness import Batch, Classifier
from robharness.engine import environment
from robharness.errors import ContractViolation
from robharness.evaluation import referee
from robharness.evaluation.guard import Guard
from robharness.specs import NORMS

COLUMNS = ("prediction", "correct", "margin", "logit_range", "confidence", "p_true", "size")
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
def test_draws_from_the_gpus_generator_are_detected():
    from robharness.evaluation.rng import global_draws

    with global_draws() as drawn:
        torch.empty(1, device="cuda").uniform_()
    assert drawn == ["torch"]


@pytest.mark.gpu
def test_a_device_is_checked():
    assert environment.check_devices("cuda") == ["cuda"]


@pytest.mark.gpu
@pytest.mark.parametrize("norm", NORMS)
def test_distances_equal_the_cpus_in_any_batch(norm):
    like = torch.linspace(0, 1, 70 * 3 * 33 * 33).sin().abs().view(70, 3, 33, 33)
    x = like.flip(0).clone()
    on_gpu = referee.distance(like.cuda(), x.cuda(), NORMS[norm])
    np.testing.assert_allclose(on_gpu, referee.distance(like, x, NORMS[norm]), rtol=1e-12)
    for rows in ([0], [69, 3, 5], list(range(0, 70, 2))):
        assert (referee.distance(like[rows].cuda(), x[rows].cuda(), NORMS[norm]) == on_gpu[rows]).all()


@pytest.mark.gpu
def test_a_changed_weight_is_detected():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    guard = Guard(Classifier(net, batch_size=4, device="cuda"))
    batch = Batch(["a"], torch.zeros(1, 3, 2, 2, device="cuda"), torch.zeros(1, dtype=torch.long, device="cuda"))
    with guard.watching(batch):
        pass
    kept = net[1].weight.clone()
    with pytest.raises(ContractViolation, match="weight"), guard.watching(batch):
        net[1].weight.data[0, 0] += 1
    assert torch.equal(net[1].weight, kept)
