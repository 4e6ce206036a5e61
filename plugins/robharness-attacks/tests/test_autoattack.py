"""The lists of AutoAttack, held against the authors' own settings; what its members do is tested where they are."""

from __future__ import annotations

import pyautoattack
import pytest
import torch

from robharness_attacks.autoattack import members, parts
from robharness_attacks.params import AutoAttackParams

VERSIONS = [("standard", "linf"), ("standard", "l2"), ("standard", "l1"),
            ("plus", "linf"), ("plus", "l2"), ("rand", "linf"), ("rand", "l2")]  # fmt: skip


@pytest.fixture
def authors():
    def build(version, norm):
        name = {"linf": "Linf", "l2": "L2", "l1": "L1"}[norm]
        return pyautoattack.AutoAttack(torch.nn.Identity(), version=version, norm=name, eps=0.1)

    return build


@pytest.mark.parametrize(("version", "norm"), VERSIONS)
def test_the_authors_settings(authors, version, norm):
    theirs, ours = authors(version, norm), parts(AutoAttackParams(version=version, norm=norm))
    assert list(ours) == theirs.attacks_to_run
    for name in ("apgd-ce", "apgd-dlr"):
        if name in ours:
            part, peer = ours[name], theirs.apgd
            assert (part.steps, part.restarts, part.draws) == (peer.n_iter, peer.n_restarts, peer.eot_iter)
            assert (part.larger_eps, float(part.rho), part.targets) == (peer.use_largereps, peer.thr_decr, 0)
            assert str(part.objective) == {"apgd-ce": "excess", "apgd-dlr": "dlr"}[name]
    if "apgd-t" in ours:
        part, peer = ours["apgd-t"], theirs.apgd_targeted
        assert (part.targets, part.restarts, part.steps) == (peer.n_target_classes, peer.n_restarts, peer.n_iter)
        assert (part.larger_eps, str(part.objective)) == (peer.use_largereps, "dlr")
    for name in ("fab", "fab-t"):
        if name in ours:
            part, peer = ours[name], theirs.fab
            assert (part.steps, float(part.alpha_max), float(part.eta), float(part.beta)) == (
                peer.n_iter, peer.alpha_max, peer.eta, peer.beta)  # fmt: skip
            assert part.targets == (0 if name == "fab" else peer.n_target_classes)
            assert part.restarts == (peer.n_restarts if name == "fab" else 1)  # the runner sets 1 for fab-t
    if "square" in ours:
        part, peer = ours["square"], theirs.square
        assert (part.queries, part.restarts, float(part.p_init)) == (peer.n_queries, peer.n_restarts, peer.p_init)


def test_a_list_of_ones_own_in_its_order():
    params = AutoAttackParams(members=("square", "apgd-ce"))
    assert list(members(params)) == ["square", "apgd-ce"]
    assert parts(params)["apgd-ce"] == parts(AutoAttackParams())["apgd-ce"]
