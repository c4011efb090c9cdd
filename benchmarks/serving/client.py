"""A small HTTP client that notes what became of every request: for measurements that a load generator cannot make.

Thousands of connections in one event loop. robustness.py drives it; as a program it sends one request from a file.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

CONNECT_S = 10.0
OPEN: set[Connection] = set()


class Lost(Exception):  # noqa: N818  what happened to a request
    """A request was sent and its connection ended without a whole answer."""


@dataclass(frozen=True)
class Reply:
    """One answer; `seconds` from the first byte sent to the last received."""

    status: int
    head: bytes
    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def closes(self) -> bool:
        """Whether the server says that this is its last answer here."""
        return b"\r\nconnection: close" in self.head.lower()

    @property
    def retry_after(self) -> float:
        """Seconds of Retry-After; 0 without."""
        _, found, rest = self.head.lower().partition(b"\r\nretry-after: ")
        return float(rest.split(b"\r\n")[0]) if found else 0.0


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._data = b""
        self._waiting: asyncio.Future[Reply] | None = None
        self._sent = 0.0
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        OPEN.add(self)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found or self._waiting is None:
            return
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        if len(rest) >= length:
            waiting, self._waiting, self._data = self._waiting, None, b""
            if not waiting.done():
                waiting.set_result(Reply(int(head[9:12]), head, rest, perf_counter() - self._sent))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        OPEN.discard(self)
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(Lost(repr(exc) if exc else "closed without an answer"))

    async def ask(self, request: bytes) -> Reply:
        """Send a request and wait for its answer; Lost when the connection ends before."""
        self._waiting = asyncio.get_running_loop().create_future()
        self._sent = perf_counter()
        if self.closed:
            raise Lost("closed before")
        self._transport.write(request)
        return await self._waiting

    def close(self) -> None:
        """Hang up."""
        self._transport.close()


async def hang_up() -> None:
    """Close every connection that is left, and wait until they are: a uvloop that is closed before hangs."""
    for connection in list(OPEN):
        connection.close()
    while OPEN:
        await asyncio.sleep(0.01)


async def connect(port: int) -> Connection:
    """A new connection; OSError when nobody listens."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_S):
        _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
    return connection


def post(path: str, value: Any, *headers: str) -> bytes:
    """A request with a JSON body, or with bytes as they are."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(path: str) -> bytes:
    """A request without a body."""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def _send_file(port: int, name: str) -> None:
    """Send a file's bytes as a request; print status, seconds and body of its answer."""
    data = Path(name).read_bytes()
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as stream:
        began = perf_counter()
        connection.sendall(data)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = stream.readline()
            if not line:
                raise Lost("closed without an answer")
            head += line
        body = stream.read(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
        sys.stdout.buffer.write(b"%b %f %b" % (head[9:12], perf_counter() - began, body))


if __name__ == "__main__":
    _send_file(int(sys.argv[1]), sys.argv[2])
