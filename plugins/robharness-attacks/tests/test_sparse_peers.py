"""sigma-zero, and FMN under l0, beside adv-lib's functions: as few changed values, example by example.

In float64 both change the same number of values of every example. In float32 roundings grow with the steps, and the
searches of single examples part, in either direction. Two runs of one code on inputs 1e-6 apart differ as much.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from scipy import stats

from robharness_attacks.norms import length
from robharness_bridges.advlib import advlib

ADV_LIB = Path(sys.prefix) / "adv-lib"
PEERS = {"fmn": ("fmn", "steps", {"norm": 0}), "sigma-zero": ("sigma_zero", "num_steps", {})}
"""Attack -> adv-lib's function, its argument for the number of steps, and the others."""

OPTIONS = {"fmn": {"norm": "l0"}, "sigma-zero": {}}
LEAST_P = 0.01
"""The least p-value at which an excess counts as chance, in one-sided tests."""


@pytest.fixture(scope="module")
def peer():
    """A function that returns the points of adv-lib's attack, (N, *shape)."""
    assert ADV_LIB.is_dir(), "adv-lib has a folder of its own. Try: make test"
    sys.path.append(str(ADV_LIB))
    library = advlib()

    def run(name, net, batch, steps):
        function, argument, options = PEERS[name]
        return getattr(library, function)(net, batch.x.clone(), batch.labels, **options, **{argument: steps}).detach()

    return run


@pytest.fixture(scope="module")
def counts(attack, peer):
    """A function that returns the numbers of changed values, (N,) int, of our attack and of adv-lib's.

    An example that the network still classifies right counts as one with all values changed.
    """

    def run(name, net, batch, steps):
        ours = attack(name, net, batch, float("inf"), rows=64, steps=steps, **OPTIONS[name]).x
        for points in (ours, peer(name, net, batch, steps)):
            is_fooled = net(points).argmax(1) != batch.labels
            yield torch.where(is_fooled, length(points - batch.x, "l0"), batch.x[0].numel()).long()

    return run


@pytest.mark.parametrize(("name", "steps"), [
    ("fmn", 2), ("fmn", 30), ("fmn", 100), ("sigma-zero", 2), ("sigma-zero", 30), ("sigma-zero", 200)
])  # fmt: skip
def test_counts_are_those_of_advlib_in_float64(counts, digits, batch_of, name, steps):
    net, x, labels = digits
    ours, theirs = counts(name, copy.deepcopy(net).double(), batch_of(x.double(), labels), steps)
    assert torch.equal(ours, theirs)
    assert len(ours.unique()) >= 3


@pytest.mark.parametrize("name", PEERS)
def test_counts_are_those_of_advlib_on_colour_images(counts, conv_net, uniform, batch_of, name):
    net, x = conv_net().double(), uniform(2, 60, 3, 8, 8).double()
    ours, theirs = counts(name, net, batch_of(x, net(x).argmax(1)), 100)
    assert torch.equal(ours, theirs)
    assert len(ours.unique()) >= 3


def check_at_least_as_good(ours, theirs):
    """Assert that ours do not change more values on the same examples: by the sign test, and on average."""
    excess = (ours - theirs).numpy()
    more, fewer = int((excess > 0).sum()), int((excess < 0).sum())
    seen = f"{more} of {len(excess)} have more changes than adv-lib's, {fewer} fewer; on average {excess.mean():+.3f}"
    if more:
        assert stats.binomtest(more, more + fewer, alternative="greater").pvalue > LEAST_P, seen
        assert stats.ttest_1samp(excess, 0, alternative="greater").pvalue > LEAST_P, seen


@pytest.mark.parametrize("name", PEERS)
def test_no_more_values_than_advlib_on_digits(counts, digits, batch_of, name):
    net, x, labels = digits
    check_at_least_as_good(*counts(name, net, batch_of(x, labels), 200))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps", "n"), [("fmn", 100, 500), ("fmn", 1000, 100), ("sigma-zero", 1000, 300)])
def test_no_more_values_than_advlib_on_mnist(counts, mnist_case, batch_of, name, steps, n):
    """At the default numbers of steps, and FMN at that of AttackBench, too."""
    ours, theirs = counts(name, mnist_case.net, batch_of(mnist_case.x[:n], mnist_case.labels[:n]), steps)
    check_at_least_as_good(ours, theirs)
    assert 3 < float(ours.float().mean()) < 12
