"""The express lane answers as the general way does, byte for byte, and leaves to it whatever it cannot answer."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.berth.support import Answer, Berth, read_answers, serving, use_up_log

PATH = "/v2/models/double/infer"


@pytest.fixture(scope="module")
def server(weights: Path) -> Iterator[Berth]:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "double.onnx"), MODEL_NAME="double") as running:
        yield running


def body(data: list[Any], **more: Any) -> bytes:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": data}
    return json.dumps({"inputs": [tensor | more.pop("tensor", {})], **more}).encode()


def request(content: bytes, headers: str = "") -> bytes:
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def ask(connection: socket.socket, content: bytes, headers: str = "") -> Answer:
    connection.sendall(request(content, headers))
    return read_answers(connection, 1)[0]


def expressed(server: Berth) -> int:
    lines = server.get("/metrics").body.decode().splitlines()
    return int(next(line for line in lines if line.startswith("berth_express_requests_total{")).split()[-1])


ODD = [
    (body([1e39, 0]), 400, "larger number"),
    (body([1, 2, 3]), 400, "expected 2 elements"),
    (body([1, 2], tensor={"name": "y"}), 400, "unexpected input 'y'"),
    (body([1, 2], tensor={"datatype": "FP64"}), 400, "expected datatype FP32"),
    (body([1, 2], tensor={"shape": [2, 1]}), 400, "expected shape [-1, 2]"),
    (b'{"inputs": [', 400, "not valid JSON"),
    (body([1, 2], parameters={"timeout": "soon"}), 400, "expected microseconds"),
]


def test_both_ways_give_the_same_answers(server: Berth) -> None:
    before = expressed(server)
    expected: dict[bytes, bytes] = {}
    questions = [body([1, 2]), body([0.1, -2.5e-7]), body([3e38, 3e38]), body([1, 2], id="a"), body([[1], [2]])]
    with server.connect() as connection:
        end = time.monotonic() + 1.2  # two pauses of the log's budget at least, so both ways are taken
        while time.monotonic() < end:
            for question in questions:
                answer = ask(connection, question)
                assert answer.status == 200
                assert answer.body == expected.setdefault(question, answer.body)
                assert "predict;dur=" in answer.headers["Server-Timing"]
    assert expressed(server) > before
    values = [json.loads(expected[question])["outputs"][0]["data"] for question in questions[:2]]
    assert values == [[2.0, 4.0], pytest.approx([0.2, -5e-7])]
    assert b"Infinity" in expected[questions[2]]
    assert json.loads(expected[questions[3]])["id"] == "a"


def test_what_cannot_be_answered_is_refused_in_words(server: Berth) -> None:
    with server.connect() as connection:
        end = time.monotonic() + 0.8
        while time.monotonic() < end:
            assert ask(connection, body([1, 2])).status == 200
            for question, status, words in ODD:
                answer = ask(connection, question)
                assert answer.status == status
                assert words in answer.json["error"]


def test_many_connections_get_their_own_answers(server: Berth) -> None:
    def talk(number: int) -> None:
        with server.connect() as connection:
            for turn in range(200):
                answer = ask(connection, body([number, turn]))
                assert answer.json["outputs"][0]["data"] == [2.0 * number, 2.0 * turn]

    before = expressed(server)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(talk, range(16)))
    assert expressed(server) > before


def test_more_than_a_batch_in_one_turn_is_answered_a_full_batch_after_the_other(weights: Path) -> None:
    onnx = str(weights / "double.onnx")
    with (
        serving(FORMAT="onnx", WEIGHTS=onnx, MODEL_NAME="double", MAX_BATCH_SIZE="8") as server,
        ExitStack() as stack,
    ):
        connections = [stack.enter_context(server.connect()) for _ in range(42)]
        for _ in range(20):  # the general way has some while there is room for their lines in the log
            before = expressed(server)
            while expressed(server) == before:
                assert ask(connections[0], body([10, 2])).status == 200
            before = expressed(server)
            sizes = burst(server, connections)
            if expressed(server) == before + len(sizes):
                break
        assert expressed(server) == before + len(sizes)
        assert max(sizes) == 8


def burst(server: Berth, connections: list[socket.socket]) -> list[int]:
    """A request on each connection, all read in one turn; how many each was answered with."""
    os.kill(server.process.pid, signal.SIGSTOP)  # until all of them have come
    try:
        for number, connection in enumerate(connections, 10):  # of one length: their first lines are the same
            connection.sendall(request(body([number, 1])))
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    sizes = []
    for number, connection in enumerate(connections, 10):
        answer = read_answers(connection, 1)[0]
        assert answer.json["outputs"][0]["data"] == [2.0 * number, 2.0]
        together = re.search(r'desc="(\d+) requests"', answer.headers["Server-Timing"])
        sizes.append(int(together[1]) if together else 1)
    return sizes


def test_headers_out_of_the_ordinary_are_honoured(server: Berth) -> None:
    with server.connect() as connection:
        use_up_log(connection, request(body([1, 2])))
        answer = ask(connection, body([1, 2]), "X-Request-Id: mine\r\n")
        assert answer.headers["X-Request-Id"] == "mine"
        assert ask(connection, body([1, 2]), "Expect: nothing\r\n").status == 200
        last = ask(connection, body([1, 2]), "Connection: close\r\n")
        assert last.headers["Connection"] == "close"
        assert connection.recv(1) == b""


def test_a_pipeline_is_answered_in_order(server: Berth) -> None:
    with server.connect() as connection:
        use_up_log(connection, request(body([1, 2])))
        connection.sendall(b"".join(request(body([number, 0])) for number in range(5)))
        data = [answer.json["outputs"][0]["data"][0] for answer in read_answers(connection, 5)]
        assert data == [0.0, 2.0, 4.0, 6.0, 8.0]


def proxied(content: bytes, identity: str, more: str = "") -> bytes:
    """A request as Envoy passes it on."""
    lines = [
        f"POST {PATH} HTTP/1.1",
        "host: model.example",
        "content-type: application/json",
        f"content-length: {len(content)}",
        "x-forwarded-for: 192.0.2.2",
        "x-forwarded-proto: http",
        "x-envoy-external-address: 192.0.2.2",
        f"x-request-id: {identity}",
        "x-envoy-expected-rq-timeout-ms: 300000",
    ]
    return "\r\n".join(lines).encode() + f"\r\n{more}\r\n".encode() + content


def test_what_a_proxy_passes_on_takes_the_lane_and_gets_its_own_id_back(server: Berth) -> None:
    before = expressed(server)
    with server.connect() as connection:
        for number in range(300):
            if number % 100 == 0:
                use_up_log(connection, proxied(body([1, 2]), "many"))
            identity = f"27638ecf-5c85-4c90-ba4e-{number:012x}"
            connection.sendall(proxied(body([number, 1]), identity))
            answer = read_answers(connection, 1)[0]
            assert answer.status == 200
            assert answer.headers["X-Request-Id"] == identity
            assert answer.json["outputs"][0]["data"] == [2.0 * number, 2.0]
        assert expressed(server) > before
        connection.sendall(proxied(body([1, 2, 3]), "refused"))
        answer = read_answers(connection, 1)[0]
        assert (answer.status, answer.headers["X-Request-Id"]) == (400, "refused")
    event = server.wait_for_event("request", request_id="refused", status=400)
    assert event["route"] == "v2.infer"
