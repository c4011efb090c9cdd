"""What all connections of one server share: limits, the first lines of answers, who is connected, how long a turn is.

server.py makes one `Server`; http.py and http2.py keep their connections in it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

from berth.application import Application
from berth.config import Limits
from berth.http_exchange import HttpHead
from berth.protocols.base import JSON

SAME_S = 0.001  # how long the same request is refused without asking again whether there is room
LONG_S = 0.1  # a turn of the event loop after which who was told to come back later is not heard again in it

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


class Resting(Protocol):
    """A connection that nothing is read from for the rest of a turn."""

    def wake(self) -> None:
        """Read on."""


class Server:
    """What all connections share."""

    def __init__(self, application: Application, limits: Limits) -> None:
        self.application = application
        self.limits = limits
        self.heads = Heads()
        self.connections: set[Managed] = set()
        self.take_over: Callable[[Any, asyncio.Transport, bytes], None] | None = None  # for HTTP/2
        self.draining = False
        self._resting: list[Resting] = []
        self.turn_ends = 0.0  # when a turn is long; 0: nobody was turned away in this one
        self._refusing: list[HttpHead] = []
        self._loop = asyncio.get_running_loop()
        self.now = asyncio.get_running_loop().time()

    def tick(self, now: float) -> None:
        """Once in a while: renew the date, and end connections that are too slow or idle for too long."""
        self.now = now
        self.heads.tick()
        for connection in list(self.connections):
            connection.check_time(now)

    def must_rest(self, connection: Resting) -> bool:
        """Whether nothing more is to be read in this turn of the loop from a connection that was turned away.

        When thousands ask again at once, there is always somebody to be read from, and the loop's turn would not end;
        timers, new connections and results wait for that.
        """
        now = perf_counter()
        if not self.turn_ends:
            self.turn_ends = now + LONG_S
            self._loop.call_soon(self._end_turn)
        elif now > self.turn_ends:
            self._resting.append(connection)
            return True
        return False

    def refuse_again(self, head: HttpHead) -> None:
        """For a moment, but not beyond this turn, requests with these first lines need not be asked about."""
        if self.turn_ends:
            if not head.refused_until:
                self._refusing.append(head)
            head.refused_until = perf_counter() + SAME_S

    def _end_turn(self) -> None:
        self.turn_ends = 0.0
        refusing, self._refusing = self._refusing, []
        for head in refusing:
            self.application.count_refused(head, head.refused_again)
            head.refused_until, head.refused_again = 0.0, 0
        resting, self._resting = self._resting, []
        for connection in resting:
            connection.wake()

    def close_idle(self) -> None:
        """Close every connection that waits for no answer."""
        for connection in list(self.connections):
            connection.close_if_idle()

    def abort_all(self) -> None:
        """Drop every connection, answered or not."""
        for connection in list(self.connections):
            connection.abort()
