"""The gRPC generator takes answers as servers frame them, and takes nothing on trust."""

from __future__ import annotations

import itertools
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from hpack import Decoder, Encoder

from benchmarks.serving import grpc_load
from berth import http2_frames as h2
from berth.protocols.grpc_base import framed
from berth.protocols.v2_protobuf import MESSAGES

DEADLINE_S = 20.0
Frames = Callable[[int, bytes, Encoder], bytes]  # of an answer: the stream's number, and its message


def answer(number: int, **more: Any) -> bytes:
    """What a model that says `number` answers."""
    output = {"name": "Y", "datatype": "FP32", "shape": [1, 1]}
    raw = np.array([number], np.float32).tobytes()
    response = MESSAGES["ModelInferResponse"](model_name="model", outputs=[output], raw_output_contents=[raw], **more)
    return bytes(response.SerializeToString())


def plainly(stream: int, message: bytes, encoder: Encoder) -> bytes:
    """Headers, one frame of data, trailers."""
    return in_pieces(stream, message, encoder, len(message) + 5)


def in_pieces(stream: int, message: bytes, encoder: Encoder, size: int = 7) -> bytes:
    """The same with the data in several frames, an empty one among them."""
    head = encoder.encode([(":status", "200"), ("content-type", "application/grpc")])
    data = framed(message)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    pieces += [b""] if len(pieces) > 1 else []
    frames = [h2.frame(h2.HEADERS, h2.END_HEADERS, stream, head)]
    frames += [h2.frame(h2.DATA, 0, stream, piece) for piece in pieces]
    end = encoder.encode([("grpc-status", "0"), ("grpc-message", "")])
    return b"".join(frames) + h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, end)


def among_others(stream: int, message: bytes, encoder: Encoder) -> bytes:
    """The same with a ping and a window in between."""
    other = h2.frame(h2.PING, 0, 0, b"12345678") + h2.window_update(0, 100)
    return other + plainly(stream, message, encoder) + other


class Peer:
    """A server that gives every call the next of its answers; a real one as far as frames go."""

    def __init__(self, answers: Iterator[bytes], frames: Frames) -> None:
        self.acknowledged = 0
        self._answers, self._frames = answers, frames
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(DEADLINE_S)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self._until_closed)
        self.thread.start()

    def _until_closed(self) -> None:
        with suppress(OSError):  # the generator leaves with answers on their way
            self._serve()

    def _serve(self) -> None:
        with self._listener, self._listener.accept()[0] as connection, connection.makefile("rb") as stream:
            encoder, decoder = Encoder(), Decoder()
            assert stream.read(len(h2.PREFACE)) == h2.PREFACE
            connection.sendall(h2.settings([]))
            while len(header := stream.read(9)) == 9:
                high, low, kind, flags, number = h2.read_header(header, 0)
                payload = stream.read(high << 8 | low)
                if kind == h2.HEADERS:
                    assert dict(decoder.decode(payload))[":method"] == "POST"
                elif kind == h2.DATA and flags & h2.END_STREAM:
                    connection.sendall(self._frames(number, next(self._answers), encoder))
                elif kind == h2.PING:
                    self.acknowledged += flags & h2.ACK


@contextmanager
def peer(answers: Iterator[bytes], frames: Frames = plainly) -> Iterator[Peer]:
    running = Peer(answers, frames)
    try:
        yield running
    finally:
        running.thread.join(DEADLINE_S)


def drive(target: str) -> int:
    """How many calls were answered, 4 at a time."""
    message = framed(b"any")
    expected = {"Y": np.array([[7]], np.float32)}
    asked = grpc_load.Question([message] * grpc_load.ROWS, [expected] * grpc_load.ROWS)
    return len(grpc_load.drive(target, asked, 1, 4, 0.3))


@pytest.mark.parametrize("frames", [plainly, in_pieces, among_others])
@pytest.mark.parametrize("ids", [False, True], ids=["alike", "ids"])
def test_answers_that_differ_in_their_ids_alone_are_alike(frames: Frames, ids: bool) -> None:
    answers = (answer(7, id=str(uuid.uuid4())) if ids else answer(7) for _ in itertools.count())
    with peer(answers, frames) as server:
        assert drive(server.address) > 2 * grpc_load.ROWS
    assert (server.acknowledged > 0) == (frames is among_others)


@pytest.mark.parametrize("ids", [False, True], ids=["alike", "ids"])
def test_a_wrong_answer_ends_the_run_be_it_the_first_or_a_later_one(ids: bool) -> None:
    def from_the(wrong: int) -> Iterator[bytes]:
        for count in itertools.count():
            yield answer(8 if count == wrong else 7, **({"id": str(uuid.uuid4())} if ids else {}))

    with peer(from_the(0)) as server, pytest.raises(AssertionError, match="Not equal"):
        drive(server.address)
    with peer(from_the(3 * grpc_load.ROWS)) as server, pytest.raises(RuntimeError, match="two answers to one question"):
        drive(server.address)
