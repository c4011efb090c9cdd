"""The part of a connection over HTTP/1.1 that reads large bodies of known length, around the parser.

There is nothing to parse in them, so a body that has its turn (http_bodies.py) is received straight into the buffer
that the application gets. http.py builds on this, and hears here when a body is whole.
"""

from __future__ import annotations

import asyncio

from berth.http_answering import AnsweringConnection
from berth.http_bodies import MOST_DIRECT, Buffers
from berth.http_exchange import LINGER, HttpHead
from berth.http_server import Server

BULK = 65_536  # bytes of a body that are worth going around the parser


class LargeBodies(AnsweringConnection):
    """A connection as far as large bodies go."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._body: bytes | bytearray = b""
        self._length = 0  # of the body, where it was announced
        self._left = 0  # of a large body of that length, which bypasses the parser
        self._known: HttpHead | None = None  # whose large body it is, where the parser has not seen the first lines
        self._direct: _Direct | None = None  # what the transport speaks to once a large body has come

    @property
    def received(self) -> int:
        """Bytes of the body so far."""
        return self._length - self._left if self._left else len(self._body)

    def _read_large(self) -> None:
        """The rest of a body is so large that the parser need not see it: read it when its turn comes."""
        self._left = self._length - len(self._body)
        self._waiting = True
        self._server.turns.join(self)
        self._regulate()

    def begin_turn(self, *, direct: bool) -> None:
        """Read on."""
        self._waiting = False
        if direct and self._length <= MOST_DIRECT:
            if self._direct is None:
                self._direct = _Direct(self, self._server.buffers)
            self._body = self._direct.begin(self._length, self._body)
            self._speak_to(self._direct)
        else:
            self._speak_to(self)
        self._regulate()

    def end_turn(self) -> None:
        """Read on as it comes: a slow sender gets memory for what it has sent."""
        if self._direct is not None and self._direct.view is not None:
            self._body = bytearray(self._direct.view[: self.received])
            self._direct.view = None
        self._speak_to(self)

    def first_bytes(self, data: bytes) -> None:
        """What came on a connection that had a large body before, up to the size of a small buffer."""
        self.data_received(data)
        if not self._left and self._transport.get_protocol() is self._direct:  # this time it was no large body
            self._speak_to(self)

    def more_of_body(self, count: int) -> None:
        """So many bytes have come into the body's buffer."""
        if self._phase is LINGER:
            self._forget_body()
            return
        self._left -= count
        if not self._left:
            self._whole()

    def _whole(self) -> None:
        """A large body is complete."""
        if self._direct is not None:
            self._direct.view = None
        self._server.turns.leave(self)
        self.large_body_complete()

    def large_body_complete(self) -> None:
        """The request of `_known`, or of what was parsed, has all of `_body`."""
        raise NotImplementedError

    def _forget_body(self) -> None:
        """Nobody wants the body any more: let go of it, and of its turn."""
        self._body, self._left, self._known = b"", 0, None
        if self._direct is not None:
            self._direct.view = None
        self._server.turns.leave(self)
        if self._waiting:
            self._waiting = False
            self._regulate()

    def _speak_to(self, protocol: asyncio.BaseProtocol) -> None:
        if self._transport.get_protocol() is not protocol:
            self._transport.set_protocol(protocol)


class _Direct(asyncio.BufferedProtocol):
    """What the transport asks for room before it reads, in the connection's place."""

    def __init__(self, connection: LargeBodies, buffers: Buffers) -> None:
        self._connection = connection
        self._buffers = buffers
        self.view: memoryview | None = None  # of the body's buffer, while bytes are missing in it
        self._at = 0  # where they go

    def begin(self, length: int, body: bytes | bytearray) -> bytearray:
        """A buffer for a body of so many bytes, with those that there are."""
        buffer = self._buffers.take(length)
        self._at = len(body)
        self.view = memoryview(buffer)
        self.view[: self._at] = body
        return buffer

    def get_buffer(self, _: int) -> memoryview:
        """Where the next bytes go."""
        return self._buffers.scratch if self.view is None else self.view[self._at :]

    def buffer_updated(self, nbytes: int) -> None:
        """They have come."""
        if self.view is None:
            self._connection.first_bytes(bytes(self._buffers.scratch[:nbytes]))
        else:
            self._at += nbytes
            self._connection.more_of_body(nbytes)

    def pause_writing(self) -> None:
        """The caller reads its answers slowly."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """The caller caught up."""
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone."""
        self._connection.connection_lost(exc)
