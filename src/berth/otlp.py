"""Traces to a collector: OTLP over HTTP, in its JSON form, from a thread of its own.

The event loop only appends to a bounded list. Spans that come while it is full, or that the collector does not take in
time, are dropped and counted; serving never waits for them. server.py imports this module only when the environment
names a collector, for nobody else should pay for an HTTP client.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

import berth
from berth.tracing import CALL, HUNG_UP, Span, Traced, TraceSettings

MAX_WAITING = 2048
BATCH = 512
PAUSE_S = 1.0  # requests that end within this time are sent together
ATTEMPTS = 3
BACK_OFF_S = 0.5  # after the first attempt; doubled for the next
MOST_OFTEN_S = 60.0  # how often a collector that does not answer is told of in the log
_MAX_ANSWER = 65_536
_TRY_AGAIN = (429, 502, 503, 504)
_SERVER, _INTERNAL = 2, 1  # kinds of span
_ERROR = 2

Event = Callable[..., None]  # Log.event: level, message, fields


class Exporter:
    """Sends traced requests. `start` before use, `close` to send what is left; `counts` says what became of them."""

    def __init__(self, settings: TraceSettings, resource: Mapping[str, str], event: Event) -> None:
        self.counts: Counter[str] = Counter({"exported": 0, "dropped": 0})
        attributes = {**resource, **dict(settings.resource)}
        self._resource = {"attributes": [_attribute(name, value) for name, value in attributes.items()]}
        self._collector = _Collector(settings)
        self._event = event
        self._waiting: deque[Traced] = deque()
        self._news = threading.Event()
        self._enough = threading.Event()
        self._closing = threading.Event()
        self._complained = -MOST_OFTEN_S
        self._thread = threading.Thread(target=self._work, name="traces", daemon=True)

    def start(self) -> None:
        """Start the sending thread."""
        self._thread.start()

    def add(self, traced: Traced) -> None:
        """Send a request some time soon; from the event loop."""
        if len(self._waiting) >= MAX_WAITING:
            self.counts["dropped"] += 1
            return
        self._waiting.append(traced)
        if not self._news.is_set():
            self._news.set()
        if len(self._waiting) >= BATCH:
            self._enough.set()

    def close(self, deadline: float = 2.0) -> None:
        """Send what is left, waiting at most so many seconds."""
        self._closing.set()
        self._enough.set()
        self._news.set()
        self._thread.join(deadline)

    def _work(self) -> None:
        while True:
            self._news.wait()
            self._enough.wait(PAUSE_S)
            last = self._closing.is_set()
            self._news.clear()
            self._enough.clear()
            while self._waiting:
                self._send([self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))])
            if last:
                self._collector.close()
                return

    def _send(self, batch: list[Traced]) -> None:
        problem = self._deliver(self._document(batch))
        self.counts["dropped" if problem else "exported"] += len(batch)
        now = time.monotonic()
        if problem and now - self._complained >= MOST_OFTEN_S:
            self._complained = now
            self._event("warning", "traces not sent", reason=problem, requests=len(batch))

    def _deliver(self, document: bytes) -> str:
        """Post a document, again after a pause where that may help; what went wrong in the end, or nothing."""
        problem = ""
        for attempt in range(ATTEMPTS):
            try:
                status = self._collector.post(document)
            except (OSError, http.client.HTTPException) as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if 200 <= status < 300:
                    return ""
                problem = f"the collector answered {status}"
                if status not in _TRY_AGAIN:
                    return problem
            if self._closing.wait(BACK_OFF_S * 2**attempt):
                break
        return problem

    def _document(self, batch: list[Traced]) -> bytes:
        scope = {"name": "berth", "version": berth.__version__}
        spans = [span for traced in batch for span in _spans(traced)]
        return msgspec.json.encode(
            {"resourceSpans": [{"resource": self._resource, "scopeSpans": [{"scope": scope, "spans": spans}]}]}
        )


class _Collector:
    """The collector's end of the line; a connection is kept, and made anew after every trouble."""

    def __init__(self, settings: TraceSettings) -> None:
        parts = urlsplit(settings.endpoint)
        self._path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        self._headers = {"Content-Type": "application/json", "User-Agent": f"berth/{berth.__version__}"}
        self._headers |= dict(settings.headers)
        host = parts.hostname or ""
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(host, parts.port, timeout=settings.timeout, context=context)
        else:
            self._connection = http.client.HTTPConnection(host, parts.port, timeout=settings.timeout)

    def post(self, document: bytes) -> int:
        """The status of the answer; OSError or HTTPException when there is none."""
        try:
            self._connection.request("POST", self._path, document, self._headers)
            answer = self._connection.getresponse()
            if len(answer.read(_MAX_ANSWER)) == _MAX_ANSWER:
                self._connection.close()  # whoever says so much is not read to the end
            return answer.status
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def _spans(traced: Traced) -> Iterator[dict[str, Any]]:
    """The server's span of a request, and one for each part of its way."""
    span, end = traced.span, traced.ended
    called = traced.method == CALL.decode()
    name = f"call {traced.model}" if called else f"{traced.method} {traced.route}".strip()
    zero = time.time_ns() - int(time.perf_counter() * 1e9)  # when the performance counter was nought
    whole = _span(span, span.span_id, span.parent_id, name, (zero, traced.started, end))
    whole["kind"] = _INTERNAL if called else _SERVER
    whole["attributes"] = [_attribute(name, value) for name, value in _attributes(traced).items()]
    if _error_type(traced.status):
        whole["status"] = {"code": _ERROR}
    yield whole
    if not span.arrived:
        return
    ran_from = span.arrived + traced.queued if span.together else end
    ran_until = min(ran_from + span.run_seconds, end)
    parts = [("decode", traced.started, span.arrived), ("queue", span.arrived, ran_from)]
    parts += [("predict", ran_from, ran_until), ("encode", ran_until, end)] if span.together else []
    for number, (name, began, ended) in enumerate(parts, 1):
        part_id = f"{int(span.span_id, 16) ^ number:016x}"
        part = _span(span, part_id, span.span_id, name, (zero, began, ended))
        if name == "predict":
            part["attributes"] = [_attribute("berth.batch.requests", span.together)]
        yield part


