"""Zero-shot classifiers in a suite: attacks on margins do not depend on the logit scale, and encoders need a probe."""

import json
import math

import numpy as np
import open_clip
import pytest
import torch

from robharness import api
from robharness.errors import UserError
from robharness_clip import options, robharness_models

CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
ANIMALS = ("cat", "dog", "owl", "shark")
DATA = """
import numpy as np

from robharness import DatasetSpec, hookimpl


class Noise:
    def __init__(self, root):
        self.images, self.labels = np.load(root / "images.npy"), np.load(root / "labels.npy").tolist()
        self.ids = [f"noise-{at}" for at in range(len(self.labels))]

    def read(self, index):
        return self.images[index].copy()


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="images", summary="Noise with a network's own predictions as labels", labels="animals",
                      splits=("test",), open=lambda root, split: Noise(root), classes=4)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP with random weights, and images of noise that it classifies as their labels say."""
    path = tmp_path_factory.mktemp("clip")
    (path / "tiny.json").write_text(json.dumps(CONFIG))
    (path / "noise.py").write_text(DATA)
    with torch.random.fork_rng(devices=[]):
        state = open_clip.CLIP(**CONFIG).state_dict()
    generator = torch.Generator().manual_seed(0)
    for value in state.values():
        if value.ndim > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
    state["logit_scale"].fill_(math.log(100))  # as published
    torch.save(state, path / "clip.pt")
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    params = options.ZeroShot(config=path / "tiny.json", classnames=ANIMALS, labels="animals")
    (spec,) = (each for each in robharness_models() if each.name == "zero-shot")
    with torch.inference_mode():
        x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        labels = spec.build(params, path / "clip.pt").eval()(x).argmax(1)
    np.save(path / "images.npy", images)
    np.save(path / "labels.npy", labels.numpy())
    return path


def suite(folder, models):
    common = {"config": str(folder / "tiny.json"), "weights": str(folder / "clip.pt")}
    attack = {"attack": "attacks/pgd", "norm": "linf", "eps": "1/255", "steps": 2}
    return {
        "robharness": 1,
        "name": "clip",
        "data": {"name": "noise/images", "split": "test"},
        "models": [{**common, **model} for model in models],
        "attacks": [{**attack, "objective": objective} for objective in ("margin", "cross-entropy")],
    }


def test_an_attack_on_margins_does_not_depend_on_the_logit_scale(folder, tmp_path):
    zero_shot = {"model": "clip/zero-shot", "classnames": list(ANIMALS), "labels": "animals"}
    models = [{**zero_shot, "label": "published"}, {**zero_shot, "label": "hot", "logit_scale": 10000.0}]
    given = {"store": tmp_path, "plugins": [str(folder / "noise.py")], "data": folder}
    api.run(suite(folder, models), **given)
    cells = api.load(suite(folder, models), **given).cells
    assert [str(failure) for each in cells for failure in each.failures] == []
    margins = {(each.cell.model.label, each.cell.what): each.columns["margin"] for each in cells}
    assert all(each.columns["correct"].all() for each in cells if each.cell.what == "clean")
    found = {what: (margins["published", what], margins["hot", what]) for _, what in margins}
    assert len(found) == 3
    for what, (published, hot) in found.items():
        is_same = hot == pytest.approx(100 * published, rel=1e-2, abs=1e-2)
        assert is_same == ("cross-entropy" not in what), what  # whose gradients vanish where a network is very sure


def test_an_encoder_alone_is_no_model_of_a_suite(folder, tmp_path):
    with pytest.raises(UserError, match=r"models\.0\.model: .*clip/visual"):
        api.plan(suite(folder, [{"model": "clip/visual"}]), plugins=[str(folder / "noise.py")])
