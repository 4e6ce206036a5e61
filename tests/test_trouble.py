"""Trouble with the store: a full disk, no rights, no fsync, clocks that jump, damaged files.

Each time one sentence, nothing half written or lost, and the same command goes on to the outcomes of a quiet run.
"""

import ctypes
import errno
import json
import os
import random
import re
import resource
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from robharness import api
from robharness.engine import listeners
from robharness.errors import StoreError
from robharness.store import FileSystem, Store

TOYS = str(Path(__file__).parent / "toys.py")
SUITE = {
    "robharness": 1,
    "name": "toys",
    "data": {"name": "toys/pixels", "split": "test"},
    "models": [{"model": "toys/net", "label": "Net", "reference": True}],
    "attacks": [{"attack": "toys/climb", "eps": ["1/8", "1/4"]}, {"attack": "toys/sign", "eps": "1/8"}],
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A folder with the suite and the store of a run that nothing disturbed."""
    root = tmp_path_factory.mktemp("undisturbed")
    (root / "toys.yaml").write_text(yaml.safe_dump(SUITE))
    api.run(root / "toys.yaml", store=root / "undisturbed", plugins=[TOYS])
    return root


@pytest.fixture
def workdir(undisturbed, tmp_path):
    """Return the folder of the test with copies of that suite and store; the store is `undisturbed` and `store`."""
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    shutil.copytree(undisturbed / "undisturbed", tmp_path / "store")
    return tmp_path


def outcomes(root):
    """All that is stored of every cell, as plain data, bit by bit."""
    store = Store(root)
    tables = {key: store.read(key, 10**6).table for key in store.cell_keys()}
    return {key: [(name, table[name].combine_chunks().to_pylist() if name == "example" else
                   (table[name].type, table[name].to_numpy().tobytes())) for name in table.column_names]
            for key, table in tables.items()}  # fmt: skip


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}


def parts(root):
    return sorted(Path(root).glob("cells/*/*/*.parquet"))


def assert_one_sentence(found, sentence):
    """A command ends with 2 and this sentence, after progress alone."""
    assert found.returncode == 2
    *progress, last = found.stderr.splitlines()
    assert re.fullmatch(f"robharness: {sentence}", last)
    assert not [line for line in progress if line.startswith(("robharness: ", "Traceback"))]
    assert found.stdout == ""


# --- a full disk ---------------------------------------------------------------------------------------------------

FULL = (
    r"the store \S+ cannot be written: (No space left on device|File too large)\. "
    r"What is stored is intact\. Try: df -h \S+"
)


@contextmanager
def files_up_to(size):
    """A write beyond so many bytes of a file fails half way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Counter(listeners.Silent):
    """Counts what is computed."""

    def __init__(self):
        self.cells = 0

    def cell_done(self, cell, span, failure):
        self.cells += 1


class FileLimit(Counter):
    """A store whose third cell does not find room."""

    def __init__(self, folder):
        super().__init__()
        self.soft, self.hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def cell_done(self, cell, span, failure):
        super().cell_done(cell, span, failure)
        if self.cells == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, self.hard))

    def make_room(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.soft, self.hard))

    close = make_room


class SmallDisk(Counter):
    """A store on a file system of 40 KiB: ten pages, for four descriptions and three parts."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        mount(self.folder, "size=40k")

    def make_room(self):
        mount(self.folder, "remount,size=1m")

    def close(self):
        subprocess.run(["umount", str(self.folder)], check=True)


def mount(folder, options):
    """A file system in memory. Raises CalledProcessError or FileNotFoundError where nobody may have one."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    subprocess.run(command, capture_output=True, check=True)


def test_a_disk_that_is_full_from_the_start(shell, workdir):
    """Descriptions find room, parts do not."""
    with files_up_to(3000):
        found = shell("run", "toys.yaml", "--store", "new")
    assert_one_sentence(found, FULL)
    assert parts(workdir / "new") == []
    assert not [name for name in tree(workdir / "new") if name.endswith(".tmp")]
    assert shell("report", "toys.yaml", "--store", "new").returncode == 3
    assert shell("run", "toys.yaml", "--store", "new").returncode == 0
    assert outcomes(workdir / "new") == outcomes(workdir / "undisturbed")


def test_a_disk_without_room_for_a_description(shell, workdir):
    with files_up_to(100):
        found = shell("run", "toys.yaml", "--store", "new")
    assert_one_sentence(found, FULL)
    assert tree(workdir / "new") == {}
    assert shell("run", "toys.yaml", "--store", "new").returncode == 0


