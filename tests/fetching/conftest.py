"""A server on the loopback that misbehaves, and bytes to serve; nothing here reaches beyond the loopback."""

import hashlib
import random

import pytest

import file_server

CONTENT = random.Random(0).randbytes(60_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def content():
    return CONTENT


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    """Reach the loopback directly, whatever proxy this machine uses."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    with file_server.running_server() as server:
        yield server
