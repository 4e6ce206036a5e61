"""Encoders in the options of models: trained on their features, by their files' content, computed once."""

import copy
import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

import robharness
from probes import CLASSES, Shades, classifier_network, filled, trunk_network
from robharness import UserError, api, discover
from robharness.cli.plan import as_data as plan_as_data
from robharness.engine import listeners
from robharness.errors import ContractViolation, SuiteError
from robharness.evaluation.building import EncoderNetwork, load_encoder
from robharness.evaluation.loading import load_model
from robharness.planning import artefacts
from robharness.planning.weights import file_digest
from robharness.plugins import Registry
from robharness.report import build
from robharness.store import Store
from robharness.suite.fields import FieldReader
from robharness.suite.references import needs_probe
from robharness.suite.source import from_mapping
from robharness.training.train import train_models
from toy_probing import PLUGINS, TRUNK, plan, probe, suite


def test_a_probe_learns_on_features_and_is_measured_with_its_encoder(file, store):
    source = suite(probe({"model": "probes/trunk", "weights": str(file)}))
    results = api.run(source, store=store, plugins=PLUGINS)
    assert results.is_complete
    net = filled(trunk_network(), 0).eval()
    data = Shades("train", 90)
    x = torch.stack([torch.from_numpy(data.read(i)).permute(2, 0, 1) / 255 for i in range(90)])
    with torch.no_grad():
        features = net(x).double()
    [made] = [folder for folder in (store / "artefacts").iterdir() if (folder / "features.npy").exists()]
    stored = np.load(made / "features.npy")
    np.testing.assert_allclose(stored, features.numpy(), atol=1e-5)
    assert np.load(made / "labels.npy").tolist() == data.labels
    assert json.loads((made / "ids.json").read_text()) == data.ids
    rows = torch.cat([features, torch.ones(90, 1, dtype=torch.double)], 1)
    targets = torch.nn.functional.one_hot(torch.tensor(data.labels), CLASSES).double()
    solved = torch.linalg.solve(rows.T @ rows + torch.eye(rows.shape[1]), rows.T @ targets)
    test = Shades("test", 48)
    x = torch.stack([torch.from_numpy(test.read(i)).permute(2, 0, 1) / 255 for i in range(48)])
    with torch.no_grad():
        predicted = (net(x).double() @ solved[:-1] + solved[-1]).argmax(1)
    accuracy = (predicted == torch.tensor(test.labels)).double().mean().item()
    assert results.clean("Probe").accuracy == pytest.approx(accuracy) and accuracy > 0.5


def test_five_probes_cost_one_pass_over_the_data(file, store, passes):
    source = suite(*(probe({"model": "probes/trunk", "weights": str(file)}, f"P{i}", ridge=0.5 + i) for i in range(5)))
    trained = robharness.train(source, store=store, plugins=PLUGINS)
    assert [each.error for each in trained] == [""] * 5
    rows = [n for n in passes() if n > 4]  # smaller passes are checks of the network
    [made] = [row for row in artefacts.listing(store) if row["model"] == "features of probes/trunk"]
    assert 90 <= sum(rows) < 90 + max(rows)  # the last pass is padded
    assert made["state"] == made["problem"] == ""
    before = len(passes())
    again = robharness.train(
        suite(probe({"model": "probes/trunk", "weights": str(file)}, "Sixth", ridge=9.0)), store=store, plugins=PLUGINS
    )
    assert again[0].sha256 and max(passes()[before:], default=0) <= 2


def test_an_encoder_that_is_replaced_under_its_path_trains_its_probe_again(file, store):
    source = suite(probe({"model": "probes/trunk", "weights": str(file)}))
    first = api.run(source, store=store, plugins=PLUGINS)
    assert not plan(source, store).untrained
    save_file(filled(trunk_network(), 1).state_dict(), file)
    planned = plan(source, store)
    assert [model.label for model in planned.untrained] == ["Probe"]
    second = api.run(source, store=store, plugins=PLUGINS)
    assert second.cells[0].cell.key != first.cells[0].cell.key
    assert len([row for row in artefacts.listing(store) if row["model"].startswith("features")]) == 2