@pytest.mark.parametrize("kind", [FileLimit, SmallDisk])
def test_a_disk_that_fills_up_during_a_run(workdir, kind):
    """What was stored stays, and only the rest is computed when there is room again."""
    folder = workdir / "small"
    folder.mkdir()
    try:
        disk = kind(folder)
    except (subprocess.CalledProcessError, FileNotFoundError):  # only root may mount; the other way is as real
        disk = FileLimit(folder)
    try:
        with pytest.raises(StoreError, match=FULL):
            api.run(SUITE, store=folder, plugins=[TOYS], listener=disk)
        stored = {path.relative_to(folder): path.read_bytes() for path in parts(folder)}
        assert 0 < len(stored) == disk.cells < 4
        assert not [name for name in tree(folder) if name.endswith(".tmp")]
        assert api.load(SUITE, store=folder, plugins=[TOYS]).notes == ()
        disk.make_room()
        counter = Counter()
        assert api.run(SUITE, store=folder, plugins=[TOYS], listener=counter).is_complete
        assert counter.cells == 4 - len(stored)
        assert {path: (folder / path).read_bytes() for path in stored} == stored
        assert outcomes(folder) == outcomes(workdir / "undisturbed")
    finally:
        disk.close()


def test_a_disk_that_is_full_when_parts_are_joined(shell, workdir):
    for index in (1, 2):
        assert shell("run", "toys.yaml", "--store", f"half-{index}", "--shard", f"{index}/2").returncode == 0
        shell("merge", "new", f"half-{index}")
    before = tree(workdir / "new")
    with files_up_to(3000):
        found = shell("run", "toys.yaml", "--store", "new")
    assert found.returncode == 2
    assert re.search(FULL, found.stderr)
    assert tree(workdir / "new") == before
    assert shell("run", "toys.yaml", "--store", "new").returncode == 0
    assert len(parts(workdir / "new")) == 4
    assert outcomes(workdir / "new") == outcomes(workdir / "undisturbed")


def test_a_disk_that_is_full_when_stores_are_merged(shell, workdir):
    with files_up_to(3000):
        found = shell("merge", "new", "undisturbed")
    assert_one_sentence(found, FULL)
    assert parts(workdir / "new") == []
    assert shell("merge", "new", "undisturbed").returncode == 0
    assert tree(workdir / "new") == tree(workdir / "undisturbed")


def test_a_disk_that_is_full_for_a_worker(workdir, run_process):
    """Another process meets the full disk; the command ends with the same sentence."""

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    words = ["run", "toys.yaml", "--store", "new", "-p", TOYS, "--workers", "1"]
    found = run_process(*words, cwd=workdir, preexec_fn=limited, environment={"PYTHONDONTWRITEBYTECODE": "1"})
    assert_one_sentence(found, FULL)
    described = ("cells/", "suites/")  # whole files that are small enough
    left = [name for name in tree(workdir / "new") if not (name.startswith(described) and name.endswith(".json"))]
    assert left == []


# --- no rights -----------------------------------------------------------------------------------------------------

READ_ONLY = (
    r"the store \S+ cannot be written: Permission denied\. "
    r"What is stored is intact\. Try: ls -ld \S+"
)


