"""A request over HTTP/1.1 as the application and its connection see it, and what a connection is doing."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

from berth.exchange import Exchange
from berth.protocols.base import Head, Headers, Refusal, Response


class Phase(enum.Enum):
    """What a connection is doing."""

    IDLE = "idle"  # between requests
    HEAD = "head"  # a request line or headers have begun
    BODY = "body"
    HELD = "held"  # a refusal is made, and not sent yet
    LINGER = "linger"  # answered for the last time; what still comes is thrown away


IDLE, HEAD, BODY, HELD, LINGER = Phase.IDLE, Phase.HEAD, Phase.BODY, Phase.HELD, Phase.LINGER


class HttpHead(Head):
    """First lines with what this transport made of them.

    `plain`: the answer needs no header out of the ordinary; `identity` is the line that gives the caller's request id
    back, if there is one; `varying` are the headers whose values are others in each request. For floods: `refused` are
    the bytes of a `refusal`, which is given without asking again until `refused_until`, and was, `refused_again` times.
    """

    body_bytes: int = 0
    plain: bool = False
    identity: bytes = b""
    varying: tuple[bytes, ...] = ()
    refusal: Refusal | None = None
    refused: bytes = b""
    refused_until: float = 0.0
    refused_again: int = 0


class Answering(Protocol):
    """The connection of an exchange, which writes its answer."""

    def answered(self, exchange: HttpExchange, response: Response) -> None:
        """The whole answer."""

    def begin(self, exchange: HttpExchange, response: Response) -> None:
        """The head of a stream, and its first piece."""

    def send(self, exchange: HttpExchange, data: bytes) -> bool:
        """A piece of a stream; False while the caller reads too slowly."""

    def end(self, exchange: HttpExchange, data: bytes) -> None:
        """The end of a stream."""

    def on_room(self, callback: Callable[[], object]) -> None:
        """Call back when more of a stream may be sent."""


class HttpExchange(Exchange):
    """A request on its connection.

    `data` is what of its answer has not been written, `whole` that there is no more to come, `last` that the answer
    ends the connection, `chunked` that a stream's pieces are framed.
    """

    connection: Answering | None = None
    data: bytes = b""
    whole: bool = False
    last: bool = False
    chunked: bool = True

    def answer(self, response: Response) -> None:
        """Format the answer and send it when its turn has come."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.answered(self, response)

    def begin(self, response: Response) -> None:
        """Begin a stream."""
        if self.connection is not None:
            self.connection.begin(self, response)

    def send(self, data: bytes) -> bool:
        """Another piece of a stream."""
        return self.connection is None or self.connection.send(self, data)

    def end(self, data: bytes = b"", _: Headers = ()) -> None:
        """The end of a stream."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.end(self, data)

    def on_room(self, callback: Callable[[], object]) -> None:
        """Call back when the caller reads again, or is gone."""
        if self.connection is None:
            callback()
        else:
            self.connection.on_room(callback)
