"""ResNet-18 of RoCL, ACL, DynACL, AdvCL and DeACL, rebuilt in plain torch, and the files that their code writes.

Names of parameters and order of computation are the publishers'; `robharness_ssl.adversarial` names the sources.
"""

from __future__ import annotations

from functools import partial

import torch
from ssl_publishers import drawn, parallel
from torch import nn
from torch.nn import functional

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SOLO_LEARN = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))


class Norms(nn.Module):
    """A BatchNorm per name of `bn_names`; `used` is the number of the one in use."""

    def __init__(self, width, count, used, norm=nn.BatchNorm2d):
        super().__init__()
        self.bn_list, self.used = nn.ModuleList([norm(width) for _ in range(count)]), used

    def forward(self, x):
        return self.bn_list[self.used](x)


class Shortcut(nn.Module):
    """The shortcut of networks with several BatchNorms."""

    def __init__(self, taken, given, stride, norm):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(taken, given, 1, stride, bias=False), norm(given)

    def forward(self, x):
        return self.bn(self.conv(x))


class Block(nn.Module):
    def __init__(self, taken, given, stride, norm, name):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(taken, given, 3, stride, 1, bias=False), norm(given)
        self.conv2, self.bn2 = nn.Conv2d(given, given, 3, 1, 1, bias=False), norm(given)
        self.name = name
        if stride > 1 and name == "multiple":
            self.downsample = Shortcut(taken, given, stride, norm)
        elif stride > 1 or name == "shortcut":
            layers = [nn.Conv2d(taken, given, 1, stride, bias=False), norm(given)] if stride > 1 else []
            setattr(self, name, nn.Sequential(*layers))

    def forward(self, x):
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        shortcut = getattr(self, "downsample" if self.name == "multiple" else self.name, nn.Identity())
        return (out + shortcut(x)).relu()


class Standardize(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.constants = mean, std
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x):
        return x.sub(self.mean[None, :, None, None]).div(self.std[None, :, None, None])


class Network(nn.Module):
    """A ResNet-18 with a 3 x 3 stem.

    norm: makes the normalisation of a layer with a given width.
    name: of a shortcut: "shortcut" (kuangliu's), "downsample" (torchvision's) or "multiple" (several BatchNorms).
    padding: of the first convolution.
    normalize: mean and std; None for no normalisation.
    heads: other layers in the state.
    """

    def __init__(self, norm=nn.BatchNorm2d, name="downsample", padding=1, normalize=None, **heads):
        super().__init__()
        if normalize is not None:
            self.normalize = Standardize(*normalize)
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, padding, bias=False), norm(64)
        taken = 64
        for stage, width in enumerate((64, 128, 256, 512), start=1):
            blocks = [Block(taken, width, 1 if stage == 1 else 2, norm, name), Block(width, width, 1, norm, name)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            taken = width
        for key, head in heads.items():
            self.add_module(key, head)

    def features(self, x):
        x = self.normalize(x) if hasattr(self, "normalize") else x
        x = self.bn1(self.conv1(x)).relu()
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return functional.adaptive_avg_pool2d(x, 1).flatten(1)


class Projection(nn.Module):
    """The projection head of ACL and DynACL, with two BatchNorms per layer."""

    def __init__(self, layers=3):
        super().__init__()
        for number in range(1, layers + 1):
            self.add_module(f"fc{number}", nn.Linear(512, 512, bias=number == 1))
            self.add_module(f"bn{number}", Norms(512, 2, 0, nn.BatchNorm1d))


def multiple(used, count=2, seed=0, fc=None, **options):
    """Return a network with several BatchNorms per layer, of which one is used."""
    options = {"normalize": IMAGENET, **({} if fc is None else {"fc": fc})} | options
    return made(Network(partial(Norms, count=count, used=used), "multiple", **options), seed)


def made(net, seed=0):
    """Fill a network with random weights, but for the constants of its normalisation."""
    drawn(net, seed)
    for module in net.modules():
        if isinstance(module, Standardize):
            module.mean.copy_(torch.tensor(module.constants[0])), module.std.copy_(torch.tensor(module.constants[1]))
    return net


def rocl():
    """Return RoCL's network."""
    return made(Network(name="shortcut"))


def rocl_file(net):
    """Return the checkpoint of src/utils.py."""
    state = torch.Generator().get_state()
    return {"epoch": 999, "acc": 0.1, "model": parallel(net), "optimizer_state": {"state": {}}, "rng_state": state}


def acl(used=1, count=2, seed=0):
    """Return ACL's network of pre-training; one BatchNorm per layer without --ACL_DS."""
    return multiple(used, count, seed, fc=Projection())


def acl_file(net):
    """Return the checkpoint of train_simCLR.py and train_trades.py."""
    return {"epoch": 1000, "state_dict": net.state_dict(), "optim": {"state": {}, "param_groups": []}}


def finetuned():
    """Return the network of train_trades.py, with one BatchNorm per layer and a classifier."""
    return made(Network(normalize=IMAGENET, fc=nn.Linear(512, 10)))


class DynACL(nn.Module):
    def __init__(self, used):
        super().__init__()
        self.encoder_q, self.encoder_k = acl(used, seed=1), acl(used, seed=2)


def advcl(used=1):
    """Return AdvCL's network: three BatchNorms per layer, five classifiers of pseudo-labels and three heads."""
    classes = {f"fc_{count:03}": nn.Linear(512, count) for count in (2, 10, 50, 100, 500)}
    sizes = {"head_ce": (512, 1000), "head_proj": (512, 128), "head_pred": (128, 128)}
    heads = {
        name: nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, out))
        for name, (width, out) in sizes.items()
    }
    return multiple(used, 3, normalize=None, **classes, **heads)


def advcl_file(net):
    """Return the checkpoint of pretraining_advCL.py, which refuses to train without DataParallel."""
    return {"model": parallel(net), "epoch": 1000, "rng_state": torch.get_rng_state()}


class DeACL(nn.Module):
    """The module of Lightning: student, teacher, classifiers; `projector` is a projection head if it is not removed."""

    def __init__(self, padding=2):
        super().__init__()
        for seed, name in enumerate(("backbone", "momentum_backbone")):
            self.add_module(name, made(Network(padding=padding, normalize=SOLO_LEARN), seed))
        self.projector = nn.Sequential(nn.Linear(512, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16))
        self.classifier, self.classifier_adv = nn.Linear(512, 10), nn.Linear(512, 10)


def deacl_file(net):
    """Return a checkpoint of Lightning."""
    return {
        "epoch": 100, "global_step": 19500, "pytorch-lightning_version": "1.6.4", "state_dict": net.state_dict(),
        "callbacks": {}, "optimizer_states": [], "lr_schedulers": [], "hyper_parameters": {"backbone": "resnet18"},
    }  # fmt: skip
