"""The notebook of the tutorial runs in a kernel as Jupyter would run it, and shows what it promises."""

import base64
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pyarrow.parquet as pq
import pytest
from nbconvert.preprocessors import ExecutePreprocessor

PAGE = Path(__file__).parents[2] / "docs/tutorial/notebook.ipynb"
MOST_BYTES = 300_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def executed(folder):
    """The notebook after its execution in a folder of its own, also as a file."""
    notebook = nbformat.read(PAGE, as_version=4)
    processor = ExecutePreprocessor(timeout=300, kernel_name="python3")
    processor.preprocess(notebook, {"metadata": {"path": str(folder)}})
    nbformat.write(notebook, folder / "executed.ipynb")
    return notebook


def outputs(notebook, source):
    """The outputs of the cell whose last line ends with these words."""
    [cell] = [each for each in notebook.cells if each.cell_type == "code" and f"\n{each.source}".endswith(source)]
    return cell.outputs


def test_the_page_has_no_outputs_and_is_small():
    notebook = nbformat.read(PAGE, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert PAGE.stat().st_size < 20_000


def test_the_executed_notebook_is_small_and_has_no_error(executed, folder):
    assert (folder / "executed.ipynb").stat().st_size < MOST_BYTES
    every = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert every and not [output for output in every if output.output_type == "error"]
    printed = [output.text for output in every if output.output_type == "stream"]
    assert len(printed) == 1, printed  # the warning alone


def test_a_finding_is_a_warning_of_python(executed):
    [warning] = [
        output for output in outputs(executed, "run(suite, models=networks)") if output.output_type == "stream"
    ]
    assert warning.name == "stderr"
    assert re.search(r": RobharnessWarning: fgsm\(linf, 1/1024\): less than half a grey level", warning.text)


def test_the_cells_show_the_stored_numbers(executed, folder):
    """Accuracies in the HTML and in the data frame are those that the Parquet files give."""
    expected = {}
    for description in (folder / ".robharness").glob("cells/*/*/cell.json"):
        label, _, perturbation = json.loads(description.read_text())["name"].split(" · ")
        parts = description.parent.glob("*.parquet")
        correct = np.concatenate([pq.read_table(part)["correct"].to_numpy() for part in parts])
        expected[label, perturbation] = correct.mean()
    assert len(expected) == 16
    [shown] = outputs(executed, "\nresults")
    attacks = shown.data["text/html"].partition("</table>")[0]
    rows = re.findall(r"<tr><th>(.*?)</th>(.*?)</tr>", attacks)
    found = {name: [float(value) for value in re.findall(r"<td>([\d.]+)", row)] for name, row in rows}
    for (label, perturbation), accuracy in expected.items():
        value = found[perturbation][["linear", "hidden layer"].index(label)]
        assert value == pytest.approx(100 * accuracy, abs=0.0501)
    [frame] = outputs(executed, ".round(3)")
    for (_, perturbation), accuracy in expected.items():
        assert perturbation in frame.data["text/html"] and f"{accuracy:.3f}" in frame.data["text/html"]


def test_a_figure_and_a_file_are_made(executed, folder):
    [figure] = outputs(executed, 'figure("budgets-linf")')
    assert base64.b64decode(figure.data["image/png"]).startswith(b"\x89PNG")
    page = (folder / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and "<title>digits" in page and "<svg" in page
