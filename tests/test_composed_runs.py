"""Suites that are composed on the command line and in Python: every verb takes `--set`, and what it sets is kept."""

import json
import shlex

import pytest
import yaml

from robharness import api
from robharness.cli import main
from robharness.errors import UserError
from robharness.planning.outlining import outline
from robharness.store import Store

EPS = ("--set", "attacks.0.eps=[1/16]")


@pytest.fixture
def path(tmp_path, suite):
    path = tmp_path / "toys.yaml"
    base = tmp_path / "base.yaml"
    base.write_text(yaml.safe_dump(suite()))
    path.write_text("extends: base.yaml\nname: mine\nattacks: [{attack: toys/climb}]\n"
                    "defaults: {attacks: {eps: [1/8, 1/4]}}\n")  # fmt: skip
    return path


def cells(text):
    return [cell["perturbation"] for cell in json.loads(text)["cells"]]


def test_workers_compute_what_is_set_and_the_store_keeps_it(shell, path, tmp_path):
    found = shell("run", path, *EPS, "--set", "data.limit=4", "--workers", "2", "--json")
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    assert report["settings"] == ["attacks.0.eps=[1/16]", "data.limit=4"]
    assert (cells(found.stdout), report["n"]) == (["clean", "climb(linf, 1/16)"], 4)
    [run] = Store(tmp_path / ".robharness").runs()
    assert run["set"] == report["settings"]
    assert run["extends"] == [str(tmp_path / "base.yaml")]
    again = shell("run", path, *EPS, "--set", "data.limit=4")
    assert "nothing to compute" in again.stderr
    assert "set: attacks.0.eps=[1/16]\nset: data.limit=4\n" in again.stdout
    alone = shell("report", "mine", "--json")  # from the store, which has the settings as well
    assert json.loads(alone.stdout)["settings"] == report["settings"]


def test_what_is_set_is_identity_only_through_what_it_changes(shell, path):
    assert shell("run", path).returncode == 0
    same = shell("run", path, "--set", "attacks.climb.eps=[1/8, 1/4]", "--set", "title=Other")
    assert "nothing to compute" in same.stderr
    assert "1 cell to compute" in shell("run", path, *EPS).stderr


def test_every_verb_on_suites_takes_settings(shell, path, tmp_path):
    planned = shell("plan", path, *EPS)
    assert "set: attacks.0.eps=[1/16]" in planned.stdout
    assert cells(shell("plan", path, *EPS, "--json").stdout) == ["clean", "climb(linf, 1/16)"]
    assert shell("run", path, *EPS).returncode == 0
    assert shell("report", path, *EPS).returncode == 0
    assert shell("report", path).returncode == 3
    assert shell("check", path, *EPS, "--update").returncode == 0
    checked = shell("check", path, *EPS, "--json")
    assert checked.returncode == 0 and json.loads(checked.stdout)["settings"] == ["attacks.0.eps=[1/16]"]
    assert shell("export-adversarial", path, *EPS, "-o", "adversarial").returncode == 0
    assert shell("train", path, *EPS).returncode == 0
    fog = ("--set", "corruptions=[{corruption: toys/speckle, severity: 1}]", "--set", "canvas=8")
    assert shell("export-corruptions", path, *fog, "-o", "corrupted").returncode == 0
    assert (tmp_path / "corrupted").is_dir()


def test_models_of_a_suite_are_compared_with_what_is_set(shell, path, tmp_path):
    models = "[{model: toys/net, label: One}, {model: toys/net, label: Two}]"
    (tmp_path / "two.yaml").write_text(f"extends: toys.yaml\nname: two\nmodels: {models}\n")
    assert shell("run", "two.yaml", *EPS).returncode == 0
    found = shell("compare", "two.yaml", "--models", "One", "Two", *EPS, "--json")
    assert cells(found.stdout) == ["clean", "climb(linf, 1/16)"], found.stderr
    refused = shell("compare", "two", "--models", "One", "Two", *EPS)
    assert "no operand is the file of a suite, so that --set has no use" in refused.stderr


def test_printed_commands_repeat_the_settings_and_can_be_pasted(shell, path, tmp_path, toys):
    overrides = {"attacks.0.eps": ["1/16"], "title": "a 'b'\n$HOME"}
    plan = api.plan(path, plugins=[toys], store=tmp_path / ".robharness", overrides=overrides)
    for command in (plan.command("run"), outline(plan).command("run")):
        words = shlex.split(command)
        assert words[:2] == ["robharness", "run"]
        again = shell(*words[1:], plugins=[])
        assert again.returncode == 0, again.stderr
        assert "a 'b' $HOME" in again.stdout
    assert Store(tmp_path / ".robharness").runs()[0]["set"] == list(plan.suite.settings)


def test_a_text_that_is_no_setting_is_a_sentence(shell, path):
    found = shell("plan", path, "--set", "seed")
    assert found.returncode == 2
    assert "'seed' is not KEY=VALUE" in found.stderr
    assert "Try: --set seed=1" in found.stderr


def test_an_error_of_a_setting_names_it(shell, path):
    found = shell("run", path, "--set", "attacks.*.esp=1")
    assert found.returncode == 2
    assert found.stderr.splitlines()[0] == (
        "--set attacks.*.esp=1: no item of 'attacks' takes the key 'esp'; did you mean 'eps'?"
    )


def test_a_stored_suite_takes_no_settings(shell, path):
    assert shell("run", path, *EPS).returncode == 0
    assert "'mine' is shown from the store alone, so that --set has no use" in shell("report", "mine", *EPS).stderr
    assert "--set are of one suite" in shell("report", *EPS).stderr


def test_an_edited_base_is_noticed(shell, path, tmp_path):
    assert shell("run", path).returncode == 0
    base = tmp_path / "base.yaml"
    base.write_text(base.read_text().replace("toys/net", "toys/large"))
    found = shell("plan", path, "--json")
    assert [cell["done"] for cell in json.loads(found.stdout)["cells"]] == [0, 0, 0]


def test_the_functions_of_python_take_overrides(suite, run, tmp_path, toys):
    options = {"plugins": [toys], "store": tmp_path / "store", "overrides": {"attacks": [], "data.limit": 4}}
    assert [cell.short_name for cell in api.plan(suite(), **options).cells] == ["clean"]
    results = api.run(suite(), **options)
    assert results.outline.run.settings == ("attacks=[]", "data.limit=4")
    assert api.load(suite(), **options).is_complete
    assert not api.load(suite(), **{**options, "overrides": None}).is_complete
    assert api.train(suite(), **options) == []
    assert api.check(suite(), tmp_path / "baseline.json", update=True, **options).exit_code == 0
    with pytest.raises(UserError, match="read from the store alone, where nothing can be set"):
        api.load("toys", **options)


def test_workers_get_the_overrides_of_python(suite, tmp_path, toys):
    options = {"plugins": [toys], "store": tmp_path / "store", "overrides": {"data.limit": 4, "attacks": []}}
    assert api.run(suite(), workers=2, **options).is_complete


def test_help_shows_the_option_without_importing_plugins(capsys):
    for verb in ("run", "plan", "train", "report", "compare", "check", "export-adversarial", "export-corruptions"):
        assert main([verb, "--help"]) == 0
        assert "--set KEY=VALUE" in capsys.readouterr().out
