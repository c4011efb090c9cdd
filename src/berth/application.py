"""From a whole request to its answer: dispatch, admission, deadlines, errors, counts.

http.py hands over every complete request and gets exactly one `Response` back through `Reply.answer`, at once or when
the model has run. No sockets here, and no waiting: everything is a callback on the event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol
from urllib.parse import unquote

from berth.admission import Admission
from berth.batching import Batcher
from berth.config import Limits
from berth.errors import InputError
from berth.executor import Answered, Failed, FailureKind, Outcome, new_error_id
from berth.health import Health
from berth.log import Log
from berth.metrics import Metrics
from berth.protocols.base import Handler, Refusal, Request, Response, Route, error_response, failure_response
from berth.protocols.encoding import choose, compress, decompress
from berth.work import Work

_REQUEST_ID = b"x-request-id"
RUN = os.urandom(4).hex()  # tells the request ids of one process from those of the next
_NOT_FOUND = Route("", "unknown", {})


class Face(Protocol):
    """A protocol as the application sees it."""

    def routes(self) -> list[Route]:
        """The routes it serves."""


class Resolver(Protocol):
    """A protocol that also knows other spellings of its paths."""

    def resolve(self, path: str) -> Route | None:
        """The route of a path, if it is one of its own."""


class Exchange(Request):
    """A request with the place where its answer goes; http.py subclasses it."""

    __slots__ = ("number", "route", "started", "work")

    number: int
    route: Route
    started: float
    work: Work | None

    @property
    def request_id(self) -> str:
        """The caller's X-Request-Id when it is a plain short text, or one of our own."""
        given = self.headers.get(_REQUEST_ID)
        if given is not None and len(given) <= 128 and given.isascii() and given.decode("ascii").isprintable():
            return given.decode("ascii")
        return f"{RUN}-{self.number:x}"

    def answer(self, response: Response) -> None:
        """Send the answer; called exactly once."""
        raise NotImplementedError


@dataclass(frozen=True)
class Services:
    """What the application leans on."""

    health: Health
    metrics: Metrics
    log: Log
    admission: Admission
    batcher: Batcher


