"""Files of baselines: equal content has equal bytes, git merges them, and what is not as it was written is refused."""

import base64
import json
import random
import shutil
import subprocess
import tracemalloc
import zlib

import numpy as np
import pytest

from robharness.comparison.baseline import as_record, read_baseline, write_baseline
from robharness.errors import BaselineError, ExitCode
from robharness.text import json_text
from synthetic_sides import ORDER, cell, other, side

NAMES = ("clean", "fgsm(1/8)", "pgd(1/8)", "pgd(1/4)")
UPDATE = "robharness check s.yaml --update"
ELSEWHERE = "robharness check toys.yaml"


def outcomes(name, n=100, share=0.7):
    return np.random.default_rng(len(name) + sum(map(ord, name))).random(n) < share


def four(**changed):
    """A side of four cells; keyword arguments are outcomes by position of the name."""
    return side(*(cell(name, changed.get(f"c{number}", outcomes(name))) for number, name in enumerate(NAMES)))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "s.baseline.json"
    write_baseline(path, four(), title="A title")
    return path


def refused(path, suite="toys"):
    """Return the sentence with which a file is refused."""
    with pytest.raises(BaselineError) as caught:
        read_baseline(path, suite, UPDATE, ELSEWHERE)
    assert caught.value.exit_code == ExitCode.BASELINE == 4
    sentence = str(caught.value)
    assert "\n" not in sentence and str(path) in sentence
    return sentence


def test_a_file_holds_what_a_comparison_needs(tmp_path):
    cells = (
        cell("fog(3)", outcomes("fog"), "Net 1", kind="corruption", severity=3, group="weather", norm=None, eps=None),
        cell("clean", outcomes("x"), "Net 1"),
        cell("clean", outcomes("y"), "Net · 2"),
    )
    whole = side(*cells, run_of={"Net 1": "Net", "Net · 2": "Net"})
    write_baseline(tmp_path / "b.json", whole)
    found = read_baseline(tmp_path / "b.json", "toys")
    assert (found.suite, found.order, found.n, found.ids) == ("toys", ORDER, 100, ())
    assert found.run_of == whole.run_of and found.name == str(tmp_path / "b.json")
    for before in cells:
        after = found.by_name[before.model, before.perturbation]
        for name in ("data", "title", "kind", "norm", "eps", "severity", "group", "key", "conditions", "n_expected"):
            assert getattr(after, name) == getattr(before, name), name
        assert np.array_equal(after.right, before.right) and np.array_equal(after.positions, before.positions)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 65])
def test_every_number_of_examples(tmp_path, n):
    for right in (np.zeros(n, bool), np.ones(n, bool), outcomes("x", n)):
        write_baseline(tmp_path / "b.json", side(cell("clean", right)))
        assert np.array_equal(read_baseline(tmp_path / "b.json").cells[0].right, right)


def test_the_file_is_small_and_reviewable(tmp_path):
    names = [f"pgd(linf, {number}/255, steps=40, rel_step=2.5/40, keep=last)" for number in range(22)]
    write_baseline(tmp_path / "b.json", side(*(cell(name, outcomes(name, 50_000, 0.5)) for name in names)))
    assert (tmp_path / "b.json").stat().st_size < 200_000
    lines = (tmp_path / "b.json").read_text().splitlines()
    assert all(line.count('": ') <= 1 for line in lines), "one field a line"
    record = json.loads("\n".join(lines))
    assert list(record["cells"]) == sorted(record["cells"])
    assert set(record) == {"format", "schema", "suite", "n", "order", "cells"}, "no time, no machine, no path"


def test_equal_results_leave_the_bytes_and_changes_are_named(path):
    before = path.read_bytes(), path.stat().st_mtime_ns
    update = write_baseline(path, four(), title="A title")
    assert not update.is_written and not (update.added or update.removed or update.changed)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    cells = four(c1=outcomes("else")).cells[:3]
    update = write_baseline(path, side(*cells, cell("new", outcomes("new"))), title="A title")
    assert (update.added, update.removed, update.changed) == (
        ("Net · new",), ("Net · pgd(1/4)",), ("Net · fgsm(1/8)",))  # fmt: skip
    assert update.is_written and len(read_baseline(path).cells) == 4


def test_another_zlib_leaves_the_bytes(path):
    """Return equal bits that are stored without compression, as another version of zlib might do."""
    record = json.loads(path.read_text())
    for found in record["cells"].values():
        bits = zlib.decompress(base64.b85decode(found["outcomes"]))
        found["outcomes"] = base64.b85encode(zlib.compress(bits, 0)).decode()
    path.write_text(f"{json_text(record, 1)}\n")
    assert len(read_baseline(path, "toys").cells) == 4
    assert not write_baseline(path, four(), title="A title").is_written
    write_baseline(path, four(c0=outcomes("else")), title="A title")
    after = json.loads(path.read_text())["cells"]
    assert [name for name in after if after[name] != record["cells"][name]] == ["Net · clean"]


