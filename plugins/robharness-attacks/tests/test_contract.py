"""Contract checks of the attacks by the author kit; the expensive ones are marked slow."""

from __future__ import annotations

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack

from robharness.testing import parametrize_with_checks, toys
from robharness.testing.attacks import LINE_EPS, OPTIMUM_SHARE

FEW = {"square": {"queries": 50}, "rays": {"queries": 300}, "autoattack": {"members": ["apgd-ce", "fab-t"]}}
"""Short options of attacks that make thousands of passes; other tests compare full lengths with the authors' code."""
OPTIMUM = "attacks/apgd-reaches_the_optimum"
RAYS = "attacks/rays-finds_the_distance"
FAR = ["attacks/pgd-dense-reaches_the_optimum", OPTIMUM, RAYS]
"""Checks of attacks that do not reach the optimum of a linear model, or not with these options. Under l1, Foolbox's
rescaled steps reach half of it. Auto-PGD as published misses it too, as the authors' code does below; its other norms
are checked separately. So is RayS: to flip the signs of 192 values one by one, it needs more than 1,000 queries."""


@parametrize_with_checks("robharness_attacks", only=["plugin/*", "attacks/fgsm", "attacks/pgd"])
def test_contract(check):
    check()


@pytest.mark.slow
@parametrize_with_checks("robharness_attacks", leave_out=["plugin/*", "attacks/fgsm", "attacks/pgd", *FAR], options=FEW)
def test_contract_of_the_others(check):
    check()


@pytest.mark.slow
@parametrize_with_checks("robharness_attacks", only=RAYS, options={"rays": {"queries": 2000}})
def test_rays_finds_the_distance(check):
    check()


NEAR = {name: {"targets": 3, "steps": 8, "order": "near"} for name in ("apgd", "fab")}


@parametrize_with_checks(
    "robharness_attacks",
    only=[
        "attacks/apgd-exact_on_integers",
        "attacks/apgd-costs_what_it_declares",
        "attacks/fab-costs_what_it_declares",
    ],
    options=NEAR,
)
def test_nearest_targets_first(check):
    check()


@pytest.mark.slow
@parametrize_with_checks(
    "robharness_attacks", only="attacks/autoattack-costs_what_it_declares", options={"autoattack": {"version": "fast"}}
)
def test_autoattack_fast_costs_what_it_declares(check):
    check()


@parametrize_with_checks("robharness_attacks", only=OPTIMUM, options={"apgd": {"norm": "linf"}})
def test_apgd_reaches_the_optimum_under_linf(check):
    check()


@parametrize_with_checks("robharness_attacks", only=OPTIMUM, options={"apgd": {"norm": "l2"}})
def test_apgd_reaches_the_optimum_under_l2(check):
    check()


def test_the_authors_apgd_leaves_under_l1_what_the_kit_asks_for():
    toy, share = toys.line("image", "l1", LINE_EPS["l1"], (0.25, 0.5, 0.75, 0.9, 0.94))
    net, labels = toy.net(), torch.tensor(toy.labels)
    with torch.random.fork_rng():  # which it seeds itself
        theirs = APGDAttack(net, norm="L1", eps=LINE_EPS["l1"], n_iter=100, device="cpu").perturb(toy.x, labels)
    withstood = (net(theirs).argmax(1) == labels).numpy()
    assert 0 < (withstood & (share <= OPTIMUM_SHARE)).sum() <= 3
