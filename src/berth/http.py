"""HTTP/1.1 over a transport: bytes in, whole requests to the application, answers out in the order of the requests.

httptools parses; a request is one callback, not a task. Every bound of the wire lives here: header bytes, body bytes
(decided on Content-Length before the body is read, and while chunks arrive), requests in a pipeline, idle and header
time. server.py makes one `Connection` per accepted socket.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol, cast

import httptools

from berth.answers import NO_ROUTE, REQUEST_ID, Exchange
from berth.application import Application
from berth.config import Limits
from berth.protocols.base import JSON, Express, Head, Headers, Refusal, Response

MAX_HEADER_BYTES = 65_536
MAX_HEADERS = 128
MAX_PIPELINE = 64
BULK = 65_536  # bytes of a body that are worth going around the parser
MAX_KNOWN_HEADS = 1024
MAX_KNOWN_HEAD_BYTES = 2048
BUSY = 503
HTTP2 = b"PRI"  # how HTTP/2's preface begins, and no request
FRESH_S = 1.0  # how long a stopping server waits for the first request of a connection
LONG_S = 0.1  # a turn of the event loop after which who was told to come back later is not heard again in it
LINGER_S = 2.0  # how long a refused upload is still read, so that its sender sees the refusal and no reset

_REASONS = {
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


class Phase(enum.Enum):
    """What a connection is doing."""

    IDLE = "idle"  # between requests
    HEAD = "head"  # a request line or headers have begun
    BODY = "body"
    LINGER = "linger"  # answered for the last time; what still comes is thrown away


_IDLE, _HEAD, _BODY, _LINGER = Phase.IDLE, Phase.HEAD, Phase.BODY, Phase.LINGER


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
                _REASONS.get(status, b"Status"),
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
        self.take_over: Callable[[Connection, asyncio.Transport, bytes], None] | None = None  # for HTTP/2
        self.draining = False
        self._resting: list[Connection] = []
        self._turn_ends = 0.0  # 0: nobody was turned away in this turn
        self._loop = asyncio.get_running_loop()
        self.now = asyncio.get_running_loop().time()

    def tick(self, now: float) -> None:
        """Once in a while: renew the date, and end connections that are too slow or idle for too long."""
        self.now = now
        self.heads.tick()
        for connection in list(self.connections):
            connection.check_time(now)

    def must_rest(self, connection: Connection) -> bool:
        """Whether nothing more is to be read in this turn of the loop from a connection that was turned away.

        When thousands ask again at once, there is always somebody to be read from, and the loop's turn would not end;
        timers, new connections and results wait for that.
        """
        now = perf_counter()
        if not self._turn_ends:
            self._turn_ends = now + LONG_S
            self._loop.call_soon(self._end_turn)
        elif now > self._turn_ends:
            self._resting.append(connection)
            return True
        return False

    def _end_turn(self) -> None:
        self._turn_ends = 0.0
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


class _HttpHead(Head):
    """First lines with what this transport made of them.

    `plain`: the answer needs no header out of the ordinary; `refused` are the bytes of a `refusal`, for floods.
    """

    body_bytes: int = 0
    plain: bool = False
    refusal: Refusal | None = None
    refused: bytes = b""


class _HttpExchange(Exchange):
    """A request on its connection.

    `data` is what of its answer has not been written, `whole` that there is no more to come, `last` that the answer
    ends the connection, `chunked` that a stream's pieces are framed.
    """

    connection: Connection | None = None
    data: bytes = b""
    whole: bool = False
    last: bool = False
    chunked: bool = True

    def answer(self, response: Response) -> None:
        """Format the answer and send it when its turn has come."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.answered(self, response)

    def begin(self, response: Response) -> None:
        """Begin a stream."""
        if self.connection is not None:
            self.connection.begin(self, response)

    def send(self, data: bytes) -> bool:
        """Another piece of a stream."""
        return self.connection is None or self.connection.send(self, data)

    def end(self, data: bytes = b"", _: Headers = ()) -> None:
        """The end of a stream."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.end(self, data)

    def on_room(self, callback: Callable[[], object]) -> None:
        """Call back when the caller reads again, or is gone."""
        if self.connection is None:
            callback()
        else:
            self.connection.on_room(callback)


class Connection(asyncio.Protocol):
    """One connection: a parser, and the exchanges that still wait for their answers."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._application = server.application
        self._max_body = server.limits.max_body_bytes
        self._parser = httptools.HttpRequestParser(self)
        self._exchanges: deque[_HttpExchange] = deque()
        self._phase = _IDLE
        self._since = server.now + FRESH_S  # in the future until something has come
        self._head_bytes = 0
        self._reading = True
        self._resting = False  # told to come back later a moment ago
        self._writable = True
        self._unsent, self._moved = 0, 0.0  # what the caller has not taken of its answers, and when that last changed
        self._on_room: list[Callable[[], object]] = []
        self._transport: asyncio.Transport
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: bytes | bytearray = b""
        self._length = 0  # of the body, where it was announced
        self._left = 0  # of a large body of that length, which bypasses the parser
        self._express: Express | None = None  # the lane that owes an answer
        self._start = b""  # the bytes of the first lines, where they came in one piece
        self._undecided = b""  # the beginning of HTTP/2's preface, or of a method
        self._heads = cast(dict[bytes, _HttpHead], server.application.heads)

    # -- asyncio calls these ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted."""
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)
        if len(self._server.connections) > self._server.limits.max_connections:
            self._refuse(503, f"too many connections (BERTH_MAX_CONNECTIONS={self._server.limits.max_connections})")

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone, by either side: nobody waits for the answers any more."""
        self._server.connections.discard(self)
        for exchange in self._exchanges:
            exchange.connection = None
            if not exchange.whole:
                self._application.give_up(exchange)
        self._exchanges.clear()
        self._phase = _LINGER
        self._writable = True
        self._call_back()

    def data_received(self, data: bytes) -> None:
        """Parse; whole requests go to the application from within.

        A client that keeps its connection sends the same first lines again and again. Those that have been parsed once
        are recognised by their bytes when a whole request arrives in one piece, and need no parser.
        """
        if self._phase is _IDLE and not self._head_bytes:
            end = data.find(b"\r\n\r\n") + 4
            head = self._heads.get(data[:end])
            if head is not None and len(data) == end + head.body_bytes:
                self._accept_known(head, data[end:])
                return
            self._start = data[:end] if 3 < end <= MAX_KNOWN_HEAD_BYTES else b""
        else:
            self._start = b""
            if self._phase is _LINGER:
                return
            if self._left:
                self._continue_body(data)
                return
        if self._express is not None:
            self._express.run()
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        if self._undecided:
            data, self._undecided, self._head_bytes = self._undecided + data, b"", 0
        if self._phase is not _BODY:
            if not self._head_bytes:
                self._since = self._server.now
                if self._is_http2(data):
                    return
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._stop_reading()  # nothing is upgraded: the request was answered as it was, and is the last
        except httptools.HttpParserError as error:
            self._refuse(400, f"the request is not valid HTTP/1.1: {error}")
        if self._phase is _BODY and self._length - len(self._body) >= BULK:
            self._left = self._length - len(self._body)
        if self._head_bytes > MAX_HEADER_BYTES and self._phase in (_IDLE, _HEAD):
            self._refuse(431, f"expected at most {MAX_HEADER_BYTES} bytes of headers")

    def _continue_body(self, data: bytes) -> None:
        """More of a large body of known length: there is nothing to parse, and nothing to copy through the parser."""
        piece = data if len(data) <= self._left else data[: self._left]
        self._left -= len(piece)
        self.on_body(piece)
        if self._left:
            return
        self.on_message_complete()
        self._parser = httptools.HttpRequestParser(self)  # the old one still waits for the body
        if len(data) > len(piece):
            self.data_received(data[len(piece) :])

    def _is_http2(self, data: bytes) -> bool:
        """Whether the connection speaks HTTP/2, and has found another protocol."""
        take_over = self._server.take_over
        if take_over is None or self._exchanges or not data.startswith(HTTP2):
            if len(data) < len(HTTP2) and HTTP2.startswith(data):  # or POST, in single bytes
                self._undecided, self._head_bytes = data, len(data)
            return bool(self._undecided)
        self._phase = _HEAD
        take_over(self, self._transport, data)
        return True

    def pause_writing(self) -> None:
        """The caller reads its answers slowly: stop reading its requests."""
        self._writable = False
        self._moved = self._server.now
        self._regulate()

    def resume_writing(self) -> None:
        """The caller caught up."""
        self._writable = True
        self._regulate()
        self._call_back()

    # -- httptools calls these ----------------------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        """The request target, possibly in pieces: a request has begun."""
        if self._phase is _LINGER:
            return
        if self._phase is _IDLE:
            self._phase = _HEAD
            self._since = self._server.now
            self._url = url
            self._headers = {}
        else:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; values of one name are a list (RFC 9110, section 5.3)."""
        name = name.lower()
        before = self._headers.get(name)
        self._headers[name] = value if before is None else b"%b, %b" % (before, value)

    def on_headers_complete(self) -> None:
        """Decide on what the headers announce, before any of the body is read."""
        if self._phase is _LINGER:
            return
        self._head_bytes = 0
        self._phase = _BODY
        headers = self._headers
        length = headers.get(b"content-length")
        self._length = int(length) if length is not None and b"transfer-encoding" not in headers else 0
        if length is not None and int(length) > self._max_body:
            self._too_large(f"{int(length)} bytes")
        elif len(headers) > MAX_HEADERS:
            self._refuse(431, f"expected at most {MAX_HEADERS} headers")
        elif b"expect" in headers and headers[b"expect"].lower() == b"100-continue" and not self._exchanges:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._phase is _LINGER:
            return
        if not self._body:
            self._body = body
        else:
            if type(self._body) is bytes:
                self._body = bytearray(self._body)
            self._body += body
        if len(self._body) > self._max_body:
            self._too_large("more")

    def on_message_complete(self) -> None:
        """A whole request."""
        if self._phase is _LINGER:
            return
        self._phase = _IDLE
        body = self._body
        head = self._head(len(body), keep_alive=self._parser.should_keep_alive() and b"upgrade" not in self._headers)
        self._remember(head)
        self._body = b""
        self._head_bytes = 0
        self._accept(_HttpExchange(head, cast(bytes, body)))  # or a bytearray, which the application knows of

    def _accept_known(self, head: _HttpHead, body: bytes) -> None:
        """A whole request whose first lines are known: by the express lane if there is one and it is free."""
        if self._express is not None:
            self._express.run()
        plain = head.plain and not self._exchanges and not self._server.draining
        if plain and head.express is not None and head.express.take(self, head, body):
            self._express = head.express
            self._since = self._server.now
        elif not plain or not self._turned_away(head):
            self._accept(_HttpExchange(head, body))

    def _turned_away(self, head: _HttpHead) -> bool:
        """Whether a request was refused for lack of room, at the cost of little more than a write."""
        refusal = self._application.turned_away(head)
        if refusal is None:
            return False
        if refusal is not head.refusal:
            response = (head.route or NO_ROUTE).error(refusal.status, refusal.text, refusal.headers)
            head.refusal, head.refused = refusal, self._format(_HttpExchange(head, b""), response)
        self._transport.write(head.refused)
        self._since = self._server.now
        self._rest()
        return True

    def _accept(self, exchange: _HttpExchange) -> None:
        exchange.connection = self
        self._exchanges.append(exchange)
        self._application.handle(exchange)
        if len(self._exchanges) >= MAX_PIPELINE:
            self._regulate()

    def _remember(self, head: _HttpHead) -> None:
        """Know these first lines again: they came in one piece, and their length is written in them or nought."""
        start, self._start = self._start, b""
        headers = head.headers
        length = headers.get(b"content-length", b"0")
        if not start or not head.keep_alive or b"transfer-encoding" in headers or b"expect" in headers:
            return
        if length.isdigit() and int(length) == head.body_bytes:
            if len(self._heads) >= MAX_KNOWN_HEADS:
                self._heads.clear()
            self._heads[start] = head

    # -- answers ------------------------------------------------------------------------------------------------------

    def answer_plain(self, body: bytes, queued: float, timing: bytes) -> None:
        """The answer of an express lane."""
        self._express = None
        if self._phase is not _LINGER:
            self._transport.write(
                b"%b%d\r\nServer-Timing: queue;dur=%.3f, %b\r\n\r\n%b"
                % (self._server.heads.json, len(body), queued * 1000, timing, body)
            )

    def go_general(self, head: Head, body: bytes) -> None:
        """The express lane leaves a request to the application."""
        self._express = None
        if self._phase is not _LINGER:
            self._accept(_HttpExchange(head, body))

    def answered(self, exchange: _HttpExchange, response: Response) -> None:
        """An exchange has its answer: send it, with those that waited for it, in order."""
        server = self._server
        body = response.body
        head: Any = exchange.head
        exchange.last = not head.keep_alive or (server.draining and exchange is self._exchanges[-1])
        plain = head.plain and not exchange.last
        if plain and response.status == 200 and response.content_type is JSON and not response.headers:
            first = server.heads.json
            if exchange.timing:
                data = b"%b%d\r\nServer-Timing: queue;dur=%.3f, %b\r\n\r\n%b" % (
                    first,
                    len(body),
                    exchange.queued * 1000,
                    exchange.timing,
                    body,
                )
            else:
                data = b"%b%d\r\n\r\n%b" % (first, len(body), body)
        else:
            data = self._format(exchange, response)
            if response.status == BUSY and not exchange.last:
                self._rest()
        exchanges = self._exchanges
        if len(exchanges) == 1 and not exchange.last:
            exchanges.clear()
            self._transport.write(data)
        else:
            exchange.data = data
            exchange.whole = True
            self._flush()
        if not self._reading:
            self._regulate()
        self._since = server.now

    def begin(self, exchange: _HttpExchange, response: Response) -> None:
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

    def send(self, exchange: _HttpExchange, data: bytes) -> bool:
        """A piece of a stream; False while the caller reads too slowly."""
        if data:
            exchange.data += b"%x\r\n%b\r\n" % (len(data), data) if exchange.chunked else data
        self._flush()
        return self._writable and not exchange.data

    def end(self, exchange: _HttpExchange, data: bytes) -> None:
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

    def _rest(self) -> None:
        if not self._resting and self._server.must_rest(self):
            self._resting = True
            self._regulate()

    def wake(self) -> None:
        """Read on."""
        self._resting = False
        self._regulate()

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

    def _format(self, exchange: _HttpExchange, response: Response) -> bytes:
        start = self._server.heads.of(response.status, response.content_type)
        end = self._other_headers(exchange, response)
        body = b"" if exchange.method == b"HEAD" else response.body
        return b"%b%d%b%b" % (start, len(response.body), end, body)

    def _other_headers(self, exchange: _HttpExchange, response: Response) -> bytes:
        lines = [b"%b: %b" % header for header in response.headers]
        if exchange.timing:
            lines.append(b"Server-Timing: " + exchange.server_timing)
        if exchange.last:
            lines.append(b"Connection: close")
        if (response.status >= 500 and exchange.number) or REQUEST_ID in exchange.headers:
            lines.append(b"X-Request-Id: %b" % exchange.request_id.encode())
        return b"".join(b"\r\n" + line for line in lines) + b"\r\n\r\n"

    # -- ends ---------------------------------------------------------------------------------------------------------

    def check_time(self, now: float) -> None:
        """Called about twice a second: end what takes too long."""
        limits, age = self._server.limits, now - self._since
        if not self._writable and self._reads_nothing(now):
            self._transport.abort()
            return
        if self._phase is _LINGER:
            if age > LINGER_S and not self._exchanges:
                self._transport.abort()
        elif (self._phase is _HEAD or self._head_bytes) and age > limits.header_timeout:
            self._refuse(408, f"the headers did not arrive within {limits.header_timeout:g} s")
        elif self._phase is _BODY and age > limits.request_timeout:
            self._refuse(408, f"the body did not arrive within {limits.request_timeout:g} s")
        elif self._phase is _BODY and age > limits.header_timeout and self._too_slow(age):
            self._refuse(408, f"expected {limits.min_body_rate} bytes of body a second (BERTH_MIN_BODY_RATE)")
        elif self._phase is _IDLE and not self._exchanges and age > limits.keep_alive:
            self._transport.close()

    def _too_slow(self, age: float) -> bool:
        """Whether the body trickles in; not while it is us who do not read."""
        return self._reading and len(self._body) < self._server.limits.min_body_rate * age

    def _reads_nothing(self, now: float) -> bool:
        """Whether the caller has taken nothing of its answers for too long."""
        unsent = self._transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._moved = unsent, now
        return now - self._moved > self._server.limits.request_timeout

    def close_if_idle(self) -> None:
        """Close when no answer is owed and no request has begun, nor is the first one likely to be on its way."""
        if self._since > self._server.now:
            return
        if not self._exchanges and self._phase is _IDLE and self._express is None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection."""
        self._transport.abort()

    def _too_large(self, got: str) -> None:
        self._refuse(
            413, f"the body is too large: expected at most {self._max_body} bytes (BERTH_MAX_BODY_BYTES), got {got}"
        )

    def _refuse(self, status: int, text: str) -> None:
        """Answer with an error, after the answers that are still owed, and close."""
        if self._phase is _LINGER:
            return
        exchange = _HttpExchange(self._head(0, keep_alive=False), b"")
        exchange.connection = self
        self._stop_reading()
        self._exchanges.append(exchange)
        self._application.refuse(exchange, status, text)

    def _head(self, body_bytes: int, *, keep_alive: bool) -> _HttpHead:
        try:
            method = self._parser.get_method()
        except AttributeError:
            method = b"-"
        path, _, query = self._url.partition(b"?")
        headers = self._headers
        plain = keep_alive and REQUEST_ID not in headers and method != b"HEAD"
        return _HttpHead(method, path, query, headers, keep_alive, body_bytes=body_bytes, plain=plain)

    def _stop_reading(self) -> None:
        self._phase = _LINGER
        self._since = self._server.now
        self._body, self._left = b"", 0

    def _finish(self) -> None:
        """The last answer is written: say so, and leave the rest of an upload unread for a short while."""
        lingering = self._phase is not _IDLE
        self._phase = _LINGER
        self._since = self._server.now
        self._exchanges.clear()
        if lingering and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _regulate(self) -> None:
        wanted = self._writable and not self._resting and len(self._exchanges) < MAX_PIPELINE
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._since = self._server.now
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
