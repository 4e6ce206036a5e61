"""SLF, ALF, AFF, LE and r-LE: published settings, the loss and the attack of TRADES, and what each of them trains."""

from __future__ import annotations

import copy
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import robharness_probe
from robharness_probe import fitting, heads, images, loop, params, training
from robharness_probe.artefact import WEIGHTS

MADE = runpy.run_path(str(Path(__file__).with_name("test_training.py")))
options, Shades, network, encoder = MADE["options"], MADE["Shades"], MADE["network"], MADE["encoder"]
job = MADE["job"]  # a fixture

SGD = {"optimizer": "sgd", "momentum": 0.9, "schedule": "step"}
PGD = {"eps": 8 / 255, "step": 2 / 255, "steps": 10}
PLAIN, SHIFTED = {"crop": 1.0, "pad": 0, "flip": 0.0}, {"crop": 1.0, "pad": 4, "flip": 0.5}
LF = {**SGD, "epochs": 25, "lr": 0.01, "milestones": (10, 20), "batch": 512, "weight_decay": 2e-4}
ROCL = {"momentum": 0.9, "schedule": "step", "epochs": 150, "lr": 0.1, "milestones": (30, 50, 100), "batch": 1024,
        "weight_decay": 5e-4}  # fmt: skip
PUBLISHED = {
    # test_LF.py of PKU-ML/DYNACL at 7d143db; setup_hyperparameter of GodXuxilie/RobustSSL_Benchmark at 19dc714
    params.SLF: {**LF, **SHIFTED},
    params.ALF: {**LF, **SHIFTED, **PGD},
    # test_AFF.py of the same; train_trades.py of VITA-Group/Adversarial-Contrastive-Learning at 399eabd
    params.AFF: {**SGD, "epochs": 25, "lr": 0.1, "milestones": (15, 20), "batch": 128, "weight_decay": 2e-4,
                 "beta": 6.0, "head_lr": None, **SHIFTED, **PGD},
    # linear_eval.py, argument.py and total_process.sh of Kim-Minseon/RoCL at b6d5185
    params.LE: {**ROCL, "solver": "sgd", "standardize": False},
    params.RLE: {**ROCL, **PLAIN, "optimizer": "sgd", "eps": 0.0314, "step": 0.007, "steps": 10},
}  # fmt: skip


@pytest.mark.parametrize("kind", PUBLISHED)
def test_defaults_are_the_published_settings(kind):
    found = kind(encoder=None, data=None)
    values = {name: getattr(found, name, None) for name in PUBLISHED[kind]}
    if "eps" in values:
        values |= {"eps": float(found.eps), "step": float(found.eps * found.rel_step)}
        expected = {name: PUBLISHED[kind][name] for name in ("eps", "step")}
        assert {name: values.pop(name) for name in expected} == pytest.approx(expected, rel=1e-12)
    assert values == {name: value for name, value in PUBLISHED[kind].items() if name not in ("eps", "step")}
    assert getattr(found, "warmup", 0) == 0


# --- the loss and the attack of TRADES -------------------------------------------------------------------------------


def logits(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, shape))


def test_the_loss_of_two_classes_is_the_closed_form():
    """With logits (z, 0) and (w, 0), p = sigmoid(z) and q = sigmoid(w): -log p + beta (p log p/q + (1-p) log ...)."""
    z, w, beta = 0.7, -1.2, 6.0
    p, q = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(-w))
    expected = -np.log(p) + beta * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    clean, attacked = (torch.tensor([[value, 0.0]], dtype=torch.float64) for value in (z, w))
    assert float(loop.trades_loss(clean, attacked, torch.tensor([0]), beta)) == pytest.approx(expected, rel=1e-12)
    assert float(loop.divergence(clean, clean)) == 0


