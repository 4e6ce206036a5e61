"""A suite with a model of the zoo: predictions, compared with RobustBench's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robharness import MissingResource, api
from robharness_robustbench.library import robustbench

MODEL = {"model": "robustbench/cifar10-corruptions", "name": "Hendrycks2020AugMix_WRN", "label": "AugMix"}
IMAGES = """
import numpy as np
from robharness import DatasetSpec, hookimpl

class Images:
    ids = [f"image-{i}" for i in range(8)]
    labels = list(range(8))

    def read(self, index):
        return np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)

@hookimpl
def robharness_datasets():
    yield DatasetSpec(
        name="eight", summary="noise", labels="cifar-10", splits=("test",), open=lambda root, split: Images()
    )
"""


@pytest.fixture
def plugin(tmp_path):
    file = tmp_path / "images.py"
    file.write_text(IMAGES)
    return str(file)


def suite(**changed):
    data = {"name": "images/eight", "split": "test"}
    return {"robharness": 1, "name": "zoo", "data": data, "models": [{**MODEL, **changed}]}


def test_predictions_are_those_of_robustbenchs_model(tmp_path, plugin):
    root = tmp_path / "data"
    folder = root / "weights" / "robustbench"
    file = folder / "cifar10" / "corruptions" / "Hendrycks2020AugMix_WRN.pt"
    file.parent.mkdir(parents=True)
    enums, known = robustbench("model_zoo.enums"), robustbench("model_zoo.models").model_dicts
    with torch.random.fork_rng(devices=[]):
        net = known[enums.BenchmarkDataset.cifar_10][enums.ThreatModel.corruptions][MODEL["name"]]["model"]()
    torch.save({"state_dict": {f"module.{key}": value for key, value in net.state_dict().items()}}, file)

    results = api.run(suite(), store=tmp_path / "store", data=root, plugins=[plugin])
    (cell,) = results.cells
    theirs = robustbench("utils").load_model(MODEL["name"], folder, "cifar10", "corruptions")
    images = [np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8) for i in range(8)]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        expected = theirs(x).argmax(1)
    assert cell.cell.model.label == "AugMix"
    assert cell.columns["prediction"].tolist() == expected[cell.columns["label"].tolist()].tolist()


def test_a_missing_file_is_named_with_the_download_command(tmp_path, plugin):
    with pytest.raises(MissingResource, match=r"corruptions/Hendrycks2020AugMix_WRN\.pt.*gdown 1wy7gSRsUZz"):
        api.run(suite(), store=tmp_path / "store", data=tmp_path, plugins=[plugin])
