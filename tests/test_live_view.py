"""The live view: on a terminal of any size, on a plain stream, in a notebook; its numbers are those of the report."""

import io
import json
import random
import re
import signal
import sys
import time
import warnings

import pytest
import yaml
from rich.cells import cell_len
from rich.console import Console

import robharness
from robharness import statistics
from robharness.cli.progress import ProgressDisplay
from robharness.display import screen, texts
from robharness.display.demo import simulated_run
from robharness.display.grid import ASCII, UNICODE
from robharness.display.lines import live_lines
from robharness.display.notebook import in_notebook, table
from terminal import Terminal, TerminalProcess

LABELS = {
    "forty": [f"resnet50-self-supervised-number-{n:02}-of-40" for n in range(20)],
    "long": ["x" * 200 + str(n) for n in range(20)],
    "wide": [f"模型の名前は広い文字です{n}" for n in range(20)],
    "one": list("abcdefghijklmnopqrst"),
    "hostile": [f"\x1b[31m\u202e<b>[red]{n}\n\t\r\x07" for n in range(20)],
}


def plain(lines):
    return ["".join(piece.text for piece in line) for line in lines]


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize(("models", "perturbations"), [(1, 1), (3, 12), (20, 60)])
def test_every_line_fits_every_terminal(labels, models, perturbations):
    draws, (progress, steps) = random.Random(0), simulated_run(models, perturbations, labels=labels)
    for step, _ in enumerate(steps):
        if step % 61 == 0:
            for width, height in ((80, 24), (draws.randint(1, 220), draws.randint(1, 70))):
                for symbols in (UNICODE, ASCII):
                    lines = plain(live_lines(progress, width, height, symbols))
                    assert len(lines) <= height
                    assert all(cell_len(line) <= width for line in lines)
                    assert all(line.isprintable() for line in lines)
        if step > 400:
            break


@pytest.mark.parametrize(("width", "models"), [(80, 3), (120, 3), (200, 3), (80, 7), (200, 20)])
def test_all_models_and_perturbations_are_there_if_the_terminal_is_high_enough(width, models):
    progress, steps = simulated_run(models, 6, labels=LABELS["forty"])
    for _ in steps:
        pass
    lines = plain(live_lines(progress, width, 200))
    if models == 3 and width == 200:
        assert all(label in "\n".join(lines) for label in progress.labels)
    starts = [f"{100 * cell.right / cell.n:.1f} " for cell in progress.cells.values() if cell.n]
    shown = " ".join(lines)
    assert all(shown.count(start) >= starts.count(start) for start in starts)
    assert sum(line.startswith("clean") for line in lines) * len(progress.names) == sum(
        any(line.startswith(name[:6]) for name in progress.names) for line in lines
    )


def test_what_does_not_fit_is_counted_and_what_is_computed_is_shown():
    progress, steps = simulated_run(20, 60)
    for _ in range(300):
        next(steps)
    lines = plain(live_lines(progress, 80, 24))
    assert re.fullmatch(r"and \d+ more perturbations and \d+ more models", lines[-1])
    assert any(">" in line for line in lines[2:])


def test_the_time_left_follows_the_cost_of_cells():
    """All but the last cell of a model are attacks of 81 passes; an estimate by examples would be far off."""
    progress, steps = simulated_run(4, 6, fails=False)
    total, found = sum(simulated_seconds(4, 6)), []
    done = 0.0
    assert progress.seconds_left is None and texts.time_left(progress) == "estimating the time left"
    for seconds in steps:
        if progress.seconds_left is not None:
            found.append((progress.seconds_left, total - done))
        done += seconds
    assert len(found) > 20
    assert all(estimate == pytest.approx(left, rel=0.02, abs=0.1) for estimate, left in found)
    assert progress.fraction == 1 and texts.time_left(progress) == ""


def simulated_seconds(models, perturbations):
    _, steps = simulated_run(models, perturbations, fails=False)
    return list(steps)


def test_a_slow_view_is_redrawn_less_often(monkeypatch):
    calls = []

    def draw():
        calls.append(time.thread_time())
        while time.thread_time() < calls[-1] + 0.02:
            pass

    refresher = screen.Refresher(draw, 0.01)
    time.sleep(1)
    refresher.stop()
    assert len(calls) == 1, "20 ms of CPU time are followed by a pause of 4 s"


