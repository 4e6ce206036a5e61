"""`weights`, `inside` and `strip` of a model: paths, one text or texts by name, and errors with their places."""

from pathlib import Path

import pytest

from robharness import Train
from robharness.errors import SuiteError
from robharness.plugins import Entry, PluginOrigin
from robharness.suite import load
from toy_suites import json_head, make_registry, model

HEAD = "robharness: 1\nname: s\ndata: {name: toy/pixels, split: test}\nmodels:\n"
TRAIN = Train(data=lambda params: {}, train=lambda job: None)


def lines(errors, keys):
    return errors(f"{HEAD}  - {{model: toy/net, {keys}}}\n")


def test_one_text_for_one_file_and_a_mapping_for_several(read):
    (one,) = read(HEAD + "  - {model: toy/net, weights: a.pth, inside: ema.net, strip: module.}\n").models
    assert (one.inside, one.strip, one.weights) == ("ema.net", "module.", Path.cwd() / "a.pth")
    keys = "weights: {backbone: a.pth, head: b.pth}, inside: {backbone: teacher}, strip: {head: fc.}"
    (several,) = read(HEAD + f"  - {{model: toy/net, {keys}}}\n").models
    assert (several.inside, several.strip) == ({"backbone": "teacher"}, {"head": "fc."})
    (neither,) = read(HEAD + "  - {model: toy/net, weights: a.pth}\n").models
    assert neither.inside is None and neither.strip is None


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("inside: ema", "5:22: models.0.inside: 'inside' chooses the state in a file that the suite names; "
                        "add `weights:`, or leave 'inside' out"),
        ("strip: a.", "5:22: models.0.strip: 'strip' chooses the state in a file that the suite names; "
                      "add `weights:`, or leave 'strip' out"),
        ("weights: a, inside: {b: c}", "5:42: models.0.inside: `weights` is one file; write one text, `inside: c`"),
        ("weights: {b: a, h: c}, strip: m.", "5:52: models.0.strip: `weights` are several files; write the name of "
                                             "one, `strip: {b: m.}`"),
        ("weights: {body: a, h: c}, inside: {bdy: m}", "5:57: models.0.inside.bdy: `weights` has no file 'bdy'; it "
                                                       "has body, h; did you mean 'body'?"),
        ("weights: {b: a, h: a}, inside: {b: m}", "5:31: models.0.weights: 'b' and 'h' are one file, of which one "
                                                  "state can be chosen. Copy the file"),
        ("weights: a, strip: ''", "5:41: models.0.strip: 'strip' is empty; leave it out"),
        ("weights: a, inside: [b]", "5:42: models.0.inside: Input should be a valid string or an object"),
    ],
)  # fmt: skip
def test_a_choice_that_does_not_fit_the_weights(errors, keys, expected):
    assert lines(errors, keys)[0] == f"s.yaml:{expected}"


def registry_with(**specs):
    registry = make_registry()
    for name, spec in specs.items():
        origin = PluginOrigin(namespace="toy", distribution="robharness-toy", version="1")
        registry.models[f"toy/{name}"] = Entry(name=f"toy/{name}", spec=spec, origin=origin)
    return registry


def test_a_text_that_yaml_reads_as_a_number_is_quoted(errors):
    (line,) = lines(errors, 'weights: {a: x.pth}, strip: "1."')
    assert line.endswith('`weights` are several files; write the name of one, `strip: {a: "1."}`')
    (line,) = lines(errors, 'weights: x.pth, strip: {a: "1."}')
    assert line.endswith('`weights` is one file; write one text, `strip: "1."`')


def test_a_model_that_is_trained_has_no_choice(tmp_path):
    registry = registry_with(taught=model("taught", weights=TRAIN))
    one = {"model": "toy/taught", "inside": "ema"}
    with pytest.raises(SuiteError) as caught:
        load(json_head() | {"models": [one]}, registry)
    assert caught.value.errors[0].partition(": ")[2] == (
        "models.0.inside: toy/taught is trained here, so that no state is chosen; leave 'inside' out, or add `weights:`"
    )
    (read,) = load(json_head() | {"models": [one | {"weights": str(tmp_path / "a.pth")}]}, registry).models
    assert read.inside == "ema" and not read.is_trained


@pytest.mark.parametrize("keys", ["weights: ~/x.pth", "weights: {a: ~/x.pth, b: y.pth}"])
def test_the_home_folder(read, errors, monkeypatch, tmp_path, keys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (one,) = read(f"{HEAD}  - {{model: toy/net, {keys}}}\n").models
    path = one.weights if isinstance(one.weights, Path) else one.weights["a"]
    assert path == tmp_path / "home" / "x.pth"
    place = "weights" if isinstance(one.weights, Path) else "weights.a"
    line = lines(errors, keys.replace("~/", "~nobody-has-this-name/"))[0]
    assert line.endswith(
        f": models.0.{place}: the home folder in '~nobody-has-this-name/x.pth' is not known; write the path in full"
    )
