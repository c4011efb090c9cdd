"""HTTP/1.1 over a transport: bytes in, whole requests to the application, answers out in the order of the requests.

httptools parses; a request is one callback, not a task. Every bound of the wire lives here: header bytes, body bytes
(decided on Content-Length before the body is read, and while chunks arrive), requests in a pipeline, idle and header
time. server.py makes one `Connection` per accepted socket; http_answering.py writes.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import cast

import httptools

from berth import http_known
from berth.exchange import NO_ROUTE
from berth.http_answering import MAX_PIPELINE
from berth.http_exchange import BODY, HEAD, HELD, IDLE, LINGER, HttpExchange, HttpHead
from berth.http_large import BULK, LargeBodies
from berth.http_server import Server
from berth.protocols.base import Head

MAX_HEADER_BYTES = 65_536
MAX_HEADERS = 128
HTTP2 = b"PRI"  # how HTTP/2's preface begins, and no request
LINGER_S = 2.0  # how long a refused upload is still read, so that its sender sees the refusal and no reset


class Connection(LargeBodies):
    """One connection: a parser, and the exchanges that still wait for their answers."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._application = server.application
        self._max_body = server.limits.max_body_bytes
        self._parser = httptools.HttpRequestParser(self)
        self._head_bytes = 0
        self._unsent, self._moved = 0, 0.0  # what the caller has not taken of its answers, and when that last changed
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._start = b""  # the bytes of the first lines, where they came in one piece
        self._undecided = b""  # the beginning of HTTP/2's preface, or of a method
        self._heads = cast("dict[http_known.Key, HttpHead]", server.application.heads)

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
        if self._phase is HELD:
            self._server.flood.forget(self)
        self._phase = LINGER
        self._forget_body()
        self._writable = True
        self._call_back()

    def data_received(self, data: bytes) -> None:
        """Parse; whole requests go to the application from within.

        First lines that are known need no parser when a whole request arrives in one piece.
        """
        if self._phase is IDLE and not self._head_bytes:
            end = data.find(b"\r\n\r\n") + 4
            start = data[:end]
            head = self._heads.get(start)
            if head is None and 3 < end <= http_known.MAX_KNOWN_HEAD_BYTES:
                head = http_known.find(self._heads, start)
                self._start = start
            if head is not None and len(data) == end + head.body_bytes:
                self._start = b""
                if not head.refused_until or not self._refused_again(head):
                    self._accept_known(head, data[end:])
                return
            if head is not None and head.body_bytes - len(data) + end >= BULK:
                self._begin_known(head, data[end:])
                return
        else:
            self._start = b""
            if self._phase is LINGER:
                return
            if self._phase is HELD:
                self.release()  # the next request has come: its answer must not be the first
                self.data_received(data)
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
        if self._phase is not BODY:
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
        if self._phase is BODY and self._length - len(self._body) >= BULK:
            self._read_large()
        if self._head_bytes > MAX_HEADER_BYTES and self._phase in (IDLE, HEAD):
            self._refuse(431, f"expected at most {MAX_HEADER_BYTES} bytes of headers")

    def _begin_known(self, head: HttpHead, body: bytes) -> None:
        """First lines that are known, and the beginning of their large body."""
        if self._express is not None:
            self._express.run()
        self._start = b""
        self._phase = BODY
        self._since = self._server.now
        self._known = head
        self._url = head.path + (b"?" + head.query if head.query else b"")
        self._headers = head.headers
        self._length, self._body = head.body_bytes, body
        self._read_large()

    def _continue_body(self, data: bytes) -> None:
        """More of a large body of known length: there is nothing to parse, and nothing to copy through the parser."""
        piece = data if len(data) <= self._left else data[: self._left]
        self.on_body(piece)
        self._left -= len(piece)
        if self._left:
            return
        self._whole()
        if len(data) > len(piece):
            self.data_received(data[len(piece) :])

    def large_body_complete(self) -> None:
        """Hand the request over."""
        head, self._known = self._known, None
        if head is None:
            self.on_message_complete()
            self._parser = httptools.HttpRequestParser(self)  # the old one still waits for the body
        else:
            self._phase = IDLE
            body, self._body = self._body, b""
            self._accept(HttpExchange(head, cast(bytes, body)))

    def _is_http2(self, data: bytes) -> bool:
        """Whether the connection speaks HTTP/2, and has found another protocol."""
        take_over = self._server.take_over
        if take_over is None or self._exchanges or not data.startswith(HTTP2):
            if len(data) < len(HTTP2) and HTTP2.startswith(data):  # or POST, in single bytes
                self._undecided, self._head_bytes = data, len(data)
            return bool(self._undecided)
        self._phase = HEAD
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
        if self._phase is LINGER:
            return
        self.release()
        if self._phase is IDLE:
            self._phase = HEAD
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
        if self._phase is LINGER:
            return
        self._head_bytes = 0
        self._phase = BODY
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
        if self._phase is LINGER:
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
        if self._phase is LINGER:
            return
        self._phase = IDLE
        body = self._body
        head = self._head(len(body), keep_alive=self._parser.should_keep_alive() and b"upgrade" not in self._headers)
        start, self._start = self._start, b""
        if start:
            http_known.remember(self._heads, start, head)
        self._body = b""
        self._head_bytes = 0
        self._accept(HttpExchange(head, cast(bytes, body)))  # or a bytearray, which the application knows of

    def _accept_known(self, head: HttpHead, body: bytes) -> None:
        """A whole request whose first lines are known: by the express lane if there is one and it is free."""
        if self._express is not None:
            self._express.run()
        plain = head.plain and not self._exchanges and not self._server.draining
        if plain and head.express is not None and head.express.take(self, head, body):
            self._express = head.express
            self._since = self._server.now
        elif not plain or not self._turned_away(head):
            self._accept(HttpExchange(head, body))

    def _turned_away(self, head: HttpHead) -> bool:
        """Whether a request was refused for lack of room, at the cost of little more than a write."""
        refusal = self._application.turned_away(head)
        if refusal is None:
            return False
        if refusal is head.refusal:
            refused = head.refused
        else:
            response = (head.route or NO_ROUTE).error(refusal.status, refusal.text, refusal.headers)
            refused = self._format(HttpExchange(head, b""), response)
            if not head.identity:
                head.refusal, head.refused = refusal, refused
        self._send_refusal(refused, head)
        if head.refusal is refusal and head.shared is None:
            self._server.flood.refuse_again(head)
        return True

    def _refused_again(self, head: HttpHead) -> bool:
        """Whether a request was refused as the last one with the same first lines, at the cost of a write alone."""
        server, refusal, now = self._server, head.refusal, perf_counter()
        if refusal is None or not refusal.stands or now > head.refused_until:
            return False
        if self._exchanges or self._express is not None or server.draining:
            return False
        head.refused_again += 1
        if now > server.flood.turn_ends:
            self._send_refusal(head.refused, head)
        else:
            self._since = self._refused = server.now
            self._transport.write(head.refused)
        return True

    def _accept(self, exchange: HttpExchange) -> None:
        exchange.connection = self
        self._exchanges.append(exchange)
        self._application.handle(exchange)
        if len(self._exchanges) >= MAX_PIPELINE:
            self._regulate()

    def go_general(self, head: Head, body: bytes) -> None:
        """The express lane leaves a request to the application."""
        self._express = None
        if self._phase is not LINGER:
            self._accept(HttpExchange(head, body))

    # -- ends ---------------------------------------------------------------------------------------------------------

    def check_time(self, now: float) -> None:
        """Called about twice a second: end what takes too long."""
        limits, age = self._server.limits, now - self._since
        if not self._writable and self._reads_nothing(now):
            self._transport.abort()
            return
        if self._phase is LINGER:
            if age > LINGER_S and not self._exchanges:
                self._transport.abort()
        elif (self._phase is HEAD or self._head_bytes) and age > limits.header_timeout:
            self._refuse(408, f"the headers did not arrive within {limits.header_timeout:g} s")
        elif self._phase is BODY and age > limits.request_timeout:
            self._refuse(408, f"the body did not arrive within {limits.request_timeout:g} s")
        elif self._phase is BODY and age > limits.header_timeout and self._too_slow(age):
            self._refuse(408, f"expected {limits.min_body_rate} bytes of body a second (BERTH_MIN_BODY_RATE)")
        elif self._phase is IDLE and not self._exchanges and age > limits.keep_alive:
            self._transport.close()

    def _too_slow(self, age: float) -> bool:
        """Whether the body trickles in; not while it is us who do not read."""
        return self._reading and self.received < self._server.limits.min_body_rate * age

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
        if not self._exchanges and self._phase is IDLE and self._express is None:
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
        if self._phase is LINGER:
            return
        self.release()
        exchange = HttpExchange(self._head(0, keep_alive=False), b"")
        exchange.connection = self
        self._stop_reading()
        self._exchanges.append(exchange)
        self._application.refuse(exchange, status, text)

    def _head(self, body_bytes: int, *, keep_alive: bool) -> HttpHead:
        try:
            method = self._parser.get_method() if self._known is None else self._known.method
        except AttributeError:
            method = b"-"
        path, _, query = self._url.partition(b"?")
        headers = self._headers
        line = http_known.identity_line(headers)
        plain = keep_alive and line is not None and method != b"HEAD"
        head = HttpHead(method, path, query, headers, keep_alive, body_bytes=body_bytes, plain=plain)
        head.identity = line or b""
        return head

    def _stop_reading(self) -> None:
        self._phase = LINGER
        self._since = self._server.now
        self._forget_body()