@contextmanager
def read_only(root):
    """Nothing below can be changed, by root neither: for this thread the permissions of files count."""
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    libc = ctypes.CDLL(None, use_errno=True)
    header, before = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3, this thread
    if os.geteuid() == 0:
        assert libc.capget(header, before) == 0
        without = type(before)(*before)
        without[0] &= ~0b110  # of the effective ones CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        assert libc.capset(header, without) == 0
    try:
        with pytest.raises(PermissionError):
            (root / "written").touch()
        yield
    finally:
        if os.geteuid() == 0:
            assert libc.capset(header, before) == 0
        for path in [root, *root.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_complete_store_needs_no_write_permission(shell, workdir):
    before = tree(workdir / "store")
    with read_only(workdir / "store"):
        for verb in ("plan", "report", "run"):
            assert shell(verb, "toys.yaml", "--store", "store").returncode == 0
    assert tree(workdir / "store") == before


def test_missing_outcomes_need_write_permission(shell, workdir):
    shell("run", "toys.yaml", "--store", "new", "--limit", "10")
    before = tree(workdir / "new")
    with read_only(workdir / "new"):
        assert shell("report", "toys.yaml", "--store", "new", "--limit", "10").returncode == 0
        assert shell("plan", "toys.yaml", "--store", "new").returncode == 0
        assert_one_sentence(shell("run", "toys.yaml", "--store", "new"), READ_ONLY)
        assert_one_sentence(shell("run", "toys.yaml", "--store", "new", "--fresh", "*"), READ_ONLY)
        assert_one_sentence(shell("merge", "new", "undisturbed"), READ_ONLY)
    assert tree(workdir / "new") == before
    again = shell("run", "toys.yaml", "--store", "new")
    assert again.returncode == 0
    assert "4 cells to compute, 120 examples in all" in again.stderr
    assert outcomes(workdir / "new") == outcomes(workdir / "undisturbed")


def test_a_store_that_cannot_be_created(shell, workdir):
    (workdir / "closed").mkdir()
    with read_only(workdir / "closed"):
        assert_one_sentence(shell("run", "toys.yaml", "--store", "closed/new"), READ_ONLY)
        assert_one_sentence(shell("merge", "closed/new", "undisturbed"), READ_ONLY)
        assert shell("report", "toys.yaml", "--store", "closed/new").returncode == 3


def test_a_store_that_cannot_be_written_can_be_merged(shell, workdir):
    damaged = parts(workdir / "store")[1]
    damaged.write_bytes(b"not what it was")
    with read_only(workdir / "store"):
        found = shell("merge", "new", "store")
    assert found.returncode == 3
    assert found.stdout == "store: 3 parts of 3 cells copied, 0 existed already\n"
    assert f"{damaged.relative_to(workdir)} is damaged" in found.stderr
    assert damaged.exists()
    assert len(parts(workdir / "new")) == 3


# --- no fsync ------------------------------------------------------------------------------------------------------

NO_FSYNC = (
    "the file system of the store new has no fsync: a power cut may damage the latest outcomes; the next run of the "
    "suite finds and computes these again"
)


def failing(code, *, only_folders=False):
    """An fsync of the store's file system that fails with this error."""
    fsync = FileSystem.fsync

    def fail(files, descriptor):
        if only_folders and not os.path.isdir(f"/proc/self/fd/{descriptor}"):
            return fsync(files, descriptor)
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_file_system_without_fsync_is_reported_once(shell, workdir, monkeypatch, code):
    monkeypatch.setattr(FileSystem, "fsync", failing(code))
    found = shell("run", "toys.yaml", "--store", "new", "--json")
    assert found.returncode == 0
    assert json.loads(found.stdout)["warnings"] == [NO_FSYNC]
    assert "Traceback" not in found.stderr
    assert outcomes(workdir / "new") == outcomes(workdir / "undisturbed")
    assert json.loads(shell("run", "toys.yaml", "--store", "new", "--json").stdout)["warnings"] == []


def test_a_file_system_without_fsync_of_folders_is_reported_once_in_the_tables(shell, workdir, monkeypatch):
    monkeypatch.setattr(FileSystem, "fsync", failing(errno.EINVAL, only_folders=True))
    found = shell("run", "toys.yaml", "--store", "new")
    assert found.returncode == 0
    assert found.stdout.count(NO_FSYNC) == 1


@pytest.mark.parametrize(
    ("code", "only_folders"),
    [(errno.EIO, False), (errno.EIO, True), (errno.EDQUOT, False)],
    ids=["EIO", "EIO of folders", "EDQUOT"],
)
def test_an_fsync_that_fails_stops_the_run(shell, workdir, monkeypatch, code, only_folders):
    with monkeypatch.context() as context:
        context.setattr(FileSystem, "fsync", failing(code, only_folders=only_folders))
        found = shell("run", "toys.yaml", "--store", "new")
    assert_one_sentence(found, FULL.replace("No space", f"{re.escape(os.strerror(code))}|No space"))
    assert "has no fsync" not in found.stdout + found.stderr
    assert not [name for name in tree(workdir / "new") if name.endswith(".tmp")]
    assert shell("run", "toys.yaml", "--store", "new").returncode == 0
    assert outcomes(workdir / "new") == outcomes(workdir / "undisturbed")


# --- clocks that jump ----------------------------------------------------------------------------------------------

HOURS = (5, -9, 30, -50, 0.2, -0.5, 800)


class Jumps:
    """Clocks that are hours off, forth and back, each time that somebody asks."""

    def __init__(self, hours=HOURS):
        self._time, self._hours, self._asked = time.time, hours, 0

    def time(self):
        self._asked += 1
        return self._time() + 3600 * self._hours[self._asked % len(self._hours)]


@pytest.fixture
def jumping_clocks(monkeypatch):
    jumps = Jumps()
    monkeypatch.setattr(time, "time", jumps.time)


def test_clocks_that_jump_change_no_outcome_and_overwrite_nothing(shell, workdir, jumping_clocks):
    noise = random.Random(0)
    for number, words in enumerate((["--limit", "10"], ["--shard", "3/4"], ["--limit", "20"], []), start=1):
        assert shell("run", "toys.yaml", "--store", "new", *words).returncode == 0
        planned = json.loads(shell("plan", "toys.yaml", "--store", "new", "--json").stdout)
        assert planned["warnings"] == []
        assert planned["seconds_left"] > 0 or not any(planned["passes_left"].values())
        assert len(list((workdir / "new" / "runs").iterdir())) == number
        for path in (workdir / "new").rglob("*"):
            moment = time.time() + noise.uniform(-1e6, 1e6)
            os.utime(path, (moment, moment))
    records = Store(workdir / "new").runs()
    assert sorted(record["computed"] for record in records) == [40, 40, 40, 40]
    assert all(record["seconds"] > 0 and record["speed"]["Net"]["seconds"] > 0 for record in records)
    assert outcomes(workdir / "new") == outcomes(workdir / "undisturbed")


def test_a_clock_that_stands_still_overwrites_no_record(shell, workdir, monkeypatch):
    moment = time.time() - 7 * 3600
    monkeypatch.setattr(FileSystem, "time", lambda files: moment)
    for limit in (10, 20, 40):
        assert shell("run", "toys.yaml", "--store", "new", "--limit", limit).returncode == 0
    assert sorted(record["examples"] for record in Store(workdir / "new").runs()) == [10, 20, 40]


def test_files_in_use_are_not_removed_when_the_clock_goes_back(shell, workdir):
    """A file of the future is not old."""
    folder = parts(workdir / "store")[0].parent
    new, future, old = (folder / f".00040-00080.{name}.tmp" for name in ("new", "future", "old"))
    for path, hours in ((new, 0), (future, 9), (old, -9)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() + 3600 * hours,) * 2)
    shell("run", "toys.yaml", "--store", "store")
    assert new.exists() and future.exists() and not old.exists()


