"""A server of S3 on the loopback: moto in a process of its own, behind a proxy that counts, delays and breaks requests.

moto lies in a folder of its own, see the Makefile, since it needs other releases of libraries than the peers do.
"""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

MOTO = Path(sys.prefix) / "moto"
BUCKET = "bucket"
_SERVER = """
import logging, sys, threading
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # until the process that started this one is gone
"""


@dataclass
class Request:
    """One request as the proxy saw it.

    kind: "get", "create" (a conditional put), "put", "copy", "list" or "delete".
    key: within the bucket; the prefix of a listing.
    begun, ended: seconds.
    """

    kind: str
    key: str
    begun: float = 0
    ended: float = 0


@dataclass
class Proxy:
    """A proxy before a server of S3.

    fault: called with each request before it is forwarded. It may return "lost": the server does what is asked, and
        its answer is lost; "repeated": the server gets the request twice; "busy": an answer with the status 503, and
        the server gets nothing.
    delay: seconds before each answer, or a function of the request.
    requests: what was asked, in order.
    """

    target: int
    fault: object = None
    delay: object = 0
    requests: list = field(default_factory=list)
    port: int = 0

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def counts(self, under=""):
        """Return the number of requests by kind.

        under: a text in their keys.
        """
        return dict(Counter(each.kind for each in self.requests if under in each.key))

    def rounds(self):
        """Return the largest number of requests of which each began after the one before was answered."""
        count, last = 0, 0.0
        for each in sorted(self.requests, key=lambda each: each.ended):
            if each.begun >= last:
                count, last = count + 1, each.ended
        return count

    def forget(self):
        self.requests.clear()


def _kind(method, query, headers):
    if method == "POST" and "delete" in query:
        return "delete"
    if method == "GET":
        return "list" if "list-type" in query else "get"
    if method == "PUT":
        named = {name.lower() for name in headers}
        return "copy" if "x-amz-copy-source" in named else "create" if "if-none-match" in named else "put"
    return method.lower()


def _handler(proxy):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def forward(self):
            address = urlsplit(self.path)
            query = parse_qs(address.query, keep_blank_values=True)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            key = address.path.removeprefix(f"/{BUCKET}").lstrip("/") or query.get("prefix", [""])[0]
            request = Request(_kind(self.command, query, self.headers), key, time.perf_counter())
            proxy.requests.append(request)
            fault = proxy.fault(request) if proxy.fault else None
            delay = proxy.delay(request) if callable(proxy.delay) else proxy.delay
            time.sleep(delay)
            if fault == "busy":
                status, headers, content = 503, {}, b""
            else:
                for _ in range(2 if fault == "repeated" else 1):
                    status, headers, content = self.ask(body)
            request.ended = time.perf_counter()
            if fault == "lost":
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def ask(self, body):
            connection = http.client.HTTPConnection("127.0.0.1", proxy.target, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            dropped = {"content-length", "transfer-encoding", "connection", "server", "date"}
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in dropped}
            connection.close()
            return answer.status, kept, content

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

        def log_message(self, *arguments):
            pass

        def handle(self):
            try:
                super().handle()
            except (ConnectionError, ValueError):  # the client is gone, or this side closed the connection
                pass

    return Handler


@contextmanager
def s3_server():
    """Run moto in a process of its own, with an empty bucket, and give its port."""
    assert MOTO.is_dir(), "moto has a folder of its own. Try: make test"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "AWS_"))}
    environment["PYTHONPATH"] = str(MOTO)
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        port = int(process.stdout.readline())
        make_bucket(port, BUCKET)
        yield port
    finally:
        process.stdin.close()
        process.terminate()
        process.wait()


def make_bucket(port, name):
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/{name}", method="PUT")).close()


@contextmanager
def proxied(target):
    """Run a proxy before a server, in threads of this process."""
    proxy = Proxy(target)

    class Server(ThreadingHTTPServer):
        daemon_threads, request_queue_size = True, 256

    server = Server(("127.0.0.1", 0), _handler(proxy))
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


def settings(endpoint, cache):
    """Return the environment of a process that uses the server.

    cache: the folder for copies of objects.
    """
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "ROBHARNESS_CACHE": str(cache),
    }


def stored_objects(files, root):
    """Return the content of all objects below a place, by name."""
    return {name: files.read(root / name) for name in files.sizes(root)}


def as_json(content):
    return json.loads(content)
