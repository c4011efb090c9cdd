"""Large JSON bodies: decoded apart and piece by piece, with the same answers, while others are answered."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from berth.protocols.numbers import LARGE, cut_numbers
from tests.berth.support import Answer, Berth, serving

ROWS, COLUMNS = 1000, 400  # about 2.8 MB of JSON


@pytest.fixture(scope="module")
def grid() -> Iterator[Berth]:
    with serving(PREDICTOR="models_large:Grid") as server:
        yield server


def numbers(rows: int = ROWS, columns: int = COLUMNS) -> list[list[float]]:
    values = np.arange(rows * columns, dtype=np.float64).reshape(rows, columns) % 977 / 8
    found: list[list[float]] = values.tolist()
    return found


def total(rows: list[list[float]]) -> float:
    return float(np.array(rows).sum())


def large(value: Any, indent: int | None = None) -> bytes:
    body = json.dumps(value, indent=indent).encode()
    assert len(body) > LARGE
    return body


@pytest.mark.parametrize("indent", [None, 1])
def test_a_large_native_request_is_answered(grid: Berth, indent: int | None) -> None:
    rows = numbers()
    body = large({"name": 'a "data": [1', "x": rows, "n": list(range(100_000))}, indent)
    assert len(cut_numbers(body)[1]) == 2
    answer = grid.post("/predict", body)
    assert answer.json == {
        "shape": [ROWS, COLUMNS],
        "sum": total(rows),
        "nan": 0,
        "n": sum(range(100_000)),
        "name": 'a "data": [1',
    }


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_a_large_request_may_be_compressed(grid: Berth, name: str) -> None:
    rows = numbers()
    body = large({"x": rows})
    folded = gzip.compress(body) if name == "gzip" else zlib.compress(body)
    answer = grid.post("/predict", folded, {"Content-Encoding": name})
    assert (answer.status, answer.json["sum"]) == (200, total(rows))
    broken = grid.post("/predict", folded[: len(folded) // 2], {"Content-Encoding": name})
    assert broken.status == 400


def infer(server: Berth, data: str, shape: list[int], datatype: str = "FP32") -> Answer:
    head = f'{{"id": "7", "inputs": [{{"name": "x", "shape": {shape}, "datatype": "{datatype}", "data": '
    return server.post("/v2/models/model/infer", f"{head}{data}}}]}}".encode())


@pytest.mark.parametrize("nested", [False, True])
def test_a_large_v2_request_is_answered(weights: Path, nested: bool) -> None:
    rows = numbers(ROWS * COLUMNS // 2, 2)
    data = rows if nested else [value for row in rows for value in row]
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "double.onnx")) as server:
        answer = infer(server, json.dumps(data), [len(rows), 2])
        assert answer.status == 200
        assert answer.json["id"] == "7"
        assert answer.json["outputs"][0]["data"] == [2 * value for row in rows for value in row]


def test_nan_and_null_in_a_large_request(grid: Berth) -> None:
    rows: list[list[Any]] = numbers()
    rows[500][3] = None
    assert grid.post("/predict", large({"x": rows})).json["nan"] == 1
    with_nan = json.dumps([[rows[1]] * ROWS]).replace("50.125", "NaN", 1)
    answer = infer(grid, with_nan, [1, ROWS, COLUMNS])
    outputs = json.loads(answer.json["outputs"][0]["data"][0])
    assert outputs["nan"] == 1


def with_one(text: str) -> bytes:
    """A large request with something else in the place of a number in its middle."""
    rows = numbers()
    rows[ROWS // 2][7] = 123456.5
    return large({"x": rows}).replace(b"123456.5", text.encode())


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("1,2", 422, "ragged"),
        ("[1]", 422, "ragged"),
        ("1]", 422, "ragged"),
        ('"one"', 422, "x"),
        ("1e60", 422, "larger number"),
        ("1 2", 400, "not valid JSON"),
        ("1,,2", 400, "not valid JSON"),
        ("", 400, "not valid JSON"),
        ("{}", 422, "x"),
    ],
)
def test_what_is_wrong_in_a_large_request_is_refused(grid: Berth, text: str, status: int, words: str) -> None:
    answer = grid.post("/predict", with_one(text))
    assert answer.status == status
    assert words in answer.json["error"]
    assert grid.predict(x=[[1, 2]]).json["sum"] == 3


def test_a_wrong_shape_and_a_wrong_count_are_named(grid: Berth) -> None:
    answer = grid.post("/predict", large({"x": [numbers()]}))
    assert answer.status == 422
    assert "expected shape [-1, -1], got [1, 1000, 400]" in answer.json["error"]
    answer = infer(grid, json.dumps(numbers()), [1, 3, 3])
    assert answer.status == 400
    assert "expected 9 elements for shape [1, 3, 3], got 400000" in answer.json["error"]


def test_large_lists_that_are_no_arrays_are_taken_as_ever() -> None:
    with serving(PREDICTOR="models_large:Plain") as server:
        values = [value for row in numbers() for value in row]
        answer = server.post("/predict", large({"values": values, "text": "x" * 2_000_000}))
        assert answer.json == {"sum": sum(values), "text": 2_000_000}


def test_others_are_answered_while_a_large_body_is_decoded(grid: Berth) -> None:
    body = b'{"x": [[' + b",".join(b"%d.5" % (number % 100) for number in range(6_000_000)) + b"]]}"
    found: list[Answer] = []
    asking = threading.Thread(target=lambda: found.append(grid.post("/predict", body)))
    asking.start()
    meanwhile = 0
    while asking.is_alive():
        assert grid.get("/livez").status == 200
        assert grid.predict(x=[[1, 2]]).status == 200
        meanwhile += 1
    asking.join()
    assert found[0].json["shape"] == [1, 6_000_000]
    assert meanwhile >= 10  # none while one call decodes it all
