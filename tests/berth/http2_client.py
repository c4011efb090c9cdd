"""An HTTP/2 client that says exactly what a test wants, right or wrong, and shows what comes back."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hpack import Decoder, Encoder

from tests.berth.support import Berth

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS = 4
INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
LONG = 2**31 - 1  # the largest window
Frame = tuple[int, int, int, bytes]  # type, flags, stream, payload


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def increment(stream: int, size: int) -> bytes:
    """The peer may send so many bytes more."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


def framed(message: bytes, compressed: int = 0) -> bytes:
    return struct.pack(">BI", compressed, len(message)) + message


class Answer:
    """What came on one stream."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = b""
        self.ended = False
        self.reset: int | None = None

    @property
    def status(self) -> int:
        return int(self.headers["grpc-status"])


class Client:
    """One connection; `closed` when the server has said everything."""

    def __init__(self, server: Berth, settings: Sequence[tuple[int, int]] = (), preface: bytes = PREFACE) -> None:
        self.socket = server.connect()
        self.closed = False
        self.answers: dict[int, Answer] = {}
        self.frames: list[Frame] = []
        self._encoder = Encoder()
        self._decoder = Decoder()
        self._rest = b""
        if preface:
            packed = b"".join(struct.pack(">HI", *pair) for pair in settings)
            self.send(preface + frame(SETTINGS, 0, 0, packed))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send; a server that has closed is no error, the test sees it when it reads."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def block(self, path: str = INFER, **more: str) -> bytes:
        """The header block of a call."""
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
        fields["content-type"] = "application/grpc"
        fields |= {name.replace("_", "-"): value for name, value in more.items()}
        return self._encoder.encode(list(fields.items()))

    def call(self, stream: int, message: bytes = b"", path: str = INFER, **more: str) -> None:
        """A whole call."""
        head = frame(HEADERS, END_HEADERS, stream, self.block(path, **more))
        self.send(head + frame(DATA, END_STREAM, stream, framed(message)))

    def read(self) -> bool:
        """Whatever comes next; False at the end."""
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            return False
        self._rest += data
        while len(self._rest) >= 9:
            end = 9 + int.from_bytes(self._rest[:3], "big")
            if len(self._rest) < end:
                break
            stream = int.from_bytes(self._rest[5:9], "big")
            self._take((self._rest[3], self._rest[4], stream, self._rest[9:end]))
            self._rest = self._rest[end:]
        return True

    def _take(self, found: Frame) -> None:
        kind, flags, stream, payload = found
        self.frames.append(found)
        if kind in (DATA, HEADERS, RST_STREAM):
            answer = self.answers.setdefault(stream, Answer())
            if kind == HEADERS:
                answer.headers.update(dict(self._decoder.decode(payload)))
            elif kind == DATA:
                answer.body += payload
            else:
                answer.reset = int.from_bytes(payload, "big")
            answer.ended = answer.ended or kind == RST_STREAM or bool(flags & END_STREAM)

    def answer(self, stream: int) -> Answer:
        """The whole answer on a stream."""
        while not (stream in self.answers and self.answers[stream].ended):
            assert self.read(), f"closed before stream {stream} was answered: {self.goaway()}"
        return self.answers[stream]

    def until(self, kind: int, flags: int = 0) -> Frame:
        """The next frame of a kind; what came before it is forgotten."""
        while True:
            for index, found in enumerate(self.frames):
                if found[0] == kind and found[1] & flags == flags:
                    del self.frames[: index + 1]
                    return found
            assert self.read(), f"closed before a frame of type {kind} came"

    def goaway(self) -> tuple[int, str] | None:
        """Code and text of the last GOAWAY."""
        found = [payload for kind, _, _, payload in self.frames if kind == GOAWAY]
        return (int.from_bytes(found[-1][4:8], "big"), found[-1][8:].decode()) if found else None

    def end(self) -> tuple[int, str] | None:
        """Read to the end; code and text of the GOAWAY before it."""
        while self.read():
            pass
        return self.goaway()


def resident_mib(server: Berth) -> float:
    """Resident memory of a server."""
    with open(f"/proc/{server.process.pid}/status") as status:  # noqa: PTH123
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def well(server: Berth) -> bool:
    """Whether somebody else is answered, over HTTP/1.1 and over HTTP/2."""
    with Client(server) as other:
        other.call(1, path=LIVE)
        return other.answer(1).body == framed(b"\x08\x01") and server.get("/v2/health/live").status == 200


def message_for(request: Any) -> bytes:
    """A request as bytes."""
    data: bytes = request.SerializeToString()
    return data
