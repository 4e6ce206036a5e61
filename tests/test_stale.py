"""Stale results: changes that make a new key, that are refused, and that are only reported."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from robharness import api
from robharness.planning.cells import Plan
from robharness.plugins import PluginOrigin, code_digest
from robharness.store import Store

# --- a loose file counts -------------------------------------------------------------------------------------------


def keys(planned: Plan):
    return {cell.short_name: cell.key for cell in planned.cells}


def test_a_changed_loose_file_makes_new_keys_and_deletes_nothing(suite, toys, tmp_path):
    mine = tmp_path / "toys.py"
    text = Path(toys).read_text()
    mine.write_text(text)
    options = {"plugins": [str(mine)], "store": tmp_path / "store"}
    first = keys(api.plan(suite(), plugins=[str(mine)]))
    api.run(suite(), **options, limit=10)
    mine.write_text(f"{text}\n")
    second = keys(api.plan(suite(), plugins=[str(mine)]))
    assert first.keys() == second.keys()
    assert not {*first.values()} & {*second.values()}
    assert not any(result.n for result in api.load(suite(), **options).cells)
    api.run(suite(), **options, limit=10)
    mine.write_text(text)
    assert keys(api.plan(suite(), plugins=[str(mine)])) == first
    assert api.load(suite(), **options, limit=10).is_complete


def test_the_location_of_a_loose_file_is_not_in_the_key(suite, toys, tmp_path):
    mine = tmp_path / "toys.py"
    mine.write_text(Path(toys).read_text())
    assert keys(api.plan(suite(), plugins=[str(mine)])) == keys(api.plan(suite(), plugins=[toys]))


# --- another network is refused ------------------------------------------------------------------------------------


@pytest.fixture
def drifting(suite, monkeypatch):
    """A suite whose network is what $TOYS_DRIFT makes it, from the same spec: the number is added to its outputs."""
    monkeypatch.setenv("TOYS_DRIFT", "0.0")
    return suite(models=[{"model": "toys/net", "label": "Net", "what": "drifting"}])


@pytest.fixture
def path(tmp_path, drifting):
    path = tmp_path / "drifting.yaml"
    path.write_text(yaml.safe_dump(drifting))
    return path


@pytest.fixture
def spans(tmp_path, drifting, toys):
    """Return the stored spans by cell."""

    def call(root=".robharness"):
        store = Store(tmp_path / root)
        return {cell.short_name: store.spans(cell.key) for cell in api.plan(drifting, plugins=[toys]).cells}

    return call


REFUSED = (
    "toys/net: it builds another network than the one whose outcomes are stored, from the same weights and options. "
    "Raise its `revision`, or compute its cells again"
)


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (["--limit", "5"], ["--limit", "10"]),
        (["--only", "clean", "--limit", "10"], []),
        (["--only", "clean", "--limit", "10"], ["--only", "sign*", "--limit", "5"]),
        (["--shard", "1/4"], ["--shard", "3/4"]),
        (["--shard", "1/4", "--only", "clean"], ["--shard", "3/4", "--only", "climb*"]),
        (["--only", "clean", "--limit", "10"], ["--workers", "1"]),
    ],
    ids=" ".join,
)
def test_another_network_is_refused_for_any_selection_of_cells(shell, path, spans, before, words):
    """`before` is run with one network, `words` with another one."""
    assert shell("run", path, *before).returncode == 0
    stored = spans()
    found = shell("run", path, *words, TOYS_DRIFT=0.5)
    assert found.returncode == 3
    assert REFUSED in found.stdout
    assert "Traceback" not in found.stdout + found.stderr
    assert spans() == stored


def test_the_same_network_resumes(shell, path):
    assert shell("run", path, "--limit", "10", TOYS_DRIFT=0.5).returncode == 0
    assert shell("run", path, TOYS_DRIFT=0.5).returncode == 0


def test_fresh_replaces_the_outcomes_of_the_other_network(shell, path, tmp_path):
    shell("run", path, "--limit", "10")
    assert shell("run", path, TOYS_DRIFT=0.5).returncode == 3
    assert shell("run", path, "--fresh", "climb*", TOYS_DRIFT=0.5).returncode == 3  # the others are old
    found = shell("run", path, "--fresh", "Net", "--json", TOYS_DRIFT=0.5)
    assert found.returncode == 0
    assert json.loads(found.stdout)["problems"] == []
    assert json.loads(shell("run", path, "--store", "new", "--json", TOYS_DRIFT=0.5).stdout) == json.loads(found.stdout)
    store = Store(tmp_path / ".robharness")
    assert len({entry["model_state"] for key in store.cell_keys() for entry in store.provenance(key)}) == 1
    assert shell("run", path, "--limit", "10").returncode == 0  # nothing to compute, so no network is built
    assert REFUSED in shell("run", path, "--fresh", "clean").stdout


def test_a_refused_store_is_accepted_again_with_its_own_network(shell, path):
    shell("run", path, "--limit", "10")
    assert shell("run", path, TOYS_DRIFT=0.5).returncode == 3
    assert "another network" in shell("report", path).stdout
    repaired = shell("run", path)
    assert repaired.returncode == 0
    assert "another network" not in repaired.stdout


# --- an installed plugin only warns --------------------------------------------------------------------------------

LONE = """
from dataclasses import dataclass

