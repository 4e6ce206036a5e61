"""The audit finds each defect of a network, and none in honest ones; docs/explanation/audit.md has the whole table."""

import re
from pathlib import Path

import pytest

from audited import DEFECTS, HONEST, NETWORKS, SEEDS, Staircase, audited, built, defective

ROOT = Path(__file__).parents[2]


def codes(audit):
    return [check.code for check in audit.failed]


def test_every_defect_at_its_weakest_is_found(tmp_path):
    nets = {key: net for key, net in defective("mlp", 0).items() if key[1] == DEFECTS[key[0]][1][0]}
    found = audited(nets, tmp_path, limit=50)
    assert len(found) == len(DEFECTS) and all(codes(audit) for audit in found.values())
    assert "saturation" in codes(found["saturated logits", 30])
    assert "gradient-zero" in codes(found["step function", 0.01])
    assert codes(found["random noise layer", 0.001]) == ["probe", "deterministic"]
    assert codes(found["train-mode BatchNorm", 0.01]) == ["probe", "independent"]


def test_honest_networks_have_no_finding(tmp_path):
    names = ("mlp, adversarially trained", "small ViT")
    nets = {name: built(HONEST[name][0], 0, **HONEST[name][1]) for name in names}
    assert {name: codes(audit) for name, audit in audited(nets, tmp_path).items() if audit.failed} == {}


def test_a_staircase_is_found_where_it_misleads_attacks(tmp_path):
    """The gradients of steep steps vanish on their plateaus; gentler ones have wrong lengths, which matter under l2."""
    net = built(NETWORKS["mlp"], 0)
    nets = {steepness: Staircase(net, steepness).eval() for steepness in (30, 100)}
    attacks = [
        {"attack": "attacks/pgd", "norm": norm, "eps": eps, "steps": 10} for norm, eps in (("linf", 0.1), ("l2", 0.5))
    ]
    found = audited(nets, tmp_path, attacks=attacks)
    assert "stronger" in codes(found[30])  # under l2
    assert {"stronger", "black-box", "unbounded"} <= set(codes(found[100]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_defect_at_every_strength_is_found(network, seed, tmp_path):
    found = audited(defective(network, seed), tmp_path, limit=50)
    assert [key for key, audit in found.items() if not audit.failed] == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_no_honest_network_has_a_finding(seed, tmp_path):
    nets = {name: built(build, seed, **more) for name, (build, more) in HONEST.items()}
    assert {name: codes(audit) for name, audit in audited(nets, tmp_path).items() if audit.failed} == {}


def test_the_page_has_a_row_for_every_defect_and_strength():
    text = (ROOT / "docs/explanation/audit.md").read_text()
    rows = re.findall(r"^\| ([a-zA-Z -]+) \| (\S+) \| (\d+) of (\d+) \|", text, re.MULTILINE)
    expected = [(name, f"{strength:g}") for name, (_, strengths) in DEFECTS.items() for strength in strengths]
    assert [row[:2] for row in rows] == expected and all(caught == total for _, _, caught, total in rows)