def test_a_plan_says_what_is_made_first_and_for_which_models(store):
    encoder = {"model": "probes/recipe", "epochs": 2}
    source = suite(probe(encoder), probe(encoder, label="Other", ridge=0.5))
    planned = plan(source, store)
    made = plan_as_data(planned, Store(store))["made_first"]
    assert [each["what"] for each in made] == [
        "training of probes/recipe (encoder of Probe)", "features of probes/recipe on probes/shades/train",
        "training of Probe", "training of Other",
    ]  # fmt: skip
    assert [each["for"] for each in made] == [["Probe", "Other"], ["Probe", "Other"], ["Probe"], ["Other"]]
    assert {each["examples"] for each in made} == {90}
    robharness.train(source, store=store, plugins=PLUGINS)
    assert plan_as_data(plan(source, store), Store(store))["made_first"] == []


def test_a_suite_trains_an_encoder_and_then_its_probe(store):
    encoder = {"model": "probes/recipe", "epochs": 2}
    source = suite(probe(encoder, seeds=2), {"model": "probes/first", "encoder": encoder, "label": "First"}, seed=3)
    trained = robharness.train(source, store=store, plugins=PLUGINS)
    assert [each.error for each in trained] == [""] * 3
    results = api.run(source, store=store, plugins=PLUGINS)
    assert results.is_complete and not plan(source, store).untrained
    found = [row["model"] for row in artefacts.listing(store)]
    assert sorted(found) == sorted(["probes/recipe", "features of probes/recipe", "probes/linear"] * 2)


def test_an_encoder_that_is_trained_again_to_other_weights_leaves_no_old_probe(store, tmp_path):
    source = suite(probe({"model": "probes/recipe"}))
    robharness.train(source, store=store, plugins=PLUGINS)
    rows = {row["model"]: store / "artefacts" / row["name"] for row in artefacts.listing(store)}
    other = filled(trunk_network(), 9).state_dict()
    save_file(other, rows["probes/recipe"] / "weights.safetensors")
    provenance = rows["probes/recipe"] / "provenance.json"
    facts = json.loads(provenance.read_text())
    sha256 = file_digest(rows["probes/recipe"] / "weights.safetensors")
    provenance.write_text(json.dumps(facts | {"sha256": sha256}))
    for each in (source, suite(probe({"model": "probes/recipe"}, ridge=4.0))):  # the head, and the features
        with pytest.raises(UserError, match=r"was made with other weights of probes/recipe .*Try: rm -r "):
            robharness.train(each, store=store, plugins=PLUGINS)


def test_the_weights_that_a_suite_trained_are_identity_of_models_without_a_training(store):
    """Also if the encoder is inside of an encoder."""
    recipe = {"model": "probes/recipe"}
    inner = {"model": "probes/first", "encoder": recipe, "features": "encoder"}
    source = suite(*({"model": "probes/first", "encoder": each, "label": label} for each, label in
                     ((recipe, "One"), (inner, "Two"))))  # fmt: skip
    robharness.train(source, store=store, plugins=PLUGINS)
    before = [cell.key for cell in plan(source, store).cells]
    [row] = artefacts.listing(store)
    folder = store / "artefacts" / row["name"]
    save_file(filled(trunk_network(), 9).state_dict(), folder / "weights.safetensors")
    facts = json.loads((folder / "provenance.json").read_text())
    sha256 = file_digest(folder / "weights.safetensors")
    (folder / "provenance.json").write_text(json.dumps(facts | {"sha256": sha256}))
    after = [cell.key for cell in plan(source, store).cells]
    assert len({*before, *after}) == 4


# --- the network of an encoder ----------------------------------------------------------------------------------------


def encoder_of(source, store):
    [model] = plan(source, store).untrained
    return load_encoder(model.encoders["encoder"]), model


def inputs(n=4):
    return torch.empty(n, 1, 8, 8).uniform_(0, 1, generator=torch.Generator().manual_seed(1))


def test_a_network_is_cut_behind_its_features(tmp_path, store):
    """The head has no state in the encoder, and is not run; gradients and copies work."""
    net, path = filled(classifier_network(), 2), tmp_path / "whole.safetensors"
    save_file(net.state_dict(), path)
    encoder, _ = encoder_of(suite(probe({"model": "probes/classifier", "weights": str(path)})), store)
    assert [name for name in encoder.state_dict() if "head" in name] == []
    assert len(encoder.state_dict()) == len(net.trunk.state_dict())
    x = inputs().requires_grad_(True)
    expected = net.eval().trunk(x)
    assert torch.equal(encoder(x), expected) and not encoder.training
    assert torch.equal(copy.deepcopy(encoder)(x), expected)
    [gradient] = torch.autograd.grad(encoder(x).sum(), x)
    assert torch.equal(gradient, torch.autograd.grad(expected.sum(), x)[0]) and gradient.abs().sum() > 0


