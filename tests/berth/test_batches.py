"""Batches: requests of many rows are cut and joined, sizes are kept and warmed up, one bad item fails alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.berth.models_batches import KILLS
from tests.berth.support import DEADLINE_S, Answer, Berth, read_answers, serving, use_up_log

LOOP_OR_WORKER = pytest.mark.parametrize("workers", ["0", "2"])


def rows_of(first: int, count: int) -> list[list[float]]:
    return [[float(number), 0.0] for number in range(first, first + count)]


def infer(server: Berth, rows: list[list[float]]) -> Answer:
    data = [value for row in rows for value in row]
    tensor = {"name": "x", "shape": [len(rows), 2], "datatype": "FP32", "data": data}
    return server.post("/v2/models/model/infer", {"inputs": [tensor]})


def first_column(answer: Answer) -> list[float]:
    assert answer.status == 200, answer.body
    (output,) = answer.json["outputs"]
    values: list[float] = np.reshape(output["data"], output["shape"])[:, 0].tolist()
    return values


# Requests larger than a batch.


@LOOP_OR_WORKER
def test_a_request_larger_than_a_batch_is_split_and_its_answer_joined(weights: Path, workers: str) -> None:
    path = str(weights / "counted.onnx")
    with serving(FORMAT="onnx", WEIGHTS=path, MAX_BATCH_SIZE="4", WORKERS=workers) as server:
        batches = [first - number for number, first in enumerate(first_column(infer(server, rows_of(0, 11))))]
        assert batches == [4.0] * 8 + [3.0] * 3
        native = server.predict(x=rows_of(0, 9)).json["y"]
        assert [row[0] - number for number, row in enumerate(native)] == [4.0] * 8 + [1.0]


@LOOP_OR_WORKER
def test_rows_for_a_batched_predictor_are_split_too(workers: str) -> None:
    with serving(PREDICTOR="models_batches:Sizes", MAX_BATCH_SIZE="4", WORKERS=workers) as server:
        answer = infer(server, rows_of(0, 10))
        by_name = {output["name"]: output["data"] for output in answer.json["outputs"]}
        assert by_name["value"] == [2.0 * number for number in range(10)]
        assert by_name["batch"] == [4] * 8 + [2] * 2


def test_a_split_request_with_one_bad_row_fails_whole_and_the_next_is_answered() -> None:
    with serving(PREDICTOR="models_batches:Picky", MAX_BATCH_SIZE="2") as server:

        def ask(values: list[float]) -> Answer:
            tensor = {"name": "x", "shape": [len(values), 1], "datatype": "FP32", "data": values}
            return server.post("/v2/models/model/infer", {"inputs": [tensor]})

        assert ask([1, 2, 3, -1, 5]).status == 500
        assert ask([1, 2, 3, 4, 5]).json["outputs"][0]["data"] == [1, 2, 3, 4, 5]


def test_split_requests_and_small_ones_side_by_side(weights: Path) -> None:
    path = str(weights / "double.onnx")
    with serving(FORMAT="onnx", WEIGHTS=path, MAX_BATCH_SIZE="8") as server, ThreadPoolExecutor(8) as pool:

        def ask(number: int) -> bool:
            rows = rows_of(number, 1 + 7 * (number % 5))
            return first_column(infer(server, rows)) == [2 * row[0] for row in rows]

        assert all(pool.map(ask, range(200)))


# Allowed sizes.


@LOOP_OR_WORKER
def test_a_batch_is_filled_up_to_an_allowed_size_and_cut_again(weights: Path, workers: str) -> None:
    path = str(weights / "counted.onnx")
    with serving(FORMAT="onnx", WEIGHTS=path, BATCH_SIZES="1,4,8", WORKERS=workers) as server:
        for count, sizes in ((1, [1]), (2, [4] * 2), (4, [4] * 4), (5, [8] * 5), (10, [8] * 8 + [4] * 2)):
            found = first_column(infer(server, rows_of(0, count)))
            assert [first - number for number, first in enumerate(found)] == sizes
        assert server.predict(x=rows_of(7, 5)).json["y"] == [[7.0 + row + 8, 8.0] for row in range(5)]


def test_the_express_lane_keeps_allowed_sizes(weights: Path) -> None:
    content = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[5,6]}]}'
    head = b"POST /v2/models/model/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(content)
    path = str(weights / "counted.onnx")
    with serving(FORMAT="onnx", WEIGHTS=path, BATCH_SIZES="4,8") as server, server.connect() as connection:
        for _ in range(3):
            use_up_log(connection, head + content)
            for _ in range(100):
                connection.sendall(head + content)
                assert read_answers(connection, 1)[0].json["outputs"][0]["data"] == [9.0, 10.0]
        metrics = server.get("/metrics").body.decode()
        line = next(line for line in metrics.splitlines() if line.startswith("berth_express_requests_total{"))
        assert int(line.split()[-1]) > 0


@pytest.mark.parametrize(("name", "workers"), [("Sizes", "0"), ("Sizes", "1"), ("SizesAsync", "0")])
def test_a_batched_predictor_gets_allowed_sizes_and_was_warmed_up(name: str, workers: str) -> None:
    with serving(PREDICTOR=f"models_batches:{name}", BATCH_SIZES="1,4,8", WORKERS=workers) as server:
        answer = infer(server, rows_of(0, 5))
        by_name = {output["name"]: output["data"] for output in answer.json["outputs"]}
        assert by_name["value"] == [0.0, 2.0, 4.0, 6.0, 8.0]
        assert by_name["batch"] == [8] * 5
        assert server.predict(x=[1, 1]).json == {"value": 2.0, "batch": 1, "warmed": "[1, 4, 8]"}


# One bad item among many.


@pytest.fixture(scope="module", params=["0", "2"], ids=["thread", "workers"])
def picky(request: pytest.FixtureRequest) -> Iterator[Berth]:
    with serving(PREDICTOR="models_batches:Picky", WORKERS=request.param, MAX_BATCH_SIZE="64") as server:
        yield server


def among(server: Berth, bad: Callable[[], Answer], times: int = 5) -> list[Answer]:
    """Ask 48 at a time for 240 good answers, and in the middle of each round the bad one."""

    def good(number: int) -> Answer:
        answer = server.predict(x=[number, 1])
        assert (answer.status, answer.json) == (200, number + 1)
        return answer

    with ThreadPoolExecutor(49) as pool:
        found = []
        for _ in range(times):
            asked = [pool.submit(good, number) for number in range(24)]
            found.append(pool.submit(bad))
            asked += [pool.submit(good, number) for number in range(24)]
            for future in asked:
                future.result(DEADLINE_S)
        return [future.result(DEADLINE_S) for future in found]


def test_a_wrong_shape_among_48_fails_alone(picky: Berth) -> None:
    for answer in among(picky, lambda: picky.predict(x=[[1, 2], [3, 4]])):
        assert answer.status == 422
        assert "expected shape [-1], got [2, 2]" in answer.json["error"]


def test_another_shape_that_is_allowed_is_answered_too(picky: Berth) -> None:
    assert [answer.json for answer in among(picky, lambda: picky.predict(x=[1, 2, 3]))] == [6] * 5


def test_an_exception_of_the_predictor_among_48_fails_alone(picky: Berth) -> None:
    for answer in among(picky, lambda: picky.predict(x=[-1, 1])):
        assert answer.status == 500
        assert "error id" in answer.json["error"]


def test_a_number_that_is_none_among_48_fails_alone(picky: Berth) -> None:
    answers = among(picky, lambda: picky.post("/predict", b'{"x": [NaN, 1]}'))
    assert {answer.status for answer in answers} == {400}


def test_an_input_that_ends_two_workers_is_kept_out_and_the_others_answered() -> None:
    with serving(PREDICTOR="models_batches:Picky", WORKERS="2", MAX_BATCH_SIZE="64") as server:
        answers = among(server, lambda: server.predict(x=[KILLS, 1]), times=3)
        assert {answer.status for answer in answers} == {500}
        counts = worker_events(server)
        assert counts["quarantined"] >= 1
        ended = counts["ended"]
        assert server.predict(x=[KILLS, 1]).status == 500
        assert worker_events(server)["ended"] == ended  # it was not run again
        assert worker_events(server)["refused"] >= 1


def test_a_bad_item_for_a_model_file_among_48_fails_alone(weights: Path) -> None:
    path = str(weights / "double.onnx")
    with serving(FORMAT="onnx", WEIGHTS=path) as server:
        stop, wrong = threading.Event(), list[Any]()

        def keep_asking(lane: int) -> None:
            while not stop.is_set():
                answer = infer(server, [[lane, 1.0]])
                if answer.status != 200 or answer.json["outputs"][0]["data"] != [2.0 * lane, 2.0]:
                    wrong.append(answer)

        threads = [threading.Thread(target=keep_asking, args=(lane,)) for lane in range(16)]
        for thread in threads:
            thread.start()
        bad = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
        for _ in range(30):
            answer = server.post("/v2/models/model/infer", bad)
            assert answer.status == 400
            assert "expected shape [-1, 2], got [1, 3]" in answer.json["error"]
        stop.set()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert not wrong


def worker_events(server: Berth) -> dict[str, int]:
    """What was counted of worker processes."""
    found: dict[str, int] = {}
    for line in server.get("/metrics").body.decode().splitlines():
        if line.startswith("berth_worker_events_total{"):
            labels, _, count = line.partition("} ")
            found[labels.partition('event="')[2].partition('"')[0]] = int(count)
    return found
