"""`Exchange`: a request with the place where its answer goes.

The transports subclass it, and so does a call between models (chain.py); application.py takes it in, answers.py answers
it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from berth.protocols.base import Headers, Request, Response, Route
from berth.tracing import Span
from berth.work import Work

REQUEST_ID = b"x-request-id"
RUN = os.urandom(4).hex()  # tells the request ids of one process from those of the next
NO_ROUTE = Route("", "unknown", {})


class Exchange(Request):
    """A request with the place where its answer goes.

    `queued` (seconds) and `timing` go into Server-Timing; `span` is there when the request is traced; `sent` counts the
    bytes of a stream.
    """

    number: int = 0
    started: float = 0.0
    queued: float = 0.0
    timing: bytes = b""
    work: Work | None = None
    gone: bool = False  # the caller hung up
    span: Span | None = None
    sent: int = 0

    @property
    def server_timing(self) -> bytes:
        """The value of Server-Timing; empty for what no model was asked."""
        if not self.queued:
            return self.timing
        return b"queue;dur=%.3f, %b" % (self.queued * 1000, self.timing)

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

    @property
    def trace_headers(self) -> dict[str, str]:
        """What continues the request's trace elsewhere, after W3C Trace Context; empty when it is of none."""
        span, context = self.span, self.head.trace
        if span is not None:
            parent, state = f"00-{span.trace_id}-{span.span_id}-01", span.state
        elif context is not None:
            parent, state = f"00-{context.trace_id}-{context.parent_id}-{context.sampled:02d}", context.state
        else:
            return {}
        return {"traceparent": parent, "tracestate": state} if state else {"traceparent": parent}

    @property
    def trace_id(self) -> str:
        """The trace that the request belongs to; empty when it is of none."""
        if self.span is not None:
            return self.span.trace_id
        return "" if self.head.trace is None else self.head.trace.trace_id

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
