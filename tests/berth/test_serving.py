"""The life of a server: batches, queues, deadlines, failures, logs, draining."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.berth.support import Answer, Berth, predictor, read_answers, run, serving


def together(*asks: Callable[[], Answer]) -> list[Answer]:
    """Ask all at once; answers in the order of the questions."""
    with ThreadPoolExecutor(len(asks)) as pool:
        return [future.result() for future in [pool.submit(ask) for ask in asks]]


@pytest.fixture(scope="module")
def batched() -> Iterator[Berth]:
    with serving(**predictor("Batched", MAX_BATCH_SIZE="8")) as server:
        yield server


def ask(server: Berth, **inputs: Any) -> Callable[[], Answer]:
    return lambda: server.predict(**inputs)


def after_a_slow_one(server: Berth, *asks: Callable[[], Answer]) -> list[Answer]:
    """While a slow request runs, ask the others, so that they wait together; the slow one's answer is left out."""
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask(server, x=0, slow=0.5))
        time.sleep(0.2)
        answers = together(*asks)
        assert slow.result().status == 200
    return answers


def test_requests_that_arrived_together_run_as_one_batch(batched: Berth) -> None:
    answers = after_a_slow_one(batched, *(ask(batched, x=value, slow=0) for value in range(5)))
    assert [answer.json for answer in answers] == [{"x": value, "batch": 5} for value in range(5)]


def test_a_batch_has_a_largest_size(batched: Berth) -> None:
    answers = after_a_slow_one(batched, *(ask(batched, x=value, slow=0) for value in range(11)))
    assert sorted(answer.json["batch"] for answer in answers) == [3] * 3 + [8] * 8


def test_one_bad_item_fails_only_itself(batched: Berth) -> None:
    bad, good, refused, fine = after_a_slow_one(
        batched,
        ask(batched, x=13, slow=0),
        ask(batched, x=1, slow=0),
        ask(batched, x=-1, slow=0),
        ask(batched, x=2, slow=0),
    )
    assert bad.status == 500
    assert good.json["x"] == 1  # whom a half is shared with depends on who came first
    assert refused.status == 422
    assert refused.json["error"] == "x: expected 0 or more"
    assert fine.json["x"] == 2


def test_rows_of_one_v2_request_are_one_batch(batched: Berth) -> None:
    inputs = [
        {"name": "x", "shape": [3], "datatype": "INT64", "data": [1, 2, 3]},
        {"name": "slow", "shape": [3], "datatype": "FP64", "data": [0, 0, 0]},
    ]
    answer = batched.post("/v2/models/model/infer", {"inputs": inputs})
    assert [json.loads(text)["batch"] for text in answer.json["outputs"][0]["data"]] == [3, 3, 3]


def test_different_shapes_run_apart() -> None:
    with serving(**predictor("BatchedArrays", MAX_BATCH_DELAY_MS="400")) as server:
        short, long = ask(server, x=[1.0, 2.0]), ask(server, x=[1.0, 2.0, 3.0])
        answers = together(short, long, short, long, long)
        assert [answer.json for answer in answers] == [
            {"sum": 3.0, "batch": 2},
            {"sum": 6.0, "batch": 3},
            {"sum": 3.0, "batch": 2},
            {"sum": 6.0, "batch": 3},
            {"sum": 6.0, "batch": 3},
        ]


def test_a_batch_delay_gathers_requests_and_ends_early_when_the_batch_is_full() -> None:
    with serving(**predictor("Batched", MAX_BATCH_SIZE="3", MAX_BATCH_DELAY_MS="5000")) as server:
        started = time.monotonic()
        answers = together(*(ask(server, x=value, slow=0) for value in range(3)))
        assert [answer.json["batch"] for answer in answers] == [3, 3, 3]
        assert time.monotonic() - started < 4


def test_onnx_rows_of_several_requests_are_joined_and_cut_again(weights: Path) -> None:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "wide.onnx"), MAX_BATCH_DELAY_MS="400") as server:
        asks = [ask(server, x=[[value, 1.0]] * (value + 1)) for value in range(4)] + [ask(server, x=[[1.0, 2.0, 3.0]])]
        answers = together(*asks)
        assert [answer.json["y"] for answer in answers[:4]] == [[[value * 2, 2]] * (value + 1) for value in range(4)]
        assert answers[4].json == {"y": [[2, 4, 6]]}
        assert "nv_inference_count{" in server.get("/metrics").body.decode()


