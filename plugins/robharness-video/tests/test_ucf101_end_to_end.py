"""A suite on UCF101: margins, compared with a reimplementation of TCLR's test with OpenCV's BGR and PIL's resize."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import video

import robharness

SUITE = """
robharness: 1
name: small
data: {{name: datasets/ucf101, split: test1}}
models:
  - {{model: video/tclr-r3d-18, weights: {weights}, preprocessing: {{resize: [{side}, {side}], clips: {{count: 2}}}}}}
seed: 0
"""
SIDE = 24
"""Side of the network's input in pixels; 112 would take twenty times as long."""
ACTIONS = [f"Action{number:03}" for number in range(1, 102)]
LENGTHS = {"Action005/v_Action005_g01_c01.avi": 29, "Action101/v_Action101_g01_c01.avi": 71}
BROKEN = "Action050/v_Action050_g01_c01.avi"


def write(file, n):
    """Write a video of n frames with a moving colour pattern, 240 x 320, in MPEG-4."""
    draw = np.random.default_rng(n)
    small = draw.integers(0, 256, (12, 16 + n, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(small).resize((20 * (16 + n), 240), Image.Resampling.BICUBIC))
    file.parent.mkdir(parents=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = 240, 320, "yuv420p", 2_000_000
        stream.codec_context.max_b_frames = 2
        for step in range(n):
            frame = np.ascontiguousarray(wide[:, 8 * step : 8 * step + 320])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    lists = root / "ucf101" / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("".join(f"{n} {action}\n" for n, action in enumerate(ACTIONS, 1)))
    (lists / "testlist01.txt").write_text("\n".join([*LENGTHS, BROKEN]))
    (root / "ucf101" / "SUBSET").touch()
    for id, n in LENGTHS.items():
        write(root / "ucf101" / "UCF-101" / id, n)
    empty = root / "ucf101" / "UCF-101" / BROKEN
    empty.parent.mkdir()
    empty.touch()
    return root


@pytest.fixture(scope="module")
def theirs(root):
    """TCLR's R3D-18 with a classifier of 102 outputs."""
    with torch.device("meta"):
        net = video.r3d_18(weights=None, num_classes=102)
        net.layer4[0].conv1[0] = nn.Conv3d(
            256, 512, kernel_size=(3, 3, 3), stride=(1, 2, 2), padding=(2, 1, 1), dilation=(2, 1, 1), bias=False
        )
        net.layer4[0].downsample[0] = nn.Conv3d(256, 512, kernel_size=1, stride=(1, 2, 2), bias=False)
    net = net.to_empty(device="cpu")
    draw = torch.Generator().manual_seed(0)
    for name, value in net.state_dict().items():
        if value.ndim < 2:
            value.fill_(1 if name.endswith(("running_var", "weight")) else 0)
        else:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=draw)
    for layer in (
        net.modules()
    ):  # adapt the statistics to the inputs; otherwise a deep random network's logits are nearly constant
        if isinstance(layer, nn.BatchNorm3d):
            layer.momentum = 1.0
    clips = [
        clip_of(frames_of(root / "ucf101" / "UCF-101" / id), at, crop_then_resize) for id in LENGTHS for at in (0, 9)
    ]
    with torch.inference_mode():
        net(torch.cat(clips))
    net.fc.weight.data *= 5
    return net.eval()


def starts(n, count):
    """Return the first frame of each clip like linear_eval/dl_linear.py; in short videos it is the clip's index."""
    found = [int(start) for start in np.linspace(0, n - 32 - 10, count)]
    return [start if start >= 0 else clip for clip, start in enumerate(found)]


def frames_of(file):
    """Return the frames in BGR, like OpenCV."""
    with av.open(str(file)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def clip_of(frames, start, steps):
    """Return a clip (1, 3, 16, SIDE, SIDE).

    steps: function that transforms a PIL image to the network's size.
    """
    clip = [frames[at] for at in range(start, start + 32, 2) if at < len(frames)]
    clip += clip[::-1][1 : 16 - len(clip) + 1]
    images = np.stack([np.asarray(steps(Image.fromarray(frame))) for frame in clip])
    return torch.from_numpy(images).permute(3, 0, 1, 2)[None].float() / 255


def margin_of(net, clips, label):
    """Return the margin of the mean of the clips' probabilities."""
    with torch.inference_mode():
        logits = net(torch.cat(clips))[:, 1:].double().softmax(1).mean(0).log()
    return (logits[label] - logits[torch.arange(101) != label].max()).item()


def crop_then_resize(image):
    return image.crop((64, 24, 256, 216)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def resize_alone(image):
    return image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def test_margins_are_those_of_tclrs_own_test(root, theirs, tmp_path):
    torch.save({"epoch": 1, "state_dict": theirs.state_dict(), "optimizer": {}}, tmp_path / "tclr.pth")
    (tmp_path / "suite.yaml").write_text(SUITE.format(weights=tmp_path / "tclr.pth", side=SIDE))
    found = robharness.run(tmp_path / "suite.yaml", data=root, store=tmp_path / "store", threads=1)
    clean = found.clean(found.labels[0])
    assert clean.is_complete and clean.unreadable == [BROKEN]
    margins = dict(zip(clean.columns["example"], clean.columns["margin"], strict=True))
    for id, n in LENGTHS.items():
        frames, label = frames_of(root / "ucf101" / "UCF-101" / id), int(id[6:9]) - 1
        positions = starts(n, 2) if n >= 42 else [0]  # robharness starts all clips of a short video at frame 0
        expected = margin_of(theirs, [clip_of(frames, at, crop_then_resize) for at in positions], label)
        assert margins[id] == pytest.approx(expected, abs=1e-3)
        others = {
            "one clip": [clip_of(frames, max(0, n - 32) // 2, crop_then_resize)] if n >= 42 else None,
            "no crop": [clip_of(frames, at, resize_alone) for at in positions],
            "RGB": [clip_of(frames, at, crop_then_resize).flip(1) for at in positions],
        }
        for name, clips in others.items():
            assert clips is None or abs(margin_of(theirs, clips, label) - expected) > 0.02, (
                f"{name} does not change the margin"
            )
