"""`robharness fetch`, `run --fetch` and `plan` on a suite whose weights and data a server on the loopback has."""

import base64
import importlib.util
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

import robharness
from robharness.engine.listeners import Silent
from robharness.fetching.fetch import Fetcher
from robharness.fetching.needs import needs

LIBRARY = str(Path(__file__).with_name("library.py"))


def load_library():
    spec = importlib.util.spec_from_file_location("library_of_tests", LIBRARY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


library = load_library()
MODELS = [{"model": "library/net", "label": "Net"}, {"model": "library/converted", "label": "Converted"}]
SUITE = {"robharness": 1, "name": "s", "data": {"name": "library/pixels", "split": "test"}, "models": MODELS,
         "corruptions": [{"corruption": "library/rain", "severity": [1]}]}  # fmt: skip


@pytest.fixture
def shell_plugins():
    return [LIBRARY]


@pytest.fixture
def served(server, monkeypatch, tmp_path):
    """A server with all files, and the suite `s.yaml` in the folder of the test."""
    for name, content in library.SERVED.items():
        server.serve(name, content)
    monkeypatch.setenv("LIBRARY", server.url)
    write(tmp_path)
    return server


def write(folder, **changes):
    (folder / "s.yaml").write_text(yaml.safe_dump(SUITE | changes))


def files_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


FILES = {"weights/net.bin", "weights/originals/original.bin", "weights/converted.bin", "pixels/test.npy",
         "pixels/readme", "weather/rain/rain.npy", "weather/rain/hail.npy", "fetched.jsonl"}  # fmt: skip


def visible(folder):
    return {name for name in files_below(folder) if not name.endswith(".lock")}


def test_all_that_is_missing_is_fetched_once_and_the_suite_runs(served, shell, tmp_path):
    found = shell("fetch", "s.yaml")
    assert found.returncode == 0, found.stderr
    assert "nothing is missing: library/pixels/test has 12 examples" in found.stderr
    assert visible(tmp_path / "data") == FILES
    assert (tmp_path / "data/weights/net.bin").read_bytes() == library.WEIGHTS
    assert (tmp_path / "data/weights/converted.bin").read_bytes() == library.WEIGHTS
    sent = dict(served.sent)
    assert sent == {name: len(content) for name, content in library.SERVED.items()}
    assert shell("fetch", "s.yaml").returncode == 0
    assert dict(served.sent) == sent
    assert shell("run", "s.yaml").returncode == 0


def test_each_download_is_recorded(served, shell, tmp_path):
    write(tmp_path, models=[{"model": "library/undigested", "label": "Net"}])
    found = shell("fetch", "s.yaml")
    digest = library.digest(library.WEIGHTS)
    assert f"undigested.bin: no digest is published; its sha256 is {digest}" in found.stderr
    lines = {line["name"]: line for line in map(json.loads, (tmp_path / "data/fetched.jsonl").read_text().splitlines())}
    assert lines["undigested.bin"]["sha256"] == digest and lines["undigested.bin"]["checked"] is None
    assert lines["pixels.tar.gz"]["checked"] == "its md5"
    assert lines["pixels.tar.gz"]["size"] == len(library.PIXELS)


def test_a_run_fetches_first(served, shell, tmp_path):
    refused = shell("run", "s.yaml")
    assert refused.returncode == 2 and not (tmp_path / "data").exists()
    assert refused.stderr.splitlines()[0] == "robharness: 4 resources are missing:"
    assert refused.stderr.splitlines()[-1] == f"Try: robharness fetch s.yaml -p {LIBRARY}"
    found = shell("run", "s.yaml", "--fetch")
    assert found.returncode == 0, found.stderr
    assert visible(tmp_path / "data") == FILES


def test_from_python(served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planned = robharness.fetch("s.yaml", plugins=[LIBRARY])
    assert not planned.missing and len(planned.cells) == 4
    for path in files_below(tmp_path / "data"):
        (tmp_path / "data" / path).unlink()
    with pytest.raises(robharness.UserError) as caught:
        robharness.run(SUITE, plugins=[LIBRARY], store=tmp_path / "store")
    assert caught.value.__notes__ == ["Try: robharness.fetch with it again"]
    assert robharness.run(SUITE, plugins=[LIBRARY], store=tmp_path / "store", fetch=True).is_complete


def test_the_list_has_sizes_and_fetches_nothing(served, shell, tmp_path):
    found = shell("fetch", "s.yaml", "--list")
    assert found.returncode == 0
    assert not (tmp_path / "data").exists() and not served.sent
    rows = [line.split("   ") for line in found.stdout.splitlines()]
    assert rows[0] == ["file", "size", "check", "licence", "from", "to"]
    listed = {row[0]: row[1:] for row in rows[1:]}
    assert listed["net.bin"] == ["192 bytes", "the first 8 digits of its sha256", "CC0", f"{served.url}/net.bin",
                                 "data/weights/net.bin"]  # fmt: skip
    assert listed["pixels.tar.gz"][:3] == ["1.1 kB", "its md5", "public domain"]
    assert listed["rain.zip"][1] == "none"
    assert listed["originals/original.bin"][4] == "data/weights/converted.bin"
    facts = json.loads(shell("fetch", "s.yaml", "--list", "--json").stdout)
    assert {file["name"]: file["size"] for row in facts for file in row["files"]} == {
        "net.bin": 192, "originals/original.bin": 192, "pixels.tar.gz": len(library.PIXELS),
        "rain.zip": len(library.RAIN),
    }  # fmt: skip
    offline = shell("fetch", "s.yaml", "--list", LIBRARY="http://127.0.0.1:1").stdout
    assert "pixels.tar.gz   unknown   " in offline and "rain.zip   2.0 kB" in offline


@pytest.mark.parametrize("kind", ["address", "folder"])
def test_a_mirror_serves_all_files_under_their_names(served, shell, tmp_path, kind):
    names = {name: name for name in library.SERVED} | {"original.bin": "originals/original.bin"}
    if kind == "address":
        for name, there in names.items():
            served.serve(f"mirror/{there}", library.SERVED[name])
        mirror = f"{served.url}/mirror/"
    else:
        mirror = "my mirror"
        for name, there in names.items():
            (tmp_path / mirror / there).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / mirror / there).write_bytes(library.SERVED[name])
    found = shell("fetch", "s.yaml", "--from", mirror, LIBRARY="http://127.0.0.1:1")
    assert found.returncode == 0, found.stderr
    assert visible(tmp_path / "data") == FILES
    assert not set(served.sent) & set(library.SERVED)
    line = json.loads((tmp_path / "data/fetched.jsonl").read_text().splitlines()[0])
    assert line["url"].startswith("http://127.0.0.1:1/") and mirror.strip("/").replace(" ", "%20") in line["from"]


def test_the_password_of_a_mirror_is_in_no_record_and_no_message(served, shell, tmp_path):
    served.serve("originals/original.bin", library.SERVED["original.bin"])
    served.files["net.bin"].content = b"x" * 192
    served.login = f"Basic {base64.b64encode(b'ann:s@cret').decode()}"
    mirror = served.url.replace("://", "://ann:s%40cret@")
    listed = shell("fetch", "s.yaml", "--list", "--from", mirror)
    assert "originals/original.bin   192 bytes" in listed.stdout and "cret" not in listed.stdout + listed.stderr
    found = shell("fetch", "s.yaml", "--from", mirror)
    assert found.returncode == 3
    *messages, command = found.stderr.splitlines()
    assert f"{served.url}/net.bin is another file" in "".join(messages) and command.count(f"--from {mirror} ") == 1
    assert "cret" not in found.stdout + "".join(messages)
    records = [path.read_bytes() for path in (tmp_path / "data").rglob("*.json*")]
    assert len(records) == 1 and not any(b"cret" in record for record in records)
    served.login = "Basic other"
    assert "the server answers 401" in shell("fetch", "s.yaml", "--from", mirror).stderr


def test_a_mirror_with_another_file_is_refused_and_the_rest_is_fetched(served, shell, tmp_path):
    served.serve("net.bin", b"x" * 192)
    served.serve("rain.zip", b"x" * len(library.RAIN))
    found = shell("fetch", "s.yaml", "--from", served.url)
    assert found.returncode == 3
    heading, *lines = found.stderr.splitlines()[-5:]
    assert heading == "robharness: 3 resources could not be fetched:"
    assert "the weights of library/net: " in lines[0] and "is another file" in lines[0]
    assert "originals/original.bin: the server answers 404" in lines[1]
    assert "the rain: rain.zip cannot be unpacked" in lines[2]
    assert lines[3] == f"What has come is kept. Try: robharness fetch s.yaml --from {served.url} -p {LIBRARY}"
    assert visible(tmp_path / "data") == {"pixels/test.npy", "pixels/readme", "fetched.jsonl"}
    served.serve("rain.zip", library.RAIN)
    served.serve("net.bin", library.WEIGHTS)
    assert shell("fetch", "s.yaml").returncode == 0


def test_a_list_has_no_total_if_no_size_is_known(served, shell, tmp_path):
    write(tmp_path, data={"name": "library/closed", "split": "test"}, models=MODELS[:1])
    for name in ("net.bin", "rain.zip"):
        served.files[name].length = ""
    (tmp_path / "data").mkdir()
    found = shell("fetch", "s.yaml", "--list")
    assert "2 files to fetch, 2.0 kB, and 1 of unknown size\n" in found.stderr  # of the rain, the size is published
    shell("fetch", "s.yaml")
    (tmp_path / "data/weights/net.bin").unlink()
    assert "1 file to fetch, 1 of unknown size\n" in shell("fetch", "s.yaml", "--list").stderr


def test_what_a_person_has_to_get_is_named_with_its_page(served, shell, tmp_path):
    write(tmp_path, data={"name": "library/closed", "split": "test"}, models=[{"model": "library/asked"}],
          corruptions=None)  # fmt: skip
    (tmp_path / "s.yaml").write_text((tmp_path / "s.yaml").read_text().replace("corruptions: null\n", ""))
    listed = shell("fetch", "s.yaml", "--list")
    assert listed.returncode == 0
    assert (
        "the closed images: Published at https://example.org/closed (it asks for a registration). Then type: mkdir"
        in (listed.stdout)
    )
    found = shell("fetch", "s.yaml")
    assert found.returncode == 2
    assert "Save the file as data/weights/asked.bin" in found.stderr
    assert "Try: robharness fetch" not in found.stderr
    (tmp_path / "data" / "closed").mkdir(parents=True)
    (tmp_path / "data" / "weights").mkdir()
    (tmp_path / "data" / "weights" / "asked.bin").write_bytes(library.WEIGHTS)
    found = shell("fetch", "s.yaml")
    assert found.returncode == 0
    assert "nothing is missing: library/closed/test has 12 examples" in found.stderr


def test_a_conversion_that_fails_names_its_reason_and_leaves_no_file(served, shell, tmp_path):
    found = shell("fetch", "s.yaml", LIBRARY_FAILS="1")
    assert found.returncode == 3
    assert "cannot be converted: RuntimeError: the original has another form" in found.stderr
    assert not (tmp_path / "data/weights/converted.bin").exists()
    served.sent.clear()
    listed = shell("fetch", "s.yaml", "--list").stdout
    assert listed == "the weights of library/converted: to be converted from files that are there\n"
    assert shell("fetch", "s.yaml").returncode == 0
    assert not served.sent


def test_what_one_archive_has_is_listed_and_fetched_once(served, shell, tmp_path):
    write(tmp_path, corruptions=[{"corruption": f"library/{name}", "severity": [1]} for name in ("rain", "hail")])
    facts = json.loads(shell("fetch", "s.yaml", "--list", "--json").stdout)
    assert [row["what"] for row in facts].count("the rain and the hail") == len(facts) - 3 == 1
    folder = "data/weather/rain"
    [line] = [line for line in shell("plan", "s.yaml").stderr.splitlines() if "rain.zip" in line]
    assert line.startswith(
        f"  the rain and the hail: not found at {folder}/rain.npy, {folder}/hail.npy. To get it: curl "
    )
    assert shell("run", "s.yaml").stderr.startswith("robharness: 4 resources are missing:")
    assert shell("fetch", "s.yaml").returncode == 0
    assert served.sent["rain.zip"] == len(library.RAIN)


def test_what_another_process_has_fetched_since_the_plan_is_not_fetched_again(served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    todo = needs(robharness.plan("s.yaml", plugins=[LIBRARY]))
    assert len(todo) == 4
    first = list(Fetcher(tmp_path / "data", Silent()).fetch(todo))
    assert not any(each.error or each.is_elsewhere for each in first)
    served.sent.clear()
    second = list(Fetcher(tmp_path / "data", Silent()).fetch(todo))
    assert all(each.is_elsewhere for each in second) and not served.sent


# --- space, processes, kills ------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """The data root as a disk of 8 KiB."""
    path = tmp_path / "data"
    path.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "x", path]).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield path
    subprocess.run(["umount", path], check=True)


