"""What gRPC faces share: routes of calls, framed messages, and errors.

A message on the wire follows five bytes: whether it is compressed, and its length. Requests reach a handler without
them, answers and the items of streams carry them, so that several can be sent as one piece. The faces are v2_grpc.py,
grpc_health.py and grpc_reflection.py; grpc.py mounts them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from berth.protocols.base import Headers, Refusal, Request, Response, Route

GRPC = b"application/grpc"
MESSAGE = b"grpc-message"
RETRY_MS = b"grpc-retry-pushback-ms"
PREFIX_BYTES = 5
_prefix = struct.Struct(">BL").pack


def framed(message: bytes) -> bytes:
    """A message as it is sent."""
    return _prefix(0, len(message)) + message


def grpc_error(status: int, text: str, headers: Headers) -> Response:
    """An error: an HTTP status that grpc.py turns into gRPC's, and a text for the trailers."""
    trailers: Headers = ((MESSAGE, text.encode()),)
    for name, value in headers:
        if name == b"Retry-After":
            trailers += ((RETRY_MS, b"%d" % (int(value) * 1000)),)
    return Response(b"", status, GRPC, (), trailers)


class CallRoute(Route, frozen=True):
    """A call. With `streams_in` every message of the caller is a request of its own.

    `item_error` writes an error as an item of the stream, which goes on; without it, an error ends the call. `infers`:
    it asks the model that the message names.
    """

    streams_in: bool = False
    item_error: Callable[[str, Request], bytes] | None = None
    lane: Any = None
    infers: bool = False

    @property
    def asks_model(self) -> bool:
        """Whether its requests are for a model."""
        return self.infers


def call_route(service: str, method: str, name: str, handler: Any, **more: Any) -> CallRoute:
    """The route of one call, `/service/method`; `name` is for logs and metrics."""
    return CallRoute(f"/{service}/{method}", name, {"POST": handler}, grpc_error, **more)


def parsed(message_class: Any, body: bytes) -> Any:
    """A message; Refusal (400) when the bytes are none."""
    try:
        return message_class.FromString(body)
    except DecodeError as error:
        raise Refusal(400, f"the request is no {message_class.DESCRIPTOR.full_name}: {error}") from error


def answer_of(message: Any) -> Response:
    """A message as an answer."""
    return Response(framed(message.SerializeToString()), 200, GRPC)
