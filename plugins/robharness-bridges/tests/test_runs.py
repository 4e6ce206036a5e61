"""Runs of the wrapped attacks: agreement with robharness's attacks, and independence of shards and limits."""

from __future__ import annotations

import numpy as np
import pytest

import robharness

FGSM = [
    {"attack": "attacks/fgsm", "norm": "linf", "eps": "1/8"},
    {"attack": "bridges/foolbox", "name": "FGSM", "eps": "1/8"},
    {"attack": "bridges/torchattacks", "name": "FGSM", "eps": "1/8"},
]
PGD = [
    {"attack": "attacks/pgd", "eps": "1/8", "steps": 5, "rel_step": "1/4", "keep": "last", "random_start": False},
    {"attack": "bridges/foolbox", "name": "PGD", "eps": "1/8",
     "options": {"steps": 5, "rel_stepsize": "1/4", "random_start": False}},
    {"attack": "bridges/torchattacks", "name": "PGD", "eps": "1/8",
     "options": {"steps": 5, "alpha": "1/32", "random_start": False}},
]  # fmt: skip
RANDOM = [
    {"attack": "bridges/foolbox", "name": "PGD", "eps": "1/8", "options": {"steps": 3}},
    {"attack": "bridges/torchattacks", "name": "APGD", "eps": "1/8", "options": {"steps": 3}},
    {"attack": "bridges/pyautoattack", "attacks": ["apgd-ce"], "eps": "1/2"},
    {"attack": "bridges/advlib", "name": "pgd_linf", "eps": "1/8", "options": {"steps": 3}},
    {"attack": "bridges/advlib", "name": "carlini_wagner_l2", "norm": "l2", "options": {"max_iterations": 10}},
]


@pytest.fixture
def run(digits, tmp_path):
    """A function that runs attacks on the digits, in a store of the given name."""

    def run(attacks, store="store", complete=True, **options):
        suite = {"robharness": 1, "name": "bridged", "data": {"name": "samples/digits", "split": "test"},
                 "attacks": attacks, **options.pop("suite", {})}  # fmt: skip
        results = robharness.run(suite, models={"MLP": digits[0]}, store=tmp_path / store, threads=1, **options)
        assert [failure for cell in results.cells for failure in cell.failures] == []
        assert results.is_complete == complete
        return results

    return run


def test_verdicts_agree_with_ours(run):
    ours, foolbox, torchattacks, *rest = run([*FGSM, *PGD]).of("MLP", "attack")
    for group in ((ours, foolbox, torchattacks), rest):
        assert 0.2 < group[0].accuracy < 0.9
        for peer in group[1:]:
            assert np.mean(peer.correct == group[0].correct) >= 0.99
            assert np.allclose(peer.columns["size"], group[0].columns["size"], atol=1e-6)
    assert rest[0].accuracy < ours.accuracy


def test_autoattack_is_at_least_as_strong(run):
    fgsm, autoattack = run([FGSM[0], {**RANDOM[2], "eps": "1/8"}], limit=16).of("MLP", "attack")
    assert not (autoattack.correct & ~fgsm.correct).any()
    assert autoattack.accuracy < fgsm.accuracy


def columns(results, n=None):
    return {
        result.cell.short_name: [result.columns[name][:n].tobytes() for name in ("prediction", "margin", "size")]
        for result in results.of("MLP", "attack")
    }


def test_shards_and_limits_do_not_change_results(run):
    whole = run(RANDOM, "whole", limit=40, batch_size=16)
    for part in (1, 2):
        run(RANDOM, "parts", limit=40, batch_size=16, shard=(part, 3), complete=False)
    assert columns(run(RANDOM, "parts", limit=40, batch_size=16)) == columns(whole)
    grown = run(RANDOM, "grown", limit=21, batch_size=16)
    assert columns(grown) == columns(whole, 21)
    assert columns(run(RANDOM, "grown", limit=40, batch_size=16)) == columns(whole)


def test_attacking_a_subset_of_examples_gives_the_same_margins(run):
    every, robust = run(RANDOM[:1], limit=40), run(RANDOM[:1], "robust", limit=40, suite={"count": "robust"})
    (all_of_it,), (right,) = every.of("MLP", "attack"), robust.of("MLP", "attack")
    attacked = right.columns["attacked"]
    assert attacked.any()
    assert np.array_equal(all_of_it.columns["margin"][attacked], right.columns["margin"][attacked])


def test_the_suites_seed_decides(run):
    first, second = run(RANDOM[:1], limit=16), run(RANDOM[:1], limit=16, suite={"seed": 1})
    assert columns(first) != columns(second)
    assert columns(run(RANDOM[:1], "again", limit=16)) == columns(first)
