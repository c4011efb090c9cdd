"""The way back: from a model's outcome, a refusal or a fault to the one answer of an exchange, counted and logged.

application.py answers what needs no model, served.py hands over what a batch brought.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import Any

import msgspec

from berth.errors import InputError
from berth.exchange import NO_ROUTE, REQUEST_ID, Exchange
from berth.executor import Failed, FailureKind, Finished, failure_of, new_error_id
from berth.info import NOTHING, Info
from berth.log import Access, Log
from berth.metrics import Metrics, ModelMetrics
from berth.protocols.base import Head, Headers, Refusal, Response, Route, failure_text
from berth.protocols.encoding import choose, compress
from berth.tracing import Span, Traced, Tracer
from berth.work import StreamEncoder, Work

_RETRY: Headers = ((b"Retry-After", b"1"),)
_FAILURES = {  # Triton's reason, and the status; whoever sent bad input is told by the protocol's word for it
    FailureKind.MODEL: ("BACKEND", 500),
    FailureKind.BUSY: ("REJECTED", 503),
    FailureKind.LATE: ("OTHER", 504),
}
_MAX_TRACED_TEXT = 1024  # characters of a path or the like in a span


class Answers:
    """Everything that can become of an exchange."""

    def __init__(self, metrics: Metrics, log: Log, tracer: Tracer | None = None, info: Info = NOTHING) -> None:
        self._counts = metrics.answers
        self._log = log
        self.info = info
        self.tracer = tracer

    def answer(self, exchange: Exchange, response: Response) -> None:
        """Count, log and send."""
        accepted = exchange.head.headers.get(b"accept-encoding")
        if accepted is not None and response.status == 200 and not exchange.route.plain:
            response = _compressed(response, accepted)
        if exchange.head.info:
            response = self._informed(exchange, response)
        self._note(exchange, response.status, len(response.body))
        exchange.answer(response)

    def _informed(self, exchange: Exchange, response: Response) -> Response:
        of = _metrics_of(exchange.head.route, exchange.work)
        return self.info.add(response, of, asked=b"prefer" in exchange.headers)

    def _note(self, exchange: Exchange, status: int, sent: int) -> None:
        """Count, log and trace an answer of so many bytes."""
        work, exchange.work = exchange.work, None  # parted: a cycle of the two would have to wait for the collector
        head = exchange.head
        route = (head.route or NO_ROUTE).name
        metrics = _metrics_of(head.route, work)
        self._counts["" if metrics is None else metrics.labels, route, status] += 1
        if metrics is not None and work is None and status >= 400 and status != 405:
            metrics.failures["OTHER"] += 1  # refused before it was work for the model
        if metrics is not None and not exchange.timing:
            exchange.timing = b"total;dur=%.3f" % ((perf_counter() - exchange.started) * 1000)
        log = self._log
        if log.access_budget > 0 or (status >= 400 and status != 503):  # a flood of refusals is only counted, too
            identity = exchange.request_id if REQUEST_ID in head.headers else exchange.number
            model, version = ("", "") if metrics is None else (metrics.model, metrics.version)
            what = (head.method, route, status, model, version)
            seconds = perf_counter() - exchange.started
            log.access(Access(identity, what, seconds, len(exchange.body), sent, exchange.trace_id))
        else:
            log.access_skipped += 1
        if exchange.span is not None:
            self.trace(exchange, status, sent, metrics)

    def trace(self, exchange: Exchange, status: int, sent: int, metrics: ModelMetrics | None) -> None:
        """Hand a traced request over, now that it has its answer of so many bytes, or nobody waits for one."""
        if exchange.span is not None and self.tracer is not None:
            self.tracer.finish(_traced(exchange, exchange.span, status, sent, metrics))

    def trace_plain(
        self, asked: Iterable[tuple[Head, bytes, float, int]], began: float, seconds: float, metrics: ModelMetrics
    ) -> None:
        """Trace requests that an express lane answered as one batch, which ran for `seconds`: of each the head, the
        body, when it arrived, and how many bytes its answer had."""
        if self.tracer is None:
            return
        asked = list(asked)
        for head, body, arrived, sent in asked:
            span = self.tracer.begin(head.trace, for_model=True)
            if span is not None:
                span.arrived = arrived
                span.ran(seconds, len(asked))
                exchange = Exchange(head, body, started=arrived, queued=began - arrived, span=span)
                self.trace(exchange, 200, sent, metrics)

    def refuse(self, exchange: Exchange, status: int, text: str, headers: Headers = ()) -> None:
        """Answer with an error, in the shape of the exchange's route."""
        self.answer(exchange, exchange.route.error(status, text, headers))

    def deliver(self, works: Sequence[Work], finished: Finished) -> None:
        """Answer everyone whose work was in a batch and who still waits."""
        queue = works[0].queue
        queue.release_all(works)
        timing = b'predict;dur=%.3f;desc="%d requests"' % (finished.seconds * 1000, len(works))
        if works[0].age is not None:
            timing = b"cache;desc=hit"
        now = perf_counter()
        began = now - finished.seconds
        if finished.runs > 1:  # runs side by side take more seconds than have passed
            began = max(began, *(work.arrived for work in works))
        encoded: list[float] = []
        whole: list[float] = []
        routes: list[str] = []
        for work, outcome in zip(works, finished.outcomes, strict=True):
            exchange: Exchange | None = work.exchange
            if exchange is None:
                continue
            work.exchange = None
            exchange.queued = began - work.arrived
            exchange.timing = timing
            if exchange.span is not None and finished.runs:
                exchange.span.ran(finished.seconds, len(works))
            if isinstance(outcome, Failed):
                self._failed(exchange, work, outcome)
                continue
            try:
                if work.stream is not None:
                    self._stream_once(exchange, work.stream, outcome)
                else:
                    response: Response = work.encode(outcome)
                    if work.cache_status:
                        response = _with_cache_status(response, work)
                    route = self._answer_simply(exchange, response)
                    if route is None:
                        self.answer(exchange, response)
                    else:
                        routes.append(route)
            except Exception as error:
                self._not_encoded(exchange, work, error)
                continue
            before, now = now, perf_counter()
            encoded.append(now - before)
            whole.append(now - exchange.started)
        metrics = queue.metrics
        metrics.encode.observe_all(encoded)
        metrics.request.observe_all(whole)
        metrics.successes += len(whole) - len(routes)
        metrics.computed += finished.seconds * len(whole)
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

    def count_refused(self, head: Head, times: int = 1) -> None:
        """Requests of a flood were turned away: count them, as `answer` does when it logs nothing."""
        route = head.route or NO_ROUTE
        self._counts["" if route.metrics is None else route.metrics.labels, route.name, 503] += times
        self._log.access_skipped += times

    def _stream_once(self, exchange: Exchange, stream: StreamEncoder, answers: list[Any]) -> None:
        """A stream was asked for, and the model answers once."""
        pieces = b"".join(map(stream.item, answers)) + stream.end()
        head: Response = stream.head()
        self.answer(exchange, msgspec.structs.replace(head, body=head.body + pieces))

    def _answer_simply(self, exchange: Exchange, response: Response) -> str | None:
        """Send an answer that needs no line in the log and no encoding; its route, which the caller counts."""
        head = exchange.head
        if not self.plain or response.status != 200 or not head.ordinary or exchange.span is not None:
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
                seconds = perf_counter() - work.arrived - exchange.queued
                exchange.timing = b'predict;dur=%.3f;desc="first item"' % (seconds * 1000)
                self._begin(exchange, work.stream)
            work.deadline = perf_counter() + (work.deadline - work.arrived)
            work.arrived = perf_counter()
            exchange.sent += len(piece)
            return exchange.send(piece)
        except Exception as error:
            self.stream_end(work, failure_of(error))
            return True

    def _begin(self, exchange: Exchange, stream: StreamEncoder) -> None:
        head: Response = stream.head()
        exchange.begin(self._informed(exchange, head) if exchange.head.info else head)

    def stream_end(self, work: Work, failed: Failed | None) -> None:
        """A stream is at its end."""
        exchange: Exchange = work.queue.release(work)
        metrics = work.queue.metrics
        if exchange.span is not None:
            exchange.span.ran(perf_counter() - exchange.span.arrived - exchange.queued, 1)
        if failed is not None and work.begun:
            status, text = self._count_failure(exchange, work, failed)
            self._finish(exchange, status, work.stream.failed(status, text) if work.stream else b"")
            return
        if failed is not None:
            self._failed(exchange, work, failed)
            return
        if work.begun:
            self._finish(exchange, 200, work.stream.end() if work.stream else b"")
        elif not self._answer_whole(exchange, work):
            return
        metrics.successes += 1
        metrics.request.observe(perf_counter() - exchange.started)

    def _answer_whole(self, exchange: Exchange, work: Work) -> bool:
        """A stream of which nothing has been sent: an ordinary answer. Whether it could be encoded."""
        try:
            if work.stream is None:
                self.answer(exchange, work.encode(work.items))
            else:  # it yielded nothing
                self._begin(exchange, work.stream)
                self._finish(exchange, 200, work.stream.end())
        except Exception as error:
            self._not_encoded(exchange, work, error)
            return False
        return True

    def _not_encoded(self, exchange: Exchange, work: Work, error: Exception) -> None:
        """The model has answered, and the protocol cannot write it down."""
        wrong_input = isinstance(error, InputError)
        work.queue.metrics.failures["OTHER" if wrong_input else "BACKEND"] += 1
        if wrong_input:
            self.refuse(exchange, work.input_status, str(error))
        else:
            self.fault(exchange, error)

    def _finish(self, exchange: Exchange, status: int, data: bytes) -> None:
        """Count, log and end a stream."""
        self._note(exchange, status, exchange.sent + len(data))
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
        self.refuse(exchange, status, text, _RETRY if failed.kind is FailureKind.BUSY else ())

    def _count_failure(self, exchange: Exchange, work: Work, failed: Failed) -> tuple[int, str]:
        """Count and log a failure; status and text for the caller."""
        reason, status = _FAILURES.get(failed.kind, ("OTHER", work.input_status))
        work.queue.metrics.failures[reason] += 1
        if failed.kind is FailureKind.MODEL:
            self._log_failure("predict failed", exchange, failed.error_id, failed.trace)
        return status, failure_text(failed)

    def _fault(self, exchange: Exchange, error: Exception) -> Response:
        error_id = new_error_id()
        trace = "".join(traceback.format_exception(error))
        self._log_failure("request failed", exchange, error_id, trace)
        text = f"the server failed; the log has the traceback under error id {error_id}"
        return exchange.route.error(500, text, ())

    def _log_failure(self, message: str, exchange: Exchange, error_id: str, trace: str) -> None:
        fields = {"request_id": exchange.request_id, "route": exchange.route.name, "error_id": error_id}
        metrics = _metrics_of(exchange.head.route, exchange.work)
        if metrics is not None:
            fields |= {"model": metrics.model, "version": metrics.version}
        if exchange.trace_id:
            fields["trace_id"] = exchange.trace_id
        self._log.event("error", message, **fields, traceback=trace)


def _traced(exchange: Exchange, span: Span, status: int, sent: int, metrics: ModelMetrics | None) -> Traced:
    head = exchange.head
    return Traced(
        span,
        method=head.method.decode("latin-1"),
        path=head.path[:_MAX_TRACED_TEXT].decode("latin-1"),
        route=exchange.route.path,
        user_agent=head.headers.get(b"user-agent", b"")[:_MAX_TRACED_TEXT].decode("latin-1"),
        status=status,
        started=exchange.started,
        ended=perf_counter(),
        queued=exchange.queued,
        received=len(exchange.body),
        sent=sent,
        model="" if metrics is None else metrics.model,
        version="" if metrics is None else metrics.version,
    )


def _metrics_of(route: Route | None, work: Work | None) -> ModelMetrics | None:
    """The counts of the model that a request was for, if it was for one."""
    if work is not None:
        return work.queue.metrics
    return None if route is None else route.metrics


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
