"""As much of a registry as resumes uploads in the middle of a piece, as the distribution specification says.

Debian's docker-registry gives up an upload whose piece broke off, so this stands for registries that do not. It keeps
blobs in memory and checks their digests; `pieces` are the ranges that were announced.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class ResumingRegistry:
    """`host` is `127.0.0.1:port`."""

    host: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    pieces: list[str] = field(default_factory=list)


@contextlib.contextmanager
def resuming_registry() -> Iterator[ResumingRegistry]:
    """Serve one on a loopback port."""
    state = ResumingRegistry()

    class Handler(_Handler):
        registry = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    state.host = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: ResumingRegistry

    def do_HEAD(self) -> None:
        self._answer(200 if self.path.rpartition("/")[2] in self.registry.blobs else 404)

    def do_POST(self) -> None:
        name = f"upload-{len(self.registry.uploads)}"
        self.registry.uploads[name] = bytearray()
        self._answer(202, Location=f"{urlsplit(self.path).path}{name}")

    def do_GET(self) -> None:
        upload = self._upload()
        self._answer(204, Range=f"0-{len(upload) - 1}", Location=urlsplit(self.path).path)

    def do_PATCH(self) -> None:
        upload, start = self._upload(), int(self.headers["Content-Range"].partition("-")[0])
        self.registry.pieces.append(self.headers["Content-Range"])
        if start != len(upload):
            self.close_connection = True
            self._answer(416, Range=f"0-{len(upload) - 1}")
            return
        if self._receive(upload):
            self._answer(202, Range=f"0-{len(upload) - 1}", Location=urlsplit(self.path).path)

    def do_PUT(self) -> None:
        parts = urlsplit(self.path)
        if "/manifests/" in parts.path:
            body = bytearray()
            self._receive(body)
            self.registry.manifests[parts.path.rpartition("/")[2]] = bytes(body)
            self._answer(201)
            return
        upload = self._upload()
        self._receive(upload)
        (digest,) = parse_qs(parts.query)["digest"]
        good = digest == f"sha256:{hashlib.sha256(upload).hexdigest()}"
        if good:
            self.registry.blobs[digest] = bytes(upload)
        self._answer(201 if good else 400)

    def _upload(self) -> bytearray:
        return self.registry.uploads[urlsplit(self.path).path.rpartition("/")[2]]

    def _receive(self, into: bytearray) -> bool:
        """The body, as far as it comes; what has come is kept."""
        left = int(self.headers.get("Content-Length") or 0)
        with contextlib.suppress(OSError):
            while left and (data := self.rfile.read1(min(left, 1 << 16))):
                into += data
                left -= len(data)
        self.close_connection |= bool(left)
        return not left

    def _answer(self, status: int, **headers: str) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Silence."""
