"""Files that options and trainings name, and modules that a loose plugin imports, count by their content."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from robharness import api
from robharness.errors import UserError

TOYS = str(Path(__file__).parent / "toys.py")

PLUGIN = """
    from dataclasses import dataclass, field
    from pathlib import Path

    from robharness import AttackSpec, Cost, DataRef, InputSpec, ModelSpec, ThreatModel, Train, hookimpl


    @dataclass(frozen=True, kw_only=True)
    class Params:
        bias: Path = Path(DEFAULT)
        more: tuple[Path, ...] = ()
        log: Path = field(default=Path("log.txt"), metadata={"runtime": True})


    @dataclass(frozen=True, kw_only=True)
    class TrainParams:
        encoder: Path


    @dataclass(frozen=True, kw_only=True)
    class AttackParams:
        mask: Path


    def build(params, weights):
        import torch

        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.utils.skip_init(torch.nn.Linear, 64, 3))
        with torch.no_grad():
            net[1].weight.zero_()
            text = params.bias.read_text() + "".join(path.read_text() for path in params.more)
            net[1].bias.copy_(torch.tensor([float(word) for word in text.split()][:3]))
        return net


    def build_trained(params, weights):
        import torch
        from safetensors.torch import load_file

        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.utils.skip_init(torch.nn.Linear, 64, 3))
        net.load_state_dict(load_file(weights))
        return net


    def train(job):
        import torch
        from safetensors.torch import save_file

        bias = torch.tensor([float(word) for word in job.inputs["encoder"].read_text().split()])
        save_file({"1.weight": torch.zeros(3, 64), "1.bias": bias}, job.folder / "weights.safetensors")


    class Masked:
        def __init__(self, mask):
            self.mask = mask

        def perturb(self, model, batch, eps, rng):
            return batch.x * float(self.mask.read_text())


    @hookimpl
    def robharness_models():
        shape = InputSpec(shape=(1, 8, 8))
        yield ModelSpec(name="biased", summary="", input=shape, labels="toys", params=Params, build=build)
        yield ModelSpec(
            name="trained", summary="", input=shape, labels="toys", params=TrainParams, build=build_trained,
            weights=Train(data=lambda params: {"train": DataRef(name="toys/pixels", split="test")}, train=train,
                          inputs=lambda params: {"encoder": params.encoder}),
        )


    @hookimpl
    def robharness_attacks():
        yield AttackSpec(
            name="masked", summary="", access="decision", params=AttackParams, randomness="none",
            threat=lambda params: ThreatModel(norm="linf"), cost=lambda params: Cost(),
            build=lambda params: Masked(params.mask),
        )
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the plugin, files, and nothing on the import path that a test leaves behind."""
    (tmp_path / "default.txt").write_text("0 0 1")
    text = textwrap.dedent(PLUGIN).replace("DEFAULT", repr(str(tmp_path / "default.txt")))
    (tmp_path / "filed.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def suite(folder, model, attacks=()):
    import yaml

    path = folder / "suites" / "s.yaml"
    path.parent.mkdir(exist_ok=True)
    data = {"name": "toys/pixels", "split": "test"}
    text = {"robharness": 1, "name": "s", "data": data, "models": [{**model, "label": "Net"}], "attacks": [*attacks]}
    path.write_text(yaml.safe_dump(text))
    return path


def predictions(folder, model, attacks=()):
    found = api.run(suite(folder, model, attacks), store=folder / "store", plugins=[TOYS, str(folder / "filed.py")])
    assert found.is_complete, [cell.failures for cell in found.cells]
    return [set(cell.columns["prediction"].tolist()) for cell in found.cells], [cell.cell.key for cell in found.cells]


def test_a_file_of_an_option_is_relative_to_the_suite_and_counts_by_its_content(folder):
    (folder / "suites").mkdir()
    (folder / "suites" / "bias.txt").write_text("1 0 0")
    model = {"model": "filed/biased", "bias": "bias.txt"}
    assert predictions(folder, model)[0] == [{0}]
    (folder / "suites" / "bias.txt").write_text("0 1 0")
    (second,), keys = predictions(folder, model)
    assert second == {1}
    (folder / "suites" / "renamed.txt").write_text("0 1 0")
    assert predictions(folder, {"model": "filed/biased", "bias": "renamed.txt"})[1] == keys  # the path does not count


def test_the_file_at_an_options_default_counts_too(folder):
    assert predictions(folder, {"model": "filed/biased"})[0] == [{2}]
    (folder / "default.txt").write_text("0 1 0")
    assert predictions(folder, {"model": "filed/biased"})[0] == [{1}]


def test_files_in_a_list_and_folders_count_and_runtime_paths_do_not(folder):
    empty, more = folder / "empty.txt", folder / "more.txt"
    empty.write_text("")
    more.write_text("0 1 0")
    model = {"model": "filed/biased", "bias": str(empty), "more": [str(more)], "log": "not/there.txt"}
    first = predictions(folder, model)
    more.write_text("1 0 0")
    assert (first[0], predictions(folder, model)[0]) == ([{1}], [{0}])


def test_a_home_folder_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    (folder / "home.txt").write_text("1 0 0")
    assert predictions(folder, {"model": "filed/biased", "bias": "~/home.txt"})[0] == [{0}]


def test_the_file_of_an_attack_counts(folder):
    mask = folder / "mask.txt"
    mask.write_text("1")
    attack = {"attack": "filed/masked", "mask": str(mask), "eps": 1}
    _, keys = predictions(folder, {"model": "filed/biased"}, [attack])
    mask.write_text("0")
    _, others = predictions(folder, {"model": "filed/biased"}, [attack])
    assert keys[0] == others[0] and keys[1] != others[1]


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"model": "filed/biased", "bias": "lost.txt"}, "the file 'bias' of filed/biased: not found at .*suites/lost"),
        ({"model": "filed/trained", "encoder": "lost.txt"}, "the file 'encoder' of filed/trained: not found at"),
    ],
)
def test_a_missing_file_is_named_before_anything_runs(folder, model, named):
    with pytest.raises(UserError, match=named):
        predictions(folder, model)


def test_another_file_under_the_path_of_a_trainings_input_trains_again(folder):
    encoder = folder / "encoder.txt"
    encoder.write_text("1 0 0")
    model = {"model": "filed/trained", "encoder": str(encoder)}
    first, keys = predictions(folder, model)
    encoder.write_text("0 0 1")
    second, others = predictions(folder, model)
    assert (first, second) == ([{0}], [{2}]) and keys != others
    encoder.write_text("1 0 0")
    assert predictions(folder, model) == (first, keys)
    assert len([path for path in (folder / "store" / "artefacts").iterdir() if path.is_dir()]) == 2


# --- modules beside a loose plugin ----------------------------------------------------------------------------------

LOOSE = """
    from robharness import InputSpec, ModelSpec, hookimpl


    def build(params, weights):
        {how}
        return make()


    @hookimpl
    def robharness_models():
        yield ModelSpec(name="net", summary="", input=InputSpec(shape=(1, 8, 8)), labels="toys", build={build})
