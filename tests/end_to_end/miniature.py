"""Miniatures of what a user has on disk: data and checkpoints of the paper, laid out as their publishers lay them out.

Written with torch, PIL and PyAV alone. The networks have random weights, and the pictures are the twenty photos.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image

from robharness import discover

CORRUPTIONS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "motion_blur", "glass_blur", "zoom_blur"),
    "weather": ("fog", "frost", "snow", "brightness"),
    "digital": ("contrast", "pixelate", "elastic_transform", "jpeg_compression"),
}
"""ImageNet-C's archives and what is in each."""
ACTIONS = ("ApplyEyeMakeup", "Archery", "YoYo")
CLASSES_UCF = 101


def random_state(net, seed):
    """A state for this network, drawn so that its logits keep their scale."""
    draws = np.random.default_rng(seed)

    def values(name, like):
        if like.ndim > 1:
            scale = (1 / like[0].numel()) ** 0.5
            return torch.from_numpy(draws.standard_normal(tuple(like.shape), dtype=np.float32) * np.float32(scale))
        if name.endswith("num_batches_tracked"):
            return torch.zeros(like.shape, dtype=like.dtype)
        is_one = name.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight", "1.weight"))
        spread = draws.random(tuple(like.shape), dtype=np.float32) / 10
        return torch.from_numpy(spread + np.float32(is_one))

    return {name: values(name, like) for name, like in net.state_dict().items()}


def resnet50():
    with torch.device("meta"):
        return torchvision.models.resnet50(weights=None)


def imagenet(root: Path, wnids: list[str]) -> None:
    """Photos in `imagenet/val`, and the same at 224 px in `imagenet-c`, darker by the severity."""
    photos = discover().datasets["samples/imagenet-photos"].spec.open(root, "val")
    val = root / "imagenet/val"
    for index, label in enumerate(photos.labels[:3]):
        image, wnid = Image.fromarray(photos.read(index)), wnids[label]
        name = f"ILSVRC2012_val_{index + 1:08}.JPEG"
        (val / wnid).mkdir(parents=True, exist_ok=True)
        image.save(val / wnid / name, quality=95, format="JPEG")
        small = np.asarray(image.resize((224, 224)))
        for archive, kinds in CORRUPTIONS.items():
            for number, kind in enumerate(kinds):
                for severity in range(1, 6):
                    folder = root / "imagenet-c" / archive / kind / str(severity) / wnid
                    folder.mkdir(parents=True, exist_ok=True)
                    darker = (small * (1 - severity / 10) + number).clip(0, 255).astype(np.uint8)
                    Image.fromarray(darker).save(folder / name, quality=85, format="JPEG")
    (val / "SUBSET").touch()
    for archive, kinds in CORRUPTIONS.items():
        for kind in kinds:
            for severity in range(1, 6):
                (root / "imagenet-c" / archive / kind / str(severity) / "SUBSET").touch()


def encoders(root: Path) -> dict[str, Path | dict[str, Path]]:
    """Checkpoints of Table 1, each in its publisher's own layout: label -> what a suite would say under `weights`."""
    folder = root / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    supervised, simclr, swav = (random_state(resnet50(), seed) for seed in (1, 2, 3))
    torch.save(supervised, folder / "resnet50.pth")
    torch.save({"state_dict": simclr}, folder / "resnet50-1x.pth")
    backbone = {f"module.{name}": value for name, value in swav.items() if not name.startswith("fc.")}
    backbone |= {
        "module.projection_head.0.weight": torch.eye(2048),
        "module.prototypes.weight": torch.ones(3000, 128),
    }
    torch.save(backbone, folder / "swav_800ep_pretrain.pth.tar")
    head = {"module.linear.weight": swav["fc.weight"], "module.linear.bias": swav["fc.bias"]}
    torch.save({"epoch": 100, "state_dict": head, "best_acc": 75.3}, folder / "swav_800ep_eval_linear.pth.tar")
    return {
        "Supervised": folder / "resnet50.pth",
        "SwAV": {
            "backbone": folder / "swav_800ep_pretrain.pth.tar",
            "head": folder / "swav_800ep_eval_linear.pth.tar",
        },
        "SimCLR": folder / "resnet50-1x.pth",
    }


def ucf101(root: Path) -> None:
    """Three short films of 240 x 320, all in the first test list; a class index of 101 names."""
    import av

    base = root / "ucf101"
    lists = base / "ucfTrainTestlist"
    lists.mkdir(parents=True, exist_ok=True)
    (base / "SUBSET").touch()
    names = sorted([*ACTIONS, *(f"Action{number:03}" for number in range(CLASSES_UCF - len(ACTIONS)))])
    (lists / "classInd.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(names, 1)))
    films = [f"{name}/v_{name}_g01_c01.avi" for name in ACTIONS]
    for number in (1, 2, 3):
        (lists / f"testlist{number:02}.txt").write_text("".join(f"{film}\n" for film in films))
        (lists / f"trainlist{number:02}.txt").write_text("")
    for seed, film in enumerate(films):
        path = base / "UCF-101" / film
        path.parent.mkdir(parents=True, exist_ok=True)
        draws = np.random.default_rng(seed)
        scene = draws.integers(0, 256, (30, 40, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for shift in range(40):
                frame = av.VideoFrame.from_ndarray(np.roll(scene, 3 * shift, 1), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())


def films(root: Path) -> dict[str, Path]:
    """Checkpoints of Table 2: R(2+1)D-18 with 102 outputs, as a fine-tuning script with DataParallel saves it."""
    folder = root / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for seed, label in enumerate(("Supervised", "TCLR", "CVRL")):
        with torch.device("meta"):
            net = torchvision.models.video.r2plus1d_18(weights=None, num_classes=102)
        state = {f"module.{name}": value for name, value in random_state(net, seed).items()}
        made[label] = folder / f"{label.lower()}.pth"
        torch.save({"epoch": 10, "state_dict": state}, made[label])
    return made
