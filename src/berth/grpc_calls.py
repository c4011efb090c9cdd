"""gRPC calls on their streams: a request that is still arriving, and a call with one request.

Each is the handler of an HTTP/2 stream (http2.py calls it) and the place where answers go (answers.py calls that).
grpc.py chooses; grpc_stream_calls.py has the calls with many requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from berth.application import Application
from berth.config import Limits
from berth.exchange import Exchange
from berth.grpc_heads import TRAILERS, GrpcHead, ending, head_block
from berth.http2_streams import Stream
from berth.protocols.base import Headers, Refusal, Response, Route
from berth.protocols.encoding import LARGEST, SMALLEST, compress, decompress
from berth.protocols.grpc_base import PREFIX_BYTES, grpc_error

_SMALL = 4096  # bytes of a piece
HELD_BODIES = 4  # as many of the largest bodies may be arriving on one connection
UNKNOWN_CALL = Route("", "unknown", {}, grpc_error)
_OVER = Response(b"")


class Shared:
    """What all calls of one server share: what they may take, and where they go."""

    def __init__(self, application: Application, limits: Limits) -> None:
        self.application = application
        self.limits = limits


class GrpcExchange(Exchange):
    """A call with one request, whole. `begun`: headers were sent, for a call that answers more than once."""

    stream: Stream | None = None
    application: Application | None = None
    begun: bool = False

    @property
    def route(self) -> Route:
        """Where the call went."""
        return self.head.route or UNKNOWN_CALL

    def answer(self, response: Response) -> None:
        """The answer, or the end of a call that answered before."""
        stream, self.stream = self.stream, None
        if stream is None:
            return
        if response.status != 200:
            stream.finish(ending(self, response, begun=self.begun))
        elif self.begun:
            stream.finish(TRAILERS)
        else:
            self._answer_well(stream, response)

    def _answer_well(self, stream: Stream, response: Response) -> None:
        head, body = self.head, response.body
        encoding = head.encoding if isinstance(head, GrpcHead) else b""
        if encoding and SMALLEST <= len(body) <= LARGEST:  # as the caller sent it, so it can read it
            data = compress(body[PREFIX_BYTES:], encoding)
            stream.whole(head_block(response, encoding), b"\x01%b%b" % (len(data).to_bytes(4, "big"), data), TRAILERS)
        else:
            stream.whole(head_block(response), body, TRAILERS)

    def begin(self, response: Response) -> None:
        """Headers, and a first message if there is one."""
        if self.stream is not None:
            self.begun = True
            self.stream.headers(head_block(response))
            self.stream.data(response.body)

    def send(self, data: bytes) -> bool:
        """Another message."""
        return self.stream is None or self.stream.data(data)

    def end(self, data: bytes = b"", _: Headers = ()) -> None:
        """The last message, and that it went well."""
        self.send(data)
        self.answer(_OVER)

    def on_room(self, callback: Callable[[], object]) -> None:
        """Call back when the caller reads again, or is gone."""
        if self.stream is None:
            callback()
        else:
            self.stream.on_room(callback)

    # -- the stream calls these ---------------------------------------------------------------------------------------

    def data(self, payload: bytes, *, ended: bool) -> None:
        """Nothing: the request is whole, or refused."""

    def reset(self) -> None:
        """The caller gave up: so does the work."""
        self.stream = None
        if self.application is not None:
            self.application.give_up(self)

    def late(self, now: float) -> None:
        """Nothing: the work has a deadline of its own."""

    def drain(self) -> None:
        """Nothing: it is answered first."""


class Upload:
    """The request of a call while it arrives."""

    def __init__(self, shared: Shared, stream: Stream, head: GrpcHead) -> None:
        self._shared = shared
        self._limits = shared.limits
        self._stream = stream
        self._head = head
        self._pieces: list[bytes | bytearray] = []
        self._size = 0
        self._began = stream.connection.now

    def data(self, payload: bytes, *, ended: bool) -> None:
        """A piece; the call begins with the last one."""
        self._add(payload)
        self._size += len(payload)
        connection = self._stream.connection
        connection.held += len(payload)
        try:
            self._check(connection.held)
            if ended:
                self._become(unframed(self._pieces, self._head.encoding, self._limits))
        except Refusal as refusal:
            self._refuse(refusal)

    def _add(self, payload: bytes) -> None:
        """Keep a piece; many small ones as one, since each object costs more than it carries."""
        pieces = self._pieces
        if not pieces or len(payload) >= _SMALL:
            pieces.append(payload)
        elif isinstance(pieces[-1], bytearray):
            pieces[-1] += payload
        else:
            pieces.append(bytearray(payload))

    def _check(self, held: int) -> None:
        first, limit = self._pieces[0], self._limits.max_body_bytes
        size = int.from_bytes(first[1:PREFIX_BYTES], "big") if len(first) >= PREFIX_BYTES else 0
        if max(size, self._size - PREFIX_BYTES) > limit:
            raise too_large(limit, max(size, self._size - PREFIX_BYTES))
        check_held(limit, held, self._size)

    def _become(self, message: bytes) -> None:
        exchange = self._exchange(message)
        self._shared.application.handle(exchange)

    def _refuse(self, refusal: Refusal) -> None:
        exchange = self._exchange(b"")
        exchange.head.route = exchange.head.route or self._head.call
        self._shared.application.refuse(exchange, refusal.status, refusal.text)

    def _exchange(self, message: bytes) -> GrpcExchange:
        """The call that this becomes."""
        self._let_go()
        exchange = GrpcExchange(self._head, message)
        exchange.stream, exchange.application = self._stream, self._shared.application
        self._stream.handler = exchange
        return exchange

    def _let_go(self) -> None:
        self._stream.connection.held -= self._size
        self._size = 0
        self._pieces = []

    def reset(self) -> None:
        """The caller gave up."""
        self._let_go()

    def late(self, now: float) -> None:
        """Refuse what does not arrive in time."""
        patience = self._limits.request_timeout
        if self._head.timeout is not None:
            patience = min(patience, self._head.timeout)
        age = now - self._began
        if age > patience:
            self._refuse(Refusal(504, f"the request did not arrive within {patience:g} s"))
        elif age > self._limits.header_timeout and self._size < self._limits.min_body_rate * age:
            rate = self._limits.min_body_rate
            self._refuse(Refusal(408, f"expected {rate} bytes of the request a second (BERTH_MIN_BODY_RATE)"))

    def drain(self) -> None:
        """Nothing: what has begun to arrive is answered."""


def unframed(pieces: Sequence[bytes | bytearray], encoding: bytes, limits: Limits) -> bytes:
    """The one message that a body is; Refusal when it is none, several, or too large once unpacked."""
    if len(pieces) > 1 and len(pieces[0]) < PREFIX_BYTES:
        pieces = [b"".join(pieces)]
    first = pieces[0]
    size = sum(map(len, pieces)) - PREFIX_BYTES
    if size < 0:
        raise Refusal(400, "expected a message, got none")
    if int.from_bytes(first[1:PREFIX_BYTES], "big") != size:
        raise Refusal(400, "expected one message that fills the request")
    message = b"".join([memoryview(first)[PREFIX_BYTES:], *pieces[1:]])
    if not first[0]:
        return message
    if not encoding:
        raise Refusal(400, "the message is compressed, and no grpc-encoding says how")
    return decompress(message, encoding, limits.max_body_bytes, limits.max_ratio)


def check_held(limit: int, held: int, own: int) -> None:
    """Refusal when a connection has too many requests arriving at once; a large one alone is always let through."""
    if held > limit * HELD_BODIES and own < held:
        raise Refusal(413, f"more than {limit * HELD_BODIES} bytes of requests are arriving on this connection")


def too_large(limit: int, size: int) -> Refusal:
    """The refusal of a message over the limit."""
    text = f"the message is too large: expected at most {limit} bytes (BERTH_MAX_BODY_BYTES), got {size}"
    return Refusal(413, text)
