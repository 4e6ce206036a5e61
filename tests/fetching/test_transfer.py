"""A file arrives whole and checked, or not at all, from servers that break off, lie or serve another file."""

import gzip
import hashlib
import json
import os

import pytest

from robharness import Archive, Download
from robharness.fetching.transfer import PART, STATE, Patience, Refused, size_of, transfer

FAST = Patience(attempts=3, pause=0.001)


class Transfers:
    """Transfers of the file `net.pt` of a server into one folder; `progress` has the last call."""

    def __init__(self, server, folder):
        self.server, self.folder, self.progress = server, folder, []

    def __call__(self, name="net.pt", **fields):
        source = Download(url=f"{self.server.url}/{name}", **fields)
        return transfer(source, source.url, self.folder, lambda *now: self.progress.append(now), FAST).read_bytes()

    def refused(self, **fields):
        """Give the reason why the file is refused, and check that nothing is at its name."""
        with pytest.raises(Refused) as caught:
            self(**fields)
        assert not (self.folder / "net.pt").exists()
        return str(caught.value)

    def keep(self, part, **state):
        """Leave what an interrupted process leaves."""
        self.folder.mkdir()
        (self.folder / PART).write_bytes(part)
        if state:
            (self.folder / STATE).write_text(json.dumps({"url": f"{self.server.url}/net.pt", **state}))

    @property
    def ranges(self):
        return [wanted for method, _, wanted in self.server.requests if method == "GET"]


@pytest.fixture
def get(server, tmp_path):
    return Transfers(server, tmp_path / "work")


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_a_file_arrives_with_its_progress(server, get, content):
    server.serve("net.pt", content)
    assert get(sha256=sha256(content), size=len(content)) == content
    assert get.progress[0] == (0, len(content)) and get.progress[-1] == (len(content), len(content))
    assert os.listdir(get.folder) == ["net.pt"]


@pytest.mark.parametrize("digest", ["sha256", "md5", "first digits", "none"])
def test_a_server_that_breaks_off_is_asked_for_the_rest(server, get, content, digest):
    server.serve("net.pt", content, breaks_after=25_000)
    fields = {
        "sha256": {"sha256": sha256(content)},
        "md5": {"md5": hashlib.md5(content).hexdigest()},
        "first digits": {"sha256": sha256(content)[:8]},
        "none": {},
    }[digest]
    assert get(**fields) == content
    assert get.ranges == [None, "bytes=25000-", "bytes=50000-"]
    assert server.sent["net.pt"] == len(content)


def test_a_server_without_ranges_sends_all_again(server, get, content):
    server.serve("net.pt", content, breaks_after=25_000, breaks=2, has_range=False)
    assert get(sha256=sha256(content)) == content
    assert server.sent["net.pt"] == 50_000 + len(content)


def test_a_connection_that_breaks_off_often_is_not_given_up_while_bytes_come(server, get, content):
    server.serve("net.pt", content, breaks_after=5_000)
    assert get() == content
    assert len(get.ranges) == 12 > FAST.attempts


def test_bytes_from_another_position_are_not_joined(server, get, content):
    get.keep(content[:40_000], validator='"one"')
    server.serve("net.pt", content, starts_at=30_000)
    assert get() == content
    assert get.ranges == ["bytes=40000-", None]


def test_the_bytes_are_those_of_the_file_whatever_its_encoding_is_called(server, get, content):
    """Some servers call a .tar.gz a tar in the encoding gzip; others compress what a client accepts compressed."""
    archive = gzip.compress(content)
    server.serve("net.pt", archive, encoding="gzip")
    assert get(sha256=sha256(archive)) == archive
    (get.folder / "net.pt").unlink()
    server.serve("net.pt", bytes(60_000), compresses=True)
    assert get(size=60_000) == bytes(60_000)


def test_a_server_that_never_sends_more_is_given_up(server, get, content):
    server.serve("net.pt", content, breaks_after=25_000, has_range=False)
    assert get.refused(sha256=sha256(content)).endswith("3 times; the bytes that came are kept")
    assert len(get.ranges) == 1 + FAST.attempts - 1


def test_without_validator_or_digest_two_downloads_are_never_joined(server, get, content):
    server.serve("net.pt", content, breaks_after=25_000, breaks=1, tag="")
    assert get() == content
    assert get.ranges == [None, None]


def test_a_file_that_changed_meanwhile_is_sent_anew(server, get, content):
    get.keep(b"of another version", validator='"zero"')
    server.serve("net.pt", content)
    assert get() == content
    assert get.ranges == ["bytes=18-"]


def test_the_part_of_an_earlier_process_is_continued(server, get, content):
    get.keep(content[:40_000], validator='"one"')
    server.serve("net.pt", content)
    assert get() == content
    assert server.sent["net.pt"] == 20_000
    assert get.progress[0] == (40_000, len(content))


def test_a_part_with_all_bytes_costs_no_byte(server, get, content):
    get.keep(content, validator='"one"')
    server.serve("net.pt", content)
    assert get(sha256=sha256(content)) == content
    assert server.sent["net.pt"] == 0


def test_a_part_that_is_longer_than_the_file_is_dropped(server, get, content):
    get.keep(content + b"more", validator='"one"')
    server.serve("net.pt", content)
    assert get(sha256=sha256(content)) == content


def test_a_part_of_other_bytes_costs_one_more_download(server, get, content):
    get.keep(b"x" * 40_000, validator='"one"')
    server.serve("net.pt", content)
    assert get(sha256=sha256(content)) == content
    assert get.ranges == ["bytes=40000-", None]


