"""How streams look over HTTP: Server-Sent Events and JSON lines.

Both write one JSON value per item; a stream that breaks off says so in a last event. native.py, v2_generate.py and the
OpenAI face make one encoder per answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from berth.protocols.base import Response

EVENT_STREAM = b"text/event-stream"
JSON_LINES = b"application/jsonl"
NO_CACHE = ((b"Cache-Control", b"no-cache"), (b"X-Accel-Buffering", b"no"))


class Events:
    """Server-Sent Events: one `data:` per item; a failure is an event named `error`."""

    def __init__(self, encode: Callable[[Any], bytes]) -> None:
        self._encode = encode

    def head(self) -> Response:
        """Status and content type."""
        return Response(b"", 200, EVENT_STREAM, NO_CACHE)

    def item(self, answer: Any) -> bytes:
        """One event; JSON has no line breaks, so one line is enough."""
        return b"data: %b\n\n" % self._encode(answer)

    def end(self) -> bytes:
        """Nothing: the end of the body says it."""
        return b""

    def failed(self, _: int, text: str) -> bytes:
        """The last event."""
        return b"event: error\ndata: %b\n\n" % msgspec.json.encode({"error": text})


class Lines:
    """JSON lines: one value per line; a failure is an object with `error`."""

    def __init__(self, encode: Callable[[Any], bytes]) -> None:
        self._encode = encode

    def head(self) -> Response:
        """Status and content type."""
        return Response(b"", 200, JSON_LINES, NO_CACHE)

    def item(self, answer: Any) -> bytes:
        """One line."""
        return self._encode(answer) + b"\n"

    def end(self) -> bytes:
        """Nothing: the end of the body says it."""
        return b""

    def failed(self, _: int, text: str) -> bytes:
        """The last line."""
        return msgspec.json.encode({"error": text}) + b"\n"


def choose_stream(accept: bytes, encode: Callable[[Any], bytes]) -> Events | Lines | None:
    """What a caller wants of a predictor that yields: events, lines, or (None) everything at once as JSON."""
    accept = accept.lower()
    if b"jsonl" in accept or b"ndjson" in accept:
        return Lines(encode)
    if b"application/json" in accept and EVENT_STREAM not in accept:
        return None
    return Events(encode)
