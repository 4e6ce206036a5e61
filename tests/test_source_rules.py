"""Rules for the sources: the core names no first-party plugin, and plugins import public names of the core alone."""

import ast
import re
from pathlib import Path

import pytest

import robharness
from robharness.plugins import hookspecs

CORE = Path(robharness.__file__).parent
SOURCES = sorted(CORE.parent.glob("plugins/*/src"))
PLUGINS = "|".join(path.parent.name.removeprefix("robharness-") for path in SOURCES)
HOOKS = [name for name in vars(hookspecs) if name.startswith("robharness_")]
LIBRARIES = "efficientnet|imagecorruptions|foolbox|torchattacks|autoattack|decord|timm|open_clip"
PUBLIC = (
    "robharness",
    "robharness.checkpoints",
    "robharness.engine.executors",
    "robharness.specs",
    "robharness.specs.conventions",
)
"""Modules of the core that a plugin may import from."""


def named_plugins(text):
    """First-party plugins, their namespaces and the libraries behind them, as far as a source names any."""
    text = re.sub(rf"\b(?:def |hook\.)(?:{'|'.join(HOOKS)})\b", "", text)  # the hooks' own names
    found = re.findall(rf"\brobharness[-_](?:{PLUGINS})\w*", text)
    found += re.findall(rf"[\"'`\s(](?:{PLUGINS})/[a-z0-9*]\S*", text)
    return found + re.findall(rf"\b(?:{LIBRARIES})\w*", text, flags=re.IGNORECASE)


def test_the_search_for_first_party_names_detects_them():
    assert named_plugins("import robharness_samples as s")
    assert named_plugins("pip install robharness-attacks")
    assert named_plugins("model = 'samples/efficientnet-lite0'")
    assert named_plugins("write `model: probe/linear`") and named_plugins("`ssl/dino-vits16`")
    assert named_plugins("from robharness_attacks.gradient import FGSM")
    assert named_plugins("import foolbox")
    assert not named_plugins("def robharness_attacks() -> Iterable[AttackSpec]: hook.robharness_datasets()")


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: str(path.relative_to(CORE)))
def test_no_source_of_the_core_names_a_first_party_plugin(path):
    assert named_plugins(path.read_text()) == []


def private_imports(text):
    """The names that a source imports from the core, as far as they are not public."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("robharness.")]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "robharness":
            public = _public(node.module)
            found += [f"{node.module}.{alias.name}" for alias in node.names if alias.name not in public]
    return found


def _public(module):
    if module not in PUBLIC:
        return ()
    imported = __import__(module, fromlist=["*"])
    submodules = [name.rpartition(".")[2] for name in PUBLIC if name.startswith(f"{module}.")]
    return {*getattr(imported, "__all__", dir(imported)), *submodules}


def test_the_search_for_private_imports_detects_them():
    assert private_imports("from robharness.evaluation.digest import state_digest")
    assert private_imports("def build():\n    from robharness.checkpoints import loading")
    assert private_imports("import robharness.errors")
    assert not private_imports("from robharness import Encoder, checkpoints\nfrom robharness.specs import conventions")


@pytest.mark.parametrize("folder", SOURCES, ids=lambda path: path.parent.name)
def test_plugins_import_public_names_alone(folder):
    found = {path.name: private_imports(path.read_text()) for path in sorted(folder.rglob("*.py"))}
    assert not {name: names for name, names in found.items() if names}