def test_a_batched_predict_that_miscounts_is_a_failure_of_the_model() -> None:
    with serving(**predictor("BatchedMiscounts")) as server:
        answer = server.predict(x=1)
        assert answer.status == 500
        assert "expected 1, got 2 answers" in server.wait_for_event("predict failed")["traceback"]


def test_a_predictor_that_raises_answers_500_with_the_id_of_its_traceback() -> None:
    with serving(**predictor("RaisesInPredict")) as server:
        for value in (1, 2, 4):
            answer = server.ask("POST", "/predict", {"x": value}, {"X-Request-Id": f"request-{value}"})
            assert answer.status == 500
            assert answer.headers["X-Request-Id"] == f"request-{value}"
            message = "predict failed" if value != 4 else "request failed"
            event = server.wait_for_event(message, request_id=f"request-{value}")
            assert event["error_id"] in answer.json["error"]
            assert "models.py" in event["traceback"] or value == 4
            assert "broken" not in answer.json["error"]
        assert server.predict(x=3).status == 422
        assert server.predict(x=7).json == 7
        assert "\x1b" not in server.log()


def test_a_full_queue_is_503_with_retry_after() -> None:
    with serving(**predictor("Slow", MAX_QUEUE="2")) as server:
        answers = together(*(ask(server, seconds=0.5) for _ in range(5)))
        refused = [answer for answer in answers if answer.status == 503]
        assert len(refused) == 3
        assert all(answer.headers["Retry-After"] == "1" for answer in refused)
        assert "BERTH_MAX_QUEUE" in refused[0].json["error"]
        assert server.predict(seconds=0).status == 200


def test_a_request_past_its_deadline_is_504_and_the_server_goes_on() -> None:
    with serving(**predictor("Slow", REQUEST_TIMEOUT_S="0.3")) as server:
        started = time.monotonic()
        running, waiting = together(ask(server, seconds=1.0), ask(server, seconds=1.0))
        assert (running.status, waiting.status) == (504, 504)
        assert time.monotonic() - started < 0.9
        time.sleep(1.0 - (time.monotonic() - started) + 0.1)
        assert server.predict(seconds=0).status == 200  # the one that only waited never ran


def test_a_v2_request_may_set_a_shorter_deadline() -> None:
    with serving(**predictor("Slow")) as server:
        inputs = [{"name": "seconds", "shape": [1], "datatype": "FP64", "data": [1.0]}]
        answer = server.post("/v2/models/model/infer", {"inputs": inputs, "parameters": {"timeout": 200_000}})
        assert answer.status == 504
        wrong = server.post("/v2/models/model/infer", {"inputs": inputs, "parameters": {"timeout": "soon"}})
        assert wrong.status == 400


@pytest.mark.parametrize("busy", [False, True])
def test_health_answers_while_the_model_is_busy(busy: bool) -> None:
    with serving(**predictor("Slow")) as server:
        thread = threading.Thread(target=server.predict, kwargs={"seconds": 1.0, "busy": busy})
        thread.start()
        time.sleep(0.2)
        slowest = 0.0
        for _ in range(10):
            started = time.monotonic()
            assert server.get("/v2/health/live").status == 200
            slowest = max(slowest, time.monotonic() - started)
        thread.join()
        assert slowest < 0.3


def test_a_caller_that_hangs_up_does_not_cost_a_prediction() -> None:
    with serving(**predictor("Slow")) as server:
        body = b'{"seconds":0.4}'
        request = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        connections = [server.connect() for _ in range(6)]
        for connection in connections:
            connection.sendall(request)
        time.sleep(0.1)
        for connection in connections:
            connection.close()
        started = time.monotonic()
        assert server.predict(seconds=0).status == 200
        assert time.monotonic() - started < 1.2


