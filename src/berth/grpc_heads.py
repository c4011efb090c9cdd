"""The beginnings and ends of gRPC calls: what request headers say, and how a status is written.

grpc.py reads the heads, grpc_calls.py writes the ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

from berth.exchange import REQUEST_ID, Exchange
from berth.http2_frames import Code, Fields, Http2Error, block
from berth.protocols.base import Head, Headers, Refusal, Response
from berth.protocols.grpc_base import GRPC, MESSAGE, CallRoute

MAX_HEADERS = 128
ENCODINGS = (b"identity", b"gzip", b"deflate")
_MAX_MESSAGE = 2000  # characters of a status text; clients bound the headers that they take
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_OF_HTTP = (b"accept-encoding", b"content-encoding")  # gRPC has its own; these are not for the application

OK, UNKNOWN, UNIMPLEMENTED = 0, 2, 12
# berth's own statuses, and what gRPC calls them.
STATUSES = {
    400: 3,  # INVALID_ARGUMENT
    403: 7,  # PERMISSION_DENIED
    404: 5,  # NOT_FOUND
    408: 4,  # DEADLINE_EXCEEDED
    413: 8,  # RESOURCE_EXHAUSTED
    415: UNIMPLEMENTED,
    422: 3,
    429: 8,
    431: 8,
    500: 13,  # INTERNAL
    501: UNIMPLEMENTED,
    503: 14,  # UNAVAILABLE
    504: 4,
}
_TYPE: Headers = ((b"content-type", GRPC),)
HEAD = block(_TYPE, 200)
TRAILERS = block(((b"grpc-status", b"0"),))


class GrpcHead(Head):
    """The head of a call; calls with equal heads share one.

    `call` is the route, `encoding` that of compressed messages, `http_status` the answer to what is no gRPC,
    and `refusal` what is wrong with a call that cannot be taken.
    """

    call: CallRoute | None = None
    encoding: bytes = b""
    http_status: int = 0
    refusal: Refusal | None = None
    lane: object = None


def read_head(fields: Fields, routes: Mapping[bytes, CallRoute]) -> GrpcHead:
    """What a header block means; Http2Error when it is malformed."""
    pseudo: dict[bytes, bytes] = {}
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        if name.startswith(b":"):
            if headers or name in pseudo:
                raise Http2Error(Code.PROTOCOL_ERROR, "malformed headers: pseudo-headers come first, and once")
            pseudo[name] = value
        elif name != name.lower() or name in _HOP_BY_HOP:
            raise Http2Error(Code.PROTOCOL_ERROR, f"malformed headers: {name.decode('latin-1')[:100]!r}")
        else:
            headers[name] = headers[name] + b", " + value if name in headers else value
    if not {b":method", b":path", b":scheme"} <= pseudo.keys():
        raise Http2Error(Code.PROTOCOL_ERROR, "malformed headers: expected :method, :scheme and :path")
    head = GrpcHead(pseudo[b":method"], pseudo[b":path"], b"", headers)
    if not headers.get(b"content-type", b"").startswith(GRPC) or head.method != b"POST":
        head.http_status = 415 if head.method == b"POST" else 405
        return head
    head.call = routes.get(head.path)
    try:
        _read_headers(head, len(fields))
    except Refusal as refusal:
        head.refusal = refusal
    if head.call is not None and head.refusal is None and not head.encoding and REQUEST_ID not in headers:
        head.lane = head.call.lane
    return head


def _read_headers(head: GrpcHead, count: int) -> None:
    headers = head.headers
    if count > MAX_HEADERS:
        raise Refusal(431, f"expected at most {MAX_HEADERS} headers, got {count}")
    for name in _OF_HTTP:
        headers.pop(name, None)
    encoding = headers.get(b"grpc-encoding", b"identity")
    if encoding not in ENCODINGS:
        known = b", ".join(ENCODINGS).decode()
        raise Refusal(415, f"grpc-encoding: expected one of {known}, got {encoding.decode('latin-1')[:100]!r}")
    head.encoding = b"" if encoding == b"identity" else encoding
    timeout = headers.get(b"grpc-timeout")
    if timeout is not None:
        found = _TIMEOUT.fullmatch(timeout)
        if found is None:
            raise Refusal(400, f"grpc-timeout: expected digits and a unit, got {timeout.decode('latin-1')[:100]!r}")
        head.timeout = int(found[1]) * _UNITS[found[2]]


def head_block(response: Response, encoding: bytes = b"") -> bytes:
    """The headers of an answer that went well."""
    if not response.headers and not encoding:
        return HEAD
    extra = tuple((name.lower(), value) for name, value in response.headers)
    return block((*_TYPE, *extra, *(((b"grpc-encoding", encoding),) if encoding else ())), 200)


def ending(exchange: Exchange, response: Response, *, begun: bool) -> bytes:
    """The last block of a call: status and text; with headers before them when nothing was sent yet."""
    trailers = dict(response.trailers)
    text = trailers.pop(MESSAGE, b"").decode("utf-8", "replace")[:_MAX_MESSAGE]
    fields: Headers = ((b"grpc-status", b"%d" % code_of(exchange, response.status)),)
    if text:
        fields += ((MESSAGE, quote(text, safe=_PLAIN).encode()),)
    fields += tuple(trailers.items())
    if response.status == 415:
        fields += ((b"grpc-accept-encoding", b",".join(ENCODINGS)),)
    if response.status >= 500 or REQUEST_ID in exchange.headers:
        fields += ((REQUEST_ID, exchange.request_id.encode()),)
    return block(fields) if begun else block(_TYPE + fields, 200)


def code_of(exchange: Exchange, status: int) -> int:
    """gRPC's status; a call that does not exist is something else than a model that does not."""
    if status == 200:
        return OK
    if status == 404 and exchange.head.route is None:
        return UNIMPLEMENTED
    return STATUSES.get(status, UNKNOWN)
