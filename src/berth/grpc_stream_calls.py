"""gRPC calls with many requests: several are answered at once, each when its answer is there.

grpc.py chooses; grpc_calls.py has the calls with one request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from berth.exchange import Exchange
from berth.grpc_calls import UNKNOWN_CALL, GrpcExchange, Shared, check_held, too_large, unframed
from berth.grpc_heads import HEAD, TRAILERS, GrpcHead, ending
from berth.http2_streams import Stream
from berth.protocols.base import Headers, Refusal, Response, Route
from berth.protocols.grpc_base import MESSAGE, PREFIX_BYTES

MAX_FLYING = 64  # requests of one stream that are being answered; more of them wait, then their sender does


class StreamedExchange(Exchange):
    """One request of a call with many."""

    call: StreamCall | None = None

    @property
    def route(self) -> Route:
        """Where the call went."""
        return self.head.route or UNKNOWN_CALL

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
