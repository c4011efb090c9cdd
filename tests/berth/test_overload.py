"""More than can be answered: bounds, deadlines, priorities, and the response cache."""

from __future__ import annotations

import json
import re
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.serving.client import post
from benchmarks.serving.impatient import ask_again
from berth.admission import Admission
from berth.work import Work
from tests.berth.support import Answer, Berth, read_answers, serving


def slow(server: Berth, value: int, **headers: str) -> Answer:
    return server.post("/predict", {"seconds": 0.3, "value": value}, headers)


@pytest.fixture(scope="module")
def spin() -> Iterator[Berth]:
    with serving(PREDICTOR="models_workers:Sleepy", MAX_QUEUE_BYTES="5000") as server:
        yield server


def test_a_deadline_that_cannot_be_met_is_refused_at_once(spin: Berth) -> None:
    for _ in range(20):  # until the server knows how long a row takes
        slow(spin, 0)
    with ThreadPoolExecutor(12) as pool:
        waiting = [pool.submit(slow, spin, number) for number in range(8)]
        time.sleep(0.2)
        started = time.monotonic()
        refused = slow(spin, 9, **{"X-Request-Timeout": "0.5"})
        assert time.monotonic() - started < 0.25
        assert refused.status == 503
        assert "deadline" in refused.json["error"]
        assert int(refused.headers["Retry-After"]) >= 1
        assert [future.result().status for future in waiting] == [200] * 8


def test_a_deadline_in_a_header_is_kept(spin: Berth) -> None:
    for name, value in (("X-Request-Timeout", "0.1"), ("X-Envoy-Expected-Rq-Timeout-Ms", "100")):
        started = time.monotonic()
        assert slow(spin, 1, **{name: value}).status in (503, 504)
        assert time.monotonic() - started < 0.28
        time.sleep(0.3)
    bad = slow(spin, 1, **{"X-Request-Timeout": "soon"})
    assert bad.status == 400
    assert "x-request-timeout" in bad.json["error"]


def test_the_queue_is_bounded_in_bytes(spin: Berth) -> None:
    large = {"seconds": 0.3, "value": 1, "text": "x" * 3000}
    with ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(spin.post, "/predict", large) for _ in range(2))
        statuses = sorted([first.result().status, second.result().status])
    assert statuses == [200, 503]
    assert spin.post("/predict", {**large, "text": "x" * 8000}).status == 200  # alone, however large


def test_the_urgent_go_first() -> None:
    with serving(PREDICTOR="models_workers:Sleepy") as server, ThreadPoolExecutor(12) as pool:
        done: list[int] = []

        def ask(priority: int, seconds: float = 0.15) -> None:
            inputs = [
                {"name": "seconds", "shape": [1], "datatype": "FP64", "data": [seconds]},
                {"name": "value", "shape": [1], "datatype": "INT64", "data": [priority]},
            ]
            body = {"inputs": inputs, "parameters": {"priority": priority}}
            assert server.post("/v2/models/model/infer", body).status == 200
            done.append(priority)

        futures = [pool.submit(ask, 0, 2.0)]  # long enough for all others to arrive meanwhile
        time.sleep(0.2)
        for priority in (0, 3, 2, 1):
            futures.append(pool.submit(ask, priority))
            time.sleep(0.2)
        for future in futures:
            future.result()
        assert done == [0, 1, 2, 3, 0]


def test_connections_are_bounded() -> None:
    with serving(PREDICTOR="models:Echo", MAX_CONNECTIONS="2") as server, server.connect() as one, server.connect():
        one.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answers(one, 1)[0].status == 200
        with server.connect() as third:
            refused = read_answers(third, 1)[0]
            assert refused.status == 503
            assert "BERTH_MAX_CONNECTIONS" in refused.json["error"]
            assert third.recv(10) == b""


# The cache.


@pytest.fixture(scope="module")
def cached(weights: Path) -> Iterator[Berth]:
    settings = {"FORMAT": "onnx", "WEIGHTS": str(weights / "double.onnx"), "MODEL_NAME": "double"}
    with serving(**settings, CACHE_BYTES="20000", CACHE_TTL_S="1") as server:
        yield server


def infer(server: Berth, data: list[float]) -> Answer:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": data}
    return server.post("/v2/models/double/infer", {"inputs": [tensor]})


def infer_binary(server: Berth, data: list[float]) -> Answer:
    blob = np.array([data], np.float32).tobytes()
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": len(blob)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    return server.post("/v2/models/double/infer", head + blob, length)


