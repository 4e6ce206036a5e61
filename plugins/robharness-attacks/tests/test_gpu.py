"""On a GPU, results do not depend on other examples of the batch, and equal those on a CPU."""

from __future__ import annotations

import pytest
import torch

from robharness import Batch, Classifier

ATTACKS = {
    "fgsm": ({"norm": "l2"}, 1.0),
    "pgd-linf": ({"norm": "linf", "steps": 20}, 0.05),
    "pgd-l2": ({"norm": "l2", "steps": 20, "restarts": 2}, 0.5),
    "pgd-l1": ({"norm": "l1", "steps": 20}, 4.0),
    "apgd": ({"norm": "l2", "steps": 30}, 0.5),
    "apgd-l1": ({"norm": "l1", "steps": 30, "larger_eps": True}, 4.0),
    "apgd-targets": ({"steps": 20, "objective": "dlr", "targets": 3}, 0.05),
    "fab": ({"steps": 20, "targets": 3}, torch.inf),
    "fab-l2": ({"norm": "l2", "steps": 20, "targets": 0}, torch.inf),
    "fab-l1": ({"norm": "l1", "steps": 20, "targets": 3}, torch.inf),
    "square": ({"queries": 300}, 0.05),
    "square-l2": ({"norm": "l2", "queries": 300}, 0.5),
    "ddn": ({"steps": 30}, torch.inf),
    "fmn": ({"norm": "l1", "steps": 30}, torch.inf),
}
N, ROWS = 60, 16


@pytest.mark.gpu
@pytest.mark.parametrize("name", ATTACKS)
def test_neighbours_change_nothing_and_the_cpu_finds_the_same(attack, conv_net, uniform, name):
    options, eps = ATTACKS[name]
    x = uniform(3, N, 3, 8, 8)
    net = conv_net()
    labels = net(x).argmax(1)
    ids = [f"example-{row}" for row in range(N)]
    spec = name if name in ("pgd-dense",) else name.split("-")[0]

    def run(device, rows):
        model = Classifier(conv_net(), batch_size=ROWS, device=device)
        part = Batch([ids[row] for row in rows], x[rows].to(device), labels[rows].to(device))
        found = attack(spec, model, part, eps, **options)
        return found.x.cpu(), (model.decisions(found.x) != part.labels).cpu()

    torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, False
    whole, fooled = run("cuda", list(range(N)))
    some = list(range(N - 1, -1, -3))
    part, part_fooled = run("cuda", some)
    assert torch.equal(part, whole[some])
    assert torch.equal(part_fooled, fooled[some])
    assert fooled.float().mean() > 0.2
    assert (fooled == run("cpu", list(range(N)))[1]).float().mean() >= 0.95
