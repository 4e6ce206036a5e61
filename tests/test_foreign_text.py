"""Text of others is only shown: no terminal, page or shell acts on names, ids, keys, reasons and errors."""

import io
import json
import random
import re
import subprocess
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from rich.console import Console
from yaml import safe_dump

from hostile_text import CONTROL, FORGED, LONG, MARKUP, TEXTS, check
from robharness import Progress
from robharness.checkpoints.contents import described, some
from robharness.checkpoints.mismatches import Mismatch
from robharness.cli import main
from robharness.cli.output import echo
from robharness.cli.progress import ProgressDisplay
from robharness.errors import PluginNotFound, UserError, describe, did_you_mean, for_shell
from robharness.findings import finding, named_examples
from robharness.planning.artefacts import Artefact
from robharness.planning.commands import quoted_glob
from robharness.plugins import PluginOrigin, Problem, Registry
from robharness.store import Store
from robharness.store.failures import Failure
from robharness.suite import load, yaml
from robharness.text import NAME_LENGTH, is_printable, json_text, lines, markdown, printable, sentence

PLUGIN = Path(__file__).with_name("foreign_text.py")
RICH = re.compile(r"\x1b\[(\?(25|7)[lh]|[0-9]+A|2?[JK]|[0-9;]*m)|\r")
"""Escape sequences that rich and the live view of a run print for a terminal."""


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029", "\t", "\u00a0"])
def test_white_space_is_one_space(end):
    assert printable(f"a {end} b") == "a b"
    assert sentence(f"a: {end}{FORGED}. Try: ls {end}{FORGED}") == f"a: {FORGED}. Try: ls {FORGED}"
    assert str(UserError(f"a{end}{FORGED}", "b")) == f"a {FORGED}\nb"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x00\x1b[2J\x7f\x9b", "\\x00\\x1b[2J\\x7f\\x9b"),
        ("a\u202eb\u2066\u200e\u061c", "a\\u202eb\\u2066\\u200e\\u061c"),
        ("\u200b\ufeff\u00ad\u2060\u3164", "\\u200b\\ufeff\\xad\\u2060\\u3164"),
        ("\U000e0041\ue000\ud800\u0378", "\\U000e0041\\ue000\\ud800\\u0378"),
        ("e" + 9 * "\u0301", "e" + 6 * "\u0301" + 3 * "\\u0301"),
        ("\u0301e", "\\u0301e"),
        ("a\u200d\u200db \u200d", "a\\u200d\\u200db \\u200d"),
    ],
)
def test_characters_that_act_or_are_not_seen_are_escaped(text, shown):
    assert printable(text) == shown
    assert not is_printable(text)


@pytest.mark.parametrize(
    "text",
    [
        "résnet · x",
        "e\u0301",
        "模型 一",
        "می\u200cخواهم",
        "👩\u200d🔬",
        "❤\ufe0f",
        "क्\u200dष",
        "a\\b",
        "Ünïcode ↓5%",
        "",
    ],
)
def test_text_of_people_stays_as_it_is(text):
    assert printable(text) == text
    assert is_printable(text)


def test_a_long_text_keeps_both_its_ends():
    shown = printable(f"layer1.{LONG}.weight")
    assert len(shown) == NAME_LENGTH and shown.startswith("layer1.xx") and shown.endswith("xx.weight") and "…" in shown
    assert len(printable(1000 * "\x1b")) <= NAME_LENGTH
    assert printable(1000 * "\x1b").replace("\\x1b", "") == "…"


def test_a_command_is_never_cut():
    command = f"rm -r {for_shell(Path('/' + 4000 * 'y'))}"
    shown = sentence(f"'{LONG}' is damaged. Try: {command}")
    assert shown.endswith(f". Try: {command}") and "…" in shown
    assert str(finding("part-damaged", LONG, hint=f"to compute again: {command}")).endswith(command)


def test_random_texts_are_printable_and_stay_so():
    draw = random.Random(0)
    alphabet = [chr(draw.randrange(0x110000)) for _ in range(300)] + list(CONTROL + MARKUP)
    for _ in range(300):
        text = "".join(draw.choices(alphabet, k=draw.randrange(80)))
        shown = check(printable(text, 100))
        assert len(shown) <= 100 and "\n" not in shown
        assert printable(shown, 100) == shown
        assert json.loads(check(json_text([text]), is_data=True)) == [text]
        is_half = any("\ud800" <= character < "\ue000" for character in text)  # which a suite cannot hold
        assert yaml.parse(f"key: {yaml.quoted(text)}").data == {"key": None if is_half else text}


