"""POST /predict: typed JSON and forms, and what is said about input that does not fit."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tests.berth.support import Berth, form, predictor, serving

GOOD = {"count": 2, "name": "ab", "numbers": [[1, 2], [3, 4.5]]}


def png(width: int = 4, height: int = 3) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.full((height, width, 3), 100, dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def pictures() -> Iterator[Berth]:
    with serving(**predictor("Pictures")) as server:
        yield server


@pytest.fixture(scope="module")
def files() -> Iterator[Berth]:
    with serving(**predictor("Files", MAX_BODY_BYTES="100000")) as server:
        yield server


def test_every_kind_of_input_arrives_as_its_hint_says(typed_server: Berth) -> None:
    answer = typed_server.post("/predict", GOOD | {"colour": "blue", "mode": "slow", "point": {"x": 1}, "tags": ["t"]})
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json == {
        "loaded": True,
        "text": "abab",
        "sum": 10.5,
        "dtype": "float32",
        "colour": "blue",
        "mode": "slow",
        "point": [1.0, 0.0],
        "tags": ["t", "seen"],
        "ratio": 0.5,
    }


def test_defaults_are_fresh_for_every_request(typed_server: Berth) -> None:
    for _ in range(3):
        answer = typed_server.post("/predict", GOOD).json
        assert answer["tags"] == ["seen"]
        assert answer["colour"] == "red"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 11}, ["<= 10", "$.count"]),
        ({"count": "2"}, ["`int`", "`str`", "$.count"]),
        ({"count": 1.5}, ["$.count"]),
        ({"count": True}, ["$.count"]),
        ({"name": ""}, ["length >= 1", "$.name"]),
        ({"colour": "green"}, ["green", "$.colour"]),
        ({"mode": "medium"}, ["medium", "$.mode"]),
        ({"point": {"x": "1"}}, ["$.point.x"]),
        ({"tags": ["a", 1]}, ["$.tags[1]"]),
        ({"surprise": 1}, ["surprise"]),
        ({"numbers": [[1, 2, 3]]}, ["[-1, 2]", "[1, 3]", "$.numbers"]),
        ({"numbers": [[1, 2], [3]]}, ["equal length", "$.numbers"]),
        ({"numbers": [["a", "b"]]}, ["strings", "$.numbers"]),
        ({"numbers": [[True, False]]}, ["booleans", "$.numbers"]),
        ({"numbers": [[{}, 1]]}, ["object", "$.numbers"]),
        ({"numbers": [[0.5, True]]}, ["booleans among numbers", "$.numbers"]),
        ({"numbers": [[1, False]]}, ["booleans among numbers", "$.numbers"]),
        ({"numbers": None}, ["null", "$.numbers"]),
        ({"numbers": {"a": 1}}, ["$.numbers"]),
    ],
)
def test_a_field_that_does_not_fit_is_422_naming_its_path(
    typed_server: Berth, change: dict[str, Any], words: list[str]
) -> None:
    answer = typed_server.post("/predict", GOOD | change)
    assert answer.status == 422
    assert answer.headers["Content-Type"] == "application/json"
    assert all(word in answer.json["error"] for word in words), answer.json


@pytest.mark.parametrize("missing", ["count", "name", "numbers"])
def test_a_missing_field_is_422_naming_it(typed_server: Berth, missing: str) -> None:
    answer = typed_server.post("/predict", {key: value for key, value in GOOD.items() if key != missing})
    assert answer.status == 422
    assert missing in answer.json["error"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"count": NaN}', b"\xff\xfe", b"{'a': 1}", b'{"numbers":' + b"[" * 50_000],
    ids=["empty", "cut short", "bare NaN", "not UTF-8", "single quotes", "deep"],
)
def test_malformed_json_is_400(typed_server: Berth, body: bytes) -> None:
    answer = typed_server.post("/predict", body)
    assert answer.status == 400
    assert "JSON" in answer.json["error"]


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"text"'])
def test_json_that_is_no_object_is_422(typed_server: Berth, body: bytes) -> None:
    assert typed_server.post("/predict", body).status == 422


def test_null_in_a_float_array_is_nan_and_comes_back_as_null(onnx_server: Berth) -> None:
    answer = onnx_server.post("/predict", {"x": [[None, 1.0]]})
    assert answer.json == {"y": [[None, 2.0]]}


def test_nan_and_infinity_are_null_in_a_native_answer() -> None:
    with serving(**predictor("NotANumber")) as server:
        assert server.predict(x=1.5).json == {"values": [None, None, 1.5], "one": None}


def test_a_struct_is_answered_as_an_object() -> None:
    with serving(**predictor("Structured")) as server:
        assert server.predict(x=3).json == {"label": "a", "score": 1.5, "vector": [3.0, 3.0, 3.0]}


def test_a_form_carries_scalars_arrays_and_text(typed_server: Berth) -> None:
    body, kind = form({"count": b"3", "name": b"7", "numbers": b"[[1,2]]", "ratio": b"0.25", "tags": b'["x"]'})
    answer = typed_server.post("/predict", body, {"Content-Type": kind})
    assert answer.status == 200, answer.body
    assert answer.json["text"] == "777"
    assert answer.json["ratio"] == 0.25
    assert answer.json["tags"] == ["x", "seen"]


@pytest.mark.parametrize(
    ("values", "expected"), [(["x"], ["x"]), (["5"], ["5"]), (["x", "5"], ["x", "5"]), (['["a"]'], ["a"])]
)
def test_a_list_in_a_form_is_a_field_for_each_or_json(
    typed_server: Berth, values: list[str], expected: list[str]
) -> None:
    parts = {"count": "1", "name": "a", "numbers": "[[1,2]]"}
    lines = [*parts.items(), *(("tags", value) for value in values)]
    body = "".join(f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in lines)
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = typed_server.post("/predict", f"{body}--b--\r\n".encode(), kind)
    assert answer.status == 200, answer.body
    assert answer.json["tags"] == [*expected, "seen"]


def test_a_form_field_of_the_wrong_type_is_422(typed_server: Berth) -> None:
    body, kind = form({"count": b"three", "name": b"a", "numbers": b"[[1,2]]"})
    answer = typed_server.post("/predict", body, {"Content-Type": kind})
    assert answer.status == 422
    assert "$.count" in answer.json["error"]


def test_a_picture_arrives_by_form_by_base64_and_by_data_url(pictures: Berth) -> None:
    expected = {"shape": [3, 4, 3], "mean": 100.0, "type": "image/png", "extra": None}
    body, kind = form({"image": ("a.png", "image/png", png())})
    encoded = base64.b64encode(png()).decode()
    assert pictures.post("/predict", body, {"Content-Type": kind}).json == expected
    assert pictures.predict(image={"b64": encoded}).json == expected
    assert pictures.predict(image=f"data:image/png;base64,{encoded}").json == expected


def test_an_optional_file_keeps_its_name(pictures: Berth) -> None:
    body, kind = form(
        {"image": ("a.png", "image/png", png()), "extra": ("n%22\u00e4.txt", "text/plain", b"hello\r\n--")}
    )
    answer = pictures.post("/predict", body, {"Content-Type": kind})
    assert answer.json["extra"] == ['n"\u00e4.txt', "hello\r\n--"]


@pytest.mark.parametrize("value", [{"b64": "?"}, {"b64": "AAAA"}, "plain", 3, {"b64": 3}, {"file": ""}, "data:,hello"])
def test_what_is_no_picture_is_422(pictures: Berth, value: Any) -> None:
    answer = pictures.predict(image=value)
    assert answer.status == 422
    assert "$.image" in answer.json["error"]


def test_a_truncated_picture_is_422_not_500(pictures: Berth) -> None:
    whole = png(200, 200)
    answer = pictures.predict(image={"b64": base64.b64encode(whole[: len(whole) // 2]).decode()})
    assert answer.status == 422
    assert "decoded" in answer.json["error"]


def test_repeated_file_parts_are_a_list_and_so_is_one(files: Berth) -> None:
    two = (
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="1"\r\n\r\nab\r\n'
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="2"\r\n\r\n\r\n--b--\r\n'
    )
    answer = files.post("/predict", two, {"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.json == {"sizes": [2, 0], "names": ["1", "2"], "n": 1, "text": ""}
    one, kind = form({"files": ("only", "text/plain", b"abc")})
    assert files.post("/predict", one, {"Content-Type": kind}).json["sizes"] == [3]


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"", "multipart/form-data", "boundary"),
        (b"", "multipart/form-data; boundary=b", "does not occur"),
        (b"--b", "multipart/form-data; boundary=b", "CRLF"),
        (b"--b\r\n", "multipart/form-data; boundary=b", "closing boundary"),
        (b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n1', "multipart/form-data; boundary=b", "closing"),
        (b"--b\r\n\r\n1\r\n--b--", "multipart/form-data; boundary=b", "Content-Disposition"),
        (b"--b\r\nx\r\n\r\n1\r\n--b--", "multipart/form-data; boundary=b", "colon"),
        (b"--b\r\n" + b"x: " + b"y" * 9000 + b"\r\n\r\n1\r\n--b--", "multipart/form-data; boundary=b", "8192"),
        (b"--b\r\n\r\n\r\n" * 3 + b"--b--", f"multipart/form-data; boundary={'b' * 71}", "70"),
    ],
)
def test_a_malformed_form_is_400(files: Berth, body: bytes, kind: str, words: str) -> None:
    answer = files.post("/predict", body, {"Content-Type": kind})
    assert answer.status == 400
    assert words in answer.json["error"]


def test_too_many_parts_are_400(files: Berth) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n1\r\n' * 300 + b"--b--"
    answer = files.post("/predict", body, {"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status == 400
    assert "256" in answer.json["error"]


def test_a_file_is_answered_as_base64() -> None:
    with serving(**predictor("Echo")) as server:
        assert base64.b64decode(server.predict(file={"b64": base64.b64encode(b"abc").decode()}).json) == b"cba"


def test_an_onnx_file_needs_no_code(onnx_server: Berth) -> None:
    assert onnx_server.post("/predict", {"x": [[1, 2], [3, 4]]}).json == {"y": [[2, 4], [6, 8]]}
    wrong = onnx_server.post("/predict", {"x": [[1, 2, 3]]})
    assert wrong.status == 422
    assert "expected shape [-1, 2], got [1, 3]" in wrong.json["error"]


def test_a_scikit_learn_file_needs_no_code(weights: Path) -> None:
    with serving(FORMAT="sklearn", WEIGHTS=str(weights / "iris.joblib")) as server:
        answer = server.post("/predict", {"input": [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]}).json
        assert answer["label"] == [0, 2]
        assert np.allclose(np.sum(answer["probabilities"], axis=1), 1)
        assert server.post("/predict", {"input": []}).status == 422


def test_text_tensors_are_strings_both_ways(weights: Path) -> None:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "text.onnx")) as server:
        assert server.post("/predict", {"x": ["a", "\u00e4"]}).json == {"y": ["a", "\u00e4"]}
        assert server.post("/predict", {"x": [1]}).status == 422
