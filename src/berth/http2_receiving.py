"""The receiving side of an HTTP/2 connection: what each frame means, and how many of them a peer may send.

http2.py cuts the bytes into frames; http2_sending.py is the other side.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import Any, Protocol

from berth.config import Limits
from berth.http2_frames import (
    ACK,
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME,
    MAX_FRAME_SIZE,
    MAX_HEADER_BYTES,
    MAX_WINDOW,
    PING,
    SETTINGS,
    WITH_PRIORITY,
    BlockDecoder,
    Code,
    Fields,
    Http2Error,
    frame,
    read_settings,
    reset,
    unpadded,
    window_update,
)
from berth.http2_sending import SMALLEST_FRAME, Sending
from berth.http2_streams import STREAM_WINDOW, Stream

MAX_STREAMS = 1024
MAX_STRIKES = 2000  # between two ticks, half a second apart
CREDIT = 4  # strikes that a whole request makes up for: its window updates, and a cancellation
TINY = 32  # bytes of a DATA frame that is not worth its handling
MAX_CONTINUATIONS = 32
MAX_UNSENT = 64 * 1024 * 1024  # bytes that wait for the peer's windows; beyond, new streams are refused
WINDOW = 16 * 1024 * 1024
_DEFAULT_TABLE = 4096
_TABLE_OF_ZERO = b"\x20"
LAST_PING = b"farewell"


class Owner(Protocol):
    """The server as a connection sees it."""

    connections: set[Any]
    limits: Limits
    now: float


class Calls(Protocol):
    """What streams carry."""

    def head(self, fields: Fields) -> Any:
        """What a header block means, with a `lane` or None; Http2Error when it is malformed."""

    def begin(self, stream: Stream, head: Any) -> None:
        """A stream has begun: give it a handler."""


class Leaving(enum.Enum):
    """How far a connection is on its way out."""

    NOT = "not"
    ANNOUNCED = "announced"  # the peer was told to begin nothing more, and may not have heard yet
    CONFIRMED = "confirmed"  # what it begins now is not taken
    SHUT = "shut"  # everything is said


class Receiving(Sending):
    """What a connection receives, and what it allows its peer."""

    def __init__(self, owner: Owner, calls: Calls, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._owner = owner
        self._calls = calls
        self._last = 0  # the peer's newest stream
        self._blocks = BlockDecoder()
        self._known: dict[bytes, Any] = self._blocks.known
        self._block: tuple[int, int, list[bytes]] | None = None  # stream, flags and pieces of unfinished headers
        self._window = WINDOW
        self.held = 0
        self.writable = True
        self._leaving = Leaving.NOT

    @property
    def now(self) -> float:
        """The server's clock, which is half a second coarse."""
        return self._owner.now

    @property
    def is_shut(self) -> bool:
        """Whether everything is said."""
        return self._leaving is Leaving.SHUT

    def confirm(self) -> None:
        """The peer has heard that the server stops."""
        raise NotImplementedError

    def shut_if_done(self) -> None:
        """Say good-bye when the last answer is sent."""
        raise NotImplementedError

    def handle(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """One frame; Http2Error ends the connection."""
        if self._block is not None and (kind != CONTINUATION or number != self._block[0]):
            raise Http2Error(Code.PROTOCOL_ERROR, "expected the rest of the headers")
        if kind < len(_FRAMES):
            _FRAMES[kind](self, flags, number, payload)
        else:
            self._strike()  # of a kind that we do not know: to be ignored

    # -- frames -------------------------------------------------------------------------------------------------------

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        self._took(len(payload))
        stream = self._streams.get(number)
        if stream is None:
            self._check_was_open(number)
            self._strike()
            return
        stream.window -= len(payload)
        if stream.window < 0 or stream.ended:
            self.end_stream(stream, Code.STREAM_CLOSED if stream.ended else Code.FLOW_CONTROL_ERROR)
            return
        body = unpadded(flags, payload)
        stream.ended = bool(flags & END_STREAM)
        stream.since = self._owner.now
        if stream.ended:
            self.strikes -= CREDIT
        elif len(body) < TINY:
            self._strike()
        if stream.handler is not None:
            stream.handler.data(body, ended=stream.ended)
        if not stream.ended and not stream.held:
            self.give_room(stream)

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        block = unpadded(flags, payload)
        if flags & WITH_PRIORITY:
            if len(block) < 5:
                raise Http2Error(Code.FRAME_SIZE_ERROR, "the headers are shorter than their priority")
            block = block[5:]
        if not flags & END_HEADERS:
            self._block = (number, flags, [block])
            return
        self._headers(number, block, ended=bool(flags & END_STREAM))

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None:
            raise Http2Error(Code.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        _, first_flags, pieces = self._block
        pieces.append(payload)
        if len(pieces) > MAX_CONTINUATIONS or sum(map(len, pieces)) > MAX_HEADER_BYTES:
            raise Http2Error(Code.ENHANCE_YOUR_CALM, f"expected at most {MAX_HEADER_BYTES} bytes of headers")
        if flags & END_HEADERS:
            self._block = None
            self._headers(number, b"".join(pieces), ended=bool(first_flags & END_STREAM))

    def _headers(self, number: int, block: bytes, *, ended: bool) -> None:
        if len(block) > MAX_HEADER_BYTES:
            raise Http2Error(Code.ENHANCE_YOUR_CALM, f"expected at most {MAX_HEADER_BYTES} bytes of headers")
        stream = self._streams.get(number)
        if stream is not None:
            self._blocks.decode(block)
            self._end_of_body(stream, ended=ended)
            return
        head = self._known.get(block)
        if head is None:
            fields, lasting = self._blocks.decode(block)
            if number <= self._last or not number & 1:
                self._check_was_open(number)
                self._strike()
                return
            head = self._calls.head(fields)
            if lasting:
                self._known[block] = head
        elif number <= self._last or not number & 1:
            self._check_was_open(number)
            self._strike()
            return
        self._open(number, head, ended=ended)

    def _open(self, number: int, head: Any, *, ended: bool) -> None:
        self._last = number
        if self._leaving is Leaving.CONFIRMED:
            return  # the peer was told that it will not be taken
        if len(self._streams) >= MAX_STREAMS or self.unsent > MAX_UNSENT:
            self._strike()
            self._write(reset(number, Code.REFUSED_STREAM))
            return
        stream = self.new_stream(number)
        stream.ended = ended
        self._calls.begin(stream, head)
        if ended and stream.handler is not None:
            stream.handler.data(b"", ended=True)

    def _end_of_body(self, stream: Stream, *, ended: bool) -> None:
        """A second header block of a stream: the caller's trailers, which mean nothing to us but the end."""
        if not ended or stream.ended:
            self.end_stream(stream, Code.PROTOCOL_ERROR)
            return
        stream.ended = True
        if stream.handler is not None:
            stream.handler.data(b"", ended=True)

    def _on_priority(self, _: int, __: int, payload: bytes) -> None:
        if len(payload) != 5:
            raise Http2Error(Code.FRAME_SIZE_ERROR, "PRIORITY: expected 5 bytes")
        self._strike()

    def _on_reset(self, _: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2Error(Code.FRAME_SIZE_ERROR, "RST_STREAM: expected 4 bytes")
        self._check_was_open(number)
        self._strike()
        stream = self._streams.pop(number, None)
        if stream is not None:
            self.strikes += CREDIT if stream.ended else 0  # a request that is taken back earns nothing
            stream.close()

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6 or (flags & ACK and payload):
            raise Http2Error(Code.FRAME_SIZE_ERROR, "SETTINGS: expected stream 0 and a multiple of 6 bytes")
        if flags & ACK:
            return
        self._strike()
        for name, value in read_settings(payload):
            if name == INITIAL_WINDOW_SIZE:
                self._resize_windows(value)
            elif name == MAX_FRAME_SIZE:
                if not SMALLEST_FRAME <= value < 2**24:
                    raise Http2Error(Code.PROTOCOL_ERROR, f"MAX_FRAME_SIZE: {value} is out of range")
                self.max_frame = min(value, MAX_FRAME)
            elif name == HEADER_TABLE_SIZE and value < _DEFAULT_TABLE:
                self._table_change = _TABLE_OF_ZERO
        self._write(frame(SETTINGS, ACK, 0))

    def _resize_windows(self, size: int) -> None:
        if size > MAX_WINDOW:
            raise Http2Error(Code.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE: {size} is out of range")
        change, self._initial_window = size - self._initial_window, size
        for stream in list(self._streams.values()):
            stream.send_window += change
            stream.flow()

    def _on_push(self, _: int, __: int, ___: bytes) -> None:
        raise Http2Error(Code.PROTOCOL_ERROR, "a client cannot push")

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise Http2Error(Code.FRAME_SIZE_ERROR, "PING: expected stream 0 and 8 bytes")
        if not flags & ACK:
            self._strike()
            self._write(frame(PING, ACK, 0, payload))
        elif payload == LAST_PING and self._leaving is Leaving.ANNOUNCED:
            self.confirm()

    def _on_goaway(self, _: int, __: int, ___: bytes) -> None:
        if self._leaving is Leaving.NOT:
            self._leaving = Leaving.CONFIRMED
        self.shut_if_done()

    def _on_window_update(self, _: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2Error(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE: expected 4 bytes")
        self._strike()
        increment = int.from_bytes(payload, "big") & MAX_WINDOW
        if not number:
            self.send_window += increment
            if not increment or self.send_window > MAX_WINDOW:
                raise Http2Error(Code.FLOW_CONTROL_ERROR, "WINDOW_UPDATE: the window is out of range")
            if self.unsent:
                for stream in list(self._streams.values()):
                    stream.flow()
            return
        found = self._streams.get(number)
        if found is None:
            self._check_was_open(number)
            return
        found.send_window += increment
        if not increment or found.send_window > MAX_WINDOW:
            self.end_stream(found, Code.FLOW_CONTROL_ERROR if increment else Code.PROTOCOL_ERROR)
        else:
            found.flow()

    # -- what the peer may do -----------------------------------------------------------------------------------------

    def _took(self, size: int) -> None:
        """So many bytes of DATA have come: room for more, many at once."""
        self._window -= size
        if self._window < WINDOW // 2:
            if self._window < 0:
                raise Http2Error(Code.FLOW_CONTROL_ERROR, "more DATA than the connection's window allows")
            self._write(window_update(0, WINDOW - self._window))
            self._window = WINDOW

    def give_room(self, stream: Stream) -> None:
        """Let the peer send more on a stream."""
        if stream.window < STREAM_WINDOW // 2 and stream.number in self._streams:
            self._write(window_update(stream.number, STREAM_WINDOW - stream.window))
            stream.window = STREAM_WINDOW

    def _check_was_open(self, number: int) -> None:
        if number > self._last or not number & 1:
            raise Http2Error(Code.PROTOCOL_ERROR, f"stream {number} was never opened")

    def _strike(self) -> None:
        self.strikes += 1
        if self.strikes > MAX_STRIKES:
            raise Http2Error(Code.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    # -- answers ------------------------------------------------------------------------------------------------------

    def go_general(self, number: int, head: Any, payload: bytes) -> None:
        """An express lane leaves a call to the application."""
        self.owed -= 1
        if self.is_shut:
            return
        stream = self.new_stream(number)
        stream.ended = True
        self._calls.begin(stream, head)
        if stream.handler is not None:
            stream.handler.data(payload, ended=True)

    def end_stream(self, stream: Stream, code: Code) -> None:
        """Break a stream off."""
        self._write(reset(stream.number, code))
        self._streams.pop(stream.number, None)
        stream.close()

    def new_stream(self, number: int) -> Stream:
        """A stream that has begun."""
        stream = self._streams[number] = Stream(self, number, self._initial_window, self._owner.now)
        return stream

    def over(self, stream: Stream) -> None:
        """The answer is complete; a peer that still sends its request need not go on."""
        self._streams.pop(stream.number, None)
        stream.handler = None
        if not stream.ended:
            self._write(reset(stream.number, Code.NO_ERROR))
        if self._leaving is not Leaving.NOT:
            self.shut_if_done()


_FRAMES: tuple[Callable[[Receiving, int, int, bytes], None], ...] = (
    Receiving._on_data,
    Receiving._on_headers,
    Receiving._on_priority,
    Receiving._on_reset,
    Receiving._on_settings,
    Receiving._on_push,
    Receiving._on_ping,
    Receiving._on_goaway,
    Receiving._on_window_update,
    Receiving._on_continuation,
)
