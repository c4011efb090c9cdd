"""HTTP/2 over a transport: frames in, calls out to grpc.py, frames back, with every bound of the wire.

http.py hands over a connection that begins with HTTP/2's preface. Whatever one turn of the event loop has to say to a
connection is written at once. Memory is bounded by windows, by the number of streams and by what may wait for a peer
that does not read; frames that cost us more than their sender (pings, resets, empty ones) are counted, and too many end
the connection. http2_receiving.py and http2_sending.py are its two sides.
"""

from __future__ import annotations

import asyncio
from typing import Any

from berth.http2_frames import (
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
    Code,
    Http2Error,
    frame,
    goaway,
    read_header,
    settings,
    window_update,
)
from berth.http2_receiving import CREDIT, LAST_PING, MAX_STREAMS, WINDOW, Calls, Leaving, Owner, Receiving
from berth.http2_sending import DEFAULT_WINDOW
from berth.http2_streams import STREAM_WINDOW

MAX_FRAMES_A_TURN = 256  # of one connection, before others have theirs
FAREWELL_S = 5.0  # how long a peer has to answer the ping that goes with the news that the server stops
LINGER_S = 1.0  # how long a peer that was told good-bye has to close its side
_GREETING = settings(
    [
        (MAX_CONCURRENT_STREAMS, MAX_STREAMS),
        (INITIAL_WINDOW_SIZE, STREAM_WINDOW),
        (MAX_FRAME_SIZE, MAX_FRAME),
        (MAX_HEADER_LIST_SIZE, MAX_HEADER_BYTES),
    ]
) + window_update(0, WINDOW - DEFAULT_WINDOW)


class Http2Connection(Receiving, asyncio.Protocol):
    """One connection: its settings, its windows and its streams."""

    def __init__(self, owner: Owner, calls: Calls, transport: asyncio.Transport) -> None:
        super().__init__(owner, calls, transport)
        self._rest: list[bytes] = []  # a frame of which something is missing
        self._rest_bytes = 0
        self._needed = len(PREFACE)
        self._greeted = False
        self._since = owner.now  # when what is unfinished now began, or the last whole frame came
        self._left = 0.0
        self._waits, self._moved = 0, 0.0  # what the peer has not taken, and when that last changed
        self._promised = MAX_WINDOW  # the newest stream that is answered
        owner.connections.add(self)

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
        self._moved = self.now
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
        if self.is_shut:
            return
        if self._greeted and not self._rest and self._block is None:
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
        if at and self._block is None:
            self._since = self._owner.now
        if at < len(data) and not self.is_shut:
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
        start, size, known, turn = 0, len(data), self._known, MAX_FRAMES_A_TURN
        while size - start >= HEADER_BYTES:
            high, low, kind, flags, number = read_header(data, start)
            begin = start + HEADER_BYTES
            end: int = begin + (high << 8 | low)
            if end - begin > MAX_FRAME:
                raise Http2Error(Code.FRAME_SIZE_ERROR, f"expected frames of at most {MAX_FRAME} bytes")
            if end > size:
                self._needed = end - start
                return start
            if kind == HEADERS and flags == END_HEADERS and self._block is None:
                head = known.get(data[begin:end])
                if head is not None and head.lane is not None:
                    stop = self._express(data, end, number, head)
                    if stop:
                        start = stop
                        continue
            self.handle(kind, flags, number & MAX_WINDOW, data[begin:end])
            if self.is_shut:
                return size
            start = end
            turn -= 1
            if not turn:
                self._postpone()
                return start
        self._needed = HEADER_BYTES
        return start

    def _postpone(self) -> None:
        """Let others have a turn before the rest of what has come is looked at."""
        self._needed = 0
        if not self._transport.is_closing():
            self._transport.pause_reading()
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self.writable and not self._transport.is_closing():
            self._transport.resume_reading()
        if self._rest and not self._needed:
            self.data_received(b"")

    def _express(self, data: bytes, start: int, number: int, head: Any) -> int:
        """Give a call to its express lane when its only DATA frame is here; where that ends, or 0."""
        if len(data) - start < HEADER_BYTES or not self._last < number <= MAX_WINDOW or not number & 1:
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
        self.strikes -= CREDIT
        self._took(length)
        return int(stop)

    # -- ends ---------------------------------------------------------------------------------------------------------

    def check_time(self, now: float) -> None:
        """Called about twice a second: end what takes too long."""
        self.strikes = 0
        limits, age = self._owner.limits, now - self._since
        if not self.writable and self._reads_nothing(now):
            self.abort()
            return
        if self.is_shut:
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

    def _reads_nothing(self, now: float) -> bool:
        """Whether the peer has taken nothing of what was said for too long."""
        waits = self._transport.get_write_buffer_size()
        if waits != self._waits:
            self._waits, self._moved = waits, now
        return now - self._moved > self._owner.limits.request_timeout

    def close_if_idle(self) -> None:
        """The server stops: the peer is told; when it has heard, no more is taken; after the last answer, close."""
        if self._leaving is Leaving.NOT:
            self._leaving = Leaving.ANNOUNCED
            self._left = self.now
            self._write(goaway(MAX_WINDOW, Code.NO_ERROR, "the server is draining"))
            self._write(frame(PING, 0, 0, LAST_PING))
        elif self._leaving is Leaving.ANNOUNCED and self.now - self._left > FAREWELL_S:
            self.confirm()
        if self._leaving is Leaving.CONFIRMED:
            for stream in list(self._streams.values()):
                if stream.handler is not None:
                    stream.handler.drain()
            self.shut_if_done()

    def abort(self) -> None:
        """Drop the connection."""
        self._transport.abort()

    def confirm(self) -> None:
        """The peer has heard: what it begins from now on is not taken."""
        self._leaving = Leaving.CONFIRMED
        self._promised = self._last
        self._write(goaway(self._last, Code.NO_ERROR, "the server is draining"))

    def shut_if_done(self) -> None:
        """Say good-bye when the last answer is sent."""
        if self._leaving is Leaving.CONFIRMED and not self._streams and not self.owed:
            self._shut()

    def _fail(self, error: Http2Error) -> None:
        if self.is_shut:
            return
        self._write(goaway(min(self._last, self._promised), error.code, error.text))
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
