"""A plugin with ResNet-50 at 224 px, with weights drawn from a seed: nothing but its speed is of interest.

And with pictures for a GPU, which twenty photos would not fill: those photos, each shifted by another number of pixels.
"""

from pathlib import Path

from robharness import DatasetSpec, InputSpec, ModelSpec, Preprocessing, discover, hookimpl


class Shifted:
    def __init__(self, count):
        self._photos = discover().datasets["samples/imagenet-photos"].spec.open(Path(), "val")
        self._read = [self._photos.read(index) for index in range(20)]
        self.ids = [f"{index}" for index in range(count)]
        self.labels = [self._photos.labels[index % 20] for index in range(count)]

    def read(self, index):
        import numpy as np

        return np.roll(self._read[index % 20], index // 20, 1)


def build(params, weights):
    import numpy as np
    import torch
    import torchvision

    with torch.device("meta"):
        net = torchvision.models.resnet50(weights=None)
    draws = np.random.default_rng(0)

    def values(name, like):
        if like.ndim > 1:
            scale = (2 / like[0].numel()) ** 0.5
            return torch.from_numpy(draws.standard_normal(tuple(like.shape), dtype=np.float32) * np.float32(scale))
        is_one = name.endswith(("running_var", "weight"))
        return torch.ones(like.shape) if is_one else torch.zeros(like.shape, dtype=like.dtype)

    net.load_state_dict({name: values(name, like) for name, like in net.state_dict().items()}, assign=True)
    return net


@hookimpl
def robharness_models():
    yield ModelSpec(
        name="resnet50",
        summary="ResNet-50 with random weights",
        input=InputSpec(shape=(3, 224, 224)),
        labels="imagenet-1k",
        build=build,
        preprocessing=Preprocessing(resize=256, crop=224),
    )


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="shifted", summary="512 shifted photos", labels="imagenet-1k", splits=("all",),
                      open=lambda root, split: Shifted(512))  # fmt: skip
