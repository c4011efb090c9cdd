"""The way back: from a model's outcome, a refusal or a fault to the one answer of an exchange, counted and logged.

`Exchange` is a request with the place where its answer goes; the transports subclass it. application.py answers what
needs no model, served.py hands over what a batch brought.
"""

from __future__ import annotations

import os
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import msgspec

from berth.errors import InputError
from berth.executor import Failed, FailureKind, Finished, failure_of, new_error_id
from berth.log import Log
from berth.metrics import Metrics, ModelMetrics
from berth.protocols.base import Headers, Refusal, Request, Response, Route, failure_text
from berth.protocols.encoding import choose, compress
from berth.work import StreamEncoder, Work

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
    def gone(self) -> bool:
        """Whether nobody waits for more of the answer, as far as the transport can tell."""
        return False

    @property
    def request_id(self) -> str:
        """The caller's X-Request-Id when it is a plain short text, or one of our own."""
        given = self.headers.get(REQUEST_ID)
        if given is not None and len(given) <= 128 and given.isascii() and given.decode("ascii").isprintable():
            return given.decode("ascii")
        return f"{RUN}-{self.number:x}"

    def answer(self, response: Response) -> None:
        """Send the answer; called exactly once, or `begin` instead."""
        raise NotImplementedError

    def begin(self, response: Response) -> None:
        """Begin a stream: status, headers, and a first piece if the response has a body."""
        raise NotImplementedError

    def send(self, data: bytes) -> bool:
        """Another piece of a stream; False when the caller is behind, and `on_room` should be waited for."""
        raise NotImplementedError

    def end(self, data: bytes = b"", trailers: Headers = ()) -> None:
        """The end of a stream."""
        raise NotImplementedError

    def on_room(self, callback: Callable[[], object]) -> None:
        """Call back when the caller has caught up, or is gone."""
        raise NotImplementedError


