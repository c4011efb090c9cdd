"""First lines that have been parsed before, recognised by their bytes; those of a proxy by all bytes but a few values.

A client that keeps its connection sends the same first lines again and again. A proxy does the same, but for values
that name the one request: an id, a trace, an address. Those values are cut out, and what is left is looked up. They are
words of visible ASCII between the same bytes as before, so a parser that took the others takes these as well, and reads
everything else as it did: nothing that frames a request (Content-Length and the like) is ever cut out. http.py asks
here, and parses what is not known.
"""

from __future__ import annotations

import copy
import re

from berth.answers import REQUEST_ID
from berth.http_exchange import HttpHead
from berth.tracing import CONTEXT_HEADERS, read_trace_context

MAX_KNOWN_HEADS = 1024
MAX_KNOWN_HEAD_BYTES = 2048
Key = bytes | tuple[bytes, ...]
_NAMES = rb"x-request-id|traceparent|tracestate|x-forwarded-for|x-real-ip|x-envoy-external-address"
_VARYING = re.compile(rb"(\r\n(?:" + _NAMES + rb"): )([!-~]{1,128})(?=\r\n)", re.IGNORECASE)
_IDENTITY = re.compile(rb"[!-~]{1,128}")


def find(heads: dict[Key, HttpHead], start: bytes) -> HttpHead | None:
    """The head of first lines that are known but for the values that vary; None when they have to be parsed."""
    parts = _VARYING.split(start)
    if len(parts) == 1:
        return None
    known = heads.get((*parts[::3], *parts[1::3]))
    return None if known is None else _with_values(known, parts[2::3])


def remember(heads: dict[Key, HttpHead], start: bytes, head: HttpHead) -> None:
    """Know these first lines again: they came in one piece, and their length is written in them or nought."""
    headers = head.headers
    length = headers.get(b"content-length", b"0")
    if not head.keep_alive or b"transfer-encoding" in headers or b"expect" in headers:
        return
    if not length.isdigit() or int(length) != head.body_bytes:
        return
    if start.startswith((b"\r", b"\n")):
        return  # blank lines, which a parser passes over: the first lines come after them
    parts = _VARYING.split(start)
    names = [name[2:-2].lower() for name in parts[1::3]]
    if any(headers.get(name) != value for name, value in zip(names, parts[2::3], strict=True)):
        return  # the parser has read more into it: the same header twice, or one that goes on in the next line
    head.varying = tuple(names)
    if len(heads) >= MAX_KNOWN_HEADS:
        heads.clear()
    heads[start if not names else (*parts[::3], *parts[1::3])] = head


def identity_line(headers: dict[bytes, bytes]) -> bytes | None:
    """The line that gives a caller's request id back, empty without one; None for an id that is out of the ordinary."""
    given = headers.get(REQUEST_ID)
    if given is None:
        return b""
    return b"\r\nX-Request-Id: " + given if _IDENTITY.fullmatch(given) else None


def _with_values(known: HttpHead, values: list[bytes]) -> HttpHead:
    """A head with values of its own, and with all that has been found out about the known one."""
    head = copy.copy(known)
    head.shared = known
    headers = head.headers = known.headers.copy()
    for name, value in zip(known.varying, values, strict=True):
        headers[name] = value
        if name == REQUEST_ID:
            head.identity = b"\r\nX-Request-Id: " + value
    if not CONTEXT_HEADERS.isdisjoint(known.varying):
        head.trace = read_trace_context(headers)
    return head
