"""The express lane of ModelInfer: small raw requests for a quick model, from bytes to bytes in one loop per batch.

A client that asks the same model again and again sends the same bytes but for the numbers, which come last. Once a
request has gone the general way, its beginning is remembered; requests with the same beginning and length are not
parsed any more. As in v2_express.py, nothing waits here, and whatever does not fit goes the general way, which defines
the answers. v2_grpc.py makes the lane and teaches it, http2.py offers it calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

from berth.protocols.grpc_base import PREFIX_BYTES, framed
from berth.protocols.v2_grpc_codec import Form, GrpcOutputs
from berth.protocols.v2_protobuf import MESSAGES
from berth.served import ServedModel
from berth.tensors import Packing

MAX_BEGINNINGS = 256
MAX_SIZES = 8
_MAX_BODY = 16_384  # of an answer, which is one DATA frame
_InferRequest = MESSAGES["ModelInferRequest"]
Frames = Callable[[int], tuple[bytes, bytes]]  # what surrounds an answer of so many bytes on the wire


class PlainStreams(Protocol):
    """A connection as the lane sees it."""

    owed: int

    def answer_plain(self, number: int, start: bytes, body: bytes, end: bytes) -> None:
        """Send a whole answer."""

    def go_general(self, number: int, head: Any, payload: bytes) -> None:
        """Hand the call to the application after all."""

    def flush(self) -> None:
        """Write what was answered."""


_Item = tuple[PlainStreams, int, Any, bytes, bytes, float]  # connection, stream, head, payload, row, when


class ModelLane:
    """The lane of one model and one form of answers."""

    def __init__(self, served: ServedModel, outputs: GrpcOutputs, form: Form) -> None:
        self.served = served
        self.form = form
        self.items: list[_Item] = []
        self._outputs = outputs

    def encode(self, blobs: list[bytes]) -> list[bytes]:
        """Run the rows and encode the answers; raises what the model raises."""
        return self._outputs.encode_rows(self.served.run_packed(blobs), self.form)


class GrpcLane:
    """The lanes of all models, by the beginnings of requests."""

    def __init__(self, route: str, frames: Frames) -> None:
        self._route = route
        self._frames = frames
        self._known: dict[bytes, ModelLane] = {}
        self._lanes: dict[tuple[ServedModel, Form], ModelLane] = {}
        self._sizes: tuple[int, ...] = ()  # of the rows of those models
        self._busy: list[ModelLane] = []
        self._loop = asyncio.get_running_loop()

    def forget(self) -> None:
        """The models have changed."""
        self._known.clear()
        self._lanes.clear()
        self._sizes = ()

    def learn(self, served: ServedModel, packing: Packing, outputs: GrpcOutputs, form: Form, message: bytes) -> None:
        """A raw request for one row has been understood: know its beginning again."""
        size = packing.row_bytes
        payload = framed(message)
        if payload[:-size] in self._known or not _ends_with_its_row(message, size):
            return
        if size not in self._sizes:
            if len(self._sizes) >= MAX_SIZES:
                return
            self._sizes = (*self._sizes, size)
        if len(self._known) >= MAX_BEGINNINGS:
            self._known.clear()
            self._lanes.clear()
        lane = self._lanes.get((served, form))
        if lane is None:
            lane = self._lanes[served, form] = ModelLane(served, outputs, form)
        self._known[payload[:-size]] = lane

    def take(self, connection: PlainStreams, number: int, head: Any, payload: bytes) -> bool:
        """Take a call; False when it has to go the general way."""
        if head.handler is None:  # the application has not seen such a head yet
            return False
        for size in self._sizes:
            lane = self._known.get(payload[:-size])
            if lane is not None:
                break
        else:
            return False
        items = lane.items
        if not items:
            if not lane.served.idle_and_quick():
                return False
            if not self._busy:
                self._loop.call_soon(self.run)
            self._busy.append(lane)
        items.append((connection, number, head, payload, payload[-size:], perf_counter()))
        return True

    def run(self) -> None:
        """Answer what has been taken."""
        busy, self._busy = self._busy, []
        for lane in busy:
            items, lane.items = lane.items, []
            size = lane.served.max_rows
            for start in range(0, len(items), size):
                self._run(lane, items[start : start + size])

    def _run(self, lane: ModelLane, items: list[_Item]) -> None:
        began = perf_counter()
        try:
            bodies = lane.encode([item[4] for item in items])
        except Exception:  # one of them is to blame: the general way finds out which
            bodies = []
        if not bodies or len(bodies[0]) > _MAX_BODY:
            for connection, number, head, payload, _, _ in items:
                connection.go_general(number, head, payload)
            return
        ran = perf_counter()
        start, end = self._frames(len(bodies[0]))
        connections = set()
        for item, body in zip(items, bodies, strict=True):
            item[0].answer_plain(item[1], start, body, end)
            connections.add(item[0])
        for connection in connections:
            connection.flush()
        self._count(lane, items, began, ran)
        if lane.served.traced:
            asked = [(item[2], item[3][PREFIX_BYTES:], item[5], len(bodies[0])) for item in items]
            lane.served.trace(asked, began, ran - began)

    def _count(self, lane: ModelLane, items: list[_Item], began: float, ran: float) -> None:
        count, done = len(items), perf_counter()
        metrics = lane.served.metrics
        metrics.decode.observe_all([0.0] * count)
        metrics.queue.observe_all([began - item[5] for item in items])
        metrics.encode.observe_all([(done - ran) / count] * count)
        metrics.request.observe_all([done - item[5] for item in items])
        lane.served.answered_plainly(self._route, count, ran - began)


def _ends_with_its_row(message: bytes, size: int) -> bool:
    """Whether the last bytes of a request are its only raw tensor, whatever they are: change each bit, and look."""
    end = bytes(byte ^ 0xFF for byte in message[-size:])
    other = _InferRequest.FromString(message[:-size] + end)
    return list(other.raw_input_contents) == [end]
