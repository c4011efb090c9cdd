"""HTTP/2's frames (RFC 9113) as bytes, and header blocks (RFC 7541): what http2.py and grpc.py write and read.

Answers are few and short, so they are written without the compression's dynamic table: a block is a constant, whatever
was sent before. What callers send is decoded by `hpack`, and remembered by its bytes.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from typing import Any

from hpack import Decoder
from hpack.exceptions import HPACKError
from hpack.table import HeaderTable

from berth.protocols.base import Headers

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
MAX_WINDOW = 2**31 - 1
MAX_HEADER_BYTES = 65_536
MAX_FRAME = 256 * 1024
_KNOWN_BLOCKS = 256
KNOWN_BYTES = 2048  # of fields; larger ones are decoded each time rather than kept

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = range(1, 5)
MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 5, 6

read_header = struct.Struct(">HBBBL").unpack_from  # length in two parts, type, flags, stream
read_settings = struct.Struct(">HL").iter_unpack
pack_stream = struct.Struct(">L").pack
_pack_pair = struct.Struct(">LL").pack
_STATUS_200 = b"\x88"
_STATUS_NAME = 8  # the static table's index of :status
Fields = list[tuple[bytes, bytes]]


class Code(enum.IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Http2Error(Exception):
    """The peer broke the protocol, or asked too much of it: the connection ends."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return b"%b%c%c%b%b" % (len(payload).to_bytes(3, "big"), kind, flags, pack_stream(stream), payload)


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HL", *value) for value in values))


def window_update(stream: int, increment: int) -> bytes:
    """Room for so many more bytes."""
    return frame(WINDOW_UPDATE, 0, stream, pack_stream(increment))


def reset(stream: int, code: Code) -> bytes:
    """The end of a stream."""
    return frame(RST_STREAM, 0, stream, pack_stream(code))


def goaway(last: int, code: Code, text: str = "") -> bytes:
    """The end of a connection; streams up to `last` have been or will be answered."""
    return frame(GOAWAY, 0, 0, _pack_pair(last, code) + text.encode()[:256])


def unpadded(flags: int, payload: bytes) -> bytes:
    """What a padded frame carries."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Http2Error(Code.PROTOCOL_ERROR, "the padding is longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def block(headers: Headers, status: int = 0) -> bytes:
    """A header block; `status` first if there is one. Names are in lower case."""
    start = b""
    if status:
        start = _STATUS_200 if status == 200 else bytes([_STATUS_NAME]) + _string(str(status).encode())
    return start + b"".join(b"\x00%b%b" % (_string(name), _string(value)) for name, value in headers)


def _string(data: bytes) -> bytes:
    """A string without Huffman coding: its length with a prefix of seven bits, and its bytes."""
    size = len(data)
    if size < 127:
        return bytes([size]) + data
    size -= 127
    length = bytearray([127])
    while size >= 128:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes(length) + data


class _Table(HeaderTable):
    """The dynamic table; `changes` counts what makes the same bytes mean something else."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return self._maxsize

    @maxsize.setter
    def maxsize(self, size: int) -> None:
        self.changes += 1
        HeaderTable.maxsize.fset(self, size)  # type: ignore[attr-defined]


class BlockDecoder:
    """Decodes the header blocks of one connection.

    Clients send the same block for every call of the same kind. `known` has what blocks meant that left the table as it
    was; it is emptied whenever the table changes. http2.py puts in what it made of them.
    """

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=MAX_HEADER_BYTES)
        self._table = self._decoder.header_table = _Table()
        self.known: dict[bytes, Any] = {}

    def decode(self, data: bytes) -> tuple[Fields, bool]:
        """The fields, and whether the block may be remembered."""
        before = self._table.changes
        try:
            fields = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(data, raw=True)]
        except HPACKError as error:
            raise Http2Error(Code.COMPRESSION_ERROR, f"the headers cannot be decoded: {error}") from error
        if self._table.changes != before:
            self.known.clear()
            return fields, False
        if len(self.known) >= _KNOWN_BLOCKS:
            self.known.clear()
        return fields, sum([len(name) + len(value) for name, value in fields]) <= KNOWN_BYTES
