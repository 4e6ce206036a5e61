"""A plugin for the benchmarks: the JPEG files of the folder $BENCH_FOLDER, named class-number.jpg."""

import os
from pathlib import Path

import numpy as np

from robharness import DatasetSpec, hookimpl


class Pictures:
    def __init__(self):
        self._files = sorted(Path(os.environ["BENCH_FOLDER"]).glob("*.jpg"))
        self.ids = [file.name for file in self._files]
        self.labels = [int(file.name.partition("-")[0]) for file in self._files]

    def read(self, index):
        from PIL import Image

        with Image.open(self._files[index]) as image:
            return np.asarray(image.convert("RGB"))


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="pictures", summary="A folder of JPEG files", labels="imagenet-1k", splits=("all",),
                      open=lambda root, split: Pictures())  # fmt: skip