# --- a terminal ----------------------------------------------------------------------------------------------------


@pytest.fixture
def in_terminal(suite, toys, tmp_path):
    """Start `robharness run` on a suite of toys in a terminal."""
    started = []

    def start(width, height, steps, **changes):
        path = tmp_path / "live.yaml"
        attacks = [
            {"attack": "toys/climb", "steps": steps, "eps": ["1/8", "1/4"]},
            {"attack": "toys/sign", "eps": "1/8"},
        ]
        path.write_text(yaml.safe_dump(suite(attacks=attacks, **changes)))
        words = ["run", str(path), "-p", toys, "--store", str(tmp_path / "store"), "--batch-size", "4", "--json"]
        started.append(TerminalProcess([sys.executable, "-m", "robharness", *words], width, height))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_a_run_on_a_terminal(in_terminal, suite, run):
    """Two models of one identity, the label of one of which is hostile, in 80 columns. Some cells are stored before."""
    labels = ["resnet50-self-supervised-number-01-of-40", "[red]模型<b>" + "x" * 90]
    models = [{"model": "toys/net", "label": label} for label in labels]
    run(suite(models=models, attacks=[{"attack": "toys/sign", "eps": "1/8"}]))
    running = in_terminal(80, 24, 60, models=models)
    code, stdout = running.finish()
    assert code == 0
    expected = {}
    for cell in json.loads(stdout)["cells"]:
        low, high = statistics.accuracy_interval(round(cell["accuracy"] * 40), 40)
        half = max(cell["accuracy"] - low, high - cell["accuracy"])
        expected[cell["perturbation"][:18]] = {f"{100 * cell['accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
                                               f"{100 * cell['accuracy']:.1f} ±{100 * half:.1f}"}  # fmt: skip
    rows = [
        (line[:18].split("  ")[0], re.findall(r"[\d.]+ (?:\[.*?\]|±[\d.]+)(?= +40\b)", line))
        for frame in running.terminal.frames
        for line in frame.splitlines()
    ]
    shown = [(name, number) for name, numbers in rows if name in expected for number in numbers]
    assert len(shown) >= 2 * 2 * 2 and all(number in expected[name] for name, number in shown)
    end = running.terminal.text
    assert running.terminal.is_cursor_visible and running.terminal.breaks_lines
    assert "95 %" not in end and "left" not in end, "the table is gone"
    assert end.splitlines()[0].startswith("2 cells to compute") and "computed 80 examples" in end


def test_ctrl_c_leaves_a_clean_terminal(in_terminal):
    running = in_terminal(100, 24, 3000)
    running.read(until=lambda terminal: any(">" in frame for frame in terminal.frames))
    assert not running.terminal.is_cursor_visible
    running.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    running.process.send_signal(signal.SIGINT)
    code, _ = running.finish()
    assert code == 130
    assert running.terminal.is_cursor_visible and running.terminal.breaks_lines
    assert "95 %" not in running.terminal.text and "interrupted" in running.terminal.text


def test_sigterm_shows_the_cursor_and_ends_the_process(in_terminal):
    running = in_terminal(100, 24, 3000)
    running.read(until=lambda terminal: any(">" in frame for frame in terminal.frames))
    assert not running.terminal.is_cursor_visible
    running.process.terminate()
    code, _ = running.finish()
    assert code == -signal.SIGTERM
    assert running.terminal.is_cursor_visible and running.terminal.breaks_lines