def test_the_loss_and_its_gradients_are_those_of_the_published_formula():
    labels = torch.tensor([0, 3, 2, 4, 4])
    ours, theirs = ([logits(5, 6, seed=seed).requires_grad_(True) for seed in (1, 2)] for _ in range(2))
    found = loop.trades_loss(*ours, labels, 6.0)
    clean, attacked = theirs
    kl = nn.KLDivLoss(reduction="sum")(F.log_softmax(attacked, dim=1), F.softmax(clean, dim=1))
    expected = F.cross_entropy(clean, labels) + 6.0 * (1.0 / 5) * kl
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for one, other in zip(torch.autograd.grad(found, ours), torch.autograd.grad(expected, theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_one_step_is_the_one_computed_by_hand():
    """A linear encoder W and head (V, b) on two images of two pixels: gradients of the formula, in float64."""
    rng = np.random.default_rng(3)
    w, v, b = rng.normal(size=(3, 2)), rng.normal(size=(4, 3)), rng.normal(size=4)
    clean, attacked, labels = rng.uniform(size=(2, 2)), rng.uniform(size=(2, 2)), np.array([1, 3])
    beta, lr, decay = 6.0, 0.1, 2e-4
    p, q = softmax(clean @ w.T @ v.T + b), softmax(attacked @ w.T @ v.T + b)
    kl = (p * np.log(p / q)).sum(1, keepdims=True)
    of_clean = (p - np.eye(4)[labels] + beta * p * (np.log(p / q) - kl)) / 2
    of_attacked = beta * (q - p) / 2
    g_v = of_clean.T @ (clean @ w.T) + of_attacked.T @ (attacked @ w.T)
    g_b = (of_clean + of_attacked).sum(0)
    g_w = (of_clean @ v).T @ clean + (of_attacked @ v).T @ attacked
    expected = [w - lr * (g_w + decay * w), v - lr * (g_v + decay * v), b - lr * (g_b + decay * b)]

    body = nn.Linear(2, 3, bias=False)
    net = heads.Probed(body, heads.linear(torch.zeros(4, 3), torch.zeros(4))).double()
    with torch.no_grad():
        for parameter, value in zip((body.weight, net.head.weight, net.head.bias), (w, v, b), strict=True):
            parameter.copy_(torch.from_numpy(value))
    chosen = params.AFF(encoder=None, data=None, batch=2, momentum=0.0)
    optimizer = training._optimizer(chosen, net)
    x, x_attacked, y = torch.from_numpy(clean), torch.from_numpy(attacked), torch.from_numpy(labels)
    loop.descend(
        net, lambda epoch: [(x, y)], optimizer, epochs=range(1), rate=lambda epoch, step: lr, tunes_encoder=True,
        attack=lambda net, x, labels, epoch: x_attacked, objective=loop.Objective(net, loop.trades(chosen.beta)),
    )  # fmt: skip
    for found, value in zip((body.weight, net.head.weight, net.head.bias), expected, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), value, rtol=1e-10)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 12).double(), nn.Linear(12, 5).double()
        for seed, parameter in enumerate(self.parameters()):
            parameter.data = logits(*parameter.shape, seed=seed) / 2

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def test_the_attack_is_that_of_the_published_formula():
    net, x, settings = Small(), logits(7, 6, seed=9).sigmoid(), {"eps": 0.1, "step": 0.03, "steps": 10}
    found = loop.trades_pgd(net, x, **settings, rng=np.random.default_rng(4))
    noise = torch.from_numpy(np.random.default_rng(4).standard_normal((7, 6)).astype(np.float32))
    theirs = x + 0.001 * noise
    criterion = nn.KLDivLoss(reduction="sum")
    for _ in range(10):
        theirs.requires_grad_()
        loss = criterion(F.log_softmax(net(theirs), dim=1), F.softmax(net(x), dim=1))
        theirs = theirs.detach() + 0.03 * torch.sign(torch.autograd.grad(loss, [theirs])[0])
        theirs = torch.clamp(torch.min(torch.max(theirs, x - 0.1), x + 0.1), 0.0, 1.0)
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-12)
    assert float((found - x).abs().max()) <= 0.1 + 1e-12 and found.min() >= 0 and found.max() <= 1
    with torch.no_grad():
        corners = [x + 0.1 * logits(7, 6, seed=seed).sign() for seed in range(20)]
        assert loop.divergence(net(x), net(found)) > max(loop.divergence(net(x), net(at.clamp(0, 1))) for at in corners)


