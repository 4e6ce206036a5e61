"""An HTTP server on the loopback that serves files, and misbehaves where a test asks for it."""

from __future__ import annotations

import gzip
import re
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Served:
    """A file, and how it is served.

    content: its bytes.
    breaks_after: number of bytes after which each connection breaks off; None for none.
    breaks: number of connections that break off, the first ones.
    has_range: whether the server knows `Range`.
    length: the Content-Length that is told, if it is a lie; "" for none at all.
    statuses: status codes of the first answers.
    redirect: where the file is.
    tag: the ETag; empty for none.
    seconds_per_chunk: pause before each 1,000 bytes.
    kind: the Content-Type.
    starts_at: position from which it answers every Range, instead of the one that is asked for.
    compresses: whether it compresses for clients that accept it.
    encoding: a Content-Encoding that is told for the bytes as they are; empty for none.
    """

    content: bytes
    breaks_after: int | None = None
    breaks: int = 10**6
    has_range: bool = True
    length: int | str | None = None
    statuses: list[int] = field(default_factory=list)
    redirect: str = ""
    tag: str = '"one"'
    seconds_per_chunk: float = 0
    kind: str = "application/octet-stream"
    starts_at: int | None = None
    compresses: bool = False
    encoding: str = ""


class FileServer:
    """Files by name; `sent` counts the bytes of bodies, `requests` are (method, name, Range).

    login: the header Authorization that each request must have; empty for none.
    """

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.sent: Counter[str] = Counter()
        self.requests: list[tuple[str, str, str | None]] = []
        self.url = self.login = ""

    def serve(self, name: str, content: bytes, **how: Any) -> Served:
        self.files[name] = Served(content, **how)
        return self.files[name]


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            name = self.path.lstrip("/")
            wanted = self.headers.get("Range")
            server.requests.append((self.command, name, wanted))
            if server.login and self.headers.get("Authorization") != server.login:
                return self.send_error(401)
            served = server.files.get(name)
            if served is None:
                return self.send_error(404)
            if with_body and served.statuses:
                return self.send_error(served.statuses.pop(0))
            if served.redirect:
                self.send_response(302)
                self.send_header("Location", served.redirect)
                self.send_header("Content-Length", "0")
                return self.end_headers()
            content, begin = served.content, 0
            condition = self.headers.get("If-Range")
            if wanted and served.has_range and condition in (None, served.tag):
                begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
                begin = begin if served.starts_at is None else served.starts_at
                if begin >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            body = content[begin:]
            encoding = served.encoding
            if served.compresses and "gzip" in self.headers.get("Accept-Encoding", ""):
                body, encoding = gzip.compress(body), "gzip"
            length = len(body) if served.length is None or begin else served.length
            if length != "":
                self.send_header("Content-Length", str(length))
            if encoding:
                self.send_header("Content-Encoding", encoding)
            if served.tag:
                self.send_header("ETag", served.tag)
            self.send_header("Content-Type", served.kind)
            self.end_headers()
            if with_body:
                self._send(name, served, body)

        def _send(self, name: str, served: Served, body: bytes) -> None:
            if served.breaks_after is not None and served.breaks > 0:
                served.breaks -= 1
                body = body[: served.breaks_after]
            self.close_connection = True
            try:
                for start in range(0, len(body), 1000):
                    time.sleep(served.seconds_per_chunk)
                    part = body[start : start + 1000]
                    server.sent[name] += len(part)  # before a client that has all can ask for the number
                    self.wfile.write(part)
                    self.wfile.flush()
            except OSError:  # the client has gone
                server.sent[name] -= len(part)

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler


@contextmanager
def running_server():
    """Run a server on a free port of the loopback; give the FileServer."""
    server = FileServer()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