def test_workers_with_jumping_clocks_and_without_fsync(workdir, run_process):
    """Clocks jump and nothing has fsync, in other processes too."""
    (workdir / "sitecustomize.py").write_text(
        "import errno, itertools, os, time\n"
        f"hours, real = itertools.cycle({HOURS}), time.time\n"
        "def fsync(number):\n"
        "    raise OSError(errno.EINVAL, 'Invalid argument')\n"
        "time.time = lambda: real() + 3600 * next(hours)\n"
        "os.fsync = fsync\n"
    )
    path = os.pathsep.join(filter(None, [str(workdir), os.environ.get("PYTHONPATH", "")]))
    words = ["run", "toys.yaml", "--store", "new", "-p", TOYS, "--workers", "1", "--json"]
    found = run_process(*words, cwd=workdir, environment={"PYTHONPATH": path})
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["warnings"] == [NO_FSYNC]
    assert outcomes(workdir / "new") == outcomes(workdir / "undisturbed")
    (record,) = Store(workdir / "new").runs()
    assert record["computed"] == 160 and record["speed"]["Net"]["seconds"] > 0


# --- damaged parts -------------------------------------------------------------------------------------------------


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]


DAMAGES = [
    lambda content: content[: len(content) // 2],
    lambda content: flipped(content, len(content) // 2),
    lambda content: b"",
]


def damage(root):
    """Damage three of the four parts, each in its way; returns their paths."""
    hurt = parts(root)[:3]
    for path, change in zip(hurt, DAMAGES, strict=True):
        path.write_bytes(change(path.read_bytes()))
    return hurt


def assert_reported(warnings, root, hurt):
    lines = [warning for warning in warnings if "is damaged" in warning]
    assert len(lines) == len(hurt)
    for path in hurt:
        (line,) = [line for line in lines if str(path.relative_to(root)) in line]
        assert line.endswith("it is set aside, and the next run of the suite computes it again")


def test_damaged_parts_are_reported_set_aside_and_computed_again(shell, workdir):
    hurt = damage(workdir / "store")
    found = shell("report", "toys.yaml", "--store", "store")
    assert found.returncode == 3
    assert_reported(found.stdout.splitlines(), workdir, hurt)
    assert "Incomplete: some cells failed or are not computed yet." in found.stdout
    assert not any(path.exists() for path in hurt)
    assert all(path.with_name(f"{path.name}.damaged").exists() for path in hurt)
    again = shell("run", "toys.yaml", "--store", "store", "--json")
    assert again.returncode == 0
    assert "3 cells to compute, 120 examples in all" in again.stderr
    assert json.loads(again.stdout)["warnings"] == []
    assert outcomes(workdir / "store") == outcomes(workdir / "undisturbed")
    assert shell("report", "toys.yaml", "--store", "store").returncode == 0


def test_run_and_plan_detect_damage(shell, workdir):
    hurt = damage(workdir / "store")
    planned = json.loads(shell("plan", "toys.yaml", "--store", "store", "--json").stdout)
    assert_reported(planned["warnings"], workdir, hurt)
    assert sorted(cell["done"] for cell in planned["cells"]) == [0, 0, 0, 40]
    shutil.rmtree(workdir / "store")
    shutil.copytree(workdir / "undisturbed", workdir / "store")
    damage(workdir / "store")
    found = shell("run", "toys.yaml", "--store", "store", "--json")
    assert found.returncode == 0
    assert_reported(json.loads(found.stdout)["warnings"], workdir, hurt)
    assert "3 cells to compute, 120 examples in all" in found.stderr
    assert outcomes(workdir / "store") == outcomes(workdir / "undisturbed")


def test_only_the_damaged_part_is_computed_again(shell, workdir):
    for index in (1, 2, 3):
        shell("run", "toys.yaml", "--store", f"part-{index}", "--shard", f"{index}/3")
    shell("merge", "new", "part-1", "part-2", "part-3")
    hurt = [path for path in parts(workdir / "new") if path.name.startswith("00013-00026.")][:2]
    for path in hurt:
        path.write_bytes(path.read_bytes()[:-1])
    found = shell("report", "toys.yaml", "--store", "new", "--json")
    assert found.returncode == 3
    assert sorted(cell["n"] for cell in json.loads(found.stdout)["cells"]) == [27, 27, 40, 40]
    again = shell("run", "toys.yaml", "--store", "new")
    assert again.returncode == 0
    assert "2 cells to compute, 26 examples in all" in again.stderr
    assert outcomes(workdir / "new") == outcomes(workdir / "undisturbed")
    assert [len(Store(workdir / "new").parts(key)) for key in Store(workdir / "new").cell_keys()] == [1] * 4


def test_deleted_and_misplaced_parts_are_computed_again(shell, workdir):
    gone, moved, *_ = parts(workdir / "store")
    gone.unlink()
    moved.rename(moved.with_name(moved.name.replace("00000-00040", "00000-00050")))
    assert shell("report", "toys.yaml", "--store", "store").returncode == 3
    again = shell("run", "toys.yaml", "--store", "store")
    assert again.returncode == 0
    assert "2 cells to compute, 80 examples in all" in again.stderr
    assert outcomes(workdir / "store") == outcomes(workdir / "undisturbed")


@pytest.mark.parametrize("rows", [[], ["--batch-size", "8"]], ids=["the same bytes", "other bytes"])
def test_a_damaged_part_that_cannot_be_renamed_is_skipped(shell, workdir, rows):
    """The name that it would get is taken, by a folder."""
    hurt = damage(workdir / "store")
    for path in hurt:
        (path.with_name(f"{path.name}.damaged") / "taken").mkdir(parents=True)
    found = shell("report", "toys.yaml", "--store", "store", "--json")
    assert found.returncode == 3
    assert_reported(json.loads(found.stdout)["warnings"], workdir, hurt)
    assert all(path.exists() for path in hurt)
    again = shell("run", "toys.yaml", "--store", "store", *rows)
    assert again.returncode == 0
    assert "3 cells to compute, 120 examples in all" in again.stderr
    assert shell("report", "toys.yaml", "--store", "store").returncode == 0
    assert outcomes(workdir / "store") == outcomes(workdir / "undisturbed")


def test_damage_in_a_store_that_is_read_only(shell, workdir):
    hurt = damage(workdir / "store")
    before = tree(workdir / "store")
    with read_only(workdir / "store"):
        for _ in range(2):
            found = shell("report", "toys.yaml", "--store", "store", "--json")
            assert found.returncode == 3
            assert_reported(json.loads(found.stdout)["warnings"], workdir, hurt)
        assert_one_sentence(shell("run", "toys.yaml", "--store", "store"), READ_ONLY)
    assert tree(workdir / "store") == before
    assert shell("run", "toys.yaml", "--store", "store").returncode == 0
    assert outcomes(workdir / "store") == outcomes(workdir / "undisturbed")
