"""One stream of an HTTP/2 connection: what came, what may come, and what waits to be sent.

http2.py makes them; the calls of gRPC (grpc_calls.py) are their handlers and answer through them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

STREAM_WINDOW = 4 * 1024 * 1024


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


class Wire(Protocol):
    """The connection as a stream sees it.

    `held` are bytes of requests that are not whole yet, which the calls count and bound; `unsent` are bytes of answers
    that wait for the peer's windows.
    """

    held: int
    unsent: int
    send_window: int
    max_frame: int
    writable: bool

    @property
    def now(self) -> float:
        """The server's clock, which is half a second coarse."""

    def send_headers(self, stream: Stream, block: bytes, *, last: bool) -> None:
        """A header block; with `last` the stream is over."""

    def send_whole(self, stream: Stream, block: bytes, body: bytes, trailers: bytes) -> None:
        """Headers, body and trailers."""

    def send_data(self, number: int, piece: memoryview) -> None:
        """One DATA frame."""

    def give_room(self, stream: Stream) -> None:
        """Let the peer send more."""


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

    def __init__(self, connection: Wire, number: int, send_window: int, since: float) -> None:
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
    def connection(self) -> Wire:
        """Where it belongs."""
        return self._connection

    @property
    def room(self) -> bool:
        """Whether the peer reads what it is sent."""
        return self._pending is None and self._connection.writable

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
        return self.room

    def finish(self, trailers: bytes) -> None:
        """The end of the answer, after what waits."""
        if self._pending is None:
            self._connection.send_headers(self, trailers, last=True)
        else:
            self._trailers = trailers

    def on_room(self, callback: Callable[[], object]) -> None:
        """Call back when the peer has caught up or is gone."""
        if self.room:
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
            self.since = self._connection.now
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
