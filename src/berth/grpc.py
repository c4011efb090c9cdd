"""gRPC over HTTP/2: header blocks become heads, and streams become calls of an application of their own.

None of its paths answers HTTP/1.1, so the faces (v2_grpc.py, grpc_health.py, grpc_reflection.py) are mounted apart from
the others. Errors keep their HTTP status within berth, in logs and in metrics, and become gRPC's on the way out.
server.py makes one when the first HTTP/2 connection comes; http2.py is below, grpc_calls.py knows what a call is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from berth.answers import Answers
from berth.application import Application
from berth.config import Limits
from berth.grpc_calls import GrpcExchange, Shared, Upload
from berth.grpc_heads import HEAD, TRAILERS, GrpcHead, read_head
from berth.grpc_stream_calls import StreamCall
from berth.http2_frames import KNOWN_BYTES, Fields, block
from berth.http2_sending import plain_frames
from berth.http2_streams import Stream
from berth.protocols import v2_repository
from berth.protocols.grpc_base import CallRoute
from berth.protocols.grpc_health import GrpcHealth
from berth.protocols.grpc_reflection import Reflection
from berth.protocols.site import Face, Faces, Site
from berth.protocols.v2_grpc import V2Grpc

MAX_HEADS = 1024


class Grpc:
    """The calls of one server."""

    def __init__(self, faces: Sequence[Face], answers: Answers, limits: Limits) -> None:
        self._application = Application(Faces(faces), answers, limits)
        self._shared = Shared(self._application, limits)
        self._answers = answers
        routes = [route for face in faces for route in face.routes() if isinstance(route, CallRoute)]
        self._routes = {route.path.encode(): route for route in routes}
        self._heads: dict[tuple[tuple[bytes, bytes], ...], GrpcHead] = {}
        self.forget: Callable[[], None] = self._forget

    def head(self, fields: Fields) -> GrpcHead:
        """What a header block means; the same for the same fields, on whatever connection."""
        key = tuple(fields)
        head = self._heads.get(key)
        if head is None:
            head = read_head(fields, self._routes)
            if self._answers.info.wanted(head.headers.get(b"prefer", b"")):
                head.lane = None  # an express lane leaves that out
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            if sum([len(name) + len(value) for name, value in fields]) <= KNOWN_BYTES:
                self._heads[key] = head
        return head

    def begin(self, stream: Stream, head: GrpcHead) -> None:
        """Give a new stream its handler, or its answer when it cannot be a call."""
        if head.http_status:
            stream.headers(block((), head.http_status), last=True)
        elif head.refusal is not None or head.call is None:
            self._refuse(stream, head)
        elif head.call.streams_in:
            head.route = head.call
            stream.handler = StreamCall(self._shared, stream, head)
        else:
            stream.handler = Upload(self._shared, stream, head)

    def _refuse(self, stream: Stream, head: GrpcHead) -> None:
        exchange = GrpcExchange(head, b"")
        exchange.stream = stream
        if head.refusal is not None:
            head.route = head.call
            self._application.refuse(exchange, head.refusal.status, head.refusal.text)
        else:
            name = head.path.decode("latin-1")[:200]
            self._application.refuse(exchange, 404, f"no call {name}; reflection lists those of this server")

    def _forget(self) -> None:
        self._application.forget()
        self._heads.clear()


def make_grpc(site: Site, answers: Answers) -> Grpc:
    """All faces of a server's models over gRPC."""
    repository, health, limits = site.repository, site.health, site.config.limits
    v2 = V2Grpc(repository, v2_repository.face(site), health, lambda size: plain_frames(HEAD, size, TRAILERS))
    grpc = Grpc([v2, GrpcHealth(repository, health), Reflection()], answers, limits)
    forget = grpc.forget

    def both() -> None:
        forget()
        v2.forget()

    grpc.forget = both
    return grpc