def test_words_for_a_shell_are_the_text_itself():
    texts = ["a b", "$(reboot)", "; reboot", "`x`", "'", "a'b\x1b\\c", "\n", "-x", "é\u202e", "\udcff", MARKUP, "*"]
    words = [for_shell(text) for text in texts]
    assert all(is_printable(word) for word in words)
    made = subprocess.run(["bash", "-c", f"printf '%s\\0' {' '.join(words)}"], capture_output=True, check=True).stdout
    assert made.split(b"\0")[:-1] == [text.encode("utf-8", "surrogateescape") for text in texts]
    assert for_shell(Path("-x")) == "./-x"
    assert quoted_glob("a\nb") == "$'a\\012b'"


@pytest.mark.parametrize(
    "text",
    [*MARKUP.split(), MARKUP, "- a", "+ a", "-", "---", "1. a", "12) a", "# a", "> a", "    a", "a\n\nb", "~~~",
     "www.x.y", "![a](b)", "<!-- x -->", "<https://x.y>", "a\\", "[^1]", "[x]: y", "***", "===",
     "[6, 54]", "[x] y", "[[a]]", "<br>", "&#65;"],
)  # fmt: skip
def test_markdown_shows_the_text_itself(text):
    for form in ("{}", "- {}\n- b", "# {}", "| {} | b |\n| --- | --- |\n| c | {} |"):
        page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(form.format(*2 * [markdown(text)]))
        shown = [each for block in page if block.type == "inline" for each in block.children]
        assert {each.type for each in shown} <= {"text", "text_special"}, [each.type for each in shown]
        assert (
            "".join(each.content for each in page[[b.type for b in page].index("inline")].children)
            == printable(text).strip()
        )
        blocks = {
            "paragraph",
            "bullet_list",
            "list_item",
            "heading",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "inline",
        }
        assert {re.sub("_(open|close)$", "", block.type) for block in page} <= blocks


def test_an_error_is_described_whatever_its_class_says():
    class Meta(type):
        @property
        def __name__(cls):
            raise RuntimeError

    assert describe(Meta("Odd", (Exception,), {})("text")) == "Odd: text"
    shown = describe(type(CONTROL.replace("\ud800", ""), (Exception,), {})(f"a\x1b{LONG}\nb"))
    check(shown)
    assert len(shown) < 1500


@pytest.mark.parametrize(
    "name", ["x; rm -rf ~/fgsm", '"$(reboot)/fgsm"', "--index-url=x/y", "a\nb/c", f"{LONG}/a", "/x"]
)
def test_no_command_to_install_contains_foreign_text(name):
    with pytest.raises(PluginNotFound) as caught:
        Registry().find("attacks", name)
    assert check(str(caught.value)).endswith("Try: robharness list plugins")
    with pytest.raises(PluginNotFound, match=r"Try: pip install robharness-swav$"):
        Registry().find("models", "swav/resnet50")


def test_the_option_that_blocks_a_plugin_is_one_word():
    assert PluginOrigin(namespace="a", distribution="a").blocking_option == "-p no:a"
    assert PluginOrigin(namespace="a; reboot", distribution="a").blocking_option == "-p 'no:a; reboot'"


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_record_with_foreign_text_is_a_printable_sentence(text, tmp_path):
    (tmp_path / "a.failed.json").write_text(json.dumps({"error": text, "blame": text}))
    check(Artefact(folder=tmp_path / "a", training_spec={}, datasets={}).failure)
    check(str(Failure(start=0, stop=1, blame=text, error=text)))
    check(str(Problem(origin=PluginOrigin(namespace=text, distribution=text), stage="import", error=text)))
    check(
        some([text] * 9)
        + described({text: 1})
        + str(Mismatch(missing=[text], unexpected={f"{text}.a": 1, f"{text}.b": 1}))
    )
    check(did_you_mean(text, [text]))
    check(named_examples([text] * 9, {text: text}))
    check(str(finding("part-damaged", text, subject=text)))
    check(lines(f"a\n{text[:5000]}".replace("\n", " ")))
    check(str(PluginOrigin(namespace=text, distribution=text, version=text)))


SUITE = {
    "robharness": 1,
    "name": "foreign",
    "data": {"name": "foreign_text/pictures", "split": "test"},
    "models": [{"model": "foreign_text/net", "label": "one"}, {"model": "foreign_text/broken", "label": "two"}],
    "attacks": [{"attack": "foreign_text/step", "eps": 0.5}, {"attack": "foreign_text/broken", "eps": 0.5}],
    "metrics": ["foreign_text/absent", "foreign_text/fails"],
}


