"""Suites that extend others, and defaults of their items: what they become, and the places of their errors."""

import os
from pathlib import Path

import pytest

from robharness.errors import SuiteError
from robharness.suite import load
from robharness.suite.settings import parse_setting
from toy_suites import REGISTRY, dataset, make_registry

BASE = """\
robharness: 1
name: base
data: {name: toy/pixels, split: test, limit: 10}
models:
  - {model: toy/net, label: Net, weights: ./net.pt}
attacks: [{attack: toy/pgd, eps: 1/255}]
check: {tolerance: 1, alpha: 0.05}
expected: {source: Table 1, Net: {clean: 76, "pgd(linf, 1/255)": 5}}
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Load the file s.yaml of the working directory. files: name -> text."""
    monkeypatch.chdir(tmp_path)

    def call(files, *settings):
        for name, text in files.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(text)
        return load("s.yaml", REGISTRY, settings=tuple(map(parse_setting, settings)))

    return call


@pytest.fixture
def errors(read):
    def call(files, *settings):
        with pytest.raises(SuiteError) as caught:
            read(files, *settings)
        return caught.value.errors

    return call


def names(suite):
    return [perturbation.name for perturbation in suite.perturbations]


# --- extends ----------------------------------------------------------------------------------------------------------


def test_a_later_file_wins_mappings_are_merged_and_lists_are_replaced(read):
    suite = read({
        "base.yaml": BASE,
        "s.yaml": """
extends: base.yaml
name: mine
data: {limit: 5}
attacks: [{attack: toy/fgsm, eps: 1}]
check: {alpha: 0.1}
expected: {Net: {clean: 77}}
""",
    })  # fmt: skip
    assert (suite.name, suite.data.entry.name, suite.data.limit) == ("mine", "toy/pixels", 5)
    assert names(suite) == ["fgsm(linf, 1)"]
    assert (suite.check.tolerance, suite.check.alpha) == (1, 0.1)
    assert [each.numbers for each in suite.expected] == [
        {"Net": {"clean": 77}}
    ]  # the number of the cell that is gone is left out
    assert suite.extended == (Path.cwd() / "base.yaml",)
    assert suite.path == Path.cwd() / "s.yaml"


def test_a_suite_that_extends_is_the_same_as_one_that_is_written_whole(read):
    composed = read({"base.yaml": BASE, "s.yaml": "extends: base.yaml\nseed: 3\n"})
    whole = read({"s.yaml": BASE + "seed: 3\n"})
    for field in vars(whole):
        assert field == "extended" or getattr(composed, field) == getattr(whole, field)


def test_files_extend_each_other_over_several_levels_and_a_null_takes_away(read):
    suite = read({
        "deep/one.yaml": BASE,
        "deep/two.yaml": "extends: one.yaml\nseed: 2\ntitle: Two\n",
        "s.yaml": "extends: ./deep/two.yaml\ntitle: Mine\nexpected: null\n",
    })  # fmt: skip
    assert (suite.seed, suite.title, suite.expected) == (2, "Mine", ())
    assert suite.extended == (Path.cwd() / "deep/two.yaml", Path.cwd() / "deep/one.yaml")


def test_paths_are_relative_to_the_file_in_which_they_are_written(read, tmp_path):
    base = read({"deep/base.yaml": BASE, "s.yaml": "extends: deep/base.yaml\n"})
    assert base.models[0].weights == tmp_path / "deep/net.pt"
    text = "extends: deep/base.yaml\nmodels: [{model: toy/net, weights: {a: ./a.pt, b: /b.pt}}]\n"
    own = read({"s.yaml": text})
    assert own.models[0].weights == {"a": tmp_path / "a.pt", "b": Path("/b.pt")}
    default = read({"deep/base.yaml": BASE.replace(", weights: ./net.pt", "") + "defaults: {models: {weights: x.pt}}",
                    "s.yaml": "extends: deep/base.yaml\n"})  # fmt: skip
    assert default.models[0].weights == tmp_path / "deep/x.pt"