def test_too_little_space_is_found_before_the_first_byte(served, shell, small):
    found = shell("fetch", "s.yaml")
    assert found.returncode == 2
    assert "the files need " in found.stderr and "of free space. Try: df -h " in found.stderr
    assert not any(small.iterdir()) and not served.sent


def test_a_disk_that_becomes_full_keeps_what_came(served, shell, small, tmp_path):
    """No server and no record says how large the file is, so that the space cannot be checked before."""
    served.serve("net.bin", os.urandom(20_000), length="")
    write(tmp_path, data={"name": "library/closed", "split": "test"}, models=[{"model": "library/undigested"}],
          corruptions=[])  # fmt: skip
    found = shell("fetch", "s.yaml")
    assert found.returncode == 2
    assert "cannot be written: No space left on device; what was downloaded is kept. Try: df -h " in found.stderr
    assert {path.name for path in small.glob(".fetching/*/*")} == {"part", "part.json"}
    assert not (small / "weights").exists()


def started(start_process, tmp_path, server, *words):
    return start_process("fetch", "s.yaml", "-p", LIBRARY, "--display", "plain", *words, cwd=tmp_path,
                         environment={"LIBRARY": server.url})  # fmt: skip


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def big(server, tmp_path, seconds):
    """Serve one file of 300,000 bytes at 1,000 bytes per pause, which alone is missing."""
    weights = tmp_path / "data" / "weights"
    weights.mkdir(parents=True)
    content = os.urandom(300_000)
    server.serve("net.bin", content, seconds_per_chunk=seconds)
    write(tmp_path, models=[{"model": "library/undigested", "label": "Net"}])
    return weights / "undigested.bin", content