def test_a_suite_may_name_another_submodule_whose_output_is_flattened(tmp_path, store):
    net, path = filled(classifier_network(), 2), tmp_path / "whole.safetensors"
    save_file(net.state_dict(), path)
    source = suite(probe({"model": "probes/classifier", "weights": str(path), "features": "trunk.norm"}))
    encoder, model = encoder_of(source, store)
    x = inputs()
    assert torch.equal(encoder(x), net.eval().trunk.norm(net.trunk.conv(x)).flatten(1))
    assert not [name for name in encoder.state_dict() if "head" in name or "flat" in name]
    plain = suite(probe({"model": "probes/classifier", "weights": str(path)}))
    assert plan(plain, store).untrained[0].artefact.hash != model.artefact.hash
    wrong = suite(probe({"model": "probes/classifier", "weights": str(path), "features": "trunk.nothing"}))
    [found] = robharness.train(wrong, store=store, plugins=PLUGINS)
    assert "its `features` are 'trunk.nothing', and it has no part of that name" in found.error


def test_a_trunk_loads_a_file_without_a_head(tmp_path, store):
    """And a module that is called twice gives its last output; the pass is not ended at its first one."""
    net, path = filled(trunk_network(), 3), tmp_path / "trunk.safetensors"
    save_file(net.state_dict(), path)
    encoder, _ = encoder_of(suite(probe({"model": "probes/headless", "weights": str(path)})), store)
    assert torch.equal(encoder(inputs()), net.eval()(inputs()))

    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.part, self.head = torch.nn.Linear(3, 3), torch.nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.part(self.part(x).relu()))

    twice = Twice().eval()
    cut = EncoderNetwork(twice, "part")
    before = twice.part(twice.part(torch.ones(2, 3)).relu())
    cut.cut(torch.ones(2, 3))
    assert torch.equal(cut(torch.ones(2, 3)), before) and "net.head.weight" not in cut.state_dict()


def test_the_state_in_an_encoders_file_is_chosen_by_the_suite(tmp_path, store):
    teacher, student = (filled(trunk_network(), seed) for seed in (4, 5))
    path = tmp_path / "two.pt"
    states = {name: {f"module.{key}": value for key, value in net.state_dict().items()}
              for name, net in {"teacher": teacher, "student": student}.items()}  # fmt: skip
    torch.save(states, path)
    chosen = {"model": "probes/trunk", "weights": str(path), "inside": "teacher", "strip": "module."}
    encoder, model = encoder_of(suite(probe(chosen)), store)
    assert torch.equal(encoder(inputs()), teacher.eval()(inputs()))
    other, its = encoder_of(suite(probe(chosen | {"inside": "student"})), store)
    assert torch.equal(other(inputs()), student.eval()(inputs())) and its.artefact.hash != model.artefact.hash
    results = api.run(suite(probe(chosen)), store=store, plugins=PLUGINS)
    assert results.is_complete


class Odd(torch.nn.Module):
    """A network whose features depend on the weights of its head, in float64."""

    def __init__(self):
        super().__init__()
        self.part, self.head, self.unused = (torch.nn.Linear(3, 3) for _ in range(3))

    def forward(self, x):
        return self.head(self.part(x * self.head.weight.mean())).double()


def test_what_features_depend_on_is_not_removed():
    torch.manual_seed(0)  # noqa: TID251
    odd, x = Odd().eval(), torch.ones(2, 3)
    cut = EncoderNetwork(odd, "part")
    before = cut(x)
    cut.cut(x)
    assert torch.equal(cut(x), before) and "net.head.weight" in cut.state_dict()
    assert EncoderNetwork(odd)(x).dtype == torch.float32
    with pytest.raises(ContractViolation, match="its `features`, 'unused', are not called in a pass"):
        EncoderNetwork(odd, "unused")(x)
    with pytest.raises(ContractViolation, match=r"its features must be \(N, D\), they are \(3,\) for 1 inputs"):
        EncoderNetwork(torch.nn.Flatten(0))(x[:1])


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_an_encoder_alone_is_an_error_that_shows_the_probe(store):
    with pytest.raises(SuiteError) as error:
        plan(suite({"model": "probes/trunk"}), store)
    written = str(error.value).partition("which gives no classes; write `")[2].partition("`")[0]
    assert "models.0.model: probes/trunk is an encoder" in str(error.value) and "probes/linear" in str(error.value)
    assert yaml.safe_load(written)["encoder"] == {"model": "probes/trunk"}
    assert plan(suite(yaml.safe_load(written)), store).untrained


