"""What all connections of one server share: limits, the first lines of answers, who is connected, who was turned away.

server.py makes one `Server`; http.py and http2.py keep their connections in it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from berth.application import Application
from berth.config import Limits
from berth.flood import Flood
from berth.http_bodies import Buffers, Turns
from berth.protocols.base import JSON

REASONS = {
    200: b"OK",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    403: b"Forbidden",
    415: b"Unsupported Media Type",
    422: b"Unprocessable Content",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}


class Heads:
    """The first lines of answers, formatted once a second rather than once an answer."""

    def __init__(self) -> None:
        self._cache: dict[tuple[int, bytes], bytes] = {}
        self._date = b""
        self.tick()

    def tick(self) -> None:
        """Renew the Date header."""
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()).encode()
        if date != self._date:
            self._date = date
            self._cache.clear()
            self.json = self.of(200, JSON)

    def before_length(self, status: int, content_type: bytes) -> bytes:
        """Everything up to the header that says how long the body is."""
        return self.of(status, content_type).removesuffix(b"\r\nContent-Length: ")

    def of(self, status: int, content_type: bytes) -> bytes:
        """Everything up to the value of Content-Length."""
        head = self._cache.get((status, content_type))
        if head is None:
            head = b"HTTP/1.1 %d %b\r\nDate: %b\r\nServer: berth\r\nContent-Type: %b\r\nContent-Length: " % (
                status,
                REASONS.get(status, b"Status"),
                self._date,
                content_type,
            )
            self._cache[status, content_type] = head
        return head


class Managed(Protocol):
    """A connection as the server sees it, of whatever protocol."""

    def check_time(self, now: float) -> None:
        """Called about twice a second."""

    def close_if_idle(self) -> None:
        """Close when no answer is owed and no request has begun."""

    def abort(self) -> None:
        """Drop the connection."""


class Server:
    """What all connections share."""

    def __init__(self, application: Application, limits: Limits) -> None:
        self.application = application
        self.limits = limits
        self.heads = Heads()
        self.connections: set[Managed] = set()
        self.take_over: Callable[[Any, asyncio.Transport, bytes], None] | None = None  # for HTTP/2
        self.draining = False
        self.turns = Turns()
        self.buffers = Buffers()
        self.flood = Flood(application)
        self.now = asyncio.get_running_loop().time()

    def tick(self, now: float) -> None:
        """Once in a while: renew the date, and end connections that are too slow or idle for too long."""
        self.now = now
        self.heads.tick()
        self.buffers.tick()
        for connection in list(self.connections):
            connection.check_time(now)

    def drain(self) -> None:
        """Answer what has been asked, and say that each answer is the last."""
        self.draining = True
        self.flood.end()

    def close_idle(self) -> None:
        """Close every connection that waits for no answer."""
        for connection in list(self.connections):
            connection.close_if_idle()

    def abort_all(self) -> None:
        """Drop every connection, answered or not."""
        for connection in list(self.connections):
            connection.abort()
