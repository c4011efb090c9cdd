"""What every protocol speaks: `Request` in, `Response` or `Work` out, `Refusal` for everything that is wrong.

A protocol is a set of routes. A handler either answers at once (`Response`), or gives `Work` for the model together
with the function that turns answers into a `Response`. application.py dispatches; http.py turns both into bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from berth.errors import InputError
from berth.executor import Failed, FailureKind
from berth.work import Work

JSON = b"application/json"
HTML = b"text/html; charset=utf-8"
BINARY = b"application/octet-stream"

Headers = tuple[tuple[bytes, bytes], ...]


class Request:
    """One request, whole: `path` is still percent-encoded and without its query; header names are in lower case."""

    __slots__ = ("body", "headers", "method", "path", "query")

    method: bytes
    path: bytes
    query: bytes
    headers: dict[bytes, bytes]
    body: bytes


class Response(msgspec.Struct, frozen=True):
    """One answer."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: Headers = ()


class Refusal(Exception):  # noqa: N818  it is an answer, not a fault of ours
    """A request that is answered with an error; the text says what was expected and what came."""

    def __init__(self, status: int, text: str, headers: Headers = ()) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers


Handler = Callable[[Request], "Response | Work"]


@dataclass(frozen=True)
class Route:
    """A path with its methods; `name` is what logs and metrics call it."""

    path: str
    name: str
    handlers: dict[str, Handler]


def json_response(value: Any, status: int = 200, headers: Headers = ()) -> Response:
    """A value as a JSON answer."""
    return Response(msgspec.json.encode(value), status, JSON, headers)


def error_response(status: int, text: str, headers: Headers = ()) -> Response:
    """`{"error": text}`, the one shape of errors on JSON routes."""
    return json_response({"error": text}, status, headers)


def failure_response(failed: Failed, input_status: int) -> Response:
    """What the caller learns of a failure: bad input in words, a model's fault only as an id for the log."""
    if failed.kind is FailureKind.INPUT:
        return error_response(input_status, failed.text)
    return error_response(500, f"the model failed; the log has the traceback under error id {failed.error_id}")


def refuse_input(error: InputError, status: int) -> Refusal:
    """The refusal of an input that does not fit."""
    return Refusal(status, str(error))