def test_a_killed_process_is_resumed_from_its_bytes(served, start_process, tmp_path):
    path, content = big(served, tmp_path, 0.005)
    first = started(start_process, tmp_path, served)
    wait_for(lambda: served.sent["net.bin"] > 290_000 // 3)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not path.exists()
    [part] = (tmp_path / "data" / ".fetching").glob("*/part")
    kept = part.stat().st_size
    assert 0 < kept < len(content)
    time.sleep(0.2)  # the server finds that the client has gone
    served.sent.clear()
    served.files["net.bin"].seconds_per_chunk = 0
    second = started(start_process, tmp_path, served)
    assert second.wait() == 0, second.communicate()
    assert path.read_bytes() == content
    assert served.sent["net.bin"] == len(content) - kept
    assert not list((tmp_path / "data" / ".fetching").glob("*/*"))


def test_two_processes_at_once_fetch_each_file_once(served, start_process, tmp_path):
    path, content = big(served, tmp_path, 0.002)
    served.files["pixels.tar.gz"].seconds_per_chunk = served.files["rain.zip"].seconds_per_chunk = 0.2
    both = [started(start_process, tmp_path, served) for _ in range(2)]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert path.read_bytes() == content
    assert served.sent["net.bin"] == len(content)
    assert served.sent["pixels.tar.gz"] == len(library.PIXELS)
    assert served.sent["rain.zip"] == len(library.RAIN)


def test_ctrl_c_keeps_the_bytes(served, start_process, tmp_path):
    path, content = big(served, tmp_path, 0.005)
    process = started(start_process, tmp_path, served)
    wait_for(lambda: served.sent["net.bin"] > 100_000)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert "interrupted; the same command goes on from what is stored" in stderr
    assert not path.exists()
    served.files["net.bin"].seconds_per_chunk = 0
    served.sent.clear()
    assert started(start_process, tmp_path, served).wait() == 0
    assert path.read_bytes() == content and served.sent["net.bin"] < len(content)


# --- plan -------------------------------------------------------------------------------------------------------------


def test_a_plan_shows_cells_passes_and_time_although_all_is_missing(served, shell, tmp_path):
    found = shell("plan", "s.yaml", "--json")
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1].startswith("Try: robharness fetch s.yaml")
    facts = json.loads(found.stdout)
    assert [(cell["model"], cell["perturbation"], cell["waits_for"], cell["key"]) for cell in facts["cells"]] == [
        (label, name, "weights", None) for label in ("Net", "Converted") for name in ("clean", "rain(1)")
    ]
    assert facts["n"] == 12 and facts["passes_left"] == {"forward": 48, "backward": 0}
    assert len(facts["missing"]) == 4
    assert shell("run", "s.yaml", "--fetch").returncode == 0
    forget = ["data/weights/net.bin", "data/pixels/test.npy"]
    for name in forget:
        (tmp_path / name).unlink()
    facts = json.loads(shell("plan", "s.yaml", "--json", "--limit", "7").stdout)
    assert [cell["waits_for"] for cell in facts["cells"]] == ["weights", "weights", "data", "data"]
    assert facts["n"] == 7 and facts["seconds_left"] > 0
    text = shell("plan", "s.yaml").stdout
    assert "Net   clean   needs weights   1   0" in text and "Converted   clean   needs data   1   0" in text
    assert "2 of these cells wait for weights that are not on this machine" in text
    assert "time left: " in text