"""
NEIGHBOUR = """
    def make(params=None, weights=None):
        import torch

        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.utils.skip_init(torch.nn.Linear, 64, 3))
        with torch.no_grad():
            net[1].weight.zero_()
            net[1].bias.copy_(torch.tensor({bias}))
        return net
"""


@pytest.mark.parametrize(
    ("how", "build", "neighbour"),
    [
        ("from beside_a import make", "build", "beside_a.py"),
        ("from beside_b.inner import make", "build", "beside_b/inner.py"),
        ("from beside_c import make", "build", "beside_c/__init__.py"),
        ("import importlib; make = importlib.import_module('beside_d').make", "build", "beside_d.py"),
        ("pass", "'beside_e:make'", "beside_e.py"),
        ("from through import make", "build", "beside_f.py"),
    ],
)
def test_a_module_beside_a_loose_plugin_can_be_imported_and_counts(folder, how, build, neighbour):
    (folder / "through.py").write_text("from beside_f import make")
    path = folder / neighbour
    path.parent.mkdir(exist_ok=True)
    (folder / "loose.py").write_text(textwrap.dedent(LOOSE).format(how=how, build=build))

    def predicted(bias):
        path.write_text(textwrap.dedent(NEIGHBOUR).format(bias=bias))
        found = api.run(suite(folder, {"model": "loose/net"}), store=folder / "store",
                        plugins=[TOYS, str(folder / "loose.py")])  # fmt: skip
        assert found.is_complete, [cell.failures for cell in found.cells]
        return set(found.cells[0].columns["prediction"].tolist()), found.cells[0].cell.key

    first, second = predicted([1.0, 0.0, 0.0]), predicted([0.0, 1.0, 0.0])
    assert (first[0], second[0]) == ({0}, {1}) and first[1] != second[1]
    assert predicted([1.0, 0.0, 0.0]) == first


def test_a_file_without_neighbours_keeps_its_digest(folder):
    import hashlib

    from robharness.plugins import loose_plugin

    path = folder / "filed.py"
    assert loose_plugin(path)[0].digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_neighbour_shadows_no_installed_module(folder):
    (folder / "json.py").write_text("raise RuntimeError('the wrong module')")
    (folder / "loose.py").write_text("import json\n\njson.dumps({})\n")
    from robharness import discover

    assert not [problem for problem in discover([str(folder / "loose.py")]).problems if "loose" in str(problem)]


def two_with_one_name(folder):
    """Two plugins in folders of their own, each with another `beside_g`."""
    paths = []
    for name, bias in (("one", [1.0, 0.0, 0.0]), ("two", [0.0, 1.0, 0.0])):
        (folder / name).mkdir()
        (folder / name / "beside_g.py").write_text(textwrap.dedent(NEIGHBOUR).format(bias=bias))
        paths.append(folder / name / f"loose_{name}.py")
        paths[-1].write_text(textwrap.dedent(LOOSE).format(how="from beside_g import make", build="build"))
    return [str(path) for path in paths]


def test_two_plugins_with_neighbours_of_one_name_are_refused_together_and_right_one_by_one(folder):
    from robharness import discover
    from robharness.errors import PluginLoadError

    paths = two_with_one_name(folder)
    with pytest.raises(
        PluginLoadError, match=r"import different files, .*one/beside_g.py and .*two/beside_g.py, as the"
    ):
        discover(paths)
    for path, expected in [*zip(paths, (0, 1), strict=True)] * 2:
        model = {"model": f"{Path(path).stem}/net"}
        found = api.run(suite(folder, model), store=folder / f"store {expected}", plugins=[TOYS, path])
        assert set(found.cells[0].columns["prediction"].tolist()) == {expected}


def test_a_file_that_a_loose_plugin_names_counts(folder):
    from robharness.plugins import loose_plugin

    path = folder / "reading.py"
    path.write_text("import pathlib\n\nTEXT = (pathlib.Path(__file__).parent / 'labels.json').read_text()\n")
    (folder / "labels.json").write_text("[1]")
    before = loose_plugin(path)[0].digest
    (folder / "labels.json").write_text("[2]")
    assert loose_plugin(path)[0].digest != before


def test_two_plugins_may_name_data_files_alike(folder):
    from robharness import discover

    paths = []
    for name in ("first", "second"):
        (folder / name).mkdir()
        (folder / name / "labels.json").write_text(name)
        paths.append(folder / name / f"{name}_plugin.py")
        paths[-1].write_text("LABELS = 'labels.json'\n")
    registry = discover([str(path) for path in paths])
    assert {"first_plugin", "second_plugin"} <= {origin.namespace for origin in registry.origins}


def test_odd_imports_end_no_run(folder):
    from robharness.plugins import loose_plugin

    path = folder / "importing.py"
    path.write_text(
        "import importlib\n\ndef later():\n    importlib.import_module('.b', 'pk')\n    importlib.import_module('.')\n"
    )
    (folder / "pk").mkdir()
    (folder / "pk" / "b.py").write_text("B = 1")
    before = loose_plugin(path)[0].digest
    (folder / "pk" / "b.py").write_text("B = 2")
    assert loose_plugin(path)[0].digest != before


def test_links_inside_a_folder_are_followed_and_loops_end(tmp_path):
    from robharness.planning.files import content_digest

    inner, folder = tmp_path / "inner", tmp_path / "folder"
    inner.mkdir()
    folder.mkdir()
    (inner / "a.txt").write_text("1")
    (folder / "link").symlink_to(inner)
    (folder / "loop").symlink_to(folder)
    before = content_digest(folder)
    (inner / "a.txt").write_text("2")
    assert content_digest(folder) != before