def test_the_probe_that_is_shown_keeps_the_encoders_keys(store):
    with pytest.raises(SuiteError) as error:
        plan(suite({"model": "probes/trunk", "weights": "./a b.pt", "strip": "1.", "label": "Mine"}), store)
    written = str(error.value).partition("write `")[2].partition("`")[0]
    assert yaml.safe_load(written)["encoder"] == {"model": "probes/trunk", "weights": "./a b.pt", "strip": "1."}
    assert yaml.safe_load(written)["label"] == "Mine"


def test_an_encoder_that_cannot_be_loaded_is_tried_once_and_blamed_in_every_model(store, tmp_path):
    torch.save({"other": torch.zeros(1)}, tmp_path / "bad.pt")
    bad = TRUNK | {"weights": str(tmp_path / "bad.pt")}
    heads = [{"model": "probes/linear", "encoder": bad, "label": label} for label in ("One", "Two")]
    results = api.run(suite(*heads), store=store, plugins=PLUGINS)
    report = build(results)
    [problem] = report.problems
    assert problem.startswith("One, Two could not be trained: probes/trunk: ")
    assert not any("not trained yet" in warning for warning in report.warnings)


def test_an_encoder_alone_without_a_probe_to_show(tmp_path):
    alone = tmp_path / "alone.py"
    alone.write_text(
        "from robharness import InputSpec, ModelSpec, hookimpl\n\n@hookimpl\ndef robharness_models():\n"
        "    yield ModelSpec(name='e', summary='-', labels='none', input=InputSpec(shape=(1, 8, 8)),\n"
        "                    build=lambda params, weights: None)\n"
    )
    registry = discover([str(alone)])
    registry = Registry(models={"alone/e": registry.models["alone/e"]})
    reader = FieldReader(from_mapping({}), registry)
    sentence = needs_probe(reader, registry.models["alone/e"], {"model": "alone/e"})
    assert sentence.endswith("no installed model takes an `encoder`. Try: robharness list models")


MISTAKES = {
    "kinds": ({"model": "probes/film"}, "models.0.encoder: probes/film takes videos, probes/shades holds images"),
    "key": ({"model": "probes/trunk", "wheels": 3}, "models.0.encoder.wheels: unknown key 'wheels'"),
    "model": ({"weights": "x"}, "models.0.encoder: missing key 'model'"),
    "name": ({"model": "probes/trnk"}, "models.0.encoder.model: .*did you mean 'probes/trunk'"),
    "features": (
        {"model": "probes/first", "encoder": TRUNK},
        "probes/first declares no `features`; name the submodule",
    ),
    "text": ("probes/trunk", "models.0.encoder: an encoder is a mapping such as"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_an_encoder_have_their_places(name, store):
    encoder, sentence = MISTAKES[name]
    with pytest.raises(SuiteError, match=sentence):
        plan(suite(probe(encoder)), store)


def test_what_is_missing_or_does_not_fit_is_named_before_anything_runs(store, tmp_path, passes):
    gone = {"model": "probes/trunk", "weights": "gone.pt"}
    with pytest.raises(
        UserError, match=r"the weights of probes/trunk, the encoder of A: not found at \S*gone.pt"
    ) as caught:
        api.run(suite(probe(gone, "A"), probe(gone, "B", ridge=2.0)), store=store, plugins=PLUGINS)
    assert str(caught.value).count("not found at") == 1  # that of B is the same
    sentence = "does not fit probes/wide, the encoder of P: the input has 16 pixels, images of 8x8 have 8 after"
    with pytest.raises(UserError, match=sentence):
        api.run(suite(probe({"model": "probes/wide"}, "P")), store=store, plugins=PLUGINS)
    resized = {"model": "probes/wide", "preprocessing": {"resize": [16, 16]}}
    with pytest.raises(UserError, match="the input has 3 channels, images have 1"):
        api.run(suite(probe(resized, "P")), store=store, plugins=PLUGINS)
    assert passes() == [] and not store.exists()


def test_a_file_that_changes_between_plan_and_use_is_found(file, store, tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(suite(probe({"model": "probes/trunk", "weights": str(file)}))))
    planned = plan(path, store)
    save_file(filled(trunk_network(), 1).state_dict(), file)
    [found] = train_models(planned, Store(store), listeners.Silent())
    assert f"its weights file {file} changed since the run was planned" in found.error
    robharness.train(path, store=store, plugins=PLUGINS)
    planned = plan(path, store)
    save_file(filled(trunk_network(), 2).state_dict(), file)
    with pytest.raises(ContractViolation, match="changed since the run was planned"):
        load_model(planned, planned.models[0])
