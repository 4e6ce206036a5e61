"""The two tables of constants against the publishers' code."""

from __future__ import annotations

import inspect
import re

import imagecorruptions.corruptions as library
import numpy as np
import pytest

from robharness_corruptions.constants import CIFAR, IMAGENET

# Lines of ImageNet-C/create_c/make_cifar_c.py, as they stand there; read once more, apart from the table.
SCRIPT = """
gaussian_noise c = [0.04, 0.06, .08, .09, .10]
shot_noise c = [500, 250, 100, 75, 50]
impulse_noise c = [.01, .02, .03, .05, .07]
speckle_noise c = [.06, .1, .12, .16, .2]
gaussian_blur c = [.4, .6, 0.7, .8, 1]
glass_blur c = [(0.05,1,1), (0.25,1,1), (0.4,1,1), (0.25,1,2), (0.4,1,2)]
defocus_blur c = [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)]
motion_blur c = [(6,1), (6,1.5), (6,2), (8,2), (9,2.5)]
zoom_blur c = [np.arange(1, 1.06, 0.01), np.arange(1, 1.11, 0.01), np.arange(1, 1.16, 0.01), np.arange(1, 1.21, 0.01), \
np.arange(1, 1.26, 0.01)]
fog c = [(.2,3), (.5,3), (0.75,2.5), (1,2), (1.5,1.75)]
frost c = [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)]
snow c = [(0.1,0.2,1,0.6,8,3,0.95), (0.1,0.2,1,0.5,10,4,0.9), (0.15,0.3,1.75,0.55,10,4,0.9), \
(0.25,0.3,2.25,0.6,12,6,0.85), (0.3,0.3,1.25,0.65,14,12,0.8)]
spatter c = [(0.62,0.1,0.7,0.7,0.5,0), (0.65,0.1,0.8,0.7,0.5,0), (0.65,0.3,1,0.69,0.5,0), (0.65,0.1,0.7,0.69,0.6,1), \
(0.65,0.1,0.5,0.68,0.6,1)]
contrast c = [.75, .5, .4, .3, 0.15]
brightness c = [.05, .1, .15, .2, .3]
saturate c = [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)]
jpeg_compression c = [80, 65, 58, 50, 40]
pixelate c = [0.95, 0.9, 0.85, 0.75, 0.65]
elastic_transform c = [(32*0, 32*0, 32*0.08), (32*0.05, 32*0.2, 32*0.07), (32*0.08, 32*0.06, 32*0.06), \
(32*0.1, 32*0.04, 32*0.05), (32*0.1, 32*0.03, 32*0.03)]
"""
PUBLISHED = dict(re.findall(r"^(\w+) c = (.*)$", SCRIPT, re.MULTILINE))


def parsed(name, text):
    """Convert a script's list to the form of our table: zooms as end and step, distances as shares of the side."""
    entries = eval(text, {"np": np})
    return [entry if not isinstance(entry, np.ndarray) else entry.tolist() for entry in entries]


def ours(name, table):
    if name == "zoom_blur":
        return [np.arange(1, *entry).tolist() for entry in table[name]]
    if name == "elastic_transform" and table is CIFAR:
        return [tuple(32 * share for share in entry) for entry in table[name]]
    return list(table[name])


@pytest.mark.parametrize("name", CIFAR)
def test_cifars_are_those_of_the_script(name):
    assert ours(name, CIFAR) == parsed(name, PUBLISHED[name])
    assert len(CIFAR[name]) == 5


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenets_are_those_of_the_librarys_source(name):
    source = inspect.getsource(getattr(library, name))
    which = r"alpha|c"
    text = re.search(rf"(?:{which}) = (\[.*?\])\[\s*severity - 1\]", source, re.DOTALL)[1]
    assert ours(name, IMAGENET) == parsed(name, text)
    assert len(IMAGENET[name]) == 5
