"""The way back: from a model's outcome, a refusal or a fault to the one answer of an exchange, counted and logged.

`Exchange` is a request with the place where its answer goes; the transports subclass it. application.py answers what
needs no model, served.py hands over what a batch brought.
"""

from __future__ import annotations

import os
import traceback
from collections import Counter
from collections.abc import Sequence
from time import perf_counter

from berth.errors import InputError
from berth.executor import Failed, FailureKind, Finished, new_error_id
from berth.log import Log
from berth.metrics import Metrics, ModelMetrics
from berth.protocols.base import Headers, Refusal, Request, Response, Route, failure_text
from berth.protocols.encoding import choose, compress
from berth.work import Work

REQUEST_ID = b"x-request-id"
RUN = os.urandom(4).hex()  # tells the request ids of one process from those of the next
NO_ROUTE = Route("", "unknown", {})


class Exchange(Request):
    """A request with the place where its answer goes; `queued` (seconds) and `timing` go into Server-Timing."""

    number: int = 0
    started: float = 0.0
    queued: float = 0.0
    timing: bytes = b""
    work: Work | None = None

    @property
    def route(self) -> Route:
        """Where the request went."""
        return self.head.route or NO_ROUTE

    @property
    def request_id(self) -> str:
        """The caller's X-Request-Id when it is a plain short text, or one of our own."""
        given = self.headers.get(REQUEST_ID)
        if given is not None and len(given) <= 128 and given.isascii() and given.decode("ascii").isprintable():
            return given.decode("ascii")
        return f"{RUN}-{self.number:x}"

    def answer(self, response: Response) -> None:
        """Send the answer; called exactly once."""
        raise NotImplementedError


class Answers:
    """Everything that can become of an exchange."""

    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._counts = metrics.answers
        self._log = log

    def answer(self, exchange: Exchange, response: Response) -> None:
        """Count, log and send."""
        head = exchange.head
        headers = head.headers
        status = response.status
        if b"accept-encoding" in headers and status == 200:
            response = _compressed(response, headers[b"accept-encoding"])
        work, exchange.work = exchange.work, None  # parted: a cycle of the two would have to wait for the collector
        route = (head.route or NO_ROUTE).name
        self._counts["" if work is None else work.queue.metrics.labels, route, status] += 1
        log = self._log
        if log.access_budget > 0 or status >= 400:
            identity = exchange.request_id if REQUEST_ID in headers else exchange.number
            log.access(identity, head.method, route, status, perf_counter() - exchange.started)
        else:
            log.access_skipped += 1
        exchange.answer(response)

    def refuse(self, exchange: Exchange, status: int, text: str, headers: Headers = ()) -> None:
        """Answer with an error, in the shape of the exchange's route."""
        self.answer(exchange, exchange.route.error(status, text, headers))

    def deliver(self, works: Sequence[Work], finished: Finished) -> None:
        """Answer everyone whose work was in a batch and who still waits."""
        queue = works[0].queue
        queue.release_all(works)
        timing = b'predict;dur=%.3f;desc="%d requests"' % (finished.seconds * 1000, len(works))
        now = perf_counter()
        began = now - finished.seconds
        encoded: list[float] = []
        whole: list[float] = []
        routes: list[str] = []
        for work, outcome in zip(works, finished.outcomes, strict=True):
            exchange: Exchange | None = work.exchange
            if exchange is None:
                continue
            work.exchange = None
            if isinstance(outcome, Failed):
                self._failed(exchange, work, outcome)
                continue
            exchange.queued = began - work.arrived
            exchange.timing = timing
            try:
                response: Response = work.encode(outcome)
                route = self._answer_simply(exchange, response)
                if route is None:
                    self.answer(exchange, response)
                else:
                    routes.append(route)
            except InputError as error:
                self.refuse(exchange, work.input_status, str(error))
            except Exception as error:
                self.fault(exchange, error)
            before, now = now, perf_counter()
            encoded.append(now - before)
            whole.append(now - exchange.started)
        metrics = queue.metrics
        metrics.encode.observe_all(encoded)
        metrics.request.observe_all(whole)
        metrics.successes += len(whole) - len(routes)
        for route, count in Counter(routes).items():
            self.count_plain(metrics, route, count)

    @property
    def plain(self) -> bool:
        """Whether answers that went well are only counted just now, not logged one by one."""
        return self._log.access_budget <= 0

    def count_plain(self, metrics: ModelMetrics, route: str, count: int) -> None:
        """Requests that went well and are not logged one by one."""
        metrics.successes += count
        self._counts[metrics.labels, route, 200] += count
        self._log.access_skipped += count

    def _answer_simply(self, exchange: Exchange, response: Response) -> str | None:
        """Send an answer that needs no line in the log and no encoding; its route, which the caller counts."""
        head = exchange.head
        if not self.plain or response.status != 200 or b"accept-encoding" in head.headers:
            return None
        exchange.work = None
        exchange.answer(response)
        return head.route.name if head.route is not None else NO_ROUTE.name

    def expire(self, work: Work) -> None:
        """Tell the caller that the deadline has passed."""
        exchange: Exchange = work.queue.release(work)
        work.queue.metrics.failures["OTHER"] += 1
        waited = perf_counter() - work.arrived
        self.refuse(exchange, 504, f"no answer within {waited:.3g} s (the request's deadline)")

    def fault(self, exchange: Exchange, error: Exception) -> None:
        """Answer for a fault of ours."""
        self.answer(exchange, self._fault(exchange, error))

    def refusal(self, exchange: Exchange, refusal: Refusal) -> None:
        """Answer what a protocol or a queue refused."""
        self.refuse(exchange, refusal.status, refusal.text, refusal.headers)

    def _failed(self, exchange: Exchange, work: Work, failed: Failed) -> None:
        of_model = failed.kind is not FailureKind.INPUT
        work.queue.metrics.failures["BACKEND" if of_model else "OTHER"] += 1
        if of_model:
            self._log_failure("predict failed", exchange, failed.error_id, failed.trace)
        self.refuse(exchange, 500 if of_model else work.input_status, failure_text(failed))

    def _fault(self, exchange: Exchange, error: Exception) -> Response:
        error_id = new_error_id()
        trace = "".join(traceback.format_exception(error))
        self._log_failure("request failed", exchange, error_id, trace)
        text = f"the server failed; the log has the traceback under error id {error_id}"
        return exchange.route.error(500, text, ())

    def _log_failure(self, message: str, exchange: Exchange, error_id: str, trace: str) -> None:
        fields = {"request_id": exchange.request_id, "route": exchange.route.name, "error_id": error_id}
        self._log.event("error", message, **fields, traceback=trace)


def _compressed(response: Response, accepted: bytes) -> Response:
    encoding = choose(accepted, len(response.body))
    if encoding is None:
        return response
    headers = (*response.headers, (b"Content-Encoding", encoding), (b"Vary", b"Accept-Encoding"))
    return Response(compress(response.body, encoding), response.status, response.content_type, headers)