# --- what is trained -------------------------------------------------------------------------------------------------


class Watched(nn.Module):
    """A network that notes the mode of every pass."""

    def __init__(self, net):
        super().__init__()
        self.net, self.modes = net, []

    def forward(self, x):
        self.modes.append(self.net[1].training)
        return self.net(x)


def kept(net):
    """An encoder whose network is the given object itself, so that a test sees what a training did to it."""
    found = encoder(net)
    found.load = lambda: net
    return found


@pytest.mark.parametrize(
    ("kind", "passes"), [(params.SLF, [False]), (params.ALF, [False] * 4), (params.RLE, [False] * 4)]
)
def test_linear_protocols_move_neither_weights_nor_statistics_of_the_encoder(job, kind, passes):
    net = Watched(network())
    before = copy.deepcopy(net.state_dict())
    more = {} if kind is params.SLF else {"steps": 3}
    made, *_ = job(options(kind, encoder=kept(net), **more))
    net.modes.clear()
    training.train(made)
    assert net.modes[1:] == passes * (4 * 3)  # the first pass finds the width; 4 epochs of 3 batches
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert set(load_file(made.folder / WEIGHTS)) == {"head.weight", "head.bias"}
    assert float(load_file(made.folder / WEIGHTS)["head.weight"].abs().max()) > 0


def test_full_fine_tuning_attacks_in_eval_mode_and_trains_clean_and_attacked_images_in_train_mode(job):
    net = Watched(network())
    before = copy.deepcopy(net.state_dict())
    made, *_ = job(options(params.AFF, encoder=kept(net), steps=3))
    net.modes.clear()
    training.train(made)
    assert net.modes[1:] == [False] * 4 + [True] * 2 + ([False] * 4 + [True] * 2) * (4 * 3 - 1)
    after = net.state_dict()
    assert all(not torch.equal(value, before[name]) for name, value in after.items())
    assert int(after["net.1.num_batches_tracked"]) == 2 * 4 * 3
    stored = load_file(made.folder / WEIGHTS)
    assert all(torch.equal(value, stored[f"encoder.{name}"]) for name, value in after.items())


def test_clean_images_come_first_for_batch_norm(job):
    """The running mean of a momentum of 1 is that of the last pass, which is the attacked one."""
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, momentum=1.0))
    probed = heads.Probed(net, heads.linear(torch.ones(2, 64), torch.zeros(2))).train()
    clean, attacked = torch.zeros(4, 1, 8, 8), torch.ones(4, 1, 8, 8)
    loop.trades(6.0)(probed, clean, attacked, torch.zeros(4, dtype=torch.int64))
    assert (net[1].running_mean == 1).all()


@pytest.mark.parametrize("kind", [params.SLF, params.ALF, params.AFF, params.RLE])
def test_a_killed_training_resumes_to_the_same_weights(job, kind):
    chosen = options(kind, **({} if kind is params.SLF else {"steps": 2}))
    MADE["resumed"](job, chosen)