def test_only_complete_cells_are_written(tmp_path):
    whole = cell("clean", outcomes("x"))
    with pytest.raises(ValueError, match="has outcomes of 60 examples, not of 100"):
        write_baseline(tmp_path / "b.json", side(other(whole, positions=whole.positions[:60], right=whole.right[:60])))
    assert not (tmp_path / "b.json").exists()


# --- files that are not as they were written -------------------------------------------------------------------------


EDITS = {
    "n": 99, "order": "1" * 24, "suite": "other", "clusters": "^[a-z]+",
    "cells.Net · clean.correct": 71, "cells.Net · clean.n": 99, "cells.Net · clean.key": "1" * 24,
    "cells.Net · clean.protocol": "1" * 24, "cells.Net · clean.data": "toys/other", "cells.Net · clean.model": "Ne",
    "cells.Net · clean.kind": "attack", "cells.Net · clean.digest": "1" * 16, "cells.Net · clean.norm": "l2",
    "cells.Net · clean.eps": "1/4", "cells.Net · clean.title": "other", "cells.Net · clean.severity": 3,
    "cells.Net · clean.group": "weather", "cells.Net · clean.run_of": "Nets", "cells.Net · clean.extra": 1,
    "extra": 1, "schema": "1", "cells": {}, "cells.Net · clean.outcomes": "",
}  # fmt: skip


@pytest.mark.parametrize("place", EDITS)
def test_an_edit_of_any_field_is_found(path, place):
    record = json.loads(path.read_text())
    inner = record
    *folders, last = place.split(".")
    for name in folders:
        inner = inner[name]
    assert inner.get(last) != EDITS[place]
    inner[last] = EDITS[place]
    path.write_text(f"{json_text(record, 1)}\n")
    suite = "other" if place == "suite" else "toys"
    assert refused(path, suite).endswith(f"To write it anew: {UPDATE}")


def edited(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(f"{json_text(record, 1)}\n")
    return refused(path)


def put(record, bits):
    record["cells"]["Net · clean"]["outcomes"] = base64.b85encode(bits).decode()


def test_outcomes_of_another_length_and_bombs(path):
    bits = bytes(13)
    damaged = "Net · clean: its outcomes are "
    assert f"{damaged}not those of 100" in edited(path, lambda record: put(record, zlib.compress(bits[:-1])))
    assert f"{damaged}not those of 100" in edited(path, lambda record: put(record, zlib.compress(bits + b"\0")))
    assert f"{damaged}not those of 100" in edited(path, lambda record: put(record, zlib.compress(bits) + b"x"))
    assert f"{damaged}not those of 100" in edited(path, lambda record: put(record, zlib.compress(bits)[:-1]))
    assert f"{damaged}those of more than 100" in edited(path, lambda record: put(record, zlib.compress(b"\1" * 13)))
    tracemalloc.start()
    bomb = zlib.compress(bytes(2**27), 9)
    tracemalloc.reset_peak()
    assert f"{damaged}not those of 100" in edited(path, lambda record: put(record, bomb))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26, "no more of a bomb is unpacked than fits; reading takes 2**25"
    assert f"{damaged}damaged" in edited(path, lambda record: put(record, b"no zlib"))

    def enormous(record):
        for found in record["cells"].values():
            found["n"] = 2**30

    assert "more than 268435456 outcomes" in edited(path, enormous)


def test_other_files(path, tmp_path):
    whole = path.read_bytes()
    for content in (b"", b"{}", b"null", b"[]", b"\x89PNG\r\n\x1a\n\0\0", b'{"cells": []}', b"model: x\n"):
        path.write_bytes(content)
        assert refused(path).endswith(f"it is no baseline of robharness. Try: {ELSEWHERE}")
        with pytest.raises(BaselineError, match="no baseline of robharness"):
            write_baseline(path, four())
        assert path.read_bytes() == content, "a file of something else is never overwritten"
    for size in (100, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:size])
        assert "it is not JSON" in refused(path)
        assert write_baseline(path, four(), title="A title").is_written
        assert path.read_bytes() == whole, "a damaged baseline is written anew"
    path.write_bytes(whole.replace(b'"schema": 1', b'"schema": 2'))
    assert "it has schema 2, and this version of robharness reads schema 1" in refused(path)
    with pytest.raises(BaselineError, match="schema 2"):
        write_baseline(path, four())
    path.write_bytes(whole)
    assert "is of the suite 'toys', not of 'others'" in refused(path, "others")
    with pytest.raises(BaselineError, match="is of the suite 'toys', not of 'others'"):
        write_baseline(path, side(*four().cells, suite="others"))
    doubled = whole.replace(b'   "kind": "clean",\n', b'   "kind": "clean",\n   "kind": "clean",\n', 1)
    path.write_bytes(doubled)
    assert "has a key twice" in refused(path)
    with path.open("wb") as file:
        file.truncate(2**26)
    assert "it has more than 32 MiB. Try: ls -ld" in refused(path)
    assert "it is a folder, not a file" in refused(tmp_path)
    link = tmp_path / "link.json"
    link.symlink_to("nothing.json")
    assert "it is a link to nothing" in refused(link)
    assert refused(tmp_path / "no.json").endswith(f"there is no baseline {tmp_path / 'no.json'}. Try: {UPDATE}")


