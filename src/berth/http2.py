"""HTTP/2 over a transport: frames in, calls out to grpc.py, frames back, with every bound of the wire.

http.py hands over a connection that begins with HTTP/2's preface. Whatever one turn of the event loop has to say to a
connection is written at once. Memory is bounded by windows, by the number of streams and by what may wait for a peer that
does not read; frames that cost us more than their sender (pings, resets, empty ones) are counted, and too many end the
connection.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from berth.config import Limits
from berth.http2_frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADER_BYTES,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME,
    MAX_FRAME_SIZE,
    MAX_HEADER_BYTES,
    MAX_HEADER_LIST_SIZE,
    MAX_WINDOW,
    PING,
    PREFACE,
    SETTINGS,
    WITH_PRIORITY,
    BlockDecoder,
    Code,
    Fields,
    Http2Error,
    frame,
    goaway,
    pack_stream,
    read_header,
    read_settings,
    reset,
    settings,
    unpadded,
    window_update,
)
from berth.http2_frames import HEADER_TABLE_SIZE as TABLE_SIZE

MAX_STREAMS = 1024
MAX_STRIKES = 2000  # between two ticks, half a second apart
CREDIT = 4  # strikes that a whole request makes up for: its window updates, and a cancellation
MAX_CONTINUATIONS = 32
MAX_UNSENT = 64 * 1024 * 1024  # bytes that wait for the peer's windows; beyond, new streams are refused
WINDOW = 16 * 1024 * 1024
STREAM_WINDOW = 4 * 1024 * 1024
LINGER_S = 1.0  # how long a peer that was told good-bye has to close its side
_SMALLEST_FRAME = 16_384
_DEFAULT_WINDOW = 65_535
_DEFAULT_TABLE = 4096
_TABLE_OF_ZERO = b"\x20"
_LAST_PING = b"farewell"
_GREETING = settings(
    [
        (MAX_CONCURRENT_STREAMS, MAX_STREAMS),
        (INITIAL_WINDOW_SIZE, STREAM_WINDOW),
        (MAX_FRAME_SIZE, MAX_FRAME),
        (MAX_HEADER_LIST_SIZE, MAX_HEADER_BYTES),
    ]
) + window_update(0, WINDOW - _DEFAULT_WINDOW)


class Owner(Protocol):
    """The server as a connection sees it."""

    connections: set[Any]
    limits: Limits
    now: float


class Handler(Protocol):
    """Who reads one stream; never called again after `reset`, or after the stream was finished."""

    def data(self, payload: bytes, *, ended: bool) -> None:
        """A piece of the body; `ended`: the last."""

    def reset(self) -> None:
        """The peer, or the connection, is gone."""

    def late(self, now: float) -> None:
        """Called twice a second."""

    def drain(self) -> None:
        """The server stops: end what has nothing left to answer."""


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


class Stream:
    """One stream: what came, what may come, and what waits to be sent."""

    __slots__ = (
        "_connection",
        "_on_room",
        "_pending",
        "_trailers",
        "ended",
        "handler",
        "held",
        "number",
        "send_window",
        "since",
        "window",
    )

    def __init__(self, connection: Http2Connection, number: int, send_window: int, since: float) -> None:
        self._connection = connection
        self.number = number
        self.send_window = send_window
        self.window = STREAM_WINDOW
        self.ended = False  # the peer has said everything
        self.held = False  # no more room is given to the peer
        self.since = since  # when the peer last read or wrote
        self.handler: Handler | None = None
        self._pending: deque[memoryview] | None = None
        self._trailers: bytes | None = None
        self._on_room: list[Callable[[], object]] = []

    @property
    def connection(self) -> Http2Connection:
        """Where it belongs."""
        return self._connection

    @property
    def unsent(self) -> bool:
        """Whether something waits for the peer's windows."""
        return self._pending is not None

    def headers(self, block: bytes, *, last: bool = False) -> None:
        """Begin the answer; `last`: it is nothing but these."""
        self._connection.send_headers(self, block, last=last)

    def whole(self, block: bytes, body: bytes, trailers: bytes) -> None:
        """A whole answer."""
        self._connection.send_whole(self, block, body, trailers)

    def data(self, body: bytes) -> bool:
        """A piece of the answer; False while the peer reads too slowly."""
        if body:
            self.push(body)
        return self._pending is None and self._connection.writable

    def finish(self, trailers: bytes) -> None:
        """The end of the answer, after what waits."""
        if self._pending is None:
            self._connection.send_headers(self, trailers, last=True)
        else:
            self._trailers = trailers

    def on_room(self, callback: Callable[[], object]) -> None:
        """Call back when the peer has caught up or is gone."""
        if self._pending is None and self._connection.writable:
            callback()
        else:
            self._on_room.append(callback)

    def call_back(self) -> None:
        """There is room, or nobody to need it."""
        waiting, self._on_room = self._on_room, []
        for callback in waiting:
            callback()

    def release(self) -> None:
        """Take from the peer again."""
        if self.held:
            self.held = False
            self._connection.give_room(self)

    def push(self, body: bytes) -> None:
        """Send as much as the windows allow, and keep the rest."""
        if self._pending is None:
            self._pending = deque()
        self._pending.append(memoryview(body))
        self._connection.unsent += len(body)
        self.flow()

    def flow(self) -> None:
        """Send of what waits as much as the windows allow."""
        pending, connection = self._pending, self._connection
        if pending is None:
            return
        while pending:
            piece = pending[0]
            room = min(connection.send_window, self.send_window, connection.max_frame)
            if room <= 0:
                return
            if len(piece) <= room:
                pending.popleft()
            else:
                piece, pending[0] = piece[:room], piece[room:]
            self.send_window -= len(piece)
            self.since = connection.now
            connection.send_data(self.number, piece)
        self._pending = None
        if self._trailers is not None:
            connection.send_headers(self, self._trailers, last=True)
        elif connection.writable:
            self.call_back()

    def close(self) -> None:
        """Forget what waits: nobody reads it."""
        if self._pending is not None:
            self._connection.unsent -= sum(map(len, self._pending))
            self._pending = None
        handler, self.handler = self.handler, None
        if handler is not None:
            handler.reset()
        self.call_back()


