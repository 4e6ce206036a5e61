"""Commands that messages print: pasted into a shell, they do what the message says."""

import glob
import shlex

import pytest
import yaml

from robharness import MissingResource, Page, api
from robharness.cli.computing import without_fresh
from robharness.errors import MissingResources, UserError
from robharness.fetching.needs import by_hint
from robharness.planning.cells import matches
from robharness.planning.commands import fresh_command
from robharness.session import require

LABELS = ["[", "a[b]c", "*", "?", "Bob's", 'a "b" c', "a b", "$HOME", "`x`", "a;b", "-x", "Größe", "!", "{a,b}", "\\"]

PARTS = """
from robharness import Download, File, InputSpec, ModelSpec, hookimpl

@hookimpl
def robharness_models():
    both = {"body": File(path="body of it.pt", get="make body"), "head": Download(url="https://example.org/a b.pt")}
    for name in ("one", "two"):
        yield ModelSpec(name=name, summary=name, input=InputSpec(shape=(1, 8, 8)), labels="toys", weights=both,
                        build=lambda params, weights: None)
"""


def test_files_of_ones_own_are_named_one_by_one_and_licences_all(tmp_path):
    own = [MissingResource("weights", where=f"w{number}", get="correct `weights:`") for number in range(7)]
    assert by_hint([MissingResources(own), *own]) == own
    page = Page(url="https://example.org", reason="it asks for a registration")
    names = {"fog": "CC-BY", "snow": "", "rain": "NC"}
    same = [MissingResource(name, where=name, source=page, place=tmp_path, licence=names[name]) for name in names]
    [joined] = by_hint([*same, MissingResource("fog", where="other", source=page, place=tmp_path, licence="CC-BY")])
    assert (joined.what, joined.where, joined.licence) == ("fog, snow and rain", "fog, snow, rain, other", "CC-BY; NC")


@pytest.fixture
def labelled(suite, toys, tmp_path):
    """A plan of models with all the labels."""
    path = tmp_path / "labels.yaml"
    path.write_text(yaml.safe_dump(suite(models=[{"model": "toys/net", "label": each} for each in LABELS], attacks=[])))
    return api.plan(path, plugins=[toys])


@pytest.mark.parametrize("label", LABELS)
def test_the_printed_fresh_matches_exactly_the_label(labelled, label):
    words = shlex.split(fresh_command(labelled, label))
    assert words[:2] == ["robharness", "run"]
    assert words[-2] == "--fresh"
    assert [cell.model.label for cell in labelled.cells if matches(cell, words[-1])] == [label]


def test_a_label_with_brackets_is_forgotten_by_the_printed_command(shell, suite, tmp_path, monkeypatch):
    """The network changes, so that the run prints the command, which is typed as it is printed."""
    models = [
        {"model": "toys/net", "label": "Net [v1] 'x'", "what": "drifting"},
        {"model": "toys/net", "label": "Net 1"},
    ]
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(suite(models=models, attacks=[])))
    monkeypatch.setenv("TOYS_DRIFT", "0")
    assert shell("run", "s.yaml", "--limit", "5").returncode == 0
    monkeypatch.setenv("TOYS_DRIFT", "0.5")
    found = shell("run", "s.yaml")
    assert found.returncode == 3
    command = found.stdout.partition("Try: ")[2].partition("\n")[0]
    words = shlex.split(command)
    assert glob.escape("Net [v1] 'x'") == words[-1]
    again = shell(*words[1:], plugins=[])
    assert again.returncode == 0, again.stderr
    assert "1 cell to compute" in again.stderr


def test_the_count_of_missing_resources_is_that_of_the_lines(tmp_path, suite, toys, shell):
    plugin = tmp_path / "parts.py"
    plugin.write_text(PARTS)
    models = [{"model": "parts/one"}, {"model": "parts/two"}, {"model": "toys/net", "weights": "./own.pt"}]
    planned = api.plan(suite(models=models, attacks=[]), plugins=[str(plugin), toys], data=tmp_path)
    with pytest.raises(UserError) as caught:
        require(planned)
    heading, *lines = str(caught.value).splitlines()
    assert heading == "3 resources are missing:"
    assert len(lines) == 3  # both models have the same two files
    assert all("not found at" in line and "To get it: " in line for line in lines)
    [(both, curl)] = [line.split(" To get it: ") for line in lines if "curl" in line]
    heads = "the weights of parts/one ('head') and the weights of parts/two ('head')"
    assert both == f"  {heads}: not found at {tmp_path}/weights/a b.pt."
    assert shlex.split(curl)[-2:] == [str(tmp_path / "weights" / "a b.pt"), "https://example.org/a b.pt"]


def test_two_files_of_one_model_are_two_resources(tmp_path, suite, toys):
    plugin = tmp_path / "parts.py"
    plugin.write_text(PARTS)
    planned = api.plan(suite(models=[{"model": "parts/one"}], attacks=[]), plugins=[str(plugin), toys], data=tmp_path)
    with pytest.raises(UserError, match=r"^2 resources are missing:\n  the weights of parts/one \('body'\)"):
        require(planned)


def test_paths_with_spaces_are_quoted(shell, suite, tmp_path, toys):
    plan = f"Try: robharness plan 'my suite.yaml' -p {toys}\n"
    (tmp_path / "my suite.yaml").write_text(yaml.safe_dump(suite()))
    assert shell("run", "my suite.yaml", "--only", "nothing").stderr.endswith(plan)
    (tmp_path / "no suite").mkdir()
    assert "Try: ls 'no suite'" in shell("run", "no suite/s.yaml").stderr
    (tmp_path / "my suite.yaml").write_text("robharness: 2")
    assert shell("run", "my suite.yaml").stderr.endswith(plan)
    (tmp_path / "a file").write_text("")
    (tmp_path / "my suite.yaml").write_text(yaml.safe_dump(suite()))
    assert "Try: ls -ld 'a file'" in shell("run", "my suite.yaml", "--store", "a file").stderr
    assert "Try: ls -la 'no store'" in shell("merge", "into", "no store").stderr
    assert "Try: mkdir -p 'no folder'" in shell("report", "my suite.yaml", "-o", "no folder/x.md").stderr


def test_without_fresh():
    assert without_fresh(["run", "s", "--fresh", "a b", "--fresh=c", "-x"]) == ["run", "s", "-x"]
