"""The verbs before and after a model is trained, and the progress of a training."""

import json
import re
from collections import Counter

import numpy as np
import pytest
import yaml

from robharness import api
from robharness.engine import listeners
from robharness.errors import UserError
from toy_training import LEARNER, NET, PLUGINS, SIGN, TOYS, suite

TRAIN = f"robharness train learning.yaml -p {LEARNER} -p {TOYS}"

# --- before it is trained ---------------------------------------------------------------------------------------------


@pytest.fixture
def untrained(tmp_path, store):
    path = tmp_path / "learning.yaml"
    path.write_text(yaml.safe_dump(suite(NET, NET | {"label": "Other", "seed": 1})))
    return path


def test_a_plan_shows_pending_trainings_and_trains_nothing(shell, untrained, log):
    printed = shell("plan", untrained)
    assert printed.returncode == 0
    waiting = f"6 of these cells wait for the training of Net, Other. To train only: {TRAIN}"
    assert waiting in printed.stdout
    assert printed.stdout.count("untrained") == 6
    facts = json.loads(shell("plan", untrained, "--json", "--why").stdout)
    assert facts["untrained"] == ["Net", "Other"]
    assert [(cell["waits"], cell["key"], cell["done"], cell["why"]) for cell in facts["cells"]] == [
        (True, None, 0, "the cell waits for the training of its model")] * 6  # fmt: skip
    assert log() == []
    shell("train", untrained, "--only", "Net")
    facts = json.loads(shell("plan", untrained, "--json").stdout)
    assert [cell["waits"] for cell in facts["cells"]] == [False] * 3 + [True] * 3
    assert "3 of these cells wait" in shell("plan", untrained).stdout


def test_a_report_names_missing_trainings_and_their_command(shell, untrained, log):
    printed = shell("report", untrained)
    assert printed.returncode == 3 and log() == []
    text = f"not trained yet: Net, Other; 6 cells wait for the training; to train: {TRAIN}"
    assert text in printed.stdout
    shell("run", untrained, "--only", "Net")
    printed = shell("report", untrained)
    assert printed.returncode == 3
    assert "not trained yet: Other; 3 cells wait for the training" in printed.stdout


def test_verbs_that_cannot_train_print_the_command_that_does(shell, untrained, log):
    message = f"robharness: Net, Other are not trained yet. Try: {TRAIN}\n"
    for words in (["run", untrained, "--shard", "1/2"], ["export-adversarial", untrained, "-o", "out"]):
        done = shell(*words)
        assert (done.returncode, done.stderr) == (2, message)
    done = shell("verify", "learner/net", "--data", "learner/shades/test")
    assert done.returncode == 2
    assert "learner/net with these options and seed 0 is not trained in .robharness" in done.stderr
    assert log() == []
    with pytest.raises(UserError, match="not trained yet"):
        api.run(untrained, plugins=PLUGINS, shard=(1, 2), store=untrained.parent / ".robharness")


def test_every_verb_uses_a_trained_model(shell, untrained, tmp_path):
    assert shell("train", untrained).returncode == 0
    halves = [shell("run", untrained, "--shard", f"{index}/2").returncode for index in (1, 2)]
    assert halves == [0, 0]
    assert shell("report", untrained).returncode == 0
    exported = shell("export-adversarial", untrained, "-o", "out", "--only", "Net")
    assert exported.returncode == 0
    assert exported.stdout.count("0 of 48 stored predictions differ") == 2
    verified = shell("verify", "learner/net", "seed=1", "--data", "learner/shades/test", "--json")
    assert verified.returncode == 0
    accuracies = {alternative["name"]: alternative["accuracy"] for alternative in json.loads(verified.stdout)["ways"]}
    results = api.load(untrained, store=tmp_path / ".robharness", plugins=PLUGINS)
    assert accuracies == {"as declared": results.clean("Other").accuracy}


@pytest.mark.slow
def test_workers_load_trained_models(store, undisturbed):
    results = api.run(suite(), store=store, plugins=PLUGINS, workers=1)
    assert results.is_complete
    assert np.array_equal(results.clean("Net").columns["margin"], undisturbed[1].clean("Net").columns["margin"])


def test_only_what_the_cells_need_is_trained(shell, tmp_path, log):
    path = tmp_path / "learning.yaml"
    models = [NET, *(NET | {"label": f"S{seed}", "seed": seed} for seed in (1, 2))]
    attack = {"attack": "toys/sign", "eps": "1/8", "source": "S1"}
    path.write_text(yaml.safe_dump(suite(*models, attacks=[attack, SIGN | {"eps": "1/16"}])))
    done = shell("run", path, "--only", "Net")  # one of its cells is crafted on S1
    assert done.returncode == 0
    assert {seed for _, seed, _ in log()} == {0, 1}
    with pytest.raises(UserError, match="no cell matches 'None'"):
        api.plan(path, plugins=PLUGINS).only("None")


# --- progress ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["plain", "rich", "none"])
def test_training_progress_is_shown_in_every_format(shell, tmp_path, style):
    path = tmp_path / "learning.yaml"
    path.write_text(yaml.safe_dump(suite()))
    done = shell("train", path, "--display", style)
    assert done.returncode == 0 and done.stdout.count("\n") == 1
    if style == "none":
        assert done.stderr == ""
    else:
        assert "Net: its training begins in .robharness/artefacts/" in done.stderr
    if style == "plain":
        assert re.search(
            r"Net: epoch 1 of 6, loss [\d.]+ \([\d.]+ at first, at least 0\), \d+ images/s, \d+ s left", done.stderr
        )


def test_a_listener_receives_every_epoch_and_then_every_cell(store):
    events = []

    class Ear(listeners.Silent):
        def trained(self, label, progress):
            events.append((label, progress.epoch))

        def cell_done(self, cell, span, failure):
            events.append(cell.short_name)

    api.run(suite(), store=store, plugins=PLUGINS, listener=Ear())
    assert events[:6] == [("Net", epoch) for epoch in range(1, 7)]
    assert Counter(events[6:]).keys() == {"clean", "sign(linf, 1/16)", "sign(linf, 1/8)"}


def test_a_suite_without_trained_models_has_nothing_to_train(shell, tmp_path):
    path = tmp_path / "learning.yaml"
    models = [{"model": "toys/net", "label": "Net"}]
    path.write_text(yaml.safe_dump(suite(*models, data={"name": "toys/pixels", "split": "test"})))
    done = shell("train", path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "has no model that is trained" in done.stderr