class Answers:
    """Everything that can become of an exchange."""

    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._counts = metrics.answers
        self._log = log

    def answer(self, exchange: Exchange, response: Response) -> None:
        """Count, log and send."""
        accepted = exchange.head.headers.get(b"accept-encoding")
        if accepted is not None and response.status == 200:
            response = _compressed(response, accepted)
        self._note(exchange, response.status)
        exchange.answer(response)

    def _note(self, exchange: Exchange, status: int) -> None:
        """Count and log."""
        work, exchange.work = exchange.work, None  # parted: a cycle of the two would have to wait for the collector
        head = exchange.head
        route = (head.route or NO_ROUTE).name
        self._counts["" if work is None else work.queue.metrics.labels, route, status] += 1
        log = self._log
        if log.access_budget > 0 or status >= 400:
            identity = exchange.request_id if REQUEST_ID in head.headers else exchange.number
            log.access(identity, head.method, route, status, perf_counter() - exchange.started)
        else:
            log.access_skipped += 1

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
                if work.stream is not None:
                    self._stream_once(exchange, work.stream, outcome)
                    continue
                response: Response = work.encode(outcome)
                if work.cache_status:
                    response = _with_cache_status(response, work)
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

    def _stream_once(self, exchange: Exchange, stream: StreamEncoder, answers: list[Any]) -> None:
        """A stream was asked for, and the model answers once."""
        pieces = b"".join(map(stream.item, answers)) + stream.end()
        head: Response = stream.head()
        self.answer(exchange, msgspec.structs.replace(head, body=head.body + pieces))

    def _answer_simply(self, exchange: Exchange, response: Response) -> str | None:
        """Send an answer that needs no line in the log and no encoding; its route, which the caller counts."""
        head = exchange.head
        if not self.plain or response.status != 200 or b"accept-encoding" in head.headers:
            return None
        exchange.work = None
        exchange.answer(response)
        return head.route.name if head.route is not None else NO_ROUTE.name

    def stream_item(self, work: Work, value: Any) -> bool:
        """One item of a stream goes out, or is kept for a caller who wants all at once; False: the caller is behind."""
        if work.stream is None:
            work.items.append(value)
            return True
        exchange: Exchange = work.exchange
        try:
            piece = work.stream.item(value)
            if not work.begun:
                work.begun = True
                exchange.begin(work.stream.head())
            work.deadline = perf_counter() + (work.deadline - work.arrived)
            work.arrived = perf_counter()
            return exchange.send(piece)
        except Exception as error:
            self.stream_end(work, failure_of(error))
            return True

    def stream_end(self, work: Work, failed: Failed | None) -> None:
        """A stream is at its end."""
        exchange: Exchange = work.queue.release(work)
        metrics = work.queue.metrics
        if not work.begun:
            self._answer_whole(exchange, work, failed)
        elif failed is None:
            self._finish(exchange, 200, work.stream.end() if work.stream else b"")
        else:
            status, text = self._count_failure(exchange, work, failed)
            self._finish(exchange, status, work.stream.failed(status, text) if work.stream else b"")
        if failed is None:
            metrics.successes += 1
            metrics.request.observe(perf_counter() - exchange.started)

    def _answer_whole(self, exchange: Exchange, work: Work, failed: Failed | None) -> None:
        """A stream of which nothing has been sent: an ordinary answer."""
        if failed is not None:
            self._failed(exchange, work, failed)
            return
        try:
            if work.stream is None:
                self.answer(exchange, work.encode(work.items))
            else:  # it yielded nothing
                exchange.begin(work.stream.head())
                self._finish(exchange, 200, work.stream.end())
        except InputError as error:
            self.refuse(exchange, work.input_status, str(error))
        except Exception as error:
            self.fault(exchange, error)

    def _finish(self, exchange: Exchange, status: int, data: bytes) -> None:
        """Count, log and end a stream."""
        self._note(exchange, status)
        exchange.end(data)

    def expire(self, work: Work) -> None:
        """Tell the caller that the deadline has passed."""
        exchange: Exchange = work.queue.release(work)
        work.queue.metrics.failures["OTHER"] += 1
        waited = perf_counter() - work.arrived
        if work.stream is not None and work.begun:
            self._finish(exchange, 504, work.stream.failed(504, f"no further item within {waited:.3g} s"))
            return
        self.refuse(exchange, 504, f"no answer within {waited:.3g} s (the request's deadline)")

    def fault(self, exchange: Exchange, error: Exception) -> None:
        """Answer for a fault of ours."""
        self.answer(exchange, self._fault(exchange, error))

    def refusal(self, exchange: Exchange, refusal: Refusal) -> None:
        """Answer what a protocol or a queue refused."""
        self.refuse(exchange, refusal.status, refusal.text, refusal.headers)

    def _failed(self, exchange: Exchange, work: Work, failed: Failed) -> None:
        status, text = self._count_failure(exchange, work, failed)
        self.refuse(exchange, status, text)

    def _count_failure(self, exchange: Exchange, work: Work, failed: Failed) -> tuple[int, str]:
        """Count and log a failure; status and text for the caller."""
        of_model = failed.kind is not FailureKind.INPUT
        work.queue.metrics.failures["BACKEND" if of_model else "OTHER"] += 1
        if of_model:
            self._log_failure("predict failed", exchange, failed.error_id, failed.trace)
        return 500 if of_model else work.input_status, failure_text(failed)

    def _fault(self, exchange: Exchange, error: Exception) -> Response:
        error_id = new_error_id()
        trace = "".join(traceback.format_exception(error))
        self._log_failure("request failed", exchange, error_id, trace)
        text = f"the server failed; the log has the traceback under error id {error_id}"
        return exchange.route.error(500, text, ())

    def _log_failure(self, message: str, exchange: Exchange, error_id: str, trace: str) -> None:
        fields = {"request_id": exchange.request_id, "route": exchange.route.name, "error_id": error_id}
        self._log.event("error", message, **fields, traceback=trace)


def _with_cache_status(response: Response, work: Work) -> Response:
    headers = (*response.headers, (b"Cache-Status", work.cache_status))
    if work.age is not None:
        headers += ((b"Age", b"%d" % work.age),)
    return msgspec.structs.replace(response, headers=headers)


def _compressed(response: Response, accepted: bytes) -> Response:
    encoding = choose(accepted, len(response.body))
    if encoding is None:
        return response
    headers = (*response.headers, (b"Content-Encoding", encoding), (b"Vary", b"Accept-Encoding"))
    return Response(compress(response.body, encoding), response.status, response.content_type, headers)
