"""The author kit: a plugin that keeps the contract passes, and for every rule one that breaks it fails that check."""

import re
import subprocess
import sys
from importlib import import_module
from inspect import signature
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch

from robharness import testing
from robharness.errors import PluginLoadError, UserError
from robharness.plugins import KINDS
from robharness.testing import Broken, checks, toys
from robharness.testing.contract import PLUGIN, Plugin

BROKEN = Path(__file__).parent / "broken_plugins.py"
PAGE = Path(__file__).parents[1] / "docs/how-to/test-a-plugin.md"
RULES = {kind: import_module(f"robharness.testing.{kind}").RULES for kind in KINDS}
OPTIONS = {"classes": {"threes": 3}, "options": {"optional": {"how": "good"}}}
CASCADES = {
    "models": {
        "same_logits_again": {"neighbours_change_nothing"},
        "same_state_again": {"fresh_process", "global_draws_change_nothing"},
        "global_draws_change_nothing": {"neighbours_change_nothing"},
    },
    "datasets": {"stable_ids": {"fresh_process"}, "reads_in_any_order": {"reads_from_threads"}},
    "corruptions": {"every_severity_runs": {rule.__name__ for rule in RULES["corruptions"]}},
}
"""What else must fail where a rule is broken."""
IN_A_RUN = {"exact_on_integers", "replays", "fresh_process", "costs_what_it_declares", "reaches_the_optimum"}
"""Rules of attacks that are checked in the worker, which refuses what breaks any of the others."""


def of(spec, **more):
    """{check's name: check} for a spec of the file of broken plugins."""
    return {check.name: check for check in checks(BROKEN, only=spec, **{**OPTIONS, **more})}


def failures(found, but=()):
    """{check's name: its sentence} of the checks that fail."""
    failed = {}
    for name, check in found.items():
        try:
            if name not in but:
                check()
        except Broken as error:
            failed[name] = str(error)
    return failed


GOOD = ["models/good", "models/optional", "models/draws-in-build", "datasets/good/test", "datasets/good-video/test",
        "datasets/lazy-video/test", "datasets/one-unreadable/test", "attacks/good", "attacks/good-minimal",
        "attacks/good-features", "attacks/good-team", "attacks/good-aimed", "attacks/good-global",
        "attacks/good-blocks", "attacks/good-probe", "corruptions/good", "components/good", "metrics/good"]  # fmt: skip


@pytest.mark.parametrize("spec", GOOD)
def test_a_plugin_that_keeps_the_contract_passes_every_check(spec):
    found = of(spec)
    kind = spec.split("/")[0]
    when = getattr(import_module(f"robharness.testing.{kind}"), "WHEN", {})
    assert {rule.__name__ for rule in RULES[kind] if rule not in when} <= set(found)
    assert failures(found, but=set() if spec.split("/")[1] == "good" else {"fresh_process"}) == {}


@pytest.mark.parametrize(("kind", "name"), [(kind, rule.__name__) for kind in KINDS for rule in RULES[kind]])
def test_a_plugin_that_breaks_a_rule_fails_its_check(kind, name, tmp_path):
    (tmp_path / "scale.txt").write_text("2.0")
    given = {"weights": {"sha256_stated": tmp_path / "scale.txt"}} if name == "sha256_stated" else {}
    split = "/test" if kind == "datasets" else ""
    slow = {"fresh_process"} - {name}
    failed = failures(of(f"{kind}/{name}{split}", **given), but=slow)
    wanted = {name, *CASCADES.get(kind, {}).get(name, ())} - slow
    if kind == "attacks":
        assert name in failed
        assert set(failed) - IN_A_RUN <= {name}
    else:
        assert set(failed) == wanted
    assert f"{kind}/{name}{split} of {BROKEN} breaks {name} (" in failed[name]


