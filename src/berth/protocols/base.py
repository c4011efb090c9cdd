"""What every protocol speaks: `Request` in, `Response` or `Work` out, `Refusal` for everything that is wrong.

A protocol is a set of routes. A handler answers at once (`Response`), or gives `Work` for a model together with the
function that turns answers into a `Response`, or, for the rare slow thing, a coroutine. application.py dispatches; the
transports turn both into bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import msgspec

from berth.errors import InputError
from berth.executor import Failed, FailureKind
from berth.metrics import ModelMetrics
from berth.tracing import TraceContext
from berth.work import Queue, Work

JSON = b"application/json"
HTML = b"text/html; charset=utf-8"
BINARY = b"application/octet-stream"

Headers = tuple[tuple[bytes, bytes], ...]


class Head(msgspec.Struct, eq=False):
    """A request's first lines: `path` is still percent-encoded and without its query; header names in lower case.

    Requests with the same first lines share one head, and what the application found for it: `route`, `handler`,
    `express`, and the `queue` that its model's requests wait in.
    """

    method: bytes
    path: bytes
    query: bytes
    headers: dict[bytes, bytes]
    keep_alive: bool = True
    route: Route | None = None
    handler: Handler | None = None
    express: Express | None = None
    queue: Queue | None = None
    timeout: float | None = None  # seconds, the caller's own
    trace: TraceContext | None = None
    info: bool = False  # the answer is to say which model it is of
    ordinary: bool = False  # the answer is as the protocol makes it: not compressed, no header more
    declined: int = 0  # requests that the express lane could not take
    shared: Head | None = None  # the head that this one is a copy of, with values of its own


class Request(msgspec.Struct, eq=False):
    """One request, whole."""

    head: Head
    body: bytes

    @property
    def method(self) -> bytes:
        """The method, in upper case."""
        return self.head.method

    @property
    def path(self) -> bytes:
        """Still percent-encoded, without the query."""
        return self.head.path

    @property
    def query(self) -> bytes:
        """What follows the question mark."""
        return self.head.query

    @property
    def headers(self) -> dict[bytes, bytes]:
        """By name, in lower case."""
        return self.head.headers


class Response(msgspec.Struct, frozen=True):
    """One answer; `trailers` travel only where the transport has them."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: Headers = ()
    trailers: Headers = ()


class Refusal(Exception):  # noqa: N818  it is an answer, not a fault of ours
    """A request that is answered with an error; the text says what was expected and what came.

    `stands`: nothing has changed since that could let anybody in who was refused so.
    """

    stands = False

    def __init__(self, status: int, text: str, headers: Headers = ()) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers


Handler = Callable[[Request], "Response | Work | Coroutine[Any, Any, Response | Work]"]


def json_response(value: Any, status: int = 200, headers: Headers = ()) -> Response:
    """A value as a JSON answer."""
    return Response(msgspec.json.encode(value), status, JSON, headers)


def error_response(status: int, text: str, headers: Headers = ()) -> Response:
    """`{"error": text}`, the usual shape of errors on JSON routes."""
    return json_response({"error": text}, status, headers)


class PlainConnection(Protocol):
    """A connection as an express lane sees it."""

    def answer_plain(self, head: Head, body: bytes, queued: float, timing: bytes) -> None:
        """Send 200 with a JSON body; `queued` (seconds) and `timing` go into Server-Timing."""

    def go_general(self, head: Head, body: bytes) -> None:
        """Hand the request to the application after all."""


class Express(Protocol):
    """A short way for requests that need nothing out of the ordinary, head nor body."""

    def take(self, connection: PlainConnection, head: Head, body: bytes) -> bool:
        """Take a request; False when it has to go the general way."""

    def run(self) -> None:
        """Answer what was taken now, and not at the end of the turn."""


ErrorShape = Callable[[int, str, Headers], Response]


class Route(msgspec.Struct, frozen=True):
    """A path with its methods; `name` is what logs and metrics call it, `error` how its errors look,
    `express` a short way for its POSTs, `queue` that of the model that its POSTs ask, `plain` that answers are never
    compressed, whatever the caller says."""

    path: str
    name: str
    handlers: dict[str, Handler]
    error: ErrorShape = error_response
    express: Express | None = None
    large: bool = False  # its handlers take a body as a bytearray too, which saves a copy of it
    queue: Queue | None = None
    plain: bool = False

    @property
    def asks_model(self) -> bool:
        """Whether its requests are for a model."""
        return self.queue is not None

    @property
    def metrics(self) -> ModelMetrics | None:
        """The counts of that model."""
        return None if self.queue is None else self.queue.metrics


_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


def refusing_route(path: str, name: str, status: int, text: str, error: ErrorShape) -> Route:
    """A route that is not there, whose refusal has a protocol's own shape."""

    def refuse(_: Request) -> Response:
        raise Refusal(status, text)

    return Route(path, name, dict.fromkeys(_METHODS, refuse), error)


def failure_text(failed: Failed) -> str:
    """What the caller learns of a failure: bad input in words, a model's fault only as an id for the log."""
    if failed.kind is not FailureKind.MODEL:
        return failed.text
    return f"the model failed; the log has the traceback under error id {failed.error_id}"


def refuse_input(error: InputError, status: int) -> Refusal:
    """The refusal of an input that does not fit."""
    return Refusal(status, str(error))
