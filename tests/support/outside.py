"""Packages from outside the tree: built as wheels and installed into a fresh environment, without the network."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path


def run(*command, cwd=None):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")} | {"COLUMNS": "400"}
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=cwd, env=environment)


def pip(*arguments):
    done = run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments)
    assert done.returncode == 0, done.stderr
    return done


def build_wheels(folder, plugins):
    """Build the plugins as their authors would. plugins: distribution -> entry point, modules by name, requirement.

    The first module is that of the entry point.
    """
    sources = []
    for name, (entry_point, modules, requirement) in plugins.items():
        source = folder / name
        source.mkdir()
        for module, text in modules.items():
            (source / f"{module}.py").write_text(text)
        listed = ", ".join(f'"{module}"' for module in modules)
        (source / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
            f'[project]\nname = "{name}"\nversion = "0.5"\ndependencies = ["{requirement}"]\n'
            f'[project.entry-points.robharness]\n{entry_point} = "{next(iter(modules))}"\n'
            f"[tool.setuptools]\npy-modules = [{listed}]\n"
        )
        sources.append(source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder / "built", *sources)
    built = sorted((folder / "built").glob("*.whl"))
    assert len(built) == len(plugins)
    return built


def fresh_python(home, wheels):
    """Return the Python of a fresh environment with the wheels; all else that is installed here is lent to it."""
    venv.create(home, with_pip=False)
    bin_folder = home / ("Scripts" if os.name == "nt" else "bin")
    fresh = bin_folder / Path(sys.executable).name
    if not fresh.exists():
        fresh = bin_folder / "python"
    site = Path(run(fresh, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "lent.pth").write_text("".join(f"import site; site.addsitedir({folder!r})\n" for folder in sorted(lent)))
    pip("--python", fresh, "install", "--no-deps", "--no-index", *wheels)
    return fresh
