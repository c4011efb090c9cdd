"""What one caller can cost the others: slow senders, bombs, deep and oversize requests, too many connections."""

from __future__ import annotations

import gzip
import io
import json
import select
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.berth.support import Berth, predictor, read_answers, serving

DEADLINE_S = 20.0


def number(server: Berth, name: str) -> float:
    lines = server.get("/metrics").body.decode().splitlines()
    return float(next(line for line in lines if line.startswith((f"{name} ", f"{name}{{"))).split()[-1])


# Slow senders and readers.


def test_500_slow_sockets_leave_every_good_caller_answered() -> None:
    """Half of the sockets drip headers, half a body; the good ones are answered all along, the slow ones ended."""
    limits = {"HEADER_TIMEOUT_S": "4", "MIN_BODY_RATE": "240"}
    with serving(**predictor("Files", **limits)) as server:
        slow = [server.connect() for _ in range(500)]
        for index, connection in enumerate(slow):
            if index % 2:
                connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n{")
            else:
                connection.sendall(b"GET /livez HTTP/1.1\r\nX-")
        stop = threading.Event()
        ended: set[int] = set()

        def drip() -> None:
            while not stop.is_set():
                for index, connection in enumerate(slow):
                    try:
                        connection.send(b"x")
                    except OSError:
                        ended.add(index)
                time.sleep(0.2)

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            answered = 0
            while len(ended) < len(slow):
                assert server.post("/predict", {"files": [], "n": answered}).json["n"] == answered
                assert server.get("/livez").status == 200
                answered += 1
                assert answered < 20_000
            assert answered > 10
        finally:
            stop.set()
            thread.join()
        statuses = [read_answers(connection, 1)[0].status for connection in slow]
        assert set(statuses) == {408}
        for connection in slow:
            connection.close()


def test_a_body_that_trickles_is_408_long_before_its_time_is_over() -> None:
    limits = {"HEADER_TIMEOUT_S": "1", "MIN_BODY_RATE": "1000", "REQUEST_TIMEOUT_S": "600"}
    with serving(**predictor("Files", **limits)) as server, server.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        deadline = time.monotonic() + DEADLINE_S
        while not select.select([connection], [], [], 0.2)[0]:
            connection.sendall(b"x")
            assert time.monotonic() < deadline
        (answer,) = read_answers(connection, 1)
        assert answer.status == 408
        assert "BERTH_MIN_BODY_RATE" in answer.json["error"]
        assert answer.headers["Connection"] == "close"


def test_a_body_that_keeps_the_rate_may_take_longer_than_headers_may() -> None:
    limits = {"HEADER_TIMEOUT_S": "0.5", "MIN_BODY_RATE": "10", "REQUEST_TIMEOUT_S": "600"}
    with serving(**predictor("Files", **limits)) as server, server.connect() as connection:
        body = json.dumps({"files": [], "text": "x" * 2000}).encode()
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
        for start in range(0, len(body), 200):
            connection.sendall(body[start : start + 200])
            time.sleep(0.2)
        (answer,) = read_answers(connection, 1)
        assert answer.status == 200


def test_a_caller_that_reads_nothing_is_let_go() -> None:
    body = json.dumps({"file": {"b64": "A" * 8_000_000}}).encode()
    with serving(**predictor("Echo", REQUEST_TIMEOUT_S="2")) as server, server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        deadline = time.monotonic() + DEADLINE_S
        while number(server, "nv_inference_request_success") < 1:
            assert time.monotonic() < deadline
        assert number(server, "berth_open_connections") == 2
        while number(server, "berth_open_connections") == 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_caller_that_reads_slowly_is_not() -> None:
    body = json.dumps({"file": {"b64": "A" * 4_000_000}}).encode()
    with serving(**predictor("Echo", REQUEST_TIMEOUT_S="3")) as server, server.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        read = b""
        for _ in range(12):
            read += connection.recv(100_000)
            time.sleep(0.5)
        while len(read) < 4_000_000:
            more = connection.recv(1 << 20)
            assert more
            read += more
        assert read.startswith(b"HTTP/1.1 200")


# Bombs.


def png(width: int, height: int) -> bytes:
    """A PNG of this size by its header, whose pixels are a few kilobytes of compressed nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def form(data: bytes) -> tuple[bytes, dict[str, str]]:
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    return head + data + b"\r\n--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize("size", [(40_000, 40_000), (12_000, 12_000), (9_000, 9_000)])
def test_a_picture_too_large_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with serving(**predictor("Pictures")) as server:
        before = number(server, "process_resident_memory_bytes")
        answer = server.post("/predict", *form(png(*size)))
        assert answer.status == 422
        assert "at most 64000000 pixels" in answer.json["error"]
        grown = number(server, "process_resident_memory_bytes") - before
        assert grown < 60_000_000  # its pixels would be 240 MB at least


def test_how_large_a_picture_may_be_can_be_set() -> None:
    def picture(width: int) -> tuple[bytes, dict[str, str]]:
        buffer = io.BytesIO()
        Image.new("RGB", (width, 10)).save(buffer, "PNG")
        return form(buffer.getvalue())

    with serving(**predictor("Pictures", MAX_IMAGE_PIXELS="1000")) as server:
        assert server.post("/predict", *picture(100)).status == 200
        answer = server.post("/predict", *picture(101))
        assert answer.status == 422
        assert "BERTH_MAX_IMAGE_PIXELS" in answer.json["error"]
    with serving(**predictor("Pictures", MAX_IMAGE_PIXELS="1000", WORKERS="1")) as server:
        assert server.post("/predict", *picture(101)).status == 422


def test_more_pixels_than_pillow_would_take_may_be_allowed() -> None:
    with serving(**predictor("Pictures", MAX_IMAGE_PIXELS="2000000000")) as server:
        answer = server.post("/predict", *form(png(40_000, 40_000)))
        assert answer.status == 422  # its header is taken; its pixels end too early
        assert "cannot be decoded" in answer.json["error"] or "pixels" not in answer.json["error"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_refused_without_unfolding_it_whole(encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    bomb = pack(bytes(60_000_000), 9)
    assert len(bomb) * 900 < 60_000_000
    with serving(**predictor("Files")) as server:
        before = number(server, "process_resident_memory_bytes")
        answer = server.post("/predict", bomb, {"Content-Encoding": encoding})
        assert answer.status == 413
        assert "BERTH_MAX_DECOMPRESSION_RATIO" in answer.json["error"]
        assert number(server, "process_resident_memory_bytes") - before < 45_000_000
        small = pack(json.dumps({"files": [], "text": "x" * 900_000}).encode())
        assert len(small) < 2000
        assert server.post("/predict", small, {"Content-Encoding": encoding}).status == 200  # a megabyte is harmless
        large = pack(json.dumps({"files": [], "text": "the quick brown fox " * 100_000}).encode(), 1)
        assert server.post("/predict", large, {"Content-Encoding": encoding}).status == 200


def test_the_ratio_can_be_set() -> None:
    body = gzip.compress(json.dumps({"files": [], "text": "x" * 3_000_000}).encode(), 9)
    for ratio, status in (("200", 413), ("1200", 200)):
        with serving(**predictor("Files", MAX_DECOMPRESSION_RATIO=ratio)) as server:
            assert server.post("/predict", body, {"Content-Encoding": "gzip"}).status == status


# Connections.


def test_one_connection_too_many_hears_why_and_is_not_reset() -> None:
    with serving(**predictor("Files", MAX_CONNECTIONS="3")) as server:
        kept = [server.connect() for _ in range(3)]
        for connection in kept:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_answers(connection, 1)[0].status == 200
        for _ in range(20):
            with server.connect() as connection:
                body = b"x" * 200_000
                head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
                try:
                    connection.sendall(head + body)
                except BrokenPipeError:
                    pytest.fail("it was reset")
                (answer,) = read_answers(connection, 1)
                assert answer.status == 503
                assert answer.headers["Retry-After"] == "1"
                assert answer.headers["Connection"] == "close"
        kept[0].sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answers(kept[0], 1)[0].status == 200
        for connection in kept:
            connection.close()


# Depth and size of JSON and tensors.


@pytest.fixture(scope="module")
def wide(weights: Path) -> Iterator[Berth]:
    """Any number of rows and columns, so that every size is one that the model would take."""
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "wide.onnx"), MODEL_NAME="wide") as server:
        yield server


@pytest.fixture(scope="module")
def anything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Berth]:
    folder = tmp_path_factory.mktemp("anything")
    code = "from typing import Any\nclass Anything:\n    def predict(self, x: Any) -> int:\n        return 1\n"
    (folder / "anything.py").write_text(code)
    with serving(cwd=folder, PREDICTOR="anything:Anything") as server:
        yield server


def nested(levels: int, inner: str = "1", opening: str = "[", closing: str = "]") -> str:
    return opening * levels + inner + closing * levels


@pytest.mark.parametrize(
    "value",
    [
        nested(99),
        nested(99, "1", '{"a":', "}"),
        nested(99, '"]"', '["]]}}",'),
        nested(98, '"' + "[" * 500 + '\\"' + "{" * 500 + '"'),
        "[" + ",".join(["[]"] * 5000) + "]",
    ],
)
def test_json_may_nest_100_deep(anything: Berth, value: str) -> None:
    body = f'{{"x":{value}}}'.encode()
    assert anything.post("/predict", body).status == 200
    assert anything.post("/v2/models/model/generate", body).status == 200


@pytest.mark.parametrize(
    "value",
    [
        nested(100),
        nested(100, "1", '{"a":', "}"),
        nested(100, '"]"', '["]]}}",'),
        nested(100, "1", "[[],", "]"),
        nested(100_000),
        "[" * 1_000_000,
    ],
)
def test_json_nested_deeper_is_400(anything: Berth, value: str) -> None:
    body = f'{{"x":{value}}}'.encode()
    for path in ("/predict", "/v2/models/model/generate"):
        answer = anything.post(path, body)
        assert answer.status == 400, path
        assert "nested too deeply" in answer.json["error"]


def envelope(data: str = "[1,2]", shape: str = "[1,2]", **more: str) -> bytes:
    fields = "".join(f',"{name}":{value}' for name, value in more.items())
    return f'{{"inputs":[{{"name":"x","shape":{shape},"datatype":"FP32","data":{data}}}]{fields}}}'.encode()


@pytest.mark.parametrize("server_name", ["wide", "onnx_server"])
@pytest.mark.parametrize(
    "body",
    [
        envelope(nested(200)),
        envelope(nested(100_000)),
        envelope(parameters=f'{{"a":{nested(120)}}}'),
        envelope("[NaN,1]", parameters=f'{{"a":{nested(120)}}}'),
        envelope(outputs=f'[{{"name":"y","parameters":{{"a":{nested(120)}}}}}]'),
        envelope(nested(100_000, "NaN")),
    ],
)
def test_v2_nested_deeper_is_400(request: pytest.FixtureRequest, server_name: str, body: bytes) -> None:
    server: Berth = request.getfixturevalue(server_name)
    name = "wide" if server_name == "wide" else "double"
    answer = server.post(f"/v2/models/{name}/infer", body)
    assert answer.status == 400, answer.body[:300]
    assert "nest" in answer.json["error"]


HUGE = [
    "[-1,2]",
    "[1,-2]",
    "[-1,-2]",
    "[9223372036854775807,2]",
    "[9223372036854775808,2]",
    "[4611686018427387904,4]",
    "[4294967296,4294967296]",
    "[18446744073709551616,1]",
    f"[{10**30},{10**30}]",
    "[0,9223372036854775808]",
    "[0,4611686018427387904]",
    f"[0,{10**30}]",
    "[0.5,2]",
    "[true,2]",
    '["1",2]',
    "null",
    "[1e3,2]",
    "[1,2,3,4]",
    "[" + ",".join(["1"] * 200) + "]",
]


@pytest.mark.parametrize("shape", HUGE)
@pytest.mark.parametrize("data", ["[1,2]", "[]"])
def test_shapes_that_overflow_or_make_no_sense_are_400(wide: Berth, shape: str, data: str) -> None:
    answer = wide.post("/v2/models/wide/infer", envelope(data, shape))
    assert answer.status == 400, answer.body
    assert answer.json["error"]


@pytest.mark.parametrize("shape", HUGE)
@pytest.mark.parametrize("size", ["8", "0", "-8", "9223372036854775808", "18446744073709551616", "8.0", "true", '"8"'])
def test_binary_sizes_that_overflow_are_400(wide: Berth, shape: str, size: str) -> None:
    tensor = f'{{"name":"x","shape":{shape},"datatype":"FP32","parameters":{{"binary_data_size":{size}}}}}'
    head = f'{{"inputs":[{tensor}]}}'.encode()
    blob = bytes(8 if size != "0" else 0)
    answer = wide.post("/v2/models/wide/infer", head + blob, {"Inference-Header-Content-Length": str(len(head))})
    assert answer.status == 400, answer.body


@pytest.mark.parametrize("length", ["99999999999999999999999", "-1", "0x10", "1e3", " ", "1_0"])
def test_header_lengths_that_overflow_are_400(wide: Berth, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    assert wide.post("/v2/models/wide/infer", envelope(), headers).status == 400


@pytest.mark.parametrize("length", [b"99999999999999999999999999", b"-1", b"1, 1", b"0x1"])
def test_a_content_length_that_overflows_ends_the_connection_with_an_answer(wide: Berth, length: bytes) -> None:
    with wide.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\n{}")
        (answer,) = read_answers(connection, 1)
        assert answer.status in (400, 413)
        assert answer.headers["Connection"] == "close"


def test_two_content_lengths_are_refused(wide: Berth) -> None:
    with wide.connect() as connection:
        lengths = b"Content-Length: 2\r\nContent-Length: 2\r\n"
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\n" + lengths + b"\r\n{}")
        assert read_answers(connection, 1)[0].status == 400


def test_a_chunk_that_says_it_is_10_gigabytes_is_413_without_them(wide: Berth) -> None:
    with wide.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n280000000\r\n")
        before = number(wide, "process_resident_memory_bytes")
        sent, piece = 0, b"x" * (1 << 20)
        connection.settimeout(0.5)
        try:
            while sent < 200 << 20 and not select.select([connection], [], [], 0)[0]:
                sent += connection.send(piece)
        except OSError:
            pass
        connection.settimeout(DEADLINE_S)
        (answer,) = read_answers(connection, 1)
        assert answer.status == 413
        assert number(wide, "process_resident_memory_bytes") - before < 200 << 20


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" * 400, "18446744073709551616"])
def test_native_numbers_that_overflow_are_refused(typed_server: Berth, number: str) -> None:
    for field in ("count", "ratio"):
        inputs: dict[str, Any] = {"count": 1, "name": "a", "numbers": [[1, 2]], "ratio": 0.5}
        text = json.dumps(inputs | {field: "@"}).replace('"@"', number)
        answer = typed_server.post("/predict", text.encode())
        assert answer.status in (200, 400, 422), answer.body
        assert not (answer.status == 200 and field == "count")