@pytest.mark.parametrize(("spec", "rule", "seen"), [
    ("models/logits_fit_labels", "logits_fit_labels", "it gives 4 logits, and 'threes' has 3 classes"),
    ("models/no-module", "builds", "its build returned str, not a torch.nn.Module"),
    ("models/no-gradient", "input_gradient", "it gives no gradient with respect to its input"),
    ("models/global_draws_change_nothing", "global_draws_change_nothing",
     "a pass in eval mode draws from the global generator of numpy.random"),
    ("models/built-from-draws", "global_draws_change_nothing",
     "builds under two seeds of the global generators differ in head.weight; load all values"),
    ("models/same_state_again", "same_state_again", "two builds differ in head.weight"),
    ("models/buffers_unchanged", "buffers_unchanged", "passes changed seen"),
    ("models/features_are_vectors", "features_are_vectors", "it has no part 'neck'; its parts are body, head"),
    ("models/sha256_stated", "sha256_stated", "its weights, https://example.org/scale.txt, have no sha256"),
    ("models/file-without-sha256", "sha256_stated", "'head' of its weights, https://example.org/scale.txt, have no"),
    ("datasets/stable_ids/test", "stable_ids", "its ids come in another order, first at position 0"),
    ("datasets/one_id_and_label_each/test", "one_id_and_label_each", "'picture-0' occurs 2 times"),
    ("datasets/too-few-labels/test", "one_id_and_label_each", "it has 6 ids and 5 labels"),
    ("datasets/negative-label/test", "labels_in_range", "'picture-2' has the label -1, and 'threes' has 0 to 2"),
    ("datasets/channels-first/test", "pixels", "'picture-0' is uint8 (3, 8, 8), and images have 1 or 3 channels"),
    ("datasets/sorts-frames/test", "pixels", "video[[4, 2, 0]] of 'picture-0' is uint8 (3, 8, 8, 3), and not these"),
    ("datasets/one-frame/test", "pixels", "video[[0]] of 'picture-0' is uint8 (8, 8, 3), not uint8 (1, H, W, C)"),
    ("attacks/keeps_its_threat_model", "keeps_its_threat_model", "its budget is linf 0.015625, and example 0"),
    ("attacks/leaves-the-box", "keeps_its_threat_model", "outside [0, 1]"),
    ("attacks/draws-undeclared", "draws_as_declared", "it draws 'start' from the examples' streams, but does not"),
    ("attacks/writes-input", "changes_nothing_else", "it changed the batch's input"),
    ("attacks/changes_nothing_else", "changes_nothing_else", "it changed the model's 'body.2.running_mean'"),
    ("attacks/asks_as_declared", "asks_as_declared", "declares access='scores' but requested gradient"),
    ("attacks/costs_what_it_declares", "costs_what_it_declares", "it declares 0 gradients per example and makes 1"),
    ("attacks/promises-too-much", "costs_what_it_declares", "it declares 3 gradients per example and makes 1 if"),
    ("attacks/notes_as_declared", "notes_as_declared", "it declares the notes [] and returned ['surprise']"),
    ("attacks/replays", "exact_on_integers", "gets another"),
    ("attacks/reaches_the_optimum", "reaches_the_optimum", "an example withstands linf 0.0625 that the best"),
    ("corruptions/draws-undeclared", "draws_as_declared", "it draws 'spots' from the examples' streams, but does not"),
    ("corruptions/belongs_to_the_example", "belongs_to_the_example",
     "at severity 1 'made-up-3' is corrupted differently"),
    ("components/has-a-name", "options_have_identities", "it has an option 'name', which a suite cannot set beside"),
    ("components/options_have_identities", "options_have_identities", "b'b' has no place in an identity"),
    ("components/build_is_found", "build_is_found", "'json:nowhere' cannot be imported: module 'json' has no"),
    ("metrics/other-labels", "gives_numbers_by_label", "it returned a number for 'a', and the models are A, B"),
])  # fmt: skip
def test_a_failed_check_reports_the_observation(spec, rule, seen):
    failed = failures({rule: of(spec)[rule]})
    assert seen in failed[rule]
    assert "\n" not in failed[rule]


def test_weights_without_a_download_need_no_sha256():
    of("models/asked-for")["sha256_stated"]()


def test_a_rule_is_one_line():
    for rules in RULES.values():
        for rule in rules:
            assert re.fullmatch(r"[^\n]+\.", rule.__doc__.partition("\n")[0]), rule.__name__


# --- what a plugin is -------------------------------------------------------------------------------------------------


SMALL = """
from robharness import MetricSpec, hookimpl

@hookimpl
def robharness_metrics():
    yield MetricSpec(name="zero", summary="Nothing", compute=lambda results: dict.fromkeys(results.labels, 0.0))
"""


def test_listing_imports_no_torch(tmp_path):
    for name, text in (("small", SMALL), ("large", "import torch\n" + SMALL)):
        (tmp_path / f"{name}.py").write_text(text)
    (light,), (heavy,) = (checks(tmp_path / f"{name}.py", only=f"{PLUGIN}/*") for name in ("small", "large"))
    light()
    with pytest.raises(Broken, match=r"plugin/large of .*large\.py breaks listing_imports_no_torch \(.*import torch"):
        heavy()