from robharness import AttackSpec, Cost, ThreatModel, hookimpl


@dataclass(frozen=True, kw_only=True)
class Params:
    pass


class Sign:
    def perturb(self, model, batch, eps, rng):
        def loss(z, y):
            return -z.gather(1, y[:, None])[:, 0]

        return (batch.x + eps * model.gradient(batch.x, batch.labels, loss).gradient.sign()).clamp(0, 1)


@hookimpl
def robharness_attacks():
    yield AttackSpec(
        name="sign", summary="Up", access="gradient", params=Params, randomness="none", build=lambda params: Sign(),
        threat=lambda params: ThreatModel(norm="linf"), cost=lambda params: Cost(gradients=1),
    )
"""


class Site:
    """A folder of installed distributions, and a shell that has it on its path."""

    def __init__(self, root, run_process):
        self.run_process = run_process
        self.root, self.store = root, root / "store"
        self.packages = root / "site"
        self.packages.mkdir()

    def install(self, name, entry_point, module, text, version="1.0"):
        folder = self.packages / f"{name.replace('-', '_')}.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (folder / "entry_points.txt").write_text(f"[robharness]\n{entry_point} = {module}\n")
        self.edit(module, text)

    def edit(self, module, text):
        (self.packages / f"{module}.py").write_text(text)

    def shell(self, verb, *words):
        path = os.pathsep.join(filter(None, [str(self.packages), os.environ.get("PYTHONPATH", "")]))
        environment = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        words = [verb, "suite.yaml", "--store", self.store, *words]
        return self.run_process(*words, cwd=self.root, environment=environment)

    def warnings(self, *words):
        found = self.shell(*words, "--json")
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)["warnings"]


@pytest.fixture(scope="module")
def computed_site(tmp_path_factory, toys_text, run_process):
    """The toys and another plugin, installed, and a suite of both that has been run."""
    site = Site(tmp_path_factory.mktemp("installed"), run_process)
    site.install("pixel-toys", "toys", "pixel_toys", toys_text)
    site.install("lone-attacks", "lone", "lone_attacks", LONE)
    source = {
        "robharness": 1,
        "name": "installed",
        "data": {"name": "toys/pixels", "split": "test", "limit": 8},
        "models": [{"model": "toys/net", "label": "Net"}],
        "attacks": [{"attack": "lone/sign", "eps": ["1/8", "1/4"]}, {"attack": "toys/sign", "eps": "1/8"}],
    }
    (site.root / "suite.yaml").write_text(yaml.safe_dump(source))
    assert site.warnings("run") == []
    return site


@pytest.fixture(scope="module")
def toys_text():
    return (Path(__file__).parent / "toys.py").read_text()


@pytest.fixture
def site(computed_site, toys_text, tmp_path):
    """The same, as it was installed and with what it stored."""
    shutil.copytree(computed_site.root / "store", tmp_path / "store")
    computed_site.store = tmp_path / "store"
    computed_site.install("pixel-toys", "toys", "pixel_toys", toys_text)
    computed_site.install("lone-attacks", "lone", "lone_attacks", LONE)
    return computed_site


def test_unchanged_code_gives_no_warning(site):
    assert site.warnings("plan") == []
    again = site.shell("run")
    assert "computed nothing again" in again.stderr
    assert "warning" not in (again.stdout + again.stderr).lower()


def test_a_changed_source_is_reported_by_plugin_until_it_is_computed_again(site):
    site.edit("lone_attacks", f"{LONE}# another line\n")
    planned = json.loads(site.shell("plan", "--json").stdout)
    assert all(cell["done"] == 8 for cell in planned["cells"])  # it warns, and invalidates nothing
    (warning,) = planned["warnings"]
    assert warning.startswith("lone-attacks 1.0: its source was ")
    assert " when 2 of these cells were computed, now it is " in warning
    assert warning.endswith(f"; to compute again: robharness run suite.yaml --store {site.store} --fresh '*sign(*'")
    nothing = site.shell("run")
    assert "computed nothing again" in nothing.stderr
    assert f"  {warning}\n" in nothing.stdout
    (left,) = site.warnings("run", "--fresh", "sign(linf, 1/4)", "--only", "Net")
    assert left.startswith("lone-attacks 1.0: its source was ")
    assert " when 'Net · toys/pixels/test · lone/sign(linf, 1/8)' was computed, now it is " in left
    assert left.endswith(
        f"; to compute again: robharness run suite.yaml --store {site.store} --fresh 'lone/sign(linf, 1/8)'"
    )
    assert site.warnings("run", "--fresh", "lone/sign(linf, 1/8)") == []
    assert site.warnings("plan") == []
    site.edit("lone_attacks", LONE)
    assert len(site.warnings("plan")) == 1


def test_a_changed_version_is_reported(site, toys_text):
    site.install("pixel-toys", "toys", "pixel_toys", toys_text, version="1.1")
    (warning,) = site.warnings("plan")
    assert warning.startswith("pixel-toys 1.1: its version was pixel-toys 1.0 when ")
    assert " of these cells were computed, now it is pixel-toys 1.1; to compute again: " in warning
    assert warning.endswith(f"robharness run suite.yaml --store {site.store} --fresh '*'")
    assert site.warnings("run") == [warning]


def test_a_change_is_reported_even_if_other_cells_are_selected(site):
    site.edit("lone_attacks", f"{LONE}# another line\n")
    (warning,) = site.warnings("run", "--only", "clean")
    assert warning.startswith("lone-attacks 1.0: its source was ")


def test_the_code_digest_covers_all_python_files_of_a_package(tmp_path, monkeypatch):
    package = tmp_path / "a_package_of_two"
    package.mkdir()
    for name in ("__init__", "inner"):
        (package / f"{name}.py").write_text("")
    (package / "deeper").mkdir()
    (package / "deeper" / "more.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    source = PluginOrigin(namespace="two", distribution="two", location="a_package_of_two")
    seen = [code_digest(source)]
    for path in (package / "__init__.py", package / "inner.py", package / "deeper" / "more.py"):
        path.write_text("x = 1\n")
        seen.append(code_digest(source))
    (package / "inner.py").rename(package / "outer.py")
    seen.append(code_digest(source))
    assert None not in seen
    assert len(set(seen)) == 5
    (package / "notes.txt").write_text("no code")
    assert code_digest(source) == seen[-1]
    assert code_digest(PluginOrigin(namespace="no", distribution="no", location="a_package_that_nobody_has")) is None
