"""How many ModelInfer calls a server answers, driven by prepared HTTP/2 frames over plain sockets.

A gRPC client in Python costs more than the server that it drives, so this one makes every request once and sends its
bytes again and again: headers as grpcio sends them (indexed, after the first call of a connection), one raw tensor of
one row. Nothing about the answers is taken on trust: the first answer to each of eight different rows is decoded and
compared with what onnxruntime says, each later one must be the same bytes but for an id, and each call must end with
status 0. It does not do what a real client does with an answer: no decoding, no threads, no interceptors; tensors that
are larger than a flow-control window are not for it.

`python -m benchmarks.serving.grpc_load` measures berth with the model of tiny.py and prints one JSON object;
`--target HOST:PORT` measures another server that has the same model.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from hpack import Encoder

from benchmarks.serving.tiny import served, train
from berth import http2_frames as h2
from berth.protocols.v2_protobuf import MESSAGES

ROWS = 8
PATH = "/inference.GRPCInferenceService/ModelInfer"
DEADLINE_S = 20.0


@dataclass(frozen=True)
class Question:
    """What is asked again and again: framed requests, and what the answers have to be."""

    payloads: list[bytes]
    outputs: list[dict[str, np.ndarray[Any, Any]]]


@dataclass(frozen=True)
class Learned:
    """The bytes of a checked answer with holes for the stream's number, their count, and those of the message."""

    template: bytes
    size: int
    body: int


@dataclass(frozen=True)
class Run:
    """One run."""

    requests_per_second: float
    requests_per_cpu_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float


def question(weights: Path, model: str) -> Question:
    """Eight rows for an ONNX model with one float input, with onnxruntime's answers."""
    session = onnxruntime.InferenceSession(weights)
    name, size = session.get_inputs()[0].name, int(session.get_inputs()[0].shape[1])
    rows = np.random.default_rng(0).normal(size=(ROWS, 1, size)).astype(np.float32)
    payloads, outputs = [], []
    for row in rows:
        tensor = {"name": name, "datatype": "FP32", "shape": row.shape}
        request = MESSAGES["ModelInferRequest"](model_name=model, inputs=[tensor], raw_input_contents=[row.tobytes()])
        message = request.SerializeToString()
        payloads.append(struct.pack(">BL", 0, len(message)) + message)
        names = [output.name for output in session.get_outputs()]
        outputs.append(dict(zip(names, session.run(names, {name: row}), strict=True)))
    return Question(payloads, outputs)


