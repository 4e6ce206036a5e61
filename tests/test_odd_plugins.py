"""Data sets and attacks of another form than the contract's: one sentence each, and no number."""

from __future__ import annotations

import textwrap

import pytest

from robharness import api
from robharness.report import build

ODD = """
    from dataclasses import dataclass

    from robharness import AttackSpec, Cost, DatasetSpec, InputSpec, ModelSpec, ThreatModel, hookimpl


    class Data:
        def __init__(self, split):
            self.ids = [1, 2] if split == "numbered" else ["a", "b"]
            self.labels = {"fractions": [0.9, 0.2], "texts": ["0", "1"], "truths": [True, False]}.get(split, [0, 1])

        def read(self, index):
            raise OSError("no pixels")


    class Nothing:
        pass


    @dataclass(frozen=True, kw_only=True)
    class Params:
        pass


    @hookimpl
    def robharness_datasets():
        yield DatasetSpec(name="data", summary="", labels="two", splits=(),
                          open=lambda root, split: None if split == "none" else Data(split))


    @hookimpl
    def robharness_models():
        import torch

        yield ModelSpec(name="net", summary="", input=InputSpec(shape=(1, 2, 2)), labels="two",
                        build=lambda params, weights: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)))


    @hookimpl
    def robharness_attacks():
        for name, build, ensemble in (("empty", dict, True), ("nothing", Nothing, False), ("numbered", None, True)):
            yield AttackSpec(
                name=name, summary="", access="decision", params=Params, ensemble=ensemble,
                threat=lambda params: ThreatModel(norm="linf"), cost=lambda params: Cost(), randomness="none",
                build=lambda params, build=build: build() if build else {1: Nothing()},
            )
"""


ATTACKS = [{"attack": f"odd_data/{name}", "eps": 0.5} for name in ("empty", "nothing", "numbered")]


@pytest.fixture
def odd(tmp_path):
    path = tmp_path / "odd_data.py"
    path.write_text(textwrap.dedent(ODD))
    return str(path)


@pytest.mark.parametrize(
    ("split", "sentence"),
    [
        ("fractions", "the label 0.9 of 'a' is not a whole number"),
        ("texts", "the label '0' of 'a' is not a whole number"),
        ("truths", "the label True of 'a' is not a whole number"),
        ("numbered", "the id 1 is not a text"),
        ("none", "its open returned NoneType, which lacks ids, labels"),
    ],
)
def test_data_of_another_form_are_refused_in_a_sentence(split, sentence, odd):
    source = {"robharness": 1, "name": "odd", "data": {"name": "odd_data/data", "split": split},
              "models": [{"model": "odd_data/net"}]}  # fmt: skip
    assert sentence in str(api.plan(source, plugins=[odd]).missing[0])


def test_data_without_a_readable_example_fail_and_are_reported(odd, tmp_path):
    """Also under an attack, of which nothing is stored then."""
    source = {
        "robharness": 1,
        "name": "odd",
        "data": {"name": "odd_data/data", "split": "any"},
        "models": [{"model": "odd_data/net", "label": "Net"}],
        "attacks": ATTACKS,
    }
    found = api.run(source, store=tmp_path / "s", plugins=[odd])
    report = build(found)
    assert not report.complete and all(cell.numbers.accuracy is None for cell in report.cells)
    assert "no pixels" in " ".join(report.problems)


def test_attacks_of_another_form_fail_alone(odd, suite, tmp_path, toys):
    found = api.run(suite(attacks=[*ATTACKS, {"attack": "toys/sign", "eps": "1/8"}]), store=tmp_path / "s",
                    plugins=[toys, odd])  # fmt: skip
    clean, *wrong, sign = sorted(found.cells, key=lambda cell: ["clean", "empty", "nothing", "numbered", "sign"].index(
        cell.cell.what.partition("(")[0]))  # fmt: skip
    assert clean.is_complete and sign.is_complete
    sentences = [str(cell.failures[0]) for cell in wrong]
    assert "its build returned dict, not attacks by name" in sentences[0]
    assert "its build returned Nothing, not an object with a method `perturb`" in sentences[1]
    assert "its build returned dict, not attacks by name" in sentences[2]
