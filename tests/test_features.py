"""Access "features": a representation and its gradients, and nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from robharness.errors import ContractViolation
from robharness.evaluation import folding, loading, probe
from robharness.evaluation.batch import Batch
from robharness.evaluation.classifier import Classifier
from robharness.planning import planner

REAL = {"model": "teams/net", "label": "Real"}
INSIGHT = {"attack": "teams/insight", "eps": "1/8"}


def columns(results, name="insight(linf, 1/8)"):
    [found] = [result for result in results.cells if result.cell.short_name == name]
    assert not found.failures
    return found.columns


def test_features_and_their_gradient_are_those_of_the_submodule(suite, run):
    results = run(suite(models=[REAL], attacks=[INSIGHT]), batch_size=8)
    loaded = loading.load_model(results.plan, results.plan.models[0])
    net, batch = loaded.classifier.net, loaded.reader.read(0, 40)
    leaf = batch.x.clone().requires_grad_(True)
    value = net.body(leaf)[:, :48].sum(1)
    value.sum().backward()
    found = columns(results)
    assert found["same"].all(), "the features alone are those of the pass that gradients come from"
    assert np.allclose(found["value"], value.detach(), atol=1e-5)
    moved = net((batch.x + 0.125 * leaf.grad.sign()).clamp(0, 1))
    assert (found["prediction"] == moved.argmax(1).numpy()).all()


def test_the_head_does_not_affect_a_feature_attack(suite, run):
    """With a head 4 times as large the verdicts differ by as much, and the attack by nothing."""
    results = [run(suite(models=[REAL | {"head": head}], attacks=[INSIGHT]), f"head-{head}") for head in (1, 4)]
    one, other = (columns(result) for result in results)
    assert one["value"].tolist() == other["value"].tolist()
    assert (4 * one["margin"]).tolist() == pytest.approx(other["margin"].tolist())


def test_the_submodule_is_part_of_the_identity_of_the_attack(suite, run):
    """Another submodule makes another cell of the attack, and of nothing else."""
    plan = run(suite(models=[REAL], attacks=[INSIGHT])).plan
    entry = plan.models[0].entry
    other = replace(entry, spec=replace(entry.spec, features="body.0"))
    moved = replace(plan.suite, models=(replace(plan.suite.models[0], entry=other),))
    before, after = [[cell.key for cell in plan.cells], [cell.key for cell in planner.plan(moved, Path()).cells]]
    assert [one == two for one, two in zip(before, after, strict=True)] == [True, False]


def test_a_missing_submodule_is_reported_before_the_run():
    net = Plain()
    with pytest.raises(AttributeError):
        folding.folded(net, images(2), "bdoy")
    assert not any(module._forward_hooks for module in net.modules())


def test_logits_are_refused(suite, run):
    result = run(suite(models=[REAL], attacks=[INSIGHT | {"how": "asks-for-logits"}])).cells[-1]
    [failure] = result.failures
    assert failure.error == "teams/insight: the attack declares access='features' but requested scores"


class Plain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Conv2d(1, 2, 3), torch.nn.Linear(72, 3)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


def images(n):
    return torch.empty(n, 1, 8, 8).uniform_(generator=torch.Generator().manual_seed(0))


def test_feature_access_refuses_logits_and_gradients_of_logits():
    x, labels = images(5), torch.zeros(5, dtype=torch.long)
    classifier = Classifier(Plain(), batch_size=4, features="body")
    view = classifier.with_access("features")
    features = view.features(x)
    assert torch.allclose(features, classifier.net.body(x).flatten(1), atol=1e-6)
    assert view.gradient(x, labels, lambda values, about: values.sum(1)).logits.shape == (5, 72)
    for ask in (lambda: view.logits(x), lambda: view.decisions(x), lambda: classifier.features(x)):
        with pytest.raises(ContractViolation, match="but requested"):
            ask()
    with pytest.raises(ContractViolation, match="it declares no `features`"):
        Classifier(Plain(), batch_size=4).with_access("features").features(x)


def test_cached_features_and_logits_are_separate():
    classifier = Classifier(Plain(), batch_size=4, features="body")
    probe.probe(classifier, (1, 8, 8))
    batch = Batch(list("abcd"), images(4), torch.zeros(4, dtype=torch.long))
    objective = lambda values, about: values[:, 0]  # noqa: E731
    view = classifier.with_access("features")
    assert batch.gradient(view, objective).logits.shape == (4, 72)
    assert batch.logits(classifier).shape == (4, 3)
    assert batch.gradient(classifier, objective).logits.shape == (4, 3)
    before = classifier.passes["forward"]
    batch.features(view), batch.features(view), batch.gradient(view, objective)
    assert classifier.passes["forward"] == before + 1