def connect(target: str) -> socket.socket:
    """A connection to host:port or to the path of a unix socket."""
    if target.startswith("/"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(target)
        return connection
    host, _, port = target.rpartition(":")
    connection = socket.create_connection((host, int(port)), DEADLINE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class Channel:
    """One connection with a number of calls in flight."""

    def __init__(self, target: str, asked: Question, known: dict[int, bytes], latencies: list[float]) -> None:
        self.socket = connect(target)
        self._asked = asked
        self._known = known
        self._latencies = latencies
        self._blocks = h2.BlockDecoder()
        self._ends: dict[bytes, bool] = {}
        self._number = 1
        self._begun: dict[int, float] = {}
        self._learned: dict[int, Learned] = {}
        self._bodies: dict[int, bytes] = {}
        self._rest = b""
        self._received = 0
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", PATH),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "grpc-load"),
            ("grpc-accept-encoding", "identity, deflate, gzip"),
        ]
        encoder = Encoder()
        self._first, self._block = encoder.encode(headers), encoder.encode(headers)
        self._requests = []
        for payload in asked.payloads:
            start = h2.frame(h2.DATA, h2.END_STREAM, 0, payload)
            before = h2.frame(h2.HEADERS, h2.END_HEADERS, 0, self._block)[:5]
            self._requests.append((before, self._block + start[:5], payload))
        window = h2.window_update(0, 2**31 - 1 - 65_535)
        self.socket.sendall(h2.PREFACE + h2.settings([(h2.INITIAL_WINDOW_SIZE, 2**31 - 1)]) + window)

    def ask(self, count: int) -> None:
        """Begin so many calls."""
        now = time.perf_counter()
        frames = []
        first = self._number
        self._number += 2 * count
        for number in range(first, self._number, 2):
            identity = h2.pack_stream(number)
            before, between, after = self._requests[(number >> 1) % ROWS]
            if number == 1:
                before, between = self._opening(self._first, between)
            frames.append(b"%b%b%b%b%b" % (before, identity, between, identity, after))
            self._begun[number] = now
        self.socket.sendall(b"".join(frames))

    def _opening(self, block: bytes, between: bytes) -> tuple[bytes, bytes]:
        """The bytes around the first number of a request with other headers."""
        start = between[-5:]
        return h2.frame(h2.HEADERS, h2.END_HEADERS, 0, block)[:5], block + start

    def read(self) -> int:
        """Take what has come; how many calls are answered."""
        data = self._rest + self.socket.recv(1 << 20)
        if not data:
            raise RuntimeError("the server closed the connection")
        at, size, done, now = 0, len(data), 0, time.perf_counter()
        starts: dict[int, int] = {}
        while size - at >= 9:
            high, low, kind, flags, number = h2.read_header(data, at)
            learned = self._learned.get((number >> 1) % ROWS) if kind == h2.HEADERS and not flags & 1 else None
            if learned is not None and data[at : at + learned.size] == learned.template % (
                (h2.pack_stream(number),) * 3
            ):
                at += learned.size
                self._received += learned.body
                self._latencies.append(now - self._begun.pop(number))
                done += 1
                continue
            start, at = at, at + 9 + (high << 8 | low)
            if at > size:
                at = start
                break
            payload = data[start + 9 : at]
            if kind == h2.DATA:
                self._received += len(payload)
                self._bodies[number] = self._bodies.get(number, b"") + payload
            elif kind == h2.HEADERS and flags & h2.END_STREAM:
                self._check(number, payload)
                self._latencies.append(now - self._begun.pop(number))
                done += 1
                self._learn(number, data[starts.get(number, at) : at])
            elif kind == h2.HEADERS:
                starts[number] = start
                self._fields(payload)
            else:
                self._other(kind, flags, payload)
        self._rest = data[at:]
        return done

    def _learn(self, number: int, answer: bytes) -> None:
        """Know an answer that was checked again by its bytes, if it is three frames whose headers always mean this."""
        frames, at = [], 0
        while at < len(answer):
            high, low, _, _, other = h2.read_header(answer, at)
            end = at + 9 + (high << 8 | low)
            frames.append((other, answer[at : at + 5], answer[at + 9 : end]))
            at = end
        if [frame[0] for frame in frames] == [number] * 3 and {frames[0][2], frames[2][2]} <= self._blocks.known.keys():
            template = b"".join(
                start.replace(b"%", b"%%") + b"%b" + rest.replace(b"%", b"%%") for _, start, rest in frames
            )
            self._learned[(number >> 1) % ROWS] = Learned(template, len(answer), len(frames[1][2]))

    def _other(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == h2.SETTINGS and not flags & h2.ACK:
            self.socket.sendall(h2.frame(h2.SETTINGS, h2.ACK, 0))
        elif kind == h2.PING and not flags & h2.ACK:
            self.socket.sendall(h2.frame(h2.PING, h2.ACK, 0, payload))
        elif kind in (h2.GOAWAY, h2.RST_STREAM):
            raise RuntimeError(f"the server ended a stream or the connection: {payload!r}")
        if self._received > 2**30:
            self.socket.sendall(h2.window_update(0, self._received))
            self._received = 0

    def _fields(self, block: bytes) -> dict[bytes, bytes]:
        """What a block says; remembered where it means the same every time."""
        known: Any = self._blocks.known.get(block)
        if known is None:
            fields, lasting = self._blocks.decode(block)
            known = dict(fields)
            if lasting:
                self._blocks.known[block] = known
        found: dict[bytes, bytes] = known
        return found

    def _check(self, number: int, block: bytes) -> None:
        fields = self._fields(block)
        row = (number >> 1) % ROWS
        body = self._bodies.pop(number, b"")
        if fields.get(b"grpc-status") != b"0":
            raise RuntimeError(f"a call failed: {fields}")
        if self._known.get(row) == body:
            return
        body = without_id(body)
        known = self._known.setdefault(row, body)
        if known is body:
            check_answer(body, self._asked.outputs[row])
        elif known != body:
            raise RuntimeError(f"two answers to one question: {known!r} and {body!r}")


def without_id(body: bytes) -> bytes:
    """A framed answer as it would be without its id, which some servers (KServe's) draw anew for every answer."""
    answer = MESSAGES["ModelInferResponse"].FromString(body[5:])
    if not answer.id:
        return body
    answer.ClearField("id")
    message: bytes = answer.SerializeToString(deterministic=True)
    return struct.pack(">BL", 0, len(message)) + message


def check_answer(body: bytes, expected: dict[str, np.ndarray[Any, Any]]) -> None:
    """RuntimeError unless an answer is what onnxruntime says."""
    answer = MESSAGES["ModelInferResponse"].FromString(body[5:])
    names = [output.name for output in answer.outputs]
    if sorted(names) != sorted(expected):
        raise RuntimeError(f"expected outputs {sorted(expected)}, got {names}")
    for name, raw in zip(names, answer.raw_output_contents, strict=True):
        found = np.frombuffer(raw, expected[name].dtype).reshape(expected[name].shape)
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-6)


def drive(target: str, asked: Question, channels: int, concurrency: int, seconds: float) -> list[float]:
    """Keep `concurrency` calls in flight over so many connections; the seconds that each answered one took."""
    latencies: list[float] = []
    known: dict[int, bytes] = {}
    selector = selectors.DefaultSelector()
    share, more = divmod(concurrency, channels)
    opened = [Channel(target, asked, known, latencies) for _ in range(channels)]
    with ExitStack() as stack:
        for index, channel in enumerate(opened):
            stack.enter_context(channel.socket)
            selector.register(channel.socket, selectors.EVENT_READ, channel)
            channel.ask(share + (index < more))
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for key, _ in selector.select(DEADLINE_S):
                done = key.data.read()
                if done:
                    key.data.ask(done)
    return latencies


def run(target: str, asked: Question, options: argparse.Namespace, process: int) -> Run:
    """One measured run; `process` is the server's, whose processor time counts."""
    busy, started = _cpu_seconds(process), time.perf_counter()
    latencies = drive(target, asked, options.channels, options.concurrency, options.seconds)
    spent = time.perf_counter() - started
    milliseconds = np.array(latencies) * 1000
    return Run(
        requests_per_second=round(len(latencies) / spent, 1),
        requests_per_cpu_second=round(len(latencies) / max(_cpu_seconds(process) - busy, 0.01), 1),
        p50_ms=round(float(np.percentile(milliseconds, 50)), 3),
        p99_ms=round(float(np.percentile(milliseconds, 99)), 3),
        max_ms=round(float(milliseconds.max()), 3),
    )


def _cpu_seconds(process: int) -> float:
    if not process:
        return 0.0
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(runs: Sequence[Run], options: argparse.Namespace) -> dict[str, object]:
    """Every run, and the medians."""
    return {
        "benchmark": "serving/grpc",
        "channels": options.channels,
        "concurrency": options.concurrency,
        "runs": [asdict(each) for each in runs],
        "median_requests_per_second": statistics.median(each.requests_per_second for each in runs),
        "median_requests_per_cpu_second": statistics.median(each.requests_per_cpu_second for each in runs),
        "median_p99_ms": statistics.median(each.p99_ms for each in runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", help="another server that has the model of tiny.py; berth is started without it")
    parser.add_argument("--model", default="model")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--log-level", default="info")
    options = parser.parse_args()
    os.sched_setaffinity(0, {1 % (os.cpu_count() or 1)})
    with tempfile.TemporaryDirectory() as folder:
        weights = train(Path(folder))
        asked = question(weights, options.model)
        if options.target:
            runs = [run(options.target, asked, options, 0) for _ in range(options.runs)]
        else:
            with served(weights, 0, options.log_level) as server:
                target = server.url.removeprefix("http://")
                drive(target, asked, options.channels, options.concurrency, 1.0)  # warm
                runs = [run(target, asked, options, server.process) for _ in range(options.runs)]
    print(json.dumps(report(runs, options), indent=2))


if __name__ == "__main__":
    main()
