"""From a whole request to whoever answers it: routes, methods, encodings.

The transports hand over every complete request as an `Exchange` and get exactly one answer back through it, at once or
when a model has run. No sockets here, and no waiting: everything is a callback on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import math
import sys
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any
from urllib.parse import unquote

from berth.answers import Answers
from berth.config import Limits
from berth.exchange import Exchange
from berth.floats import can_read_floats
from berth.protocols.base import Handler, Head, Headers, Refusal, Request, Response, Route
from berth.protocols.encoding import decompress
from berth.protocols.numbers import LARGE
from berth.protocols.site import Faces
from berth.tracing import HUNG_UP, read_trace_context
from berth.work import Work

MAX_PATHS = 1024
MAX_LARGE = 64  # bodies that wait to be decoded in a thread
LARGE_FOLDED = 16 * 1024  # bytes of a compressed body
SWITCH_S = 0.0005
EXPRESS_PATIENCE_S = 1.0  # a deadline later than this cannot pass in an express lane, whose runs take milliseconds
RETRY: Headers = ((b"Retry-After", b"1"),)
Outcome = Response | Work | Coroutine[Any, Any, Response | Work]


class Application:
    """All the routes of one server."""

    def __init__(self, faces: Faces, answers: Answers, limits: Limits) -> None:
        self._faces = faces
        self._paths: dict[bytes, Route] = {}
        self._answers = answers
        self._limits = limits
        self._tracer = answers.tracer
        self._large_ones = 0
        self._apart_from = (
            2 * LARGE if can_read_floats() else LARGE
        )  # 3 ms on the loop beat the way to a thread and back
        self._decoding = ThreadPoolExecutor(1, "decoding")
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self.heads: dict[bytes | tuple[bytes, ...], Head] = {}  # first lines known to the transports, which keep them

    def forget(self) -> None:
        """The models have changed: find every route again."""
        self._paths.clear()
        self.heads.clear()

    def handle(self, exchange: Exchange) -> None:
        """Take a whole request; its answer may come before this returns."""
        exchange.started = perf_counter()
        exchange.number = next(self._numbers)
        head = exchange.head
        try:
            handler = head.handler or self._find(head)
            if self._tracer is not None:
                exchange.span = self._tracer.begin(head.trace, for_model=exchange.route.asks_model)
            if head.queue is not None:
                full = head.queue.turned_away(head.timeout)
                if full is not None:  # before anything is spent on its body
                    self._answers.refusal(exchange, full)
                    return
            if len(exchange.body) >= self._apart_from:
                self._answer_later(exchange, self._apart(handler, exchange))
                return
            if not isinstance(exchange.body, bytes) and not exchange.route.large:
                exchange.body = bytes(exchange.body)
            outcome = handler(exchange)
            if type(outcome) is Work:
                self._submit(exchange, outcome)
            elif type(outcome) is Response:
                self._answers.answer(exchange, outcome)
            elif asyncio.iscoroutine(outcome):
                self._answer_later(exchange, outcome)
        except Refusal as refusal:
            if head.handler is None:
                self._trace_stranger(exchange)
            self._answers.refusal(exchange, refusal)
        except Exception as error:
            self._answers.fault(exchange, error)

    def turned_away(self, head: Head) -> Refusal | None:
        """The refusal of a request for a model that has no room, counted; None when `handle` has to take it.

        For floods: only of heads that `handle` has seen, and only while answers are counted rather than logged.
        """
        if head.queue is None or head.info or self._tracer is not None or not self._answers.plain:
            return None
        refusal: Refusal | None = head.queue.turned_away(head.timeout)
        if refusal is not None:
            self._answers.count_refused(head)
        return refusal

    def count_refused(self, head: Head, times: int) -> None:
        """So many requests more were turned away as `turned_away` said of one with the same first lines."""
        if head.queue is not None and times:
            head.queue.metrics.failures["REJECTED"] += times
            self._answers.count_refused(head, times)

    def _submit(self, exchange: Exchange, work: Work) -> None:
        exchange.work = work
        work.exchange = exchange
        timeout = exchange.head.timeout
        if timeout is not None and (work.timeout is None or work.timeout > timeout):
            work.timeout = timeout
        work.queue.submit(work)
        if exchange.span is not None:
            exchange.span.arrived = work.arrived

    async def _apart(self, handler: Handler, exchange: Request) -> Response | Work:
        """Decode a large body in a thread, one after the other, so that the event loop goes on."""
        if self._large_ones >= MAX_LARGE:
            raise Refusal(503, f"{MAX_LARGE} large bodies wait to be decoded; try again in 1 s", RETRY)
        self._large_ones += 1
        try:
            outcome = await asyncio.get_running_loop().run_in_executor(self._decoding, _handled, handler, exchange)
        finally:
            self._large_ones -= 1
        return await outcome if asyncio.iscoroutine(outcome) else outcome

    def _answer_later(self, exchange: Exchange, work: Coroutine[Any, Any, Response | Work]) -> None:
        async def answer() -> None:
            try:
                outcome = await work
                if isinstance(outcome, Work):
                    if not exchange.gone:
                        self._submit(exchange, outcome)
                else:
                    self._answers.answer(exchange, outcome)
            except Refusal as refusal:
                self._answers.refusal(exchange, refusal)
            except Exception as error:
                self._answers.fault(exchange, error)

        task = asyncio.ensure_future(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def refuse(self, exchange: Exchange, status: int, text: str) -> None:
        """Answer a request that never became whole (too large, malformed, too slow)."""
        exchange.started = perf_counter()
        exchange.number = next(self._numbers)
        exchange.head.trace = read_trace_context(exchange.head.headers)
        self._trace_stranger(exchange)
        with contextlib.suppress(Refusal):  # the route says how its errors look
            exchange.head.route = self._route(exchange.head.path)
        self._answers.refuse(exchange, status, text, ((b"Retry-After", b"1"),) if status == 503 else ())

    def _trace_stranger(self, exchange: Exchange) -> None:
        """Trace, for a caller who does, a request that found no handler."""
        if self._tracer is not None:
            exchange.span = self._tracer.begin(exchange.head.trace, for_model=False)

    def give_up(self, exchange: Exchange) -> None:
        """The caller hung up: its work need not run any more."""
        exchange.gone = True
        work, exchange.work = exchange.work, None
        if work is not None and not work.done:
            work.queue.release(work)
            work.queue.metrics.failures["CANCELED"] += 1
            self._answers.trace(exchange, HUNG_UP, exchange.sent, work.queue.metrics)

    def _find(self, head: Head) -> Handler:
        """The handler for these first lines; remembered in them, so that the next request with them need not look."""
        headers = head.headers
        head.trace = read_trace_context(headers)
        head.info = self._answers.info.wanted(headers.get(b"prefer", b""))
        head.ordinary = b"accept-encoding" not in headers and not head.info
        route = head.route = self._route(head.path)
        method = head.method.decode("latin-1")
        handler = route.handlers.get(method) or (route.handlers.get("GET") if method == "HEAD" else None)
        if handler is None:
            allowed = ", ".join(sorted({*route.handlers, "HEAD"} if "GET" in route.handlers else route.handlers))
            text = f"{method} is not allowed here; allowed: {allowed}"
            raise Refusal(405, text, ((b"Allow", allowed.encode()),))
        if b"content-encoding" in headers:
            handler = functools.partial(self._decompressed, handler)
        if head.timeout is None:
            head.timeout = _timeout(headers)
        patient = head.timeout is None or head.timeout >= EXPRESS_PATIENCE_S
        if method == "POST" and patient and not head.info and b"content-encoding" not in headers:
            head.express = route.express
        if method == "POST":
            head.queue = route.queue
        head.handler = handler
        return handler

    def _route(self, path: bytes) -> Route:
        route = self._paths.get(path)
        if route is None:
            route = self._resolve(path)
            if len(self._paths) >= MAX_PATHS:
                self._paths.clear()
            self._paths[path] = route
        return route

    def _resolve(self, path: bytes) -> Route:
        text = path.decode("latin-1")
        route = self._faces.find(text, unquote(text))
        if route is None:
            raise Refusal(404, f"no route {text}; see /docs, or /openapi.json for the routes of this server")
        return route

    def _decompressed(self, handler: Handler, request: Request) -> Outcome:
        """Unfold the body and handle it; beside the event loop where it may become a large one."""
        unfolded = functools.partial(self._unfolded, handler)
        return self._apart(unfolded, request) if len(request.body) >= LARGE_FOLDED else unfolded(request)

    def _unfolded(self, handler: Handler, request: Request) -> Outcome:
        limits, encoding = self._limits, request.head.headers[b"content-encoding"]
        request.body = decompress(request.body, encoding, limits.max_body_bytes, limits.max_ratio)
        return handler(request)


def _handled(handler: Handler, exchange: Request) -> Outcome:
    """What a handler makes of a large body; in a thread that gives way to the event loop more readily than others."""
    if exchange.head.route is None or not exchange.head.route.large:
        exchange.body = bytes(exchange.body)
    usual = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        return handler(exchange)
    finally:
        sys.setswitchinterval(usual)


def _timeout(headers: dict[bytes, bytes]) -> float | None:
    """The caller's own deadline in seconds: X-Request-Timeout in seconds, or what a gateway says in milliseconds."""
    for name, unit in ((b"x-request-timeout", 1.0), (b"x-envoy-expected-rq-timeout-ms", 0.001)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) * unit
        except ValueError:
            seconds = math.nan
        if not seconds > 0:
            raise Refusal(400, f"{name.decode()}: expected a number above 0, got {text.decode('latin-1')!r}")
        return seconds
    return None