@pytest.fixture(params=TEXTS.values(), ids=TEXTS)
def foreign(request, shell, tmp_path, monkeypatch):
    """Run a command with a plugin and a suite full of one text, and check what is printed; give a Finished.

    words: SUITE stands for the suite.
    own: pattern of what rich itself prints for a terminal.
    """
    text = request.param
    valid = text.encode("utf-8", "replace").decode()
    monkeypatch.setenv("FOREIGN_TEXT", json.dumps(text))
    monkeypatch.setenv("COLUMNS", "4000")  # so that no entry of a table is folded
    folder = tmp_path / f"-{valid[:60].replace('/', '')}"
    folder.mkdir()
    named = {"label": text} if is_printable(text) and len(text) <= NAME_LENGTH else {}
    models = [{**SUITE["models"][0], **named}, SUITE["models"][1]]
    attacks = [{**SUITE["attacks"][0], "word": valid}, SUITE["attacks"][1]]
    suite = (
        SUITE
        | {"models": models, "attacks": attacks, "data": SUITE["data"] | {"split": valid}}
        | ({"title": text} if named else {})
    )
    (folder / "s.yaml").write_text(safe_dump(suite))

    def call(*words, code=0, plugins=(PLUGIN,), own=re.compile("$^"), **changes):
        if changes:
            (folder / "s.yaml").write_text(safe_dump(suite | changes))
        path = str((folder / "s.yaml").relative_to(tmp_path))
        found = shell(*(f"./{path}" if word == "SUITE" else word for word in words), plugins=plugins)
        assert found.returncode == code, found.stderr
        check(own.sub("", found.stderr))
        check(own.sub("", found.stdout), is_data="--json" in words)
        return found

    call.text, call.folder, call.store = text, folder, tmp_path / ".robharness"
    return call


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_lines_of_the_command_line_are_printable(text, capsys, monkeypatch):
    echo(f"{text}: {text}")
    echo(f"{text}: {text}", err=True)
    assert main(["run", f"--{text[:50]}", text]) == main(["list", text]) == 2
    shown = capsys.readouterr()
    check(shown.out)
    check(shown.err, is_data=True)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_bar_shows_foreign_text(text):
    file = io.StringIO()
    display = ProgressDisplay("rich", Console(file=file, force_terminal=True, width=400))
    display.begin(2, "examples", text)
    display.advance(1, text)
    display.finished()
    display.trained(text, Progress(epoch=0, epochs=1, loss=1.0, start=1.0, rate=1.0, left=1.0))
    display.finished()
    shown = check(RICH.sub("", file.getvalue()))
    assert text != MARKUP or shown.count(MARKUP) >= 3


def test_lists_show_foreign_text(foreign):
    for kind in ("plugins", "models", "attacks", "datasets", "metrics"):
        foreign("list", kind)
        found = foreign("list", kind, "--json").stdout
        names = [row.get("summary") for row in json.loads(found) if row["name"].startswith("foreign_text/")]
        assert kind == "plugins" or set(names) == {foreign.text}
    foreign("list", "models", foreign.text.replace("\ud800", ""), code=2)
    foreign("nonsense", code=2)


def test_a_run_and_its_reports_show_foreign_text(foreign):
    foreign("run", "SUITE", code=3)
    foreign("plan", "SUITE", "--why")
    foreign("report", "SUITE", code=3)
    found = json.loads(foreign("report", "SUITE", "--json", code=3).stdout)
    assert foreign.text in [each["message"] for each in found["findings"]]
    for suffix in ("json", "txt", "md"):
        foreign("report", "SUITE", "-o", f"r.{suffix}", code=3)
        page = check((foreign.store.parent / f"r.{suffix}").read_text(), is_data=suffix == "json")
    shown = [each for block in MarkdownIt("commonmark").enable("table").parse(page) for each in block.children or ()]
    assert {each.type for each in shown} <= {
        "text",
        "text_special",
        "softbreak",
        "strong_open",
        "strong_close",
        "html_inline",
    }
    assert {each.content for each in shown if each.type == "html_inline"} <= {"<br>", "<sub>", "</sub>"}


