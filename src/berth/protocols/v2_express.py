"""The express lane: small JSON inference requests for a quick model, from bytes to bytes in one loop per batch.

What a tiny model costs is not the model but the steps around it, each a few hundred nanoseconds. Requests that need
none of them (one row, nothing asked for in particular, a model that answers within a millisecond or two, nobody
waiting) are decoded, run, encoded and written in one turn of the event loop: nothing waits, so there is no queue to
bound, no deadline to pass and nothing to cancel. Whatever does not fit goes the general way, through the application,
which defines what the answer is; the tests hold both to the same bytes. v2.py makes one lane per model, http.py offers
it requests.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from time import perf_counter
from typing import Annotated, Any, Literal

import msgspec

from berth.protocols.base import Head, PlainConnection
from berth.protocols.v2_outputs import Outputs
from berth.served import ServedModel
from berth.tensors import Packing

_MAX_DECLINED = 16  # of the requests with one head; a client that asks for more does so every time
_Item = tuple[PlainConnection, Head, bytes, float]


class ExpressLane:
    """The lane of one model."""

    def __init__(self, served: ServedModel, packing: Packing, outputs: Outputs, route: str) -> None:
        self._served = served
        self._outputs = outputs
        self._route = route
        self._items: list[_Item] = []
        self._due = False  # at the end of the turn
        self._size = served.max_rows
        self._loop = asyncio.get_running_loop()
        self._decode = _decoder(packing)
        self._pack = struct.Struct(f"={packing.row_size}{packing.code}").pack

    def take(self, connection: PlainConnection, head: Head, body: bytes) -> bool:
        """Take a request whose answer needs no header out of the ordinary; False: it has to go the general way."""
        items = self._items
        if len(items) >= self._size:  # a full batch waits for nobody; its connections are still in the caches
            self._answered()
        if not items:
            if not self._served.idle_and_quick():
                return False
            if not self._due:
                self._due = True
                self._loop.call_soon(self.run)
        items.append((connection, head, body, perf_counter()))
        return True

    def run(self) -> None:
        """Answer what has been taken; one batch, or several when there is more than fits."""
        self._due = False
        self._answered()

    def _answered(self) -> None:
        while items := self._items[: self._size]:
            del self._items[: self._size]
            self._run(items)

    def _run(self, items: list[_Item]) -> None:
        began = perf_counter()
        items, blobs = self._packed(items)
        if not items:
            return
        decoded = perf_counter()
        try:
            arrays = self._served.run_packed(blobs)
        except Exception:
            bodies: list[bytes] = []  # one of them is to blame: the general way finds out which
        else:
            ran = perf_counter()
            bodies = self._outputs.encode_rows(arrays)
        if bodies:
            self._answer(items, bodies, began, decoded, ran)
        else:
            for connection, head, body, _ in items:
                connection.go_general(head, body)

    def _packed(self, items: list[_Item]) -> tuple[list[_Item], list[bytes]]:
        """The requests that can be answered here, with their rows; all others go the general way."""
        decode, pack = self._decode, self._pack
        taken: list[_Item] = []
        blobs: list[bytes] = []
        for item in items:
            try:
                blobs.append(pack(*decode(item[2]).inputs[0].data))
                taken.append(item)
            except _NOT_HERE:
                connection, head, body, _ = item
                shared = head.shared or head
                shared.declined += 1
                if shared.declined >= _MAX_DECLINED:
                    shared.express = None
                connection.go_general(head, body)
        return taken, blobs

    def _answer(self, items: list[_Item], bodies: list[bytes], began: float, decoded: float, ran: float) -> None:
        count = len(items)
        timing = b'predict;dur=%.3f;desc="%d requests"' % ((ran - decoded) * 1000, count)
        for item, body in zip(items, bodies, strict=True):
            item[0].answer_plain(item[1], body, began - item[3], timing)
        done = perf_counter()
        metrics = self._served.metrics
        metrics.decode.observe_all([(decoded - began) / count] * count)
        metrics.queue.observe_all([began - item[3] for item in items])
        metrics.encode.observe_all([(done - ran) / count] * count)
        metrics.request.observe_all([done - item[3] for item in items])
        self._served.answered_plainly(self._route, count, ran - decoded)
        if self._served.traced:
            asked = [(item[1], item[2], item[3], len(body)) for item, body in zip(items, bodies, strict=True)]
            self._served.trace(asked, decoded, ran - decoded)


_NOT_HERE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError, struct.error)


def _decoder(packing: Packing) -> Callable[[bytes], Any]:
    """A decoder that takes one row for this input and nothing else, so that what it takes needs no more checks."""
    number: Any = float if packing.dtype.kind == "f" else int
    size = msgspec.Meta(min_length=packing.row_size, max_length=packing.row_size)
    shape: Any = (Literal[1], *(Literal[length] for length in packing.tail))
    tensor: list[Any] = [
        ("name", Literal[packing.name]),
        ("shape", tuple[shape]),
        ("datatype", Literal[packing.datatype]),
        ("data", Annotated[list[number], size]),
        ("parameters", None, None),
    ]
    inputs: Any = tuple[msgspec.defstruct("ExpressInput", tensor)]  # type: ignore[misc]
    nothing: list[Any] = [(name, None, None) for name in ("id", "outputs", "parameters")]
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(
        msgspec.defstruct("ExpressRequest", [("inputs", inputs), *nothing])
    ).decode
    return decode
