"""`verify`: the published accuracy beside ours, and alternatives that use the weights better."""

import json

import numpy as np
import pytest

from robharness import UserError, discover
from robharness.cli import main
from robharness.verify import verify

PLUGIN = '''
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from robharness import DatasetSpec, File, InputSpec, ModelSpec, Preprocessing, hookimpl


class Patches:
    """Patches of noise in which one channel is the brightest: the class is that channel's number."""

    def __init__(self, n):
        self.ids = [f"{n}-{index}" for index in range(n)]
        self.labels = [index % 3 for index in range(n)]

    def read(self, index):
        picture = np.random.default_rng(index).integers(0, 100, (4, 4, 3), np.uint8)
        picture[..., index % 3] += 120
        return picture


def gone(root, split):
    raise FileNotFoundError("nothing here")


@hookimpl
def robharness_datasets():
    for name, n in (("many", 120), ("few", 60)):
        yield DatasetSpec(name=name, summary="Patches", labels="channels", splits=("test",),
                          open=lambda root, split, n=n: Patches(n))
    yield DatasetSpec(name="gone", summary="Not there", labels="channels", splits=("test",), open=gone)


@dataclass(frozen=True, kw_only=True)
class Params:
    scale: float = 4.0


class Brightest(torch.nn.Module):
    def __init__(self, scale):
        super().__init__()
        if scale < 0:
            raise ValueError("it must not shrink")
        self.scale = scale

    def forward(self, x):
        return self.scale * x.mean((2, 3))


@hookimpl
def robharness_models():
    for name, order, expected in (("right", "rgb", 1.0), ("wrong", "bgr", 1.0), ("unknown", "rgb", None)):
        yield ModelSpec(
            name=name, summary="The brightest channel", input=InputSpec(shape=(3, 4, 4)), labels="channels",
            build=lambda params, weights: Brightest(params.scale), params=Params,
            preprocessing=Preprocessing(crop=4, channel_order=order),
            expected={} if expected is None else {"clean": expected},
            alternatives={"rgb": {"preprocessing": {"channel_order": "rgb"}}, "flat": {"scale": 0.1},
                          "negative": {"scale": -1.0}, "nonsense": {"scales": 1.0}},
        )
    yield ModelSpec(name="lonely", summary="No data", input=InputSpec(shape=(3, 4, 4)), labels="others",
                    build=lambda params, weights: Brightest(1.0))
'''


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "patches.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture
def of(plugin, tmp_path):
    registry = discover([str(plugin)])
    return lambda name, **keys: verify(f"patches/{name}", keys, registry, data_root=tmp_path)


def test_the_smallest_available_data_of_the_labels_are_used(of):
    found = of("right")
    assert (found.data, found.n, found.expected) == ("patches/few/test", 60, 1.0)
    with pytest.raises(UserError, match="no data with the labels 'others'"):
        of("lonely")


def test_correct_settings_match_the_published_accuracy(of):
    found = of("right")
    assert found.declared.accuracy == 1.0 and found.is_as_expected and not found.better
    x = np.stack([np.random.default_rng(index).integers(0, 100, (4, 4, 3), np.uint8) for index in range(60)]).astype(
        float
    )
    x[np.arange(60), :, :, np.arange(60) % 3] += 120
    logits = 4 * x.mean((1, 2)) / 255
    expected = logits[np.arange(60), np.arange(60) % 3] - np.log(np.exp(logits).sum(1))
    np.testing.assert_allclose(np.sort(found.declared.log_probability), np.sort(expected), rtol=1e-5)


def test_a_wrong_channel_order_is_detected(of):
    found = of("wrong")
    assert found.declared.accuracy == pytest.approx(1 / 3)
    assert not found.is_as_expected
    assert [each.name for each in found.better] == ["rgb", "flat"]
    gain, error = found.better[0].gain(found.declared)
    assert gain > 5 * error > 0


