"""Whatever is sent, the server answers, never with 500, and lives on."""

from __future__ import annotations

import http.client
import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.protocols.base import Refusal
from berth.protocols.multipart import parse_boundary, parse_parts
from tests.berth.support import Berth, form, predictor, serving

numbers = st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.booleans(), st.none(), st.text(max_size=4))
nested = st.recursive(numbers, lambda inner: st.lists(inner, max_size=3), max_leaves=8)
anything = st.recursive(
    numbers,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
shapes = st.one_of(st.just([1, 2]), st.lists(st.integers(-2, 3) | st.just(2**40), max_size=3), anything)
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "y"]) | numbers,
        "shape": shapes,
        "datatype": st.sampled_from(["FP32", "BYTES", "FP16", "INT64"]) | numbers,
        "data": nested | st.just([1.0, 2.0]),
    },
    optional={"parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 20) | numbers})},
)
envelopes = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=2) | anything},
    optional={"id": numbers, "outputs": anything, "parameters": anything},
)


HEAD = b'Content-Disposition: form-data; name="n"'


@pytest.fixture(scope="module")
def files() -> Iterator[Berth]:
    with serving(**predictor("Files", MAX_BODY_BYTES="100000")) as server:
        yield server


@given(envelopes, st.binary(max_size=20), st.booleans())
def test_v2_never_answers_500(onnx_server: Berth, envelope: Any, blob: bytes, with_blob: bool) -> None:
    body = json.dumps(envelope).encode()
    headers = {"Inference-Header-Content-Length": str(len(body))} if with_blob else {}
    answer = onnx_server.post("/v2/models/double/infer", body + blob if with_blob else body, headers)
    assert answer.status in (200, 400), answer.body
    json.loads(answer.body[: int(answer.headers.get("Inference-Header-Content-Length", len(answer.body)))])


@given(st.binary(max_size=200))
def test_v2_with_any_bytes_is_400(onnx_server: Berth, body: bytes) -> None:
    assert onnx_server.post("/v2/models/double/infer", body).status == 400


@given(st.lists(st.binary(max_size=10), max_size=4), st.integers(-2, 6), st.integers(-3, 3), st.binary(max_size=5))
def test_bytes_tensors_of_any_length_are_taken_or_400(
    typed_server: Berth, items: list[bytes], count: int, extra: int, tail: bytes
) -> None:
    blob = b"".join(struct.pack("<I", max(len(item) + extra, 0)) + item for item in items) + tail
    tensor = {"name": "name", "shape": [count], "datatype": "BYTES", "parameters": {"binary_data_size": len(blob)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    assert typed_server.post("/v2/models/typed/infer", head + blob, headers).status == 400


@given(st.dictionaries(st.sampled_from(["count", "name", "numbers", "colour", "point", "tags", "z"]), anything))
def test_native_json_never_answers_500(typed_server: Berth, body: Any) -> None:
    text = json.dumps(body).encode()
    assert typed_server.post("/predict", text).status in (200, 400, 422)


@given(
    st.lists(
        st.sampled_from([b"--b", b"\r\n", b"--", HEAD, b":", b"1", b"\0"]),
        max_size=14,
    )
)
def test_forms_of_any_pieces_are_answered(files: Berth, pieces: list[bytes]) -> None:
    answer = files.post("/predict", b"".join(pieces), {"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status in (400, 422)


@given(st.dictionaries(st.text("abc", min_size=1), st.binary(max_size=60), max_size=5))
def test_a_form_is_read_as_it_was_written(fields: dict[str, bytes]) -> None:
    body, kind = form(fields, boundary="=_7f3a'()+_,-./:=?")
    parts = parse_parts(body, parse_boundary(kind.replace("boundary=", 'boundary="').encode() + b'"')) if fields else []
    assert {part.name: part.data for part in parts} == fields


@given(st.binary(max_size=300), st.binary(min_size=1, max_size=5))
def test_the_form_parser_ends_with_parts_or_a_refusal(body: bytes, boundary: bytes) -> None:
    try:
        parse_parts(body, boundary)
    except Refusal as refusal:
        if refusal.status != 400:
            raise


@given(st.binary(max_size=120))
def test_any_bytes_on_a_connection_leave_the_server_alive(files: Berth, data: bytes) -> None:
    with files.connect() as connection:
        connection.sendall(data + b"\r\n\r\n")
    try:
        assert files.get("/v2/health/live").status == 200
    except http.client.HTTPException as error:
        raise AssertionError("the server does not answer any more") from error