def test_a_mapping_extends_a_file_of_the_working_directory(read):
    read({"base.yaml": BASE, "s.yaml": BASE})
    suite = load({"extends": "base.yaml", "seed": 4}, REGISTRY)
    assert (suite.name, suite.seed, suite.has_command) == ("base", 4, False)


def test_errors_name_the_file_in_which_they_are(errors):
    found = errors({
        "deep/base.yaml": BASE.replace("weights", "wieghts").replace("eps: 1/255", "eps: 0") + "sede: 1\n",
        "s.yaml": "extends: deep/base.yaml\ncanvas: 4\ndata: {limti: 5}\n",
    })  # fmt: skip
    assert found == [
        "s.yaml:2:9: canvas: Input should be greater than or equal to 8; got 4",
        "s.yaml:3:8: data.limti: unknown key 'limti'; did you mean 'limit'?",
        "deep/base.yaml:5:34: models.0.wieghts: unknown key 'wieghts'; did you mean 'weights'?",
        "deep/base.yaml:6:34: attacks.0.eps: Input should be greater than 0; got 0",
        "deep/base.yaml:9:1: sede: unknown key 'sede'; did you mean 'seed'?",
    ]


def test_a_sentence_about_another_value_names_its_file(errors):
    text = "extends: base.yaml\nmodels: [{model: toy/net}, {model: toy/net}]\nattacks: [{attack: toy/pgd}]\n"
    found = errors({"base.yaml": BASE + "defaults: {attacks: {eps: 1}}\n", "s.yaml": text})
    assert found == ["s.yaml:2:28: models.1: the label 'toy/net' is taken by the model in line 2; give it a `label:`"]
    found = errors({}, "models.1={model: toy/net}")
    assert found == ["--set models.1={model: toy/net}: models.1: the label 'toy/net' is taken by the model in "
                     "s.yaml:2:10; give it a `label:`"]  # fmt: skip


def test_what_is_missing_is_missing_in_the_suite(errors):
    assert errors({"base.yaml": "robharness: 1\n", "s.yaml": "extends: base.yaml\nname: x\n"}) == [
        "s.yaml:1:1: models: a suite needs at least one model",
        "s.yaml:1:1: missing key 'data'",
    ]


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"s.yaml": "extends: absent.yaml\n"},
         ["s.yaml:1:10: extends: absent.yaml: cannot read the suite: No such file or directory. Try: ls ."]),
        ({"s.yaml": "extends: s.yaml\n"},
         ["s.yaml:1:10: extends: files extend each other in a circle: s.yaml -> s.yaml; leave `extends` out of one of "
          "them"]),
        ({"s.yaml": "extends: a/b.yaml\n", "a/b.yaml": "name: b\nextends: ../s.yaml\n"},
         ["a/b.yaml:2:10: extends: files extend each other in a circle: s.yaml -> b.yaml -> s.yaml; leave `extends` "
          "out of one of them"]),
        ({"s.yaml": "extends: base.yaml\n", "base.yaml": "- a\n"},
         ["s.yaml:1:10: extends: base.yaml is no suite, which is a mapping of keys"]),
        ({"s.yaml": "extends: base.yaml\n", "base.yaml": ""},
         ["s.yaml:1:10: extends: base.yaml is no suite, which is a mapping of keys"]),
        ({"s.yaml": "extends: base.yaml\n", "base.yaml": "a: 1\n b: 2\n"},
         ["base.yaml:2:3: not YAML: mapping values are not allowed here"]),
        ({"s.yaml": "extends: base.yaml\n", "base.yaml": "seed: &a [*a]"},
         ["base.yaml:1:7: nested more than 50 deep"]),
        ({"s.yaml": "extends: [base.yaml]\n"},
         ["s.yaml:1:10: extends: the path of one suite goes here; got ['base.yaml']"]),
        ({"s.yaml": "extends:\n"}, ["s.yaml:1:9: extends: the path of one suite goes here; got None"]),
        ({"s.yaml": "extends: !!str base.yaml\n"}, ["s.yaml:1:10: extends: the tag !!str is not allowed"]),
        ({"s.yaml": "extends: ~nobodyx/base.yaml\n"},
         ["s.yaml:1:10: extends: ~nobodyx/base.yaml: the home directory is unknown. Try: an absolute path"]),
        ({"s.yaml": "extends: /dev/null\n"},
         ["s.yaml:1:10: extends: /dev/null: cannot read the suite: it is a device, not a file. Try: ls /dev"]),
        ({"s.yaml": "extends: 0.yaml\n"} | {f"{at}.yaml": f"extends: {at + 1}.yaml\n" for at in range(30)},
         ["8.yaml:1:10: extends: more than 10 files extend each other; join some of them"]),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_extended_is_an_error_with_its_place(errors, files, found):
    assert errors(files) == found