def test_alternatives_keep_the_settings_of_the_suite(of):
    found = of("wrong", scale=1.0, preprocessing={"channel_order": "rgb"})
    assert found.declared.accuracy == 1.0
    by_name = {each.name: each for each in found.configurations}
    assert by_name["rgb"].log_probability.tolist() == found.declared.log_probability.tolist()
    assert by_name["flat"].log_probability.mean() < found.declared.log_probability.mean()


def test_a_failing_alternative_is_reported_and_is_not_better(of):
    by_name = {each.name: each for each in of("right").configurations}
    assert set(by_name) == {"as declared", "rgb", "flat", "negative", "nonsense"}
    assert by_name["negative"].error == "it cannot be built: ValueError: it must not shrink"
    assert "unknown key 'scales'; did you mean 'scale'?" in by_name["nonsense"].error


@pytest.mark.parametrize(("name", "code", "words"), [
    ("right", 0, "Published: 100.0 %, which is compatible with these examples."),
    ("wrong", 1, "warning: 'rgb' gives the true class a higher log-probability"),
    ("unknown", 0, "No accuracy is published for this model."),
])  # fmt: skip
def test_the_verb_prints_accuracies_and_alternatives(plugin, capsys, name, code, words):
    assert main(["verify", f"patches/{name}", "-p", str(plugin)]) == code
    assert words in " ".join(capsys.readouterr().out.split())


def test_broken_examples_are_named_and_left_out(plugin, tmp_path, capsys):
    torn = tmp_path / "torn.py"
    torn.write_text(
        PLUGIN.replace(
            "def read(self, index):",
            """def read(self, index):
        from robharness import UnreadableExample
        if index == 3 or len(self.ids) == 120:
            raise UnreadableExample("it is torn")
""",
        )
    )
    found = verify("torn/right", {}, discover([str(torn)]), data_root=tmp_path, data="torn/few/test")
    assert (found.n, found.unreadable, found.declared.accuracy) == (59, ("60-3",), 1.0)
    assert main(["verify", "torn/right", "-p", str(torn)]) == 0
    assert "1 examples cannot be read and are left out: 60-3" in capsys.readouterr().out
    with pytest.raises(UserError, match="none of the examples can be read"):
        verify("torn/right", {}, discover([str(torn)]), data_root=tmp_path, data="torn/many/test")


def test_an_input_of_a_wrong_shape_is_one_sentence(of):
    with pytest.raises(
        UserError, match=r"cannot be verified: .*the model takes \(3, 4, 4\), the data give \(3, 2, 2\)"
    ):
        of("right", preprocessing={"crop": None, "resize": 2})


def test_one_example_has_no_standard_error(plugin, capsys):
    assert main(["verify", "patches/wrong", "-p", str(plugin), "--limit", "1", "--json"]) in (0, 1)
    report = json.loads(capsys.readouterr().out)
    assert report["ways"][1]["gain_standard_error"] is None


def test_the_verb_as_json(plugin, capsys):
    assert (
        main(["verify", "patches/wrong", "scale=2.0", "-p", str(plugin), "--json", "--data", "patches/many/test"]) == 1
    )
    report = json.loads(capsys.readouterr().out)
    assert (report["data"], report["n"], report["as_expected"]) == ("patches/many/test", 120, False)
    assert report["better"] == ["rgb", "flat"]
    assert report["ways"][1]["keys"] == {"preprocessing": {"channel_order": "rgb"}}


@pytest.mark.parametrize(("words", "message"), [
    (["patches/rihgt"], "did you mean 'patches/right'?"),
    (["patches/right", "scale"], "'scale' is not KEY=VALUE"),
    (["patches/right", "label=x"], "'label' does not change how patches/right is used"),
    (["patches/right", "scal=2"], "patches/right: unknown key 'scal'; did you mean 'scale'? Try: robharness"),
    (["patches/right", "--data", "patches/none/test"], "no data set 'patches/none'"),
    (["patches/right", "--trust", "12"], "'12' is no SHA-256"),
])  # fmt: skip
def test_usage_errors_are_one_sentence(plugin, capsys, words, message):
    assert main(["verify", *words, "-p", str(plugin)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
