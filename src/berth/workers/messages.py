"""Messages between the server and a worker: a pickle, with its large buffers beside it.

What is copied when: pickling (protocol 5) leaves contiguous arrays of `LARGE` bytes or more where they are; each is
copied once, into the arena, and the receiver's array is a view of that place: writable in a worker, read-only in the
server. Smaller arrays, and everything that is no plain array (text, bytes, files, arrays of objects), are part of the
pickle; a large pickle goes through the arena too, which is a second copy for those, and loading it a third. What finds
no room in the arena goes through the socket. Both ends run the same program, and the model's code may do all that a
pickle can do, so pickle opens no door that would be closed otherwise. channel.py and process.py call this.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from berth.workers.shared_memory import INLINE, Inbox, Outbox

LARGE = 16 * 1024  # bytes from which a buffer goes through the arena

LOAD, RUN, STREAM, NEXT, STOP = range(5)  # what the server asks
LOADED, LOAD_FAILED, RAN, ITEM, STREAMED = range(5, 10)  # what a worker answers
ASK, TOLD = range(10, 12)  # what a worker asks of another model, and what it is told

_HEADER = struct.Struct("=BIIQ")  # kind, sequence, length of the envelope (0: there is none), of what follows it
_READ = 64 * 1024
_READ_LARGE = 1024 * 1024
_ENVELOPE_LIMIT = 64 * 1024 * 1024
_BODY_LIMIT = 1 << 40

Buffer = bytes | bytearray | memoryview
Place = tuple[int, int]  # offset in the arena, or INLINE, and length


class TracedWork(msgspec.Struct, frozen=True):
    """What is to be run, in the place of its bare groups or call, where a request is of a trace; see `calls.Traced`."""

    work: Any
    headers: list[dict[str, str]]

    def traces(self) -> list[dict[str, str]]:
        """The headers of each call."""
        return self.headers


class ProtocolError(Exception):
    """The other side sent what it should not have."""


class _Envelope(msgspec.Struct, array_like=True, frozen=True):
    """What stands before the bytes of any message but the plainest.

    `parts` are the places of the pickle and then of each of its buffers; `held` are the places of the other direction
    that the sender still uses.
    """

    parts: list[Place]
    held: list[int]


_encode_envelope = msgspec.msgpack.Encoder().encode
_decode_envelope = msgspec.msgpack.Decoder(_Envelope).decode


class Outgoing(msgspec.Struct, frozen=True):
    """A message ready to be copied and sent: `copies` go to their places in the arena, `inline` through the socket."""

    kind: int
    sequence: int
    parts: list[Place]
    inline: list[Buffer]
    copies: list[tuple[int, Buffer]]

    @property
    def copied_bytes(self) -> int:
        """How much has to be copied into the arena."""
        return sum(len(data) for _, data in self.copies)

    def copy(self, outbox: Outbox) -> None:
        """Copy the large buffers to their places."""
        for offset, data in self.copies:
            outbox.write(offset, data)

    def frame(self, held: list[int]) -> list[Buffer]:
        """What goes through the socket."""
        inline = self.inline
        if not held and len(self.parts) == 1 and inline:
            return [_HEADER.pack(self.kind, self.sequence, 0, len(inline[0])) + inline[0]]
        envelope = _encode_envelope(_Envelope(self.parts, held))
        length = sum(map(len, inline))
        head = _HEADER.pack(self.kind, self.sequence, len(envelope), length) + envelope
        return [b"".join((head, *inline))] if length < LARGE else [head, *inline]


def pack(kind: int, sequence: int, value: Any, outbox: Outbox) -> Outgoing:
    """A message around a value; raises what pickling raises."""
    large: list[Buffer] = []

    def small(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < LARGE:
            return True
        large.append(raw)
        return False

    payload = pickle.dumps(value, protocol=5, buffer_callback=small)
    if not large and len(payload) < LARGE:
        return Outgoing(kind, sequence, [(INLINE, len(payload))], [payload], [])
    return _place(kind, sequence, [payload, *large], outbox)


def _place(kind: int, sequence: int, buffers: Sequence[Buffer], outbox: Outbox) -> Outgoing:
    message = Outgoing(kind, sequence, [], [], [])
    head = [INLINE] if len(buffers[0]) < LARGE else []
    offsets = head + outbox.place([len(data) for data in buffers[len(head) :]])
    for offset, data in zip(offsets, buffers, strict=True):
        message.parts.append((offset, len(data)))
        if offset == INLINE:
            message.inline.append(data)
        else:
            message.copies.append((offset, data))
    return message


class Frame(msgspec.Struct, frozen=True):
    """A message as it came."""

    kind: int
    sequence: int
    parts: list[Place]
    held: list[int]
    body: memoryview

    def value(self, inbox: Inbox) -> Any:
        """The value; raises what unpickling raises."""
        if not self.parts:
            return pickle.loads(self.body)  # noqa: S301  the same program wrote it
        buffers: list[Any] = []
        at = 0
        for offset, length in self.parts:
            if offset != INLINE:
                buffers.append(inbox.view(offset, length))
                continue
            piece = self.body[at : at + length]
            buffers.append(bytearray(piece) if buffers else piece)  # arrays over it may be written
            at += length
        return pickle.loads(buffers[0], buffers=buffers[1:])  # noqa: S301  the same program wrote it


class Reader:
    """Cuts messages out of a socket, blocking or not. The sides take turns, so nothing may follow a message."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._start = b""
        self._whole: memoryview | None = None
        self._filled = 0

    def read(self) -> Frame | None:
        """Receive once; a message when it is whole. EOFError at the end, ProtocolError for nonsense."""
        if self._whole is not None:
            return self._read_on(self._whole)
        data = self._socket.recv(_READ)
        if not data:
            raise EOFError
        if self._start:
            data = self._start + data
            self._start = b""
        if len(data) < _HEADER.size:
            self._start = data
            return None
        _, _, envelope_length, body_length = _HEADER.unpack_from(data)
        total = _HEADER.size + envelope_length + body_length
        if len(data) == total:
            return _frame(data)
        if len(data) > total:
            raise ProtocolError(f"{len(data) - total} bytes after a message")
        if envelope_length > _ENVELOPE_LIMIT or body_length > _BODY_LIMIT:
            raise ProtocolError(f"a message of {envelope_length} and {body_length} bytes")
        # Not a bytearray, whose zeros would have to be written first, for milliseconds.
        self._whole, self._filled = memoryview(np.empty(total, np.uint8).data), len(data)
        self._whole[: len(data)] = data
        return None

    def _read_on(self, whole: memoryview) -> Frame | None:
        received = self._socket.recv_into(whole[self._filled : self._filled + _READ_LARGE])
        if not received:
            raise EOFError
        self._filled += received
        if self._filled < len(whole):
            return None
        self._whole = None
        return _frame(whole)


def _frame(data: Buffer) -> Frame:
    view = memoryview(data)
    kind, sequence, length, _ = _HEADER.unpack_from(data)
    if not length:
        return Frame(kind, sequence, [], [], view[_HEADER.size :])
    try:
        envelope = _decode_envelope(view[_HEADER.size : _HEADER.size + length])
    except msgspec.MsgspecError as error:
        raise ProtocolError(str(error)) from error
    body = view[_HEADER.size + length :]
    if sum(length for offset, length in envelope.parts if offset == INLINE) != len(body) or not envelope.parts:
        raise ProtocolError("parts that do not fill the message")
    return Frame(kind, sequence, envelope.parts, envelope.held, body)