def test_a_link_to_the_same_file_is_a_circle_as_well(errors, tmp_path):
    (tmp_path / "link.yaml").symlink_to("s.yaml")
    assert "files extend each other in a circle" in errors({"s.yaml": "extends: link.yaml\n"})[0]


def test_the_bounds_of_a_suite_hold_over_all_its_files(errors):
    many = "expected: {%s: {clean: 1%s}}\n"
    numbers = "".join(f", 'fog({at})': 1" for at in range(12_000))
    found = errors({"base.yaml": many % ("Net", numbers), "s.yaml": "extends: base.yaml\n" + many % ("Wide", numbers)})
    assert len(found) == 1
    assert found[0].startswith("s.yaml:2:")
    assert found[0].endswith(": more than 20000 values")


def test_an_edited_base_changes_the_suite(read):
    before = read({"base.yaml": BASE, "s.yaml": "extends: base.yaml\n"})
    after = read({"base.yaml": BASE.replace("toy/pgd", "toy/fgsm")})
    assert (names(before), names(after)) == (["pgd(linf, 1/255)"], ["fgsm(linf, 1/255)"])


def test_the_name_of_a_data_set_is_a_mapping_that_keys_are_added_to(read):
    """Keys are added to data of the same name; another name replaces the whole mapping."""
    registry = make_registry()
    registry.add("datasets", dataset("single", splits=("test",)), registry.origins[0])
    text = BASE.replace("{name: toy/pixels, split: test, limit: 10}", "toy/single")
    read({"base.yaml": text, "s.yaml": BASE})
    for suite, settings in (
        ({"extends": "base.yaml", "data": {"limit": 3}}, ()),
        ({"extends": "base.yaml"}, (parse_setting("data.limit=3"),)),
    ):
        data = load(suite, registry, settings=settings).data
        assert (data.entry.name, data.split, data.limit) == ("toy/single", "test", 3)
    assert load({"extends": "s.yaml", "data": "toy/single"}, registry).data.limit is None


# --- defaults ---------------------------------------------------------------------------------------------------------

HEAD = "robharness: 1\nname: x\ndata: {name: toy/pixels, split: test}\n"
MODELS = "models: [{model: toy/net}, {model: toy/net, label: Own, width: 3}, {model: toy/wide}]\n"


def test_defaults_are_given_to_items_that_take_them_and_lack_them(read):
    suite = read({"s.yaml": HEAD + MODELS + "defaults: {models: {width: 2, clean_at_least: 50}}\n"})
    assert [getattr(model.params, "width", None) for model in suite.models] == [2, 3, None]
    assert [model.clean_at_least for model in suite.models] == [50, 50, 50]


