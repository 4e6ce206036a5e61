"""Files that are made once for all workers of a test run."""

import os

from filelock import FileLock


def made_once(tmp_path_factory, name, make):
    """Return the path of `name`, which `make(path)` writes in the first worker that asks; the others wait.

    name: unique in the test run; a file or a folder.
    make: a function that may leave `path` unfinished if it fails, since another path takes its place when it returns.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # each worker has a folder of its own in it
    path, unfinished = folder / name, folder / f"unfinished-{name}"
    with FileLock(folder / f"{name}.lock"):
        if not path.exists():
            make(unfinished)
            unfinished.rename(path)
    return path
