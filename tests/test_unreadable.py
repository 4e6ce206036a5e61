"""One example that cannot be read costs itself and is named, at any stage; if none can be read, the cells fail."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from robharness import api
from robharness.errors import UserError
from robharness.report import build

PLUGIN = '''
import json, os
from pathlib import Path

import numpy as np

from robharness import DatasetSpec, InputSpec, ModelSpec, hookimpl, read_image

class Files:
    """The PNG files of a folder, read by PIL directly (split "pil") or by the harness."""

    def __init__(self, root, split):
        self.files, self.split = sorted(root.glob("*.png")), split
        self.ids, self.labels = [file.stem for file in self.files], [int(file.stem[-1]) % 2 for file in self.files]
        self.remarks = json.loads(os.environ.get("REMARKS", "[]"))
        if split == "bytes":
            self.ids = [os.fsdecode(b"caf\\xe9"), *self.ids[1:]]

    def read(self, index):
        from PIL import Image

        if self.split == "broken plugin":
            raise KeyError("pixels")
        if self.split != "pil":
            return read_image(self.files[index])
        with Image.open(self.files[index]) as image:
            return np.asarray(image.convert("RGB"))

@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="files", summary="Files", labels="files", splits=(),
                      open=lambda root, split: Files(root, split))

def build(params, weights):
    import torch
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
                               torch.nn.utils.skip_init(torch.nn.Linear, 3, 2))

@hookimpl
def robharness_models():
    yield ModelSpec(name="red", summary="Red or not", input=InputSpec(shape=(3, 8, 8)), labels="files", build=red)

def red(params, weights):
    import torch
    net = build(params, weights)
    with torch.no_grad():
        net[2].weight.copy_(torch.tensor([[1., 0, 0], [0, 1, 0]]))
        net[2].bias.zero_()
    return net
'''


@pytest.fixture
def files(tmp_path):
    """Twelve images of two colours, and a plugin that reads them."""
    for number in range(12):
        colour = (200, 0, 9 * number) if number % 2 == 0 else (0, 200, 9 * number)
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"image-{number:02}.png")
    (tmp_path / "files.py").write_text(PLUGIN)
    return tmp_path


def suite(split="harness", **changes):
    return {"robharness": 1, "name": "files", "data": {"name": "files/files", "split": split},
            "models": [{"model": "files/red", "label": "Red"}], **changes}  # fmt: skip


def run(files, source, **options):
    return api.run(source, store=files / "store", data=files, plugins=[str(files / "files.py")], **options)


def break_three(files):
    (files / "image-00.png").write_bytes((files / "image-00.png").read_bytes()[:-40])
    (files / "image-05.png").unlink()
    (files / "image-05.png").symlink_to("nowhere")
    (files / "image-07.png").write_bytes(b"no image")
    return ["image-00", "image-05", "image-07"]


@pytest.mark.parametrize("split", ["harness", "pil"])
def test_broken_files_cost_themselves_and_a_later_report_has_the_reasons(files, split):
    broken = break_three(files)
    found = run(files, suite(split))
    [clean] = found.cells
    assert found.is_complete and sorted(clean.unreadable) == broken
    readable = ~np.isin(clean.columns["example"].astype(str), broken)
    assert clean.correct[readable].all() and not clean.correct[~readable].any()
    later = api.load(suite(split), store=files / "store", data=files, plugins=[str(files / "files.py")])
    for results in (found, later):
        [finding] = [each for each in build(results).findings if each.code == "unreadable-examples"]
        assert finding.severity == "warning"
        assert finding.message.startswith(
            "3 examples of the data cannot be read and count as wrong everywhere: image-00 ("
        )
        assert "image-05 (the file cannot be opened (No such file or directory))" in finding.message
        assert "image-07 (it is not an image of a known format" in finding.message


def test_data_of_which_nothing_can_be_read_fail_instead_of_0_percent(files, shell):
    for file in files.glob("*.png"):
        file.write_bytes(b"")
    found = run(files, suite())
    assert not found.is_complete
    report = build(found)
    [finding] = [each for each in report.findings if each.severity == "error"]
    assert finding.code == "cell-failed"
    assert "none of the 12 examples can be read, such as image-" in finding.message
    assert "(the file is empty)" in finding.message
    assert report.cells[0].numbers.n == 0 and report.cells[0].numbers.accuracy is None
    (files / "files.yaml").write_text(json.dumps(suite()))
    options = {"plugins": [files / "files.py"], "ROBHARNESS_DATA": files}
    for verb in ("run", "report"):
        done = shell(verb, "files.yaml", "--store", "store", **options)
        assert done.returncode == 3, done
        assert "none of the 12 examples can be read" in " ".join(done.stdout.split())
        assert " 0.0" not in done.stdout


def test_an_error_of_the_plugin_is_still_a_failure_of_the_data_set(files):
    found = run(files, suite("broken plugin"))
    assert [cell.failures[0].error for cell in found.cells] == ["files/files: KeyError: 'pixels'"]


def test_a_live_network_takes_the_shape_of_the_first_readable_image(files):
    from torch import nn

    (files / "image-00.png").write_bytes(b"")
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        net[2].weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
        net[2].bias.zero_()
    found = run(files, suite(models=[]), models={"live": net})
    [clean] = found.cells
    assert found.is_complete and int(clean.correct.sum()) == 11 and clean.unreadable == ["image-00"]
    for file in files.glob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of its images can be read, such as image-11: the file is empty"):
        run(files, suite(models=[]), models={"live": net})


@pytest.mark.skipif(os.name != "posix", reason="names are text elsewhere")
def test_an_id_that_is_no_text_is_refused_in_one_sentence(files):
    with pytest.raises(
        UserError, match=r"files/files of .* has the id 'caf\\udce9', which is not valid text"
    ) as caught:
        run(files, suite("bytes"))
    assert "backslashreplace" in str(caught.value) and "\n" not in str(caught.value)
    str(caught.value).encode()


def test_remarks_of_a_data_set_are_findings_of_plan_run_and_report(files, monkeypatch, shell):
    monkeypatch.setenv("REMARKS", '["3 files are left out", "labels are sorted"]')
    (files / "files.yaml").write_text(json.dumps(suite()))
    options = {"plugins": [files / "files.py"], "ROBHARNESS_DATA": files}
    for verb in ("plan", "run", "report"):
        done = shell(verb, "files.yaml", "--store", "store", "--json", **options)
        assert done.returncode == 0
        found = [each for each in json.loads(done.stdout)["findings"] if each["code"] == "data-remark"]
        assert [(each["severity"], each["subject"], each["message"]) for each in found] == [
            ("warning", "files/files/harness", "3 files are left out"),
            ("warning", "files/files/harness", "labels are sorted"),
        ]
        done = shell(verb, "files.yaml", "--store", "store", **options)
        assert "files/files/harness: 3 files are left out" in " ".join((done.stdout + done.stderr).split())
    monkeypatch.setenv("REMARKS", '"one sentence"')
    plan = api.plan(suite(), data=files, plugins=[str(files / "files.py")])
    assert [each.message for each in plan.findings if each.code == "data-remark"] == ["one sentence"]
    monkeypatch.setenv("REMARKS", "7")
    with pytest.raises(UserError, match=r"files/files of .* cannot be opened: TypeError"):
        run(files, suite())