def test_defaults_of_perturbations(read):
    suite = read({
        "s.yaml": HEAD + "models: [{model: toy/net}]\n" + """
attacks: [{attack: toy/fgsm}, {steps: 3}, {eps: 1}, {attack: toy/fgsm, norm: linf}]
corruptions: [{corruption: toy/fog}, {corruption: toy/frost, severity: 4}]
defaults:
  attacks: {attack: toy/pgd, eps: 2, norm: l2}
  corruptions: {severity: [1, 2]}
""".replace("{attack: toy/fgsm, norm: linf}", "{attack: toy/fgsm, norm: linf, eps: 1}"),
    })  # fmt: skip
    assert names(suite) == [
        "fgsm(l2, 2)", "pgd(l2, 2, steps=3)", "pgd(l2, 1)", "fgsm(linf, 1)", "fog(1)", "fog(2)", "frost(4)",
    ]  # fmt: skip


def test_a_default_that_only_some_entries_of_a_pattern_take_is_left_out_for_it(read):
    text = HEAD + "models: [{model: toy/net}]\nattacks: [{attack: toy/*g*, eps: 1}, {attack: toy/pgd, eps: 1/2}]\n"
    suite = read({"s.yaml": text.replace("toy/*g*", "toy/p*") + "defaults: {attacks: {steps: 3}}\n"})
    assert names(suite) == ["pgd(linf, 1, steps=3)", "pgd(linf, 1/2, steps=3)"]
    mixed = read({"s.yaml": text.replace("toy/*g*", "'toy/?g*'") + "defaults: {attacks: {steps: 3}}\n"})
    assert names(mixed) == ["fgsm(linf, 1)", "pgd(linf, 1)", "pgd(linf, 1/2, steps=3)"]


@pytest.mark.parametrize(
    ("defaults", "found"),
    [
        ("{models: {widht: 2}}",
         ["s.yaml:5:21: defaults.models.widht: no item of 'models' takes the key 'widht'; did you mean 'width'?"]),
        ("{models: {width: x}}",
         ["s.yaml:5:28: defaults.models.width: Input should be a valid integer; got 'x'"]),
        ("{models: {sizes: [1, x]}}",
         ["s.yaml:5:32: defaults.models.sizes.1: Input should be a valid integer; got 'x'"]),
        ("{modles: {width: 2}}", ["s.yaml:5:12: defaults.modles: unknown key 'modles'; did you mean 'models'?"]),
        ("{data: {limit: 2}}", ["s.yaml:5:12: defaults.data: unknown key 'data'; known: models, attacks, corruptions"]),
        ("[models]", ["s.yaml:5:11: defaults: 'defaults' is a mapping of lists to mappings, such as "
                      "{models: {epochs: 2}}"]),
        ("{models: 3}", ["s.yaml:5:20: defaults.models: a mapping such as {epochs: 2} goes here; got 3"]),
        ("{models: {width: !!int 3}}", ["s.yaml:5:28: defaults.models.width: the tag !!int is not allowed"]),
        ("{models: {label: Same}}",
         ["s.yaml:4:68: models.2: the label 'Same' is taken by the model in line 4; give it a `label:`"]),
    ],
)  # fmt: skip
def test_an_error_in_defaults_is_one_line_with_its_place(errors, defaults, found):
    assert errors({"s.yaml": f"{HEAD}{MODELS}defaults: {defaults}\n"}) == found


def test_a_default_may_be_the_name_of_items_or_be_for_a_list_that_the_suite_lacks(read, errors):
    text = HEAD + "models: [{label: A}]\ndefaults: {models: {width: 5, model: toy/net}, corruptions: {severity: 2}}\n"
    assert [(model.entry.name, model.params.width) for model in read({"s.yaml": text}).models] == [("toy/net", 5)]
    [error] = errors({"s.yaml": text.replace("toy/net", "toy/wide")})
    assert "defaults.models.width: no item of 'models' takes the key 'width'" in error


def test_a_default_is_no_mistake_while_the_plugin_of_an_item_is_unknown(errors):
    text = HEAD + "models: [{model: toy/nett}]\ndefaults: {models: {depth: 2}}\n"
    assert [line.partition(": ")[2][:40] for line in errors({"s.yaml": text})] == [
        "models.0.model: no model 'toy/nett'; did"[:40]
    ]