def test_a_connection_reset_in_the_middle_of_everything_leaves_no_trace(typed_server: Berth) -> None:
    for size in range(0, 120, 7):
        with typed_server.connect() as connection:
            connection.sendall((b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n" + b"{" * 50)[:size])
    assert typed_server.get("/v2/health/ready").status == 200


def test_every_request_is_one_line_of_json_without_its_body(typed_server: Berth) -> None:
    typed_server.ask("POST", "/predict", b'{"secret":1}', {"X-Request-Id": 'quote"\\1'})
    event = typed_server.wait_for_event("request", request_id='quote"\\1')
    assert event["method"] == "POST"
    assert event["route"] == "predict"
    assert event["status"] == 422
    assert 0 < event["seconds"] < 5
    assert event["level"] == "info"
    assert event["time"].endswith("Z")
    assert "secret" not in typed_server.log()
    assert all(json.loads(line) for line in typed_server.log().splitlines())


def test_the_log_level_silences_requests() -> None:
    with serving(**predictor("Slow")) as loud:
        loud.predict(seconds=0)
        loud.wait_for_event("request", route="predict")
    code = run("predict", "-i", "seconds=0", **predictor("Slow", LOG_LEVEL="warning"))
    assert code.stdout == "0.0\n"


def test_metrics_count_requests_rows_and_failures() -> None:
    with serving(**predictor("RaisesInPredict", MODEL_NAME='a"b', MODEL_VERSION="2")) as server:
        for value in (1, 3, 5, 6):
            server.predict(x=value)
        text = server.get("/metrics").body.decode()
        labels = 'model="a\\"b",version="2"'
        lines = text.splitlines()
        assert f'berth_requests_total{{{labels},route="predict",status="200"}} 2' in lines
        assert f'berth_requests_total{{{labels},route="predict",status="500"}} 1' in lines
        assert f"nv_inference_request_success{{{labels}}} 2" in lines
        assert f'nv_inference_request_failure{{{labels},reason="BACKEND"}} 1' in lines
        assert f"nv_inference_exec_count{{{labels}}} 4" in lines
        assert f"nv_inference_count{{{labels}}} 4" in lines
        assert f"nv_inference_pending_request_count{{{labels}}} 0" in lines
        assert f'berth_batch_rows_bucket{{{labels},le="1"}} 4' in lines
        assert f"berth_predict_seconds_count{{{labels}}} 4" in lines
        samples = [line for line in lines if not line.startswith("#")]
        assert all(float(line.rpartition(" ")[2]) >= 0 for line in samples)


def test_sigterm_finishes_what_is_in_flight_and_exits_0() -> None:
    with serving(**predictor("Slow")) as server:
        with server.connect() as busy, server.connect() as idle:
            idle.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_answers(idle, 1)[0].status == 200
            body = b'{"seconds":0.8}'
            busy.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            idle.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
            (ready,) = read_answers(idle, 1)
            assert ready.status == 503
            assert ready.headers["Connection"] == "close"
            assert ready.json == {"ready": False, "error": "the server is draining"}
            (answer,) = read_answers(busy, 1)
            assert answer.json == 0.8
            assert answer.headers["Connection"] == "close"
        assert server.process.wait(5) == 0
        assert server.events()[-1]["message"] == "stopped"


def test_sigterm_does_not_wait_for_idle_connections() -> None:
    with serving(**predictor("Slow")) as server, server.connect() as idle:
        idle.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        read_answers(idle, 1)
        started = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - started < 2


def test_a_drain_that_takes_too_long_says_what_it_left_behind() -> None:
    with serving(**predictor("Slow", DRAIN_TIMEOUT_S="0.5")) as server, server.connect() as connection:
        body = b'{"seconds":5}'
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        time.sleep(0.2)
        started = time.monotonic()
        assert server.terminate() == 1
        assert time.monotonic() - started < 3
        assert server.wait_for_event("stopped with requests in flight")["abandoned"] == 1


def test_a_predictor_that_raises_in_load_ends_the_start_with_its_traceback() -> None:
    started = time.monotonic()
    done = run("serve", **predictor("RaisesInLoad"))
    assert done.returncode == 1
    assert time.monotonic() - started < 10
    assert "RuntimeError: the weights are gone" in done.stderr
    assert "models.py" in done.stderr