def test_equal_questions_are_answered_once_whatever_their_form(cached: Berth) -> None:
    first = infer(cached, [5, 6])
    assert first.headers["Cache-Status"] == "berth; fwd=miss; stored"
    for again in (infer(cached, [5, 6]), infer_binary(cached, [5, 6])):
        assert again.headers["Cache-Status"].startswith("berth; hit; ttl=")
        assert again.headers["Age"] == "0"
        assert again.json == first.json
    native = cached.post("/predict", {"x": [[5, 6]]})
    assert native.headers["Cache-Status"].startswith("berth; hit")
    assert native.json == {"y": [[10.0, 12.0]]}
    assert infer(cached, [5, 7]).headers["Cache-Status"] == "berth; fwd=miss; stored"
    text = cached.get("/metrics").body.decode()
    assert 'berth_cache_hits_total{model="double",version="1"} 3' in text


def test_answers_grow_old(cached: Berth) -> None:
    infer(cached, [1, 1])
    time.sleep(1.1)
    assert infer(cached, [1, 1]).headers["Cache-Status"] == "berth; fwd=miss; stored"


def test_the_cache_is_bounded(cached: Berth) -> None:
    for number in range(200):
        infer(cached, [number, 0])
    assert infer(cached, [199, 0]).headers["Cache-Status"].startswith("berth; hit")
    assert infer(cached, [0, 0]).headers["Cache-Status"] == "berth; fwd=miss; stored"


def test_an_equal_question_waits_for_the_first(tmp_path: Path) -> None:
    with serving(PREDICTOR="models_workers:Sleepy", CACHE_BYTES="100000") as server, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: slow(server, 7), range(8)))
        assert [answer.json["value"] for answer in answers] == [7] * 8
        assert len({answer.json["run"] for answer in answers}) == 1
        statuses = [answer.headers["Cache-Status"] for answer in answers]
        assert statuses.count("berth; fwd=miss; stored") == 1


def test_failures_are_not_remembered(tmp_path: Path) -> None:
    with serving(PREDICTOR="models_workers:Sleepy", CACHE_BYTES="100000") as server:
        for _ in range(2):
            assert server.post("/predict", {"seconds": -1, "value": 1}).status == 422


def test_whoever_waits_for_a_caller_that_hangs_up_is_answered() -> None:
    with serving(PREDICTOR="models_workers:Sleepy", CACHE_BYTES="100000") as server, ThreadPoolExecutor(4) as pool:
        blocker = pool.submit(slow, server, 1)
        time.sleep(0.05)
        body = json.dumps({"seconds": 0.1, "value": 2}).encode()
        with server.connect() as leader:
            leader.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            time.sleep(0.05)
            follower = pool.submit(server.post, "/predict", {"seconds": 0.1, "value": 2})
            time.sleep(0.05)
        answer: Any = follower.result()
        assert answer.json["value"] == 2
        assert blocker.result().status == 200


def test_who_has_no_chance_is_told_so_before_the_body_is_looked_at(spin: Berth) -> None:
    for _ in range(20):
        slow(spin, 0)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(slow, spin, number) for number in range(4)]
        time.sleep(0.2)
        refused = spin.post("/predict", b"no JSON at all", {"X-Request-Timeout": "0.1"})
        assert (refused.status, "deadline" in refused.json["error"]) == (503, True)
        assert [future.result().status for future in waiting] == [200] * 4
    assert spin.post("/predict", b"no JSON at all", {"X-Request-Timeout": "0.1"}).status == 400


def test_every_refusal_of_a_flood_is_counted_and_who_was_let_in_is_answered() -> None:
    body = b'{"seconds":0.3,"value":1}'
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nX-Request-Timeout: 0.5\r\nContent-Length: %d\r\n\r\n" % len(body)
    with serving(PREDICTOR="models_workers:Sleepy") as server, ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            slow(server, 0)
        waiting = [pool.submit(slow, server, number) for number in range(4)]
        time.sleep(0.1)
        statuses: list[int] = []
        with server.connect() as connection:
            stream = connection.makefile("rb")
            for _ in range(2000):
                connection.sendall(head + body)
                statuses.append(_status(stream))
                if statuses[-1] != 503:
                    break
        assert [future.result().status for future in waiting] == [200] * 4
        text = server.get("/metrics").body.decode()
        refused = statuses.count(503)
        assert refused > 1000  # more than are logged one by one
        assert _sample(text, r'berth_requests_total{.*status="503"}') == refused
        assert _sample(text, r'nv_inference_request_failure{.*reason="REJECTED"}') == refused