def simulated_display(width, height):
    """Give a display on a simulated terminal, the terminal, and a function that shows it the latest."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=width, height=height, color_system=None)
    terminal, display = Terminal(width, height), ProgressDisplay("rich", console)

    def show():
        terminal.feed(written.getvalue())
        written.seek(0)
        written.truncate()
        return terminal.text

    return display, terminal, show


def test_messages_and_prints_appear_above_the_table_and_a_narrower_terminal_leaves_no_rest():
    display, terminal, show = simulated_display(110, 24)
    progress, steps = simulated_run(2, 4)
    display.follow(progress)
    display.started(progress.work, 8)
    try:
        for _ in range(3):
            next(steps)
        display.message("a [b]message[/b]")
        print("printed by a plugin")
        display._screen.refresh()
        before = show().splitlines()
        assert before[1:3] == ["a [b]message[/b]", "printed by a plugin"] and "examples" in before[3]
        terminal.resize(64)
        display.console.width = 64
        display._screen.refresh()
        assert sum("estimating" in line or "left" in line for line in show().splitlines()) == 1
        assert terminal.text.splitlines()[1:3] == before[1:3]
    finally:
        display.finished()
    assert show().splitlines() == before[:3]
    assert terminal.is_cursor_visible


# --- a plain stream ------------------------------------------------------------------------------------------------

UNIT = re.compile(
    r"Net, examples (\d+) to (\d+), 4 cells(?: \((\d+) shorter units? before\))?; lowest and highest accuracy so far: "
    r"\S.* \d+\.\d \[.*\], \S.* \d+\.\d \[.*\]; (\d+) of 160 examples; [\d.,]+ examples/s(?:; .* left)?"
)


def test_a_plain_stream_has_a_line_per_unit_and_short_units_share_lines(shell, suite, tmp_path):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(suite()))
    done = shell("run", "s.yaml", "--display", "plain", "--batch-size", "1")
    found = [match for line in done.stderr.splitlines() if (match := UNIT.fullmatch(line))]
    assert found and len([line for line in done.stderr.splitlines() if line.startswith("Net, ")]) == len(found)
    assert found[-1][4] == "160"
    assert sum(1 + int(match[3] or 0) for match in found) >= len(found)
    assert [int(match[4]) for match in found] == [4 * (int(match[2]) + 1) for match in found]


# --- Python --------------------------------------------------------------------------------------------------------


def test_findings_and_failures_become_python_warnings_of_the_calling_line(suite, toys, tmp_path, capsys):
    source = suite(attacks=[{"attack": "toys/rogue", "how": "raises", "eps": "1/8"}])
    with pytest.warns(robharness.RobharnessWarning) as caught:
        robharness.run(source, plugins=[toys], store=tmp_path / "store", limit=4)
    assert [warning.filename for warning in caught] == [__file__] * len(caught)
    name = "Net · toys/pixels/test · rogue(linf, 1/8, how=raises)"
    assert [str(warning.message) for warning in caught if "failed" in str(warning.message)] == [
        f"1 cell failed: {name}: toys/rogue: it raised KeyError: 'delta' ({toys})"
    ]
    assert capsys.readouterr() == ("", "")
    assert not in_notebook()


def test_a_run_without_findings_warns_of_nothing(run, suite):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(suite(), limit=4)


def test_the_table_of_a_notebook_escapes_foreign_text():
    progress, steps = simulated_run(2, 3, labels=["<script>alert(1)</script>", "\u202e&"])
    for _ in range(2):
        next(steps)
    html = table(progress, "<img src=x>")
    assert "<script" not in html and "<img" not in html and "\u202e" not in html
    assert "&lt;script&gt;" in html and "76.0 [" not in html and " [" in html


NOTEBOOK = """
import robharness
results = robharness.run({suite!r}, plugins=[{toys!r}], store={store!r}, batch_size=4)
"""


def test_a_notebook_shows_progress_in_one_small_output_and_warnings(suite, toys, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    attacks = [{"attack": "toys/climb", "steps": 100, "eps": ["1/8", "1/4"]},
               {"attack": "toys/rogue", "how": "raises", "eps": "1/8"}]  # fmt: skip
    code = NOTEBOOK.format(suite=suite(attacks=attacks), toys=toys, store=str(tmp_path / "store"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    updates = []

    class Client(nbclient.NotebookClient):
        def process_message(self, message, cell, index):
            if message["msg_type"] in ("display_data", "update_display_data"):
                updates.append((message["msg_type"], message["content"]["data"]["text/html"]))
            return super().process_message(message, cell, index)

    Client(notebook, timeout=120, kernel_name="python3").execute()
    kinds = [kind for kind, _ in updates]
    assert kinds[0] == "display_data" and {*kinds[1:]} == {"update_display_data"}
    assert any("<progress" in html and "<table" in html for _, html in updates)
    outputs = notebook.cells[0].outputs
    assert [each.output_type for each in outputs] == ["display_data", "stream"]
    assert re.fullmatch(r"<div>120 of 160 examples, 1 failed, in \d+ (s|min)</div>", outputs[0].data["text/html"])
    assert outputs[1].name == "stderr" and "RobharnessWarning: 1 cell failed: Net" in outputs[1].text
    assert len(nbformat.writes(notebook)) < 10_000