def test_a_link_stays_a_link(path, tmp_path):
    (tmp_path / "link.json").symlink_to(path.name)
    write_baseline(tmp_path / "link.json", four(c0=outcomes("else")))
    assert (tmp_path / "link.json").is_symlink() and "Net · clean" in path.read_text()
    assert np.array_equal(read_baseline(path).by_name["Net", "clean"].right, outcomes("else"))


def test_random_damage_is_refused_or_changes_nothing(path):
    """Each mutation gives the same outcomes, or one sentence and exit code 4."""
    whole, draws = path.read_bytes(), random.Random(0)
    before = as_record(read_baseline(path))
    accepted = 0
    for _ in range(400):
        path.write_bytes(mutated(whole, draws))
        sentence, after = read(path)
        assert "\n" not in sentence and (after is None) == bool(sentence)
        assert not sentence or sentence.endswith((UPDATE, ELSEWHERE)), sentence
        accepted += after is not None
        assert after in (None, before), "the title alone, and white space, are free"
    assert accepted < 100


def read(path):
    """Return the sentence with which a file is refused, and its content as plain data."""
    try:
        return "", as_record(read_baseline(path, "toys", UPDATE, ELSEWHERE))
    except BaselineError as error:
        return str(error), None


def mutated(whole, draws):
    content, how = bytearray(whole), draws.randrange(4)
    start = draws.randrange(len(content))
    if how == 0:
        content[start] = draws.randrange(256)
    elif how == 1:
        del content[start : start + draws.randrange(1, 40)]
    elif how == 2:
        content[start:start] = draws.randbytes(draws.randrange(1, 8))
    else:
        lines = whole.splitlines(keepends=True)
        lines.insert(draws.randrange(len(lines)), draws.choice(lines))
        return b"".join(lines)
    return bytes(content)


# --- git -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def git(tmp_path):
    """A repository with the baseline of `four`; give a function that runs git in it."""
    assert shutil.which("git")
    folder = tmp_path / "repository"
    folder.mkdir()

    def call(*words, code=0):
        names = [f"-c user.{key}=x" for key in ("name", "email")]
        options = [word for name in names for word in name.split(" ")]
        found = subprocess.run(["git", *options, *words], cwd=folder, capture_output=True, text=True, check=False)
        assert found.returncode == code, found.stdout + found.stderr
        return found.stdout

    call("init", "-q", "-b", "main")
    write_baseline(folder / "b.json", four())
    call("add", ".")
    call("commit", "-q", "-m", "a")
    call.path = folder / "b.json"
    return call


def branches(git, one, two, code=0):
    """Merge two branches, each of which writes a side into the baseline."""
    for name, content in (("one", one), ("two", two)):
        git("checkout", "-q", "-b", name, "main")
        write_baseline(git.path, content)
        git("commit", "-q", "-a", "-m", name)
    git("merge", "-q", "one", "-m", "merged", code=code)
    return git.path


def with_cells(whole, *added):
    return side(*whole.cells, *added)


ADDED = {"first": ("a(1/8)",), "middle": ("fgsm(1/4)",), "before the last": ("pgd(1/6)",), "last": ("z(1/8)",)}


@pytest.mark.parametrize("changed", range(len(NAMES)))
@pytest.mark.parametrize("place", ADDED)
def test_git_merges_an_added_cell_and_another_ones_change(git, place, changed):
    """The added cell may stand before, after or far from the changed one."""
    new = [cell(name, outcomes(name)) for name in ADDED[place]]
    change = {f"c{changed}": outcomes("else")}
    path = branches(git, with_cells(four(), *new), four(**change))
    assert as_record(read_baseline(path, "toys")) == as_record(with_cells(four(**change), *new))


def test_git_merges_an_added_model_whose_cells_resemble_those_before(git):
    """The last cells of both models have the same perturbation, data and conditions, and so the same last lines."""
    new = [cell(name, outcomes(name), "Other") for name in NAMES]
    path = branches(git, with_cells(four(), *new), four(c2=outcomes("else"), c3=outcomes("other")))
    assert len(read_baseline(path, "toys").cells) == 8


def test_git_merges_cells_added_at_different_places_and_removed_ones(git):
    one, two = cell("fgsm(1/16)", outcomes("one")), cell("z(1/8)", outcomes("two"))
    path = branches(git, with_cells(four(), one), with_cells(four(), two))
    assert len(read_baseline(path, "toys").cells) == 6
    git("checkout", "-q", "main")
    git("branch", "-D", "one", "two")
    path = branches(git, side(*four().cells[:1], *four().cells[2:]), with_cells(four(c0=outcomes("else")), two))
    assert [each.perturbation for each in read_baseline(path).cells] == sorted(["clean", *NAMES[2:], "z(1/8)"])


def test_a_conflict_is_named(git):
    path = branches(git, four(c1=outcomes("one")), four(c1=outcomes("two")), code=1)
    assert "it has conflict markers of git; a merge was not resolved. To write it anew" in refused(path)
    write_baseline(path, four())
    assert len(read_baseline(path, "toys").cells) == 4