def _span(of: Span, span_id: str, parent_id: str, name: str, times: tuple[int, float, float]) -> dict[str, Any]:
    zero, began, ended = times
    span: dict[str, Any] = {
        "traceId": of.trace_id,
        "spanId": span_id,
        "name": name,
        "kind": _INTERNAL,
        "startTimeUnixNano": str(zero + int(began * 1e9)),
        "endTimeUnixNano": str(zero + int(max(began, ended) * 1e9)),
    }
    if parent_id:
        span["parentSpanId"] = parent_id
    if of.state:
        span["traceState"] = of.state
    return span


def _attributes(traced: Traced) -> dict[str, str | int]:
    """What OpenTelemetry's conventions for HTTP servers ask for, and the model: that alone for a call."""
    if traced.method == CALL.decode():
        called: dict[str, str | int] = {"berth.model.name": traced.model, "berth.model.version": traced.version}
        return called | ({"error.type": _error_type(traced.status)} if _error_type(traced.status) else {})
    found: dict[str, str | int] = {
        "http.request.method": traced.method,
        "url.path": traced.path,
        "url.scheme": "http",
        "http.request.body.size": traced.received,
        "http.response.body.size": traced.sent,
    }
    optional = {
        "http.route": traced.route,
        "user_agent.original": traced.user_agent,
        "berth.model.name": traced.model,
        "berth.model.version": traced.version,
        "error.type": _error_type(traced.status),
    }
    if traced.status != HUNG_UP:
        found["http.response.status_code"] = traced.status
    return found | {name: value for name, value in optional.items() if value}


def _error_type(status: int) -> str:
    if status == HUNG_UP:
        return "canceled"
    return str(status) if status >= 500 else ""


def _attribute(name: str, value: str | int) -> dict[str, Any]:
    """Whole numbers are texts in OTLP's JSON, as protobuf has it."""
    return {"key": name, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