def test_a_terminal_shows_foreign_text_without_its_markup(foreign, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    for words in (("run", "SUITE", "--display", "rich"), ("plan", "SUITE", "--why"), ("report", "SUITE")):
        found = foreign(*words, code=0 if words[0] == "plan" else 3, own=RICH)
        assert "\x1b[1m" in found.stdout
        assert foreign.text != MARKUP or MARKUP in found.stdout


def test_mistakes_show_foreign_text(foreign):
    text = foreign.text
    foreign("run", "SUITE", "--only", text.replace("\ud800", ""), code=2)
    foreign("plan", "SUITE", code=2, data={"name": "foreign_text/lost", "split": "test"})
    foreign("plan", "SUITE", code=2, data={"name": "foreign_text/fails", "split": "test"})
    foreign("plan", "SUITE", code=2, data={"name": text, "split": text}, gap=[text, text], baseline=text)
    foreign("plan", "SUITE", code=2, models=[{"model": text, "label": text}, {text: text}, text])
    foreign("plan", "SUITE", code=2, attacks=[{"attack": f"{text}/a", "eps": text, text: text}], expected={text: text})
    foreign("plan", "SUITE", code=2, models=[{"model": "foreign_text/net", "weights": {text: f"./{text[:3000]}"}}])
    foreign("plan", "nowhere.yaml", code=2, plugins=[f"no:{text}".replace("\ud800", "")])


def test_stores_of_others_show_foreign_text(foreign):
    """What a merged store brings: failures, descriptions, provenance and runs with any text."""
    text = foreign.text
    foreign("run", "SUITE", code=3)
    store = Store(foreign.store)
    for failed in foreign.store.glob("cells/*/*/*.failed.json"):
        failed.write_text(json.dumps(json.loads(failed.read_text()) | {"error": text, "blame": text}))
    valid = text.encode("utf-8", "replace").decode()
    for key in [key for key in store.cell_keys() if store.spans(key)]:
        rows = store.read(key, 100)
        columns = rows.table.drop_columns(["position"]) if "position" in rows.names else rows.table
        changed = {"device": valid, "model_plugin": {"plugin": valid, "source": valid}, "versions": {valid: valid},
                   "unreadable": dict.fromkeys(columns["example"].to_pylist(), valid), valid: valid}  # fmt: skip
        store.write_part(key, 0, {n: columns[n] for n in columns.column_names}, rows.provenance[0] | changed)
        for part in store.parts(key)[:1]:
            (store.folder(key) / part.name).unlink()
    for path in foreign.store.glob("cells/*/*/cell.json"):
        described = json.loads(path.read_text())
        path.write_text(
            json.dumps(described | {"name": text, "identity": described["identity"] | {text: {text: text}}})
        )
    foreign("report", "SUITE", code=3)
    foreign("plan", "SUITE", "--why")
    foreign("plan", "SUITE", "--why", seed=5)
    foreign("merge", "other", ".robharness", code=3, plugins=())
    folder = foreign.store / "artefacts" / "abc"
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps({"model": text}))
    (folder / "provenance.json").write_text(json.dumps({"label": text, "time": text, "sha256": text}))
    (folder / "metrics.jsonl").write_text(json.dumps({text: text}))
    foreign("list", "artefacts", plugins=())


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_keys_of_a_checkpoint_are_printable(text, tmp_path):
    import torch

    from robharness.checkpoints import Layout, StateChoice
    from robharness.checkpoints import load as load_state

    net, values = torch.nn.Linear(2, 2), {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
    states = [
        {text: torch.zeros(1), f"{text}.a": torch.zeros(2), **values},
        {text: values},
        {f"{text}.{name}": value for name, value in values.items()},
        {text: {text: 1}},
    ]
    for number, state in enumerate(states):
        path = tmp_path / f"{number}.pt"
        torch.save(state, path)
        with pytest.raises(UserError) as caught:
            load_state(net, path, [Layout(name="plain")])
        check(str(caught.value))
    check(StateChoice(inside=text, strip=text).for_file(text), is_data=True)


def test_a_mapping_from_python_keeps_characters_beyond_the_first_plane():
    with pytest.raises(UserError) as caught:
        load({"robharness": 1, "name": "a", "models": [{"model": "x/y", "label": "👩\u200d🔬"}]}, Registry())
    assert ".label" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a\x1b", "visible characters; got 'a\\x1b'"),
        ("a\nb", "visible characters"),
        ("\u202ea", "visible"),
        ("x" * 201, "200"),
    ],
)
def test_a_label_that_cannot_be_shown_is_refused_with_its_place(text, problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(f"robharness: 1\nname: a\nmodels:\n  - {{model: x/y, label: {json.dumps(text)}}}\n")
    with pytest.raises(UserError) as caught:
        load("s.yaml", Registry())
    (line,) = [line for line in check(str(caught.value)).splitlines() if ".label: " in line]
    assert line.startswith("s.yaml:4:25: models.0.label: ") and problem in line
