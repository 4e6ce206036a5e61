"""Own checkpoints read into a network without its classifier: what is missing is refused, what is left over is listed.

The files are those that training scripts write: MoCo's, DINO's, solo-learn's and lightly's, with small networks.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robharness import UserError
from robharness.checkpoints import Layout, LeftOver, StateChoice, choosing, load, load_trunk, noting
from robharness.engine.provenance import pass_findings
from robharness.suite.yaml import parse

LAYOUTS = (
    Layout(name="own", inside=("state_dict",), prefixes=("module.",)),
    Layout(name="bare", prefixes=("module.",)),
    Layout(name="by number", rename=((r"^0\.", "stem."), (r"^1\.", "blocks."))),
)


class Trunk(nn.Module):
    """A stem, blocks in a list, and a norm."""

    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 3)
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(depth))
        self.norm = nn.BatchNorm1d(3)


def tensors(seed: int, depth: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: value for name, value in Trunk(depth).state_dict().items() if value.ndim}
    return {name: torch.empty(value.shape).normal_(generator=generator) for name, value in shapes.items()}


OWN, OTHER = tensors(1), tensors(2)
HEAD = {"head.0.weight": torch.ones(5, 3), "head.0.bias": torch.ones(5), "head.2.weight": torch.ones(2, 5)}


def prefixed(prefix: str, found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in found.items()}


def read_into(path: Path, **choice: Any) -> tuple[Trunk, LeftOver]:
    """Return a trunk that is filled with a file by the keys of a suite, and what is left over."""
    with choosing({path: StateChoice(**choice)} if choice else {}):
        return (net := Trunk()), load_trunk(net, path, LAYOUTS, network="tiny")


def holds(net: nn.Module, found: dict[str, Tensor]) -> bool:
    state = net.state_dict()
    return all(torch.equal(state[name], value) for name, value in found.items())


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    def save(content: Any) -> Path:
        torch.save(content, tmp_path / "my.pt")
        return tmp_path / "my.pt"

    return save


MOCO = {
    "epoch": 200,
    "arch": "tiny",
    "state_dict": {
        **prefixed("module.encoder_q.", {**OWN, "fc.0.weight": torch.ones(3, 3), "fc.2.bias": torch.ones(3)}),
        **prefixed("module.encoder_k.", {**OTHER, "fc.0.weight": torch.ones(3, 3), "fc.2.bias": torch.ones(3)}),
        "module.queue": torch.ones(3, 7),
        "module.queue_ptr": torch.zeros(1, dtype=torch.long),
    },
    "optimizer": {"state": {}, "param_groups": [{"lr": 0.03}]},
}
DINO = {
    "student": prefixed("module.", {**prefixed("backbone.", OTHER), **HEAD}),
    "teacher": {**prefixed("backbone.", OWN), **HEAD},
    "epoch": 100,
    "dino_loss": {"center": torch.zeros(1, 2)},
}
SOLO_LEARN = {
    "epoch": 1,
    "state_dict": {
        **prefixed("backbone.", OWN),
        "projector.0.weight": torch.ones(4, 3),
        **prefixed("momentum_backbone.", OTHER),
        "classifier.weight": torch.ones(2, 3),
    },
}
LIGHTLY = {
    **{
        f"backbone.{re.sub('^(stem|blocks)', lambda m: str(['stem', 'blocks'].index(m[1])), k)}": v
        for k, v in OWN.items()
    },
    "projection_head.layers.0.weight": torch.ones(4, 3),
}


@pytest.mark.parametrize(
    ("content", "choice", "parts"),
    [
        (OWN, {}, []),
        ({"state_dict": prefixed("module.", {**OWN, **HEAD})}, {}, ["head.*"]),
        ({**OWN, **HEAD, "mask_token": torch.ones(1), "fc.bias": torch.ones(2)}, {}, ["head.*", "mask_token", "fc.*"]),
        (MOCO, {"strip": "module.encoder_q."}, ["fc.*", "encoder_k.*", "queue", "queue_ptr"]),
        (DINO, {"inside": "teacher", "strip": "backbone"}, ["head.*"]),
        (SOLO_LEARN, {"strip": "backbone."}, ["projector.*", "momentum_backbone.*", "classifier.*"]),
        (LIGHTLY, {"strip": "backbone."}, ["projection_head.*"]),
    ],
    ids=["trunk", "head", "several", "moco", "dino", "solo-learn", "lightly"],
)
def test_a_checkpoint_of_a_training_fills_the_trunk_and_its_heads_are_listed(saved, content, choice, parts):
    net, left_over = read_into(saved(content), **choice)
    assert holds(net, OWN)
    assert (left_over.file, left_over.network, left_over.parts) == ("my.pt", "tiny", parts)


def test_every_tensor_must_be_there(saved):
    path = saved({name: value for name, value in {**OWN, **HEAD}.items() if name not in ("norm.bias", "stem.weight")})
    with pytest.raises(UserError) as caught:
        read_into(path)
    message = str(caught.value)
    assert "my.pt does not fit tiny: " in message and "2 keys are missing: stem.weight, norm.bias" in message
    assert "3 keys are left over: head.0.weight, head.0.bias, head.2.weight" in message


def test_blocks_that_the_trunk_does_not_have_are_refused(saved):
    with pytest.raises(UserError, match=r"2 keys are unexpected: blocks\.2\.weight, blocks\.2\.bias .*1 keys are left"):
        read_into(saved({**tensors(1, depth=3), "fc.bias": torch.ones(2)}))
    with pytest.raises(UserError, match=r"1 keys are unexpected: norm\.gamma"):
        read_into(saved({**OWN, "norm.gamma": torch.ones(3)}))


def test_another_shape_and_another_type_are_refused(saved):
    with pytest.raises(UserError, match=r"stem\.weight \(3, 5\) instead of \(3, 4\)"):
        read_into(saved({**OWN, "stem.weight": torch.ones(3, 5), **HEAD}))
    with pytest.raises(UserError, match="has numbers of another type: float16"):
        read_into(saved({**{name: value.half() for name, value in OWN.items()}, **HEAD}))


def test_a_removed_part_inside_of_a_kept_one_may_be_left_over(saved):
    path = saved({**OWN, "norm.fc.weight": torch.ones(2, 3)})
    left_over = load_trunk(net := Trunk(), path, LAYOUTS, removed=["norm.fc"])
    assert holds(net, OWN) and left_over.names == ("norm.fc.weight",) and left_over.network == "Trunk"
    with pytest.raises(UserError, match=r"1 keys are unexpected: norm\.fc\.weight"):
        load_trunk(Trunk(), path, LAYOUTS)
    with pytest.raises(UserError, match=r"1 keys are unexpected: norm\.fc\.weight"):
        load(Trunk(), path, LAYOUTS)


@pytest.mark.parametrize(("content", "inside", "strips"), [(MOCO, None, ["module.encoder_q.", "module.encoder_k."]),
                                                          (DINO, "teacher", ["backbone."]),
                                                          (LIGHTLY, None, ["backbone."])])  # fmt: skip
def test_the_choice_that_fits_is_advised_in_spite_of_heads(saved, content, inside, strips):
    path = saved(content)
    with pytest.raises(UserError) as caught:
        read_into(path)
    message = str(caught.value)
    assert all(f"`strip: {strip}`" in message for strip in strips)
    assert inside is None or f"`inside: {inside}`" in message
    assert " beside `weights:` in the suite" in message
    advice = message.partition("Try: set ")[2].split(" or ")
    keys = parse("\n".join(re.findall(r"`((?:inside|strip): .+?)`(?= |$)", advice[0]))).data
    net, left_over = read_into(path, **keys)
    assert holds(net, OWN) or holds(net, OTHER)
    assert left_over.names


def test_an_average_beside_the_state_must_be_chosen(saved):
    path = saved({"state_dict": {**OWN, **HEAD}, "state_dict_ema": {**OTHER, **HEAD}})
    with pytest.raises(UserError, match=r"`inside: state_dict` or `inside: state_dict_ema`"):
        read_into(path)
    assert holds(read_into(path, inside="state_dict_ema")[0], OTHER)


def test_what_is_left_over_is_noted_once_and_becomes_a_finding(saved):
    path = saved({**OWN, **HEAD, **{f"extra{number}.weight": torch.ones(1) for number in range(9)}})
    with noting() as noted:
        read_into(path)
        with noting() as inner:  # as of an encoder inside of a model
            read_into(path)
    (left_over,) = noted
    assert inner == noted
    [found] = pass_findings("mine", {"left_over": [left_over.as_provenance()]})
    assert (found.code, found.severity, found.subject) == ("left-over", "note", "mine")
    assert found.message == (
        "my.pt has 12 tensors that tiny does not use: head.*, extra0.*, extra1.*, extra2.*, extra3.*, extra4.*, "
        "extra5.*, extra6.*, 2 more"
    )
    assert "no part of the encoder" in found.hint
    with noting() as noted:
        read_into(saved(OWN))
    assert noted == []
