"""The writing half of a connection over HTTP/1.1: answers in the order of the requests, whole or piece by piece.

http.py is the reading half, and builds on this one.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Any

import httptools

from berth.exchange import REQUEST_ID
from berth.http_exchange import HELD, IDLE, LINGER, HttpExchange, HttpHead
from berth.http_server import Server
from berth.protocols.base import JSON, Express, Response

MAX_PIPELINE = 64
BUSY = 503
SOON_S = 0.4  # Retry-After is a second at least; less than the time between two ticks of the server's clock
FRESH_S = 1.0  # how long a stopping server waits for the first request of a connection


class AnsweringConnection(asyncio.Protocol):
    """A connection as far as answers go."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._exchanges: deque[HttpExchange] = deque()
        self._phase = IDLE
        self._since = server.now + FRESH_S  # in the future until something has come
        self._reading = True
        self._waiting = False  # for the turn of its large body
        self._held = b""  # a refusal that waits for its time
        self._refused = -math.inf  # when it was last told to come back later
        self._writable = True
        self._on_room: list[Callable[[], object]] = []
        self._transport: asyncio.Transport
        self._parser: httptools.HttpRequestParser
        self._express: Express | None = None  # the lane that owes an answer

    def answer_plain(self, head: Any, body: bytes, queued: float, timing: bytes) -> None:
        """The answer of an express lane."""
        self._express = None
        if self._phase is not LINGER:
            self._transport.write(
                b"%b%d\r\nServer-Timing: queue;dur=%.3f, %b%b\r\n\r\n%b"
                % (self._server.heads.json, len(body), queued * 1000, timing, head.identity, body)
            )

    def answered(self, exchange: HttpExchange, response: Response) -> None:
        """An exchange has its answer: send it, with those that waited for it, in order."""
        server = self._server
        body = response.body
        head: Any = exchange.head
        exchange.last = not head.keep_alive or (server.draining and exchange is self._exchanges[-1])
        plain = head.plain and not exchange.last
        if plain and response.status == 200 and response.content_type is JSON and not response.headers:
            first = server.heads.json
            if exchange.timing:
                data = b"%b%d\r\nServer-Timing: queue;dur=%.3f, %b%b\r\n\r\n%b" % (
                    first,
                    len(body),
                    exchange.queued * 1000,
                    exchange.timing,
                    head.identity,
                    body,
                )
            else:
                data = b"%b%d%b\r\n\r\n%b" % (first, len(body), head.identity, body)
        else:
            data = self._format(exchange, response)
        exchanges = self._exchanges
        lone = len(exchanges) == 1 and not exchange.last
        if response.status == BUSY and lone and head.queue is not None and self._phase is IDLE:
            exchanges.clear()
            self._send_refusal(data, head)
            return
        if lone:
            exchanges.clear()
            self._transport.write(data)
        else:
            exchange.data = data
            exchange.whole = True
            self._flush()
        if not self._reading:
            self._regulate()
        self._since = server.now

    def begin(self, exchange: HttpExchange, response: Response) -> None:
        """The head of a stream, and its first piece."""
        exchange.last = not exchange.head.keep_alive
        exchange.chunked = self._parser.get_http_version() != "1.0"
        if not exchange.chunked:
            exchange.last = True
        lines = [b"%b: %b" % header for header in response.headers]
        lines += [b"Server-Timing: " + exchange.server_timing] if exchange.timing else []
        lines += [b"Transfer-Encoding: chunked"] if exchange.chunked else []
        lines += [b"Connection: close"] if exchange.last else []
        start = self._server.heads.before_length(response.status, response.content_type)
        exchange.data += b"\r\n".join([start, *lines]) + b"\r\n\r\n"
        self.send(exchange, response.body)

    def send(self, exchange: HttpExchange, data: bytes) -> bool:
        """A piece of a stream; False while the caller reads too slowly."""
        if data:
            exchange.data += b"%x\r\n%b\r\n" % (len(data), data) if exchange.chunked else data
        self._flush()
        return self._writable and not exchange.data

    def end(self, exchange: HttpExchange, data: bytes) -> None:
        """The end of a stream."""
        self.send(exchange, data)
        exchange.data += b"0\r\n\r\n" if exchange.chunked else b""
        exchange.whole = True
        if self._server.draining and exchange is self._exchanges[-1]:
            exchange.last = True
        self._flush()
        if not self._reading:
            self._regulate()
        self._since = self._server.now

    def _send_refusal(self, data: bytes, head: HttpHead) -> None:
        """Tell a caller to come back later: at once, or, who has just been told so, when there is time for it."""
        server = self._server
        again = server.now - self._refused < SOON_S
        self._since = self._refused = server.now
        if server.flood.holds(self, head.queue, again=again):
            self._held, self._phase = data, HELD
        else:
            self._transport.write(data)

    def release(self) -> None:
        """Send the refusal that was held back."""
        if self._phase is HELD:
            data, self._held, self._phase = self._held, b"", IDLE
            self._since = self._refused = self._server.now
            self._transport.write(data)

    def on_room(self, callback: Callable[[], object]) -> None:
        """Call back when more of a stream may be sent."""
        self._on_room.append(callback)

    def _flush(self) -> None:
        exchanges = self._exchanges
        while exchanges:
            first = exchanges[0]
            if first.data:
                self._transport.write(first.data)
                first.data = b""
            if not first.whole:
                break
            exchanges.popleft()
            if first.last:
                self._finish()
        self._call_back()

    def _call_back(self) -> None:
        if self._on_room and self._writable:
            waiting, self._on_room = self._on_room, []
            for callback in waiting:
                callback()

    def _format(self, exchange: HttpExchange, response: Response) -> bytes:
        start = self._server.heads.of(response.status, response.content_type)
        end = self._other_headers(exchange, response)
        body = b"" if exchange.method == b"HEAD" else response.body
        return b"%b%d%b%b" % (start, len(response.body), end, body)

    def _other_headers(self, exchange: HttpExchange, response: Response) -> bytes:
        lines = [b"%b: %b" % header for header in response.headers]
        if exchange.timing:
            lines.append(b"Server-Timing: " + exchange.server_timing)
        if exchange.last:
            lines.append(b"Connection: close")
        if (response.status >= 500 and exchange.number) or REQUEST_ID in exchange.headers:
            lines.append(b"X-Request-Id: %b" % exchange.request_id.encode())
        return b"".join(b"\r\n" + line for line in lines) + b"\r\n\r\n"

    def _finish(self) -> None:
        """The last answer is written: say so, and leave the rest of an upload unread for a short while."""
        lingering = self._phase is not IDLE
        self._phase = LINGER
        self._since = self._server.now
        self._exchanges.clear()
        if lingering and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _regulate(self) -> None:
        wanted = not self._waiting and self._writable and len(self._exchanges) < MAX_PIPELINE
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._since = self._server.now
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