class Application:
    """All the routes of one server, and every request in flight."""

    def __init__(self, faces: Sequence[Face], resolver: Resolver, services: Services, limits: Limits) -> None:
        self._routes = {route.path.encode(): route for face in faces for route in face.routes()}
        self._handlers = {
            path: {method.encode(): handler for method, handler in route.handlers.items()}
            for path, route in self._routes.items()
        }
        self._resolver = resolver
        self._services = services
        self._metrics = services.metrics
        self._admission = services.admission
        self._log = services.log
        self._log_accesses = services.log.accesses
        self._limit = limits.max_body_bytes
        self._loop = asyncio.get_running_loop()
        services.metrics.watch_pending(self._admission.__len__)
        self._expiry: asyncio.TimerHandle | None = None
        self._numbers = itertools.count(1)

    def tick(self) -> None:
        """Called about twice a second."""
        self._metrics.fold()

    @property
    def in_flight(self) -> int:
        """How many requests the model still owes an answer."""
        return len(self._admission)

    def handle(self, exchange: Exchange) -> None:
        """Take a whole request; its answer may come before this returns."""
        exchange.started = started = perf_counter()
        exchange.work = None
        exchange.number = next(self._numbers)
        exchange.route = _NOT_FOUND
        try:
            outcome = self._dispatch(exchange)
        except Refusal as refusal:
            self._answer(exchange, error_response(refusal.status, refusal.text, refusal.headers))
        except Exception as error:
            self._answer(exchange, self._our_fault(exchange, error))
        else:
            if type(outcome) is Response:
                self._answer(exchange, outcome)
            elif type(outcome) is Work:
                self._admit(exchange, outcome, started)

    def refuse(self, exchange: Exchange, response: Response) -> None:
        """Answer a request that never became whole (too large, malformed, too slow)."""
        exchange.started = perf_counter()
        exchange.work = None
        exchange.number = next(self._numbers)
        exchange.route = _NOT_FOUND
        self._answer(exchange, response)

    def give_up(self, exchange: Exchange) -> None:
        """The caller hung up: its work need not run any more."""
        if exchange.work is not None and not exchange.work.done:
            self._release(exchange.work)
            self._metrics.failures["CANCELED"] += 1

    def _dispatch(self, exchange: Exchange) -> Response | Work:
        path = exchange.path
        handlers = self._handlers.get(path)
        if handlers is not None:
            exchange.route = self._routes[path]
        else:
            handlers = self._resolve(exchange)
        method = exchange.method
        handler = handlers.get(method) or (handlers.get(b"GET") if method == b"HEAD" else None)
        if handler is None:
            allowed = b", ".join(sorted({*handlers, b"HEAD"} if b"GET" in handlers else handlers))
            text = f"{method.decode('latin-1')} is not allowed here; allowed: {allowed.decode()}"
            raise Refusal(405, text, ((b"Allow", allowed),))
        encoding = exchange.headers.get(b"content-encoding")
        if encoding is not None:
            exchange.body = decompress(exchange.body, encoding, self._limit)
        return handler(exchange)

    def _resolve(self, exchange: Exchange) -> dict[bytes, Handler]:
        text = exchange.path.decode("latin-1")
        route = self._resolver.resolve(text) or self._routes.get(unquote(text).encode())
        if route is None:
            raise Refusal(404, f"no route {text}; see /docs, or /openapi.json for the routes of this server")
        exchange.route = route
        return {method.encode(): handler for method, handler in route.handlers.items()}

    def _admit(self, exchange: Exchange, work: Work, started: float) -> None:
        work.arrived = now = perf_counter()
        self._metrics.decode.observe(now - started)
        if not self._admission.admit(work, self._loop.time()):
            self._metrics.failures["REJECTED"] += 1
            text = f"the queue is full ({len(self._admission)} requests, BERTH_MAX_QUEUE); try again"
            self._answer(exchange, error_response(503, text, ((b"Retry-After", b"1"),)))
            return
        work.exchange = exchange
        work.on_outcome = self._deliver
        exchange.work = work
        self._services.batcher.submit(work)
        if self._expiry is None or work.deadline < self._expiry.when():
            self._plan_expiry(work.deadline)

    def _deliver(self, work: Work, outcome: Outcome) -> None:
        exchange = self._release(work)
        if type(outcome) is Answered:
            self._answer(exchange, self._encode(exchange, work, outcome))
        elif type(outcome) is Failed:
            self._answer(exchange, self._model_fault(exchange, work, outcome))

    def _encode(self, exchange: Exchange, work: Work, outcome: Answered) -> Response:
        started = perf_counter()
        try:
            response: Response = work.encode(outcome.answers)
        except InputError as error:
            return error_response(work.input_status, str(error))
        except Exception as error:
            return self._our_fault(exchange, error)
        now = perf_counter()
        self._metrics.encode.observe(now - started)
        self._metrics.request.observe(now - exchange.started)
        self._metrics.successes += 1
        return response

    def _release(self, work: Work) -> Exchange:
        """End a work's life; its exchange, parted from it: a cycle of the two would have to wait for the collector."""
        self._admission.release(work)
        exchange: Exchange = work.exchange
        work.exchange = exchange.work = None
        return exchange

    def _model_fault(self, exchange: Exchange, work: Work, failed: Failed) -> Response:
        self._metrics.failures["BACKEND" if failed.kind is FailureKind.MODEL else "OTHER"] += 1
        if failed.kind is FailureKind.MODEL:
            self._log_failure("predict failed", exchange, failed.error_id, failed.trace)
        return failure_response(failed, work.input_status)

    def _our_fault(self, exchange: Exchange, error: Exception) -> Response:
        error_id = new_error_id()
        self._metrics.failures["OTHER"] += 1
        trace = "".join(traceback.format_exception(error))
        self._log_failure("request failed", exchange, error_id, trace)
        return error_response(500, f"the server failed; the log has the traceback under error id {error_id}")

    def _log_failure(self, message: str, exchange: Exchange, error_id: str, trace: str) -> None:
        fields = {"request_id": exchange.request_id, "route": exchange.route.name, "error_id": error_id}
        self._log.event("error", message, **fields, traceback=trace)

    def _plan_expiry(self, deadline: float) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        for work in self._admission.expired(self._loop.time()):
            waited = perf_counter() - work.arrived
            exchange = self._release(work)
            self._metrics.failures["OTHER"] += 1
            self._answer(exchange, error_response(504, f"no answer within {waited:.3g} s (the request's deadline)"))
        earliest = self._admission.earliest_deadline()
        if earliest is not None:
            self._plan_expiry(earliest)

    def _answer(self, exchange: Exchange, response: Response) -> None:
        accepted = exchange.headers.get(b"accept-encoding")
        if accepted is not None and response.status == 200:
            response = _compressed(response, accepted)
        status, route = response.status, exchange.route.name
        self._metrics.answers[route, status] += 1
        if self._log_accesses:
            identity = exchange.request_id if _REQUEST_ID in exchange.headers else exchange.number
            self._log.access(identity, exchange.method, route, status, perf_counter() - exchange.started)
        exchange.answer(response)


def _compressed(response: Response, accepted: bytes) -> Response:
    encoding = choose(accepted, len(response.body))
    if encoding is None:
        return response
    headers = (*response.headers, (b"Content-Encoding", encoding), (b"Vary", b"Accept-Encoding"))
    return Response(compress(response.body, encoding), response.status, response.content_type, headers)