class Http2Connection(asyncio.Protocol):
    """One connection: its settings, its windows and its streams."""

    def __init__(self, owner: Owner, calls: Calls, transport: asyncio.Transport) -> None:
        self._owner = owner
        self._calls = calls
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, Stream] = {}
        self._last = 0  # the peer's newest stream
        self._rest: list[bytes] = []  # a frame of which something is missing
        self._rest_bytes = 0
        self._needed = len(PREFACE)
        self._greeted = False
        self._since = owner.now
        self._blocks = BlockDecoder()
        self._known = self._blocks.known
        self._block: tuple[int, int, list[bytes]] | None = None  # stream, flags and pieces of unfinished headers
        self._window = WINDOW
        self.send_window = _DEFAULT_WINDOW
        self._initial_window = _DEFAULT_WINDOW
        self.max_frame = _SMALLEST_FRAME
        self._table_change = b""
        self._strikes = 0
        self._out: list[bytes | memoryview] = []
        self.unsent = 0
        self.held = 0  # bytes of requests that are not whole yet; grpc.py counts and bounds them
        self.writable = True
        self.owed = 0  # requests that an express lane has taken
        self._leaving = Leaving.NOT
        self._left = 0.0
        owner.connections.add(self)

    @property
    def now(self) -> float:
        """The server's clock, which is half a second coarse."""
        return self._owner.now

    # -- asyncio calls these ------------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone, by either side: nobody waits for the answers any more."""
        self._owner.connections.discard(self)
        self._leaving = Leaving.SHUT
        self.writable = True
        self._drop_streams()

    def pause_writing(self) -> None:
        """The peer reads slowly: stop reading from it."""
        self.writable = False
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer caught up."""
        self.writable = True
        if not self._transport.is_closing():
            self._transport.resume_reading()
        for stream in list(self._streams.values()):
            if not stream.unsent:
                stream.call_back()

    def data_received(self, data: bytes) -> None:
        """Take the frames apart. A small call that an express lane takes costs two frames and no stream."""
        if self._leaving is Leaving.SHUT:
            return
        self._since = self._owner.now
        if self._rest:
            self._rest.append(data)
            self._rest_bytes += len(data)
            if self._rest_bytes < self._needed:
                return
            data = b"".join(self._rest)
            self._rest = []
        try:
            at = self._frames(data) if self._greeted else self._greet(data)
        except Http2Error as error:
            self._fail(error)
            return
        if at < len(data) and self._leaving is not Leaving.SHUT:
            self._rest = [data[at:]]
            self._rest_bytes = len(data) - at

    def _greet(self, data: bytes) -> int:
        """The preface, which is the first thing that a client says, and our settings, the first thing that we say."""
        if len(data) < len(PREFACE) and PREFACE.startswith(data):
            return 0
        if not data.startswith(PREFACE):
            raise Http2Error(Code.PROTOCOL_ERROR, "expected the preface of HTTP/2")
        self._greeted = True
        self._write(_GREETING)
        return len(PREFACE) + self._frames(data[len(PREFACE) :])

    def _frames(self, data: bytes) -> int:
        """Handle all whole frames; how many bytes that was."""
        start, size, known = 0, len(data), self._known
        while size - start >= HEADER_BYTES:
            high, low, kind, flags, number = read_header(data, start)
            begin = start + HEADER_BYTES
            end = begin + (high << 8 | low)
            if end > size:
                self._needed = end - start
                if self._needed > MAX_FRAME + HEADER_BYTES:
                    raise Http2Error(Code.FRAME_SIZE_ERROR, f"expected frames of at most {MAX_FRAME} bytes")
                return start
            if kind == HEADERS and flags == END_HEADERS and self._block is None:
                head: Any = known.get(data[begin:end])
                if head is not None and head.lane is not None:
                    stop = self._express(data, end, number, head)
                    if stop:
                        start = stop
                        continue
            self._frame(kind, flags, number & MAX_WINDOW, data[begin:end])
            if self._leaving is Leaving.SHUT:
                return size
            start = end
        self._needed = HEADER_BYTES
        return start

    def _express(self, data: bytes, start: int, number: int, head: Any) -> int:
        """Give a call to its express lane when its only DATA frame is here; where that ends, or 0."""
        if len(data) - start < HEADER_BYTES or number <= self._last or not number & 1:
            return 0
        high, low, kind, flags, other = read_header(data, start)
        start += HEADER_BYTES
        length = high << 8 | low
        stop = start + length
        if kind != DATA or flags != END_STREAM or other != number or stop > len(data) or self._table_change:
            return 0
        if self._leaving is Leaving.CONFIRMED or not head.lane.take(self, number, head, data[start:stop]):
            return 0
        self._last = number
        self.owed += 1
        self._strikes -= CREDIT
        self._took(length)
        return stop

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if len(payload) > MAX_FRAME:
            raise Http2Error(Code.FRAME_SIZE_ERROR, f"expected frames of at most {MAX_FRAME} bytes")
        if self._block is not None and (kind != _CONTINUATION or number != self._block[0]):
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
            self._strikes -= CREDIT
        elif not body:
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
        if self._leaving is Leaving.CONFIRMED:
            return  # the peer was told that it will not be taken
        self._last = number
        if len(self._streams) >= MAX_STREAMS or self.unsent > MAX_UNSENT:
            self._strike()
            self._write(reset(number, Code.REFUSED_STREAM))
            return
        stream = self._streams[number] = Stream(self, number, self._initial_window, self._owner.now)
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
            self._strikes += CREDIT if stream.ended else 0  # a request that is taken back earns nothing
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
                if not _SMALLEST_FRAME <= value < 2**24:
                    raise Http2Error(Code.PROTOCOL_ERROR, f"MAX_FRAME_SIZE: {value} is out of range")
                self.max_frame = min(value, MAX_FRAME)
            elif name == TABLE_SIZE and value < _DEFAULT_TABLE:
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
        elif payload == _LAST_PING and self._leaving is Leaving.ANNOUNCED:
            self._confirm()

    def _on_goaway(self, _: int, __: int, ___: bytes) -> None:
        if self._leaving is Leaving.NOT:
            self._leaving = Leaving.CONFIRMED
        self._shut_if_done()

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
        self._strikes += 1
        if self._strikes > MAX_STRIKES:
            raise Http2Error(Code.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    # -- answers ------------------------------------------------------------------------------------------------------

    def send_headers(self, stream: Stream, block: bytes, *, last: bool) -> None:
        """A header block of ours; with `last` the stream is over."""
        block = self._tabled(block)
        self._write(frame(HEADERS, END_HEADERS | END_STREAM if last else END_HEADERS, stream.number, block))
        if last:
            self._over(stream)

    def send_whole(self, stream: Stream, block: bytes, body: bytes, trailers: bytes) -> None:
        """Headers, body and trailers, in one go where the windows allow it."""
        size = len(body)
        if size > self.send_window or size > stream.send_window or size > self.max_frame or self._table_change:
            self.send_headers(stream, block, last=False)
            stream.push(body)
            stream.finish(trailers)
            return
        self.send_window -= size
        self._write(whole_answer(stream.number, block, body, trailers))
        self._over(stream)

    def answer_plain(self, number: int, start: bytes, body: bytes, end: bytes) -> None:
        """The answer of an express lane; `start` and `end` are what `plain_frames` made of its headers and trailers."""
        self.owed -= 1
        if len(body) > self.send_window or len(body) > self._initial_window:
            stream = self._streams[number] = Stream(self, number, self._initial_window, self._owner.now)
            stream.ended = True
            stream.whole(start[5:-5], body, end[5:])
            return
        self.send_window -= len(body)
        identity = pack_stream(number)
        self._write(b"%b%b%b%b%b%b%b%b" % (start[:5], identity, start[5:], identity, body, end[:5], identity, end[5:]))

    def go_general(self, number: int, head: Any, payload: bytes) -> None:
        """An express lane leaves a call to the application."""
        self.owed -= 1
        if self._leaving is Leaving.SHUT:
            return
        stream = self._streams[number] = Stream(self, number, self._initial_window, self._owner.now)
        stream.ended = True
        self._calls.begin(stream, head)
        if stream.handler is not None:
            stream.handler.data(payload, ended=True)

    def send_data(self, number: int, piece: memoryview) -> None:
        """One DATA frame; the caller has looked at the windows."""
        size = len(piece)
        self.send_window -= size
        self.unsent -= size
        self._write(b"%b\x00\x00%b" % (size.to_bytes(3, "big"), pack_stream(number)))
        self._out.append(piece)

    def end_stream(self, stream: Stream, code: Code) -> None:
        """Break a stream off."""
        self._write(reset(stream.number, code))
        self._streams.pop(stream.number, None)
        stream.close()

    def _over(self, stream: Stream) -> None:
        """The answer is complete; a peer that still sends its request need not go on."""
        self._streams.pop(stream.number, None)
        stream.handler = None
        if not stream.ended:
            self._write(reset(stream.number, Code.NO_ERROR))
        if self._leaving is not Leaving.NOT:
            self._shut_if_done()

    def _tabled(self, block: bytes) -> bytes:
        """A peer that wants a smaller table for headers is told once that we use none."""
        change, self._table_change = self._table_change, b""
        return change + block

    def _write(self, data: bytes) -> None:
        """Say something at the end of this turn of the loop."""
        if not self._out:
            self._loop.call_soon(self.flush)
        self._out.append(data)

    def flush(self) -> None:
        """Write what this turn had to say."""
        out, self._out = self._out, []
        if out and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    # -- ends ---------------------------------------------------------------------------------------------------------

    def check_time(self, now: float) -> None:
        """Called about twice a second: end what takes too long."""
        self._strikes = 0
        limits, age = self._owner.limits, now - self._since
        if self._leaving is Leaving.SHUT:
            patience = limits.request_timeout if self._transport.get_write_buffer_size() else LINGER_S
            if now - self._left > patience:
                self._transport.abort()
        elif (not self._greeted or self._block is not None) and age > limits.header_timeout:
            self._fail(Http2Error(Code.ENHANCE_YOUR_CALM, f"nothing whole within {limits.header_timeout:g} s"))
        elif self._rest and age > limits.request_timeout:
            self._fail(Http2Error(Code.ENHANCE_YOUR_CALM, f"no whole frame within {limits.request_timeout:g} s"))
        elif not self._streams and age > limits.keep_alive:
            self._fail(Http2Error(Code.NO_ERROR, "idle"))
        for stream in list(self._streams.values()):
            if stream.unsent and now - stream.since > limits.request_timeout:
                self.end_stream(stream, Code.CANCEL)
            elif stream.handler is not None:
                stream.handler.late(now)

    def close_if_idle(self) -> None:
        """The server stops. First the peer is told; when it has heard, no more is taken; after the last answer, close."""
        if self._leaving is Leaving.NOT:
            self._leaving = Leaving.ANNOUNCED
            self._left = self.now
            self._write(goaway(MAX_WINDOW, Code.NO_ERROR, "the server is draining"))
            self._write(frame(PING, 0, 0, _LAST_PING))
        elif self._leaving is Leaving.ANNOUNCED and self.now - self._left > LINGER_S:
            self._confirm()
        if self._leaving is Leaving.CONFIRMED:
            for stream in list(self._streams.values()):
                if stream.handler is not None:
                    stream.handler.drain()
            self._shut_if_done()

    def abort(self) -> None:
        """Drop the connection."""
        self._transport.abort()

    def _confirm(self) -> None:
        self._leaving = Leaving.CONFIRMED
        self._write(goaway(self._last, Code.NO_ERROR, "the server is draining"))

    def _shut_if_done(self) -> None:
        if self._leaving is Leaving.CONFIRMED and not self._streams and not self.owed:
            self._shut()

    def _fail(self, error: Http2Error) -> None:
        if self._leaving is Leaving.SHUT:
            return
        self._write(goaway(self._last, error.code, error.text))
        self._shut()
        self._drop_streams()

    def _shut(self) -> None:
        """Say nothing more, and let the peer close: closing first could take back what it has not read yet."""
        self.flush()
        self._leaving = Leaving.SHUT
        self._left = self.now
        self._rest = []
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _drop_streams(self) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.close()


def whole_answer(number: int, block: bytes, body: bytes, trailers: bytes) -> bytes:
    """The three frames of an answer."""
    start, end = plain_frames(block, len(body), trailers)
    identity = pack_stream(number)
    return b"%b%b%b%b%b%b%b%b" % (start[:5], identity, start[5:], identity, body, end[:5], identity, end[5:])


def plain_frames(block: bytes, size: int, trailers: bytes) -> tuple[bytes, bytes]:
    """The frames of an answer without the stream's number, which follows the first five bytes of each.

    The first value ends with the beginning of the DATA frame.
    """
    start = b"%b\x01\x04%b%b\x00\x00" % (len(block).to_bytes(3, "big"), block, size.to_bytes(3, "big"))
    return start, b"%b\x01\x05%b" % (len(trailers).to_bytes(3, "big"), trailers)


_FRAMES: tuple[Callable[[Http2Connection, int, int, bytes], None], ...] = (
    Http2Connection._on_data,
    Http2Connection._on_headers,
    Http2Connection._on_priority,
    Http2Connection._on_reset,
    Http2Connection._on_settings,
    Http2Connection._on_push,
    Http2Connection._on_ping,
    Http2Connection._on_goaway,
    Http2Connection._on_window_update,
    Http2Connection._on_continuation,
)
_CONTINUATION = len(_FRAMES) - 1
