"""Contract checks of the bridge to adv-lib by the author kit: a search under l0 and l2, and an attack with a budget."""

from __future__ import annotations

import pytest

from robharness.testing import parametrize_with_checks

ADV_LIB = "attacks/advlib"
SIGMA_ZERO = {"name": "sigma_zero", "norm": "l0", "options": {"num_steps": 30}}
FMN = {"name": "fmn", "norm": "l0", "options": {"steps": 30}}
DDN = {"name": "ddn", "norm": "l2", "options": {"steps": 60}}
PGD = {"name": "pgd_linf", "options": {"steps": 10, "relative_step_size": "1/4"}}


@parametrize_with_checks("robharness_bridges", only=["plugin/*"])
def test_contract_of_the_plugin(check):
    check()


@pytest.mark.slow
@parametrize_with_checks("robharness_bridges", only=ADV_LIB, options={"advlib": SIGMA_ZERO})
def test_contract_of_sigma_zero(check):
    check()


@pytest.mark.slow
@parametrize_with_checks("robharness_bridges", only=ADV_LIB, options={"advlib": FMN})
def test_contract_of_fmn_under_l0(check):
    check()


@pytest.mark.slow
@parametrize_with_checks("robharness_bridges", only=ADV_LIB, options={"advlib": DDN})
def test_contract_of_ddn(check):
    check()


@pytest.mark.slow
@parametrize_with_checks("robharness_bridges", only=ADV_LIB, options={"advlib": PGD})
def test_contract_of_pgd(check):
    check()