def test_checks_take_a_module_its_name_or_an_installed_plugin(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "robharness_small.py").write_text(SMALL)
    for plugin in ("robharness_small", import_module("robharness_small")):
        ids = [str(check) for check in checks(plugin)]
        assert ids == ["plugin/small-listing_imports_no_torch", "metrics/zero-gives_numbers_by_label",
                       "metrics/zero-same_numbers_again"]  # fmt: skip
    info = tmp_path / "robharness_small-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: robharness-small\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[robharness]\ntiny = robharness_small\n")
    for plugin in ("tiny", "robharness_small"):
        found = checks(plugin)
        assert str(found[1]) == "metrics/zero-gives_numbers_by_label"
        assert found[1].subject.entry.name == "tiny/zero"
        assert found[1].subject.entry.origin.distribution == "robharness-small"
        assert failures({str(check): check for check in found}) == {}


def test_a_module_outside_the_path_is_found_by_its_file(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(SMALL)
    module = type(sys)("nowhere.small")
    module.__file__ = str(path)
    assert Plugin.find(module) == Plugin(namespace="small", place=str(path))
    with pytest.raises(PluginLoadError, match="'nowhere' has no file"):
        Plugin.find(type(sys)("nowhere"))


@pytest.mark.parametrize(("plugin", "options", "words"), [
    ("robharness_nowhere", {}, "'robharness_nowhere' is neither an installed plugin nor a module"),
    ("nowhere.py", {}, "nowhere.py: no such Python file"),
    (BROKEN, {"only": "models/bad"}, "is left to check; it has attacks/asks_as_declared"),
    (BROKEN, {"options": {"god": {}}}, r"options=\{'god': ...\} fits no spec; did you mean 'good'\?"),
    (BROKEN, {"weights": {"models/goof": Path()}}, r"weights=\{'models/goof': ...\} fits no spec"),
])  # fmt: skip
def test_what_cannot_be_collected_is_refused(plugin, options, words):
    with pytest.raises(UserError, match=words):
        checks(plugin, **options)


def test_a_plugin_that_cannot_be_loaded_is_reported(tmp_path):
    (tmp_path / "bad.py").write_text("import robharness_nowhere")
    with pytest.raises(PluginLoadError, match=r"left out at import: ModuleNotFoundError: No module named"):
        checks(tmp_path / "bad.py")


# --- what an author says ----------------------------------------------------------------------------------------------


def test_globs_select_specs_and_checks():
    whole = of("models/good")
    assert set(of("models/good", leave_out=["*-sha256_stated", "*-builds"])) == set(whole) - {"sha256_stated", "builds"}
    assert set(of("models/good-*untouched")) == {"input_untouched"}
    kinds = {check.subject.kind for check in checks(BROKEN, only="good", **OPTIONS)}
    assert kinds == {"models", "attacks", "corruptions", "components", "metrics"}
    splits = {str(check.subject) for check in checks(BROKEN, only="lost/*", **OPTIONS)}
    assert splits == {"datasets/lost/train", "datasets/lost/test"}


def test_options_are_read_like_those_of_a_suite():
    for options, words in [({}, "how: Field required"), ({"hwo": "good"}, "no option 'hwo'; did you mean 'how'?"),
                           ({"how": "good", "labels": "fours"}, "labels: Input should be 'threes' or")]:  # fmt: skip
        found = of("models/optional", options={"optional": options})
        assert words in failures({"builds": found["builds"]})["builds"]
    found = of("models/optional", options={"models/opt*": {"how": "logits_fit_labels"}})
    assert set(failures(found, but={"fresh_process"})) == {"logits_fit_labels"}


def test_an_unknown_label_space_must_be_given():
    found = of("models/optional", options={"optional": {"how": "good", "labels": "unheard-of"}})
    failed = failures(found, but={"fresh_process"})
    assert set(failed) == {"logits_fit_labels"}
    assert failed["logits_fit_labels"].endswith(
        "the number of classes of 'unheard-of' is not known; write classes={'unheard-of': N}"
    )


def test_all_norms_are_tested_by_default():
    from robharness.testing.attacks import variants

    (subject,) = {check.subject for check in of("attacks/good").values()}
    assert [variant.norm for variant in variants(subject)] == ["linf", "l2"]
    (subject,) = {check.subject for check in of("attacks/good", options={"attacks/good": {"norm": "l2"}}).values()}
    assert [variant.norm for variant in variants(subject)] == ["l2"]


def test_weights_come_from_a_function_and_pass_to_the_fresh_process(tmp_path):
    made = []

    def make():
        made.append(tmp_path / "scale.txt")
        made[-1].write_text("3.0")
        return made[-1]

    found = of("models/weighted", weights={"weighted": make})
    assert made == []
    assert failures(found) == {}
    assert len(made) == 1
    several = of("models/file-*", weights={"file-*": {"head": tmp_path / "gone.txt"}})
    assert "gone.txt" in failures({"builds": several["builds"]})["builds"]


def test_missing_resources_fail_with_their_message(tmp_path):
    for spec, words in [
        ("models/weighted", "the weights of broken_plugins/weighted: not found at"),
        ("datasets/lost/train", "the lost pictures: not found at"),
    ]:
        failed = failures(of(spec, data_root=tmp_path), but={"fresh_process"})
        stated = {"licence_stated", "paper_stated", "sha256_stated"}
        assert set(failed) == set(of(spec)) - stated - {"fresh_process"}
        for sentence in failed.values():
            assert f"{spec} of {BROKEN} cannot be checked for" in sentence
            assert f"{words} {tmp_path}" in sentence and "To get it: " in sentence


def test_checks_of_corrupted_images_read_from_files(tmp_path):
    spec, images = "corruptions/good-stored", {"name": "broken_plugins/good", "split": "test", "canvas": 8}
    of_a_set = {"images": {"good-stored": images}, "data_root": tmp_path}
    assert all("write images={'good-stored': " in sentence for sentence in failures(of(spec)).values())
    assert all("the stored pictures: not found at" in sentence for sentence in failures(of(spec, **of_a_set)).values())
    (tmp_path / "stored").mkdir()
    assert failures(of(spec, **of_a_set)) == {}


# --- toys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_exact_never_rounds(classes):
    net = toys.Exact(classes)
    x = torch.from_numpy(np.random.default_rng(0).random((16, *toys.SHAPES["image"]), np.float32))
    largest = 256 * net.body[1].weight.detach().double().abs().sum(1)
    assert float(largest.max()) < 2**24
    assert float((net.head.weight.detach().double().abs() @ largest).max()) < 2**24
    whole = net(x)
    wide = toys.Exact(classes).double()(x.double())
    assert torch.equal(whole.double(), wide)
    x.requires_grad_(True)
    (slopes,) = torch.autograd.grad(net(x).logsumexp(1).sum(), x)
    alone = [torch.autograd.grad(net(row[None]).logsumexp(1).sum(), row)[0] for row in x]
    assert torch.equal(slopes, torch.stack(alone))
    assert slopes.any()


def test_attacks_break_some_examples_of_the_exact_toys():
    from robharness.testing.attacks import mixed_eps, variants, whole_outcome

    (subject,) = {check.subject for check in of("attacks/good").values()}
    for variant in variants(subject):
        for toy in (toys.exact("image", 2), toys.exact("image", 10), toys.exact("video", 3), toys.smooth("image")):
            right = toy.net().eval()(toy.x).argmax(1).numpy() == toy.labels
            assert 0 < right.sum() < len(right)
            outcome = whole_outcome(variant, toy, mixed_eps(variant))
            assert 0 < outcome.correct.sum() < right.sum(), f"{variant} on {toy.name}"


def test_no_attack_breaks_the_constant_toy():
    for classes in (2, 10):
        net = toys.Constant(classes)
        weights = net.weights.detach()
        apart = (weights - weights[:, :1]).abs().sum(0)
        assert float(apart.max()) < float(net.lead[0])
        assert float(apart[1:].min()) > 0


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_linear_toy_has_the_declared_boundary(norm):
    toy, share = toys.line("image", norm, 0.25 if norm == "l1" else 0.125, (0.25, 0.5, 0.9))
    net = toy.net().double()
    weights = net.weights.detach().numpy()
    best = {"linf": np.sign(weights), "l2": weights / np.linalg.norm(weights),
            "l1": np.sign(weights) * (abs(weights) == abs(weights).max())}[norm]  # fmt: skip
    eps = 0.25 if norm == "l1" else 0.125
    for row, label in enumerate(toy.labels):
        for factor, falls in ((0.999, False), (1.001, True)):
            step = factor * share[row] * eps * best * (1 if label == 0 else -1)
            x = toy.x[row].double().flatten().numpy() + step
            assert x.min() >= 0 and x.max() <= 1
            predicted = int(net(torch.from_numpy(x)[None]).argmax())
            assert (predicted != label) == falls


# --- pytest -----------------------------------------------------------------------------------------------------------


ITEMS = """
from robharness.testing import parametrize_with_checks


@parametrize_with_checks({path!r}, only=["models/good", "models/input_untouched", "datasets/lost/test", "metrics/good"],
                         leave_out="*-fresh_process", classes={{"threes": 3}})
def test_contract(check):
    check()
"""


def test_every_check_is_an_item_of_pytest(tmp_path):
    (tmp_path / "test_it.py").write_text(dedent(ITEMS).format(path=str(BROKEN)))
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-o", "addopts=", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, env=None)
    assert done.returncode == 1, done.stdout + done.stderr
    ended = dict(re.findall(r"test_contract\[(\S+)\] (\w+)", done.stdout.partition("= FAILURES =")[0]))
    assert ended["models/good-input_untouched"] == ended["metrics/good-same_numbers_again"] == "PASSED"
    assert ended.pop("models/input_untouched-input_untouched") == "FAILED"
    of_lost = {name: how for name, how in ended.items() if name.startswith("datasets/lost/test-")}
    assert len(of_lost) == len(RULES["datasets"]) - 1
    assert set(of_lost.values()) == {"FAILED"}
    assert {how for name, how in ended.items() if name not in of_lost} == {"PASSED"}
    errors = [line for line in done.stdout.splitlines() if line.startswith("E  ")]
    sentence = r"input_untouched \(A pass does not change its input\): it changed \d+ of 768 values of its input$"
    assert any(re.search(rf"Broken: models/input_untouched of \S+ breaks {sentence}", line) for line in errors)
    assert sum("the lost pictures: not found at" in line for line in errors) == len(of_lost)


def test_the_public_names():
    assert testing.__all__ == ["Broken", "Check", "checks", "parametrize_with_checks"]


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_has_every_rule():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    every = [
        *import_module(f"robharness.testing.{PLUGIN}").RULES,
        *(rule for rules in RULES.values() for rule in rules),
    ]
    assert rows == [(rule.__name__, rule.__doc__.partition("\n")[0].removesuffix(".")) for rule in every]


def test_a_data_set_that_takes_any_split_is_checked_on_the_named_ones_and_else_says_so():
    [check] = checks(BROKEN, only="datasets/free*", **OPTIONS)
    assert str(check) == "datasets/free-split_named"
    with pytest.raises(Broken, match=r"write splits=\{'free': \['SPLIT'\]\} and data_root='FOLDER', or leave it out"):
        check()
    both = checks(BROKEN, only="datasets/free/*", splits={"free": ["a/b", "c"]}, **OPTIONS)
    assert {check.subject.split for check in both} == {"a/b", "c"}
    rules = {rule.__name__ for rule in RULES["datasets"]}
    for given in ({"free": "a/b"}, {"datasets/fr?e": ["a/b"]}):
        found = of("datasets/free/a/b", splits=given)
        assert set(found) == rules and failures(found, but={"fresh_process"}) == {}
    assert set(failures(of("datasets/free/torn", splits={"free": ["torn"]}), but={"fresh_process"})) == {"pixels"}
    one = checks(BROKEN, only="datasets/lost/*", splits={"lost": ["test"]}, **OPTIONS)
    assert {check.subject.split for check in one} == {"test"}
    with pytest.raises(UserError, match=r"broken_plugins/lost has no split 'tset'; did you mean 'test'\?"):
        checks(BROKEN, splits={"lost": "tset"}, **OPTIONS)
    with pytest.raises(UserError, match=r"splits=\{'fere': ...\} fits no spec; did you mean 'free'\?"):
        checks(BROKEN, splits={"fere": "a"}, **OPTIONS)


def test_the_page_has_every_parameter():
    parameters = list(signature(testing.parametrize_with_checks).parameters)[1:]
    written = re.findall(r"^\| ([a-z_, ]+) \| ", PAGE.read_text(), re.MULTILINE)
    assert ", ".join(written).split(", ")[1:] == [*parameters, "check", *["check"] * len(RULES)]