def test_a_flood_on_many_connections_is_counted_to_the_last_refusal() -> None:
    body = b'{"seconds":1.5,"value":1}'
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with serving(PREDICTOR="models_workers:Sleepy", MAX_QUEUE="1") as server, ExitStack() as stack:
        first = stack.enter_context(server.connect())
        first.sendall(head + body)
        time.sleep(0.1)
        connections = [stack.enter_context(server.connect()) for _ in range(60)]
        streams = [connection.makefile("rb") for connection in connections]
        refused = 0
        for _ in range(20):
            for connection in connections:
                connection.sendall(head + body)
            statuses = [_status(stream) for stream in streams]
            assert Counter(statuses) == {503: 60}
            refused += len(statuses)
        text = server.get("/metrics").body.decode()
        assert _sample(text, r'berth_requests_total{.*status="503"}') == refused == 1200
        assert _sample(text, r'nv_inference_request_failure{.*reason="REJECTED"}') == refused
        assert read_answers(first, 1)[0].status == 200


@pytest.mark.parametrize("workers", [0, 1])
def test_a_server_that_stops_in_a_flood_answers_whatever_was_asked(workers: int) -> None:
    request = post("/predict", {"value": 1}, "X-Request-Timeout: 0.2")
    with serving(PREDICTOR="models_workers:Computes", WORKERS=str(workers)) as server, ThreadPoolExecutor(1) as pool:
        flood = pool.submit(ask_again, server.connect, request, 200, 30.0)
        time.sleep(2.5)
        server.process.terminate()
        found = flood.result()
        assert server.process.wait(30) == 0
        assert not found.resets
        assert set(found.statuses) <= {200, 503, 504}
        assert found.statuses[200] > 10
        assert found.statuses[503] > 200


def test_each_of_several_questions_in_one_go_is_answered_in_a_flood() -> None:
    request = post("/predict", {"value": 1}, "X-Request-Timeout: 0.2")
    other = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving(PREDICTOR="models_workers:Computes") as server, ThreadPoolExecutor(1) as pool:
        flood = pool.submit(ask_again, server.connect, request, 200, 4.0)
        time.sleep(2.5)
        with server.connect() as connection:
            for _ in range(5):
                connection.sendall(request)
                assert read_answers(connection, 1)[0].status in (200, 503)
            connection.sendall(request + other + request + other)
            answers = read_answers(connection, 4)
            assert [answer.status for answer in answers[1::2]] == [200, 200]
            assert {answer.status for answer in answers[::2]} <= {200, 503}
            connection.sendall(request + b"nonsense\r\n\r\n")
            assert [answer.status for answer in read_answers(connection, 2)][1] == 400
        assert not flood.result().resets


def test_a_refusal_does_not_overtake_the_answer_before_it() -> None:
    body = b'{"seconds":0.5,"value":1}'
    request = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with serving(PREDICTOR="models_workers:Sleepy", MAX_QUEUE="1") as server, ExitStack() as stack:
        first, *others = [stack.enter_context(server.connect()) for _ in range(20)]
        first.sendall(request)
        time.sleep(0.1)
        for connection in others:
            connection.sendall(request)
        first.sendall(request)
        assert {_status(connection.makefile("rb")) for connection in others} == {503}
        assert [answer.status for answer in read_answers(first, 2)] == [200, 503]


def test_a_refusal_stands_until_somebody_leaves() -> None:
    admission = Admission(limit=1, limit_bytes=1000, timeout=1.0)
    work = Work(cast("Any", None), [], list, 400)
    assert admission.turned_away(None, 0.0, now=0.0) is None
    admission.admit(work, 0.0, 0.0)
    refusal = admission.turned_away(None, 0.0, now=0.0)
    assert refusal is not None
    assert refusal.stands
    admission.release(work)
    assert not refusal.stands
    assert admission.turned_away(None, 0.0, now=0.0) is None


def _status(stream: Any) -> int:
    status = int(stream.readline().split()[1])
    length = 0
    while (line := stream.readline()) != b"\r\n":
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    stream.read(length)
    return status


def _sample(text: str, name: str) -> int:
    found = re.search(f"^{name} (\\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def test_connections_that_the_system_has_no_descriptor_for_wait_until_there_is_one() -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving(PREDICTOR="models_workers:Sleepy") as server:
        pid = server.process.pid
        _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 4, most))
        connections = [server.connect() for _ in range(12)]
        for connection in connections:
            connection.sendall(request)
        answered = []
        for connection in connections:  # each that has its answer makes room for another
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
            answered.append(connection)
            connection.close()
        assert len(answered) == 12


def test_many_more_connections_than_are_accepted_at_once_are_all_heard() -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with serving(PREDICTOR="models_workers:Sleepy") as server:
        connections: list[socket.socket] = [server.connect() for _ in range(400)]
        for connection in connections:
            connection.sendall(request)
        for connection in connections:
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
            connection.close()