def test_defaults_of_an_empty_list_are_for_suites_that_extend_it(read):
    files = {"base.yaml": BASE + "defaults: {corruptions: {severity: 2}, models: {width: 4}}\n", "s.yaml": """
extends: base.yaml
corruptions: [{corruption: toy/fog}]
defaults: {models: {width: 5}}
"""}  # fmt: skip
    suite = read(files)
    assert (names(suite)[-1], suite.models[0].params.width) == ("fog(2)", 5)
    assert read(files, "defaults.models.width=6").models[0].params.width == 6
    assert read(files, "defaults.models.width=6", "models.0.width=7").models[0].params.width == 7
    assert read(files, "models.0.width=7", "defaults.models.width=6").models[0].params.width == 7


def test_a_value_inside_a_default_can_be_set_for_one_item(read):
    text = HEAD + "models: [{model: toy/net, label: A}, {model: toy/net, label: B}]\n"
    suite = read({"s.yaml": text + "defaults: {models: {weights: {a: a.pt, b: b.pt}}}\n"}, "models.B.weights.b=c.pt")
    folder = Path(os.getcwd())
    assert [model.weights for model in suite.models] == [
        {"a": folder / "a.pt", "b": folder / "b.pt"},
        {"a": folder / "a.pt", "b": folder / "c.pt"},
    ]


# --- merge keys -------------------------------------------------------------------------------------------------------


def test_merge_keys_of_items(read):
    text = (
        HEAD
        + """\
models:
  - &net {model: toy/net, label: A, width: 3, sizes: [1]}
  - &wide {width: 5, label: B, model: toy/net}
  - {<<: *net, label: C}
  - {label: D, <<: [*wide, *net]}
  - {<<: [*net, {clean_at_least: 50}], label: E, width: 9}
"""
    )
    models = read({"s.yaml": text}).models
    assert [(model.label, model.params.width, model.params.sizes) for model in models] == [
        ("A", 3, (1,)), ("B", 5, ()), ("C", 3, (1,)), ("D", 5, (1,)), ("E", 9, (1,)),
    ]  # fmt: skip
    assert models[4].clean_at_least == 50


@pytest.mark.parametrize(
    ("models", "found"),
    [
        ("[{<<: {model: toy/net, width: 0}}]",
         ["s.yaml:4:39: models.0.width: Input should be greater than 0; got 0"]),
        ("[{<<: {model: toy/net, widht: 1}}]",
         ["s.yaml:4:32: models.0.widht: unknown key 'widht'; did you mean 'width'?"]),
        ("[{model: toy/net, <<: [1]}]",
         ["s.yaml:4:32: models.0.<<: '<<' merges a mapping, or a list of mappings, such as *base"]),
        ("[{model: toy/net, <<: {width: 1, width: 2}}]",
         ["s.yaml:4:42: models.0.width: the key 'width' is there already, in line 4"]),
        ('[{model: toy/net, <<: {"\\0": 1}}]', ["s.yaml:4:32: models.0: the character U+0000 is not allowed"]),
        ("[{model: toy/net, <<: {width: !!int 3}}]",
         ["s.yaml:4:39: models.0.width: the tag !!int is not allowed"]),
        ("[{model: toy/net, <<: *net}]", ["s.yaml:4:31: not YAML: found undefined alias 'net'"]),
    ],
)  # fmt: skip
def test_an_error_inside_a_merged_mapping_has_its_place(errors, models, found):
    assert errors({"s.yaml": f"{HEAD}models: {models}\n"}) == found


def test_anchors_do_not_reach_into_files_that_are_extended(errors):
    files = {"base.yaml": BASE.replace("- {model", "- &net {model"), "s.yaml": "extends: base.yaml\nmodels: [*net]\n"}
    assert errors(files) == ["s.yaml:2:10: not YAML: found undefined alias 'net'"]
