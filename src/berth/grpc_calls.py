"""gRPC calls on their streams: a request that is still arriving, a call with one request, and a call with many.

Each is the handler of an HTTP/2 stream (http2.py calls it) and the place where answers go (answers.py calls that).
grpc.py chooses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from berth.answers import Exchange
from berth.application import Application
from berth.config import Limits
from berth.grpc_heads import HEAD, TRAILERS, GrpcHead, ending, head_block
from berth.http2_streams import Stream
from berth.protocols.base import Headers, Refusal, Response, Route
from berth.protocols.encoding import LARGEST, SMALLEST, compress, decompress
from berth.protocols.grpc_base import MESSAGE, PREFIX_BYTES, grpc_error

MAX_FLYING = 64  # requests of one stream that are being answered; more of them wait, then their sender does
_SMALL = 4096  # bytes of a piece
HELD_BODIES = 4  # as many of the largest bodies may be arriving on one connection
_UNKNOWN_CALL = Route("", "unknown", {}, grpc_error)
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
        return self.head.route or _UNKNOWN_CALL

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


class StreamedExchange(Exchange):
    """One request of a call with many."""

    call: StreamCall | None = None

    @property
    def route(self) -> Route:
        """Where the call went."""
        return self.head.route or _UNKNOWN_CALL

    def answer(self, response: Response) -> None:
        """The answer, as an item of the stream; an error ends the stream only where items cannot say it."""
        call, self.call = self.call, None
        if call is None:
            return
        item_error = self.head.call.item_error if isinstance(self.head, GrpcHead) and self.head.call else None
        if response.status == 200:
            call.answered(self, response.body)
        elif item_error is not None:
            text = dict(response.trailers).get(MESSAGE, b"").decode()
            call.answered(self, item_error(text, self))
        else:
            call.failed(self, response)

    def begin(self, response: Response) -> None:
        """Nothing but a first item: the call has begun long ago."""
        self.send(response.body)

    def send(self, data: bytes) -> bool:
        """Another item."""
        return self.call is None or self.call.send(data)

    def end(self, data: bytes = b"", _: Headers = ()) -> None:
        """The last item."""
        call, self.call = self.call, None
        if call is not None:
            call.answered(self, data)

    def on_room(self, callback: Callable[[], object]) -> None:
        """Call back when the caller reads again, or is gone."""
        if self.call is None:
            callback()
        else:
            self.call.on_room(callback)


class StreamCall:
    """A call with many requests, several of which are answered at once; each answer is sent when it is there."""

    def __init__(self, shared: Shared, stream: Stream, head: GrpcHead) -> None:
        self._shared = shared
        self._limits = shared.limits
        self._stream = stream
        self._head = head
        self._buffer = bytearray()
        self._waiting: deque[bytes] = deque()
        self._held = 0  # bytes of both
        self._flying: set[StreamedExchange] = set()
        self._begun = self._ended = self._over = self._pumping = self._awaits_room = False
        self._began = self._since = stream.connection.now

    # -- the stream calls these ---------------------------------------------------------------------------------------

    def data(self, payload: bytes, *, ended: bool) -> None:
        """Some bytes of requests."""
        if self._over:
            return
        self._buffer += payload
        self._hold(len(payload))
        self._since = self._stream.connection.now
        self._ended = ended
        try:
            self._cut()
            check_held(self._limits.max_body_bytes, self._stream.connection.held, self._held)
            if ended and self._buffer:
                raise Refusal(400, "the stream ended in the middle of a message")
        except Refusal as refusal:
            self._break(refusal)
        else:
            self._pump()

    def reset(self) -> None:
        """The caller gave up: so does all work."""
        self._over = True
        self._hold(-self._held)
        self._buffer.clear()
        self._waiting.clear()
        flying, self._flying = self._flying, set()
        for exchange in flying:
            exchange.call = None
            self._shared.application.give_up(exchange)

    def late(self, now: float) -> None:
        """End a call past its deadline, or one that stopped in the middle of a message."""
        timeout, patience = self._head.timeout, self._limits.request_timeout
        if self._over:
            return
        if timeout is not None and now - self._began > timeout:
            self._break(Refusal(504, f"the call did not end within {timeout:g} s"))
        elif self._buffer and now - self._since > patience:
            self._break(Refusal(504, f"the message did not arrive within {patience:g} s"))

    def drain(self) -> None:
        """End a call that asks nothing at the moment."""
        if not (self._over or self._flying or self._waiting or self._buffer):
            self._break(Refusal(503, "the server is draining"))

    # -- its exchanges call these -------------------------------------------------------------------------------------

    def send(self, item: bytes) -> bool:
        """Send an item; False while the caller reads too slowly."""
        if self._over:
            return True
        if not self._begun:
            self._begun = True
            self._stream.headers(HEAD)
        return self._stream.data(item)

    def answered(self, exchange: StreamedExchange, item: bytes) -> None:
        """One request has its last item."""
        self._flying.discard(exchange)
        self.send(item)
        self._pump()

    def failed(self, exchange: StreamedExchange, response: Response) -> None:
        """One request failed in a way that ends the call."""
        self._flying.discard(exchange)
        self._finish(ending(exchange, response, begun=self._begun))

    def on_room(self, callback: Callable[[], object]) -> None:
        """Call back when the caller reads again, or is gone."""
        self._stream.on_room(callback)

    def _cut(self) -> None:
        """Take whole messages out of what has come."""
        buffer, limit = self._buffer, self._limits.max_body_bytes
        while len(buffer) >= PREFIX_BYTES:
            size = int.from_bytes(buffer[1:PREFIX_BYTES], "big")
            if size > limit:
                raise too_large(limit, size)
            end = PREFIX_BYTES + size
            if len(buffer) < end:
                return
            message = unframed([bytes(buffer[:end])], self._head.encoding, self._limits)
            self._waiting.append(message)
            del buffer[:end]
            self._hold(len(message) - end)

    def _resume(self) -> None:
        self._awaits_room = False
        self._pump()

    def _hold(self, size: int) -> None:
        self._held += size
        self._stream.connection.held += size

    def _pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        while self._waiting and len(self._flying) < MAX_FLYING and self._stream.room:
            exchange = StreamedExchange(self._head, self._waiting.popleft())
            self._hold(-len(exchange.body))
            exchange.call = self
            self._flying.add(exchange)
            self._shared.application.handle(exchange)
        self._pumping = False
        if self._over:
            return
        if self._waiting:
            self._stream.held = True
            if not self._flying and not self._awaits_room:
                self._awaits_room = True
                self._stream.on_room(self._resume)
        else:
            self._stream.release()
            if self._ended and not self._flying:
                if not self._begun:
                    self.send(b"")
                self._finish(TRAILERS)

    def _break(self, refusal: Refusal) -> None:
        """End the call with a status; what is being answered is dropped."""
        stream, begun = self._stream, self._begun
        self.reset()
        exchange = GrpcExchange(self._head, b"")
        exchange.stream, exchange.begun = stream, begun
        exchange.head.route = exchange.head.route or self._head.call
        self._shared.application.refuse(exchange, refusal.status, refusal.text)

    def _finish(self, trailers: bytes) -> None:
        self.reset()
        self._stream.finish(trailers)


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