def test_a_plan_with_the_weights_of_one_model_missing_knows_the_cells_of_the_other(served, shell, tmp_path):
    assert shell("run", "s.yaml", "--fetch").returncode == 0
    (tmp_path / "data/weights/net.bin").unlink()
    found = shell("plan", "s.yaml")
    assert found.returncode == 2
    assert "Converted   clean   all   1   0" in found.stdout and "Net   clean   needs weights" in found.stdout
    (tmp_path / "data/weather/rain/rain.npy").unlink()
    facts = json.loads(shell("plan", "s.yaml", "--json", "--why").stdout)
    assert [cell["waits_for"] for cell in facts["cells"]] == ["weights", "weights", "", "data"]
    assert "not on this machine" in facts["cells"][0]["why"]


def test_a_plan_without_a_known_number_of_examples(served, shell, tmp_path):
    write(tmp_path, data={"name": "library/closed", "split": "test"})
    found = shell("plan", "s.yaml")
    assert found.returncode == 2
    assert "4 cells of an unknown number of examples, shown for one each" in found.stdout
    facts = json.loads(shell("plan", "s.yaml", "--json").stdout)
    assert facts["n"] is None and facts["passes_left"]["forward"] == 4
    write(tmp_path, data={"name": "library/closed", "split": "test"}, attacks=[{"attack": "fits/mean", "eps": "1/8"}])
    facts = json.loads(shell("plan", "s.yaml", "-p", str(Path(LIBRARY).parents[1] / "fits.py"), "--json").stdout)
    assert facts["fits_left"] == {"forward": 2 * (12 + 12 * 3), "backward": 2 * 12 * 3}