def test_the_last_epoch_is_taken_although_an_earlier_one_is_better(job):
    """A learning rate that rises makes the last epoch the worst; the weights are those after its last step."""
    net, seen = network(), {}

    def note(state):
        seen[state.epoch] = copy.deepcopy(net.state_dict())

    chosen = options(params.AFF, encoder=kept(net), steps=1, lr=30.0, warmup=4.0, milestones=None)
    made, *_ = job(chosen, progress=note)
    training.train(made)
    losses = [json.loads(line)["loss"] for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    assert losses.index(min(losses)) < 3 and losses[3] > 2 * min(losses)
    stored = load_file(made.folder / WEIGHTS)
    assert all(torch.equal(value, stored[f"encoder.{name}"]) for name, value in seen[4].items())
    assert not torch.equal(stored["encoder.0.weight"], seen[3]["0.weight"])


def test_robust_linear_evaluation_without_an_attack_is_linear_evaluation(job):
    """Whole batches, since the two protocols order images differently: features and images give one classifier."""
    found = {}
    for kind, more in ((params.LE, {}), (params.RLE, {"eps": params.Budget("1e-9"), "steps": 1, **PLAIN})):
        chosen = kind(encoder=encoder(), data=MADE["DATA"], epochs=12, batch=60, milestones=(4, 8), **more)
        made, *_ = job(chosen, folder=kind.__name__)
        training.train(made)
        found[kind] = load_file(made.folder / WEIGHTS)
    torch.testing.assert_close(found[params.LE], found[params.RLE], rtol=1e-4, atol=1e-5)
    assert float(found[params.LE]["head.weight"].abs().max()) > 0.01


# --- milestones and shifts -------------------------------------------------------------------------------------------


def test_the_rate_is_a_tenth_after_each_milestone():
    rates = [fitting.decay("step", epoch, 0.9, 150, milestones=(30, 50, 100)) for epoch in (0, 29, 30, 49, 50, 99, 100)]
    np.testing.assert_allclose(rates, [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001])
    for epochs in (3, 10, 25):
        usual = (int(0.6 * epochs), int(0.8 * epochs))
        assert [fitting.decay("step", epoch, 0, epochs) for epoch in range(epochs)] == [
            fitting.decay("step", epoch, 0, epochs, milestones=usual) for epoch in range(epochs)
        ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": 20}, r"milestones=\[10, 20\] must rise between 0 and epochs=20; `milestones: null` is 60 %"),
        ({"milestones": (20, 10)}, r"milestones=\[20, 10\] must rise"),
        ({"milestones": (0, 10)}, r"milestones=\[0, 10\] must rise"),
        ({"schedule": "cosine"}, r"schedule=cosine has no milestones; write `milestones: null`"),
        ({"pad": -1}, r"pad=-1 must be at least 0"),
    ],
)
def test_wrong_settings_are_refused(changes, sentence):
    for kind in (params.SLF, params.ALF):
        with pytest.raises(ValueError, match=sentence):
            kind(encoder=None, data=None, **changes)


def test_a_negative_beta_is_refused():
    with pytest.raises(ValueError, match=r"beta=-1 must be at least 0"):
        params.AFF(encoder=None, data=None, beta=-1)


def test_shifted_images_are_all_windows_of_the_bordered_image():
    source = images.TrainingImages(Shades(), encoder(), crop=1.0, flip=0.0, seed=0, pad=1)
    bordered = F.pad(source.read(5), [1, 1, 1, 1])
    windows = {bordered[:, top : top + 8, left : left + 8].numpy().tobytes() for top in range(3) for left in range(3)}
    found = {source.augmented(5, epoch).numpy().tobytes() for epoch in range(80)}
    assert found == windows and len(windows) == 9
    assert torch.equal(source.augmented(5, 7), source.augmented(5, 7))


# --- names in reports ------------------------------------------------------------------------------------------------


def test_a_protocol_is_named_with_the_settings_that_are_not_its_own():
    chosen = {"encoder": SimpleNamespace(), "data": None}
    assert robharness_probe.protocol("SLF", params.SLF(**chosen)) == "SLF"
    other = params.AFF(**chosen, epochs=100, milestones=(40, 60))
    assert robharness_probe.protocol("AFF", other) == "AFF with epochs=100, milestones=[40, 60]"
    assert robharness_probe.protocol("", params.Retrieval(**chosen, scale=3.0)) == ""
    assert robharness_probe.protocol("ALF", params.ALF(**chosen, eps=params.Budget("4/255"))) == "ALF with eps=4/255"
