"""The sending side of an HTTP/2 connection: whatever one turn of the event loop has to say is written at once.

http2.py is the receiving side, and adds what belongs to both.
"""

from __future__ import annotations

import asyncio

from berth.http2_frames import END_HEADERS, END_STREAM, HEADERS, frame, pack_stream
from berth.http2_streams import Stream

SMALLEST_FRAME = 16_384
DEFAULT_WINDOW = 65_535


class Sending:
    """What a connection sends, and what its peer allows."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, Stream] = {}
        self._out: list[bytes | memoryview] = []
        self._table_change = b""  # what has to be said before the next header block
        self._initial_window = DEFAULT_WINDOW
        self.send_window = DEFAULT_WINDOW
        self.max_frame = SMALLEST_FRAME
        self.unsent = 0
        self.strikes = 0  # what http2_receiving.py counts against the peer
        self.owed = 0  # requests that an express lane has taken

    def over(self, stream: Stream) -> None:
        """An answer is complete."""
        raise NotImplementedError

    def new_stream(self, number: int) -> Stream:
        """A stream for this number."""
        raise NotImplementedError

    def send_headers(self, stream: Stream, block: bytes, *, last: bool) -> None:
        """A header block of ours; with `last` the stream is over."""
        block = self._tabled(block)
        self._write(frame(HEADERS, END_HEADERS | END_STREAM if last else END_HEADERS, stream.number, block))
        if last:
            self.over(stream)

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
        self.over(stream)

    def answer_plain(self, number: int, start: bytes, body: bytes, end: bytes) -> None:
        """The answer of an express lane; `start` and `end` are what `plain_frames` made of its headers and trailers."""
        self.owed -= 1
        if len(body) > self.send_window or len(body) > self._initial_window:
            stream = self.new_stream(number)
            stream.ended = True
            stream.whole(start[5:-5], body, end[5:])
            return
        self.send_window -= len(body)
        identity = pack_stream(number)
        self._write(b"%b%b%b%b%b%b%b%b" % (start[:5], identity, start[5:], identity, body, end[:5], identity, end[5:]))

    def send_data(self, number: int, piece: memoryview) -> None:
        """One DATA frame; the caller has looked at the windows."""
        size = len(piece)
        self.strikes -= 2
        self.send_window -= size
        self.unsent -= size
        self._write(b"%b\x00\x00%b" % (size.to_bytes(3, "big"), pack_stream(number)))
        self._out.append(piece)

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