def test_a_part_from_another_address_is_continued_only_with_a_digest(server, get, content):
    get.keep(content[:40_000], validator='"one"', url="http://127.0.0.1:1/net.pt")
    server.serve("net.pt", content)
    assert get() == content
    assert get.ranges == [None]


@pytest.mark.parametrize("fields", [{"sha256": "0" * 64}, {"sha256": "0" * 8}, {"md5": "0" * 32}])
def test_another_file_is_refused(server, get, content, fields):
    server.serve("net.pt", content)
    assert "net.pt is another file: its " in get.refused(**fields)
    assert os.listdir(get.folder) == []


def test_a_length_that_is_not_published_is_refused_before_the_download(server, get, content):
    server.serve("net.pt", content)
    assert get.refused(size=59_999).endswith("has 60,000 bytes, and the published file 59,999")
    assert server.sent["net.pt"] < len(content)


@pytest.mark.parametrize("fields", [{"size": 60_000}, {"sha256": "right"}, {"md5": "right"}])
def test_a_server_that_lies_about_the_length_below_is_refused(server, get, content, fields):
    fields = {key: hashlib.new(key, content).hexdigest() if each == "right" else each for key, each in fields.items()}
    server.serve("net.pt", content, length=30_000)
    assert "the published file" in (reason := get.refused(**fields)) or "another file" in reason


def test_a_server_that_lies_about_the_length_above_is_given_up(server, get, content):
    server.serve("net.pt", content, length=90_000, has_range=False)
    assert "broke off after 60,000 of 90,000 bytes" in get.refused() or "cannot be read" in get.refused()


def test_a_server_that_sends_more_than_published_is_stopped(server, get, content):
    server.serve("net.pt", content, length="", tag="")
    assert "sends more than the 20,000 bytes" in get.refused(size=20_000)


def test_a_server_without_length_that_breaks_off_is_caught_by_the_size(server, get, content):
    server.serve("net.pt", content, length="", breaks_after=25_000)
    assert get.refused(size=60_000).endswith("has 25,000 bytes, and the published file 60,000")


def test_a_web_page_is_no_file(server, get):
    server.serve("net.pt", b"<html>log in</html>", kind="text/html; charset=utf-8")
    assert get.refused().endswith("net.pt is a web page, and not the file")


@pytest.mark.parametrize("status", [403, 404, 410])
def test_an_answer_that_stays_is_not_asked_for_again(server, get, status):
    server.serve("net.pt", b"", statuses=[status] * 9)
    assert f"the server answers {status} " in get.refused()
    assert len(get.ranges) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_answer_that_may_pass_is_asked_for_again(server, get, content, status):
    server.serve("net.pt", content, statuses=[status] * 2)
    assert get() == content
    server.serve("net.pt", content, statuses=[status] * 9)
    (get.folder / "net.pt").unlink()
    assert f"the server answers {status} " in get.refused()


def test_redirections_are_followed_with_the_range(server, get, content):
    server.serve("net.pt", b"", redirect=f"{server.url}/elsewhere")
    server.serve("elsewhere", content, breaks_after=25_000)
    assert get() == content
    assert server.sent["elsewhere"] == len(content)
    server.serve("net.pt", b"", redirect=f"{server.url}/net.pt")
    (get.folder / "net.pt").unlink()
    assert "redirect" in get.refused()


def test_a_slow_server_is_waited_for(server, get, content):
    server.serve("net.pt", content[:5_000], seconds_per_chunk=0.05)
    assert get() == content[:5_000]


def test_no_server_is_one_sentence(server, get):
    source = Download(url="http://127.0.0.1:1/net.pt")
    with pytest.raises(Refused, match=r"^http://127.0.0.1:1/net.pt cannot be read: .*refused.*; the bytes that came"):
        transfer(source, source.url, get.folder, lambda *now: None, FAST)
    with pytest.raises(Refused, match="cannot be read"):
        transfer(source, "http://[::1/net.pt", get.folder, lambda *now: None, FAST)


def test_a_folder_is_a_mirror(tmp_path, content):
    (tmp_path / "a b.pt").write_bytes(content)
    source = Download(url="http://127.0.0.1:1/a%20b.pt", sha256=sha256(content))
    url = (tmp_path / "a b.pt").as_uri()
    assert transfer(source, url, tmp_path / "work", lambda *now: None).read_bytes() == content
    assert size_of(url) == len(content)
    (tmp_path / "a b.pt").write_bytes(content[:-1])
    (tmp_path / "work" / "a b.pt").unlink()
    with pytest.raises(Refused, match="another file"):
        transfer(source, url, tmp_path / "work", lambda *now: None)
    with pytest.raises(Refused, match="No such file or directory"):
        transfer(source, (tmp_path / "none").as_uri(), tmp_path / "work", lambda *now: None)


def test_sizes_are_asked_for_without_the_file(server, content):
    server.serve("net.pt", content)
    assert size_of(f"{server.url}/net.pt") == len(content)
    assert size_of(f"{server.url}/none") is None
    assert size_of("http://127.0.0.1:1/net.pt") is None
    assert server.sent["net.pt"] == 0


@pytest.mark.parametrize("record", [Download, Archive])
@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"url": "https://example.org/"}, "has no name of a file"),
        ({"name": "../x.tar"}, "must be a path below a folder"),
        ({"name": "/etc/x.tar"}, "must be a path below a folder"),
        ({"md5": "abc"}, "must be 32 hexadecimal digits"),
        ({"sha256": "ABC"}, "must be up to 64 hexadecimal digits"),
        ({"size": 0}, "must be a number of bytes"),
    ],
)
def test_a_record_that_cannot_be_right_is_refused(record, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        record(**{"url": "https://example.org/x.tar", **fields})
