"""V2's parser under fuzz: requests that are right but for a few faults, in every form, and bytes that are hardly HTTP.

What was not damaged is answered with the right numbers; what was is answered, never with 500, and the server lives on.
`scripts/fuzz.py` runs this file for as long as one likes; in CI it makes the same few hundred requests every time.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import math
import socket
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from tests.berth.support import Answer, Berth, read_answers, serving

LENGTH = "Inference-Header-Content-Length"
COLUMNS = 3
DTYPES: dict[str, str] = {
    "BOOL": "?",
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
}
HUGE = (2**31, 2**63, 2**64, 10**30)
REFUSED = {400, 415, 501}

numbers = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.booleans(), st.none(), st.text(max_size=4), st.just(10**400)
)
anything = st.recursive(
    numbers,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module", params=[0, 1], ids=["inline", "worker"])
def every(request: pytest.FixtureRequest) -> Iterator[Berth]:
    """A predictor with an input of every datatype, whose columns it turns round."""
    settings = {"WORKERS": str(request.param), "MAX_BODY_BYTES": "100000"}
    with serving(PREDICTOR="models_clients:EveryDatatype", MODEL_NAME="every", **settings) as server:
        yield server


@st.composite
def arrays(draw: st.DrawFn, datatype: str, rows: int) -> Any:
    count = rows * COLUMNS
    if datatype == "BYTES":
        texts = draw(st.lists(st.text(max_size=6), min_size=count, max_size=count))
        array = np.empty(count, dtype=object)
        array[:] = texts
        return array.reshape(rows, COLUMNS)
    size = np.dtype(DTYPES[datatype]).itemsize
    if datatype == "BOOL":
        blob = bytes(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    else:
        blob = draw(st.binary(min_size=count * size, max_size=count * size))
    return np.frombuffer(blob, DTYPES[datatype]).reshape(rows, COLUMNS)


def blob_of(array: Any) -> bytes:
    if array.dtype != object:
        return bytes(array.tobytes())
    return b"".join(struct.pack("<I", len(item)) + item for item in (text.encode() for text in array.ravel()))


class Draft:
    """A request as it is written: the header's values, and the blobs behind it."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.arrays: dict[str, Any] = {}
        self.message: dict[str, Any] = {"inputs": []}
        self.blobs: dict[str, bytes] = {}  # by the input that they are for
        self.length_error = 0
        self.cut = 0
        self.more = b""
        self.faults: list[str] = []

    def body(self) -> tuple[bytes, dict[str, str]]:
        head = json.dumps(self.message).encode()
        blob = b"".join(self.blobs.values()) + self.more
        body = head + blob
        if self.cut:
            body = body[: -self.cut]
        headers = {LENGTH: str(len(head) + self.length_error)} if blob or self.length_error else {}
        return body, headers


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    """A right request in any form."""
    draft = Draft(draw(st.integers(1, 3)))
    for datatype in draw(st.permutations([*DTYPES, "BYTES"])):
        array = draft.arrays[datatype.lower()] = draw(arrays(datatype, draft.rows))
        item: dict[str, Any] = {"name": f"{datatype.lower()}_in", "shape": list(array.shape), "datatype": datatype}
        form = draw(st.sampled_from(["flat", "nested", "binary"]))
        if form == "binary" or datatype == "FP16":
            blob = draft.blobs[item["name"]] = blob_of(array)
            item["parameters"] = {"binary_data_size": len(blob)}
        else:
            item["data"] = array.ravel().tolist() if form == "flat" else array.tolist()
        draft.message["inputs"].append(item)
    if draw(st.booleans()):
        draft.message["parameters"] = {"binary_data_output": True}
    else:
        draft.message["outputs"] = [
            {"name": f"{name}_out", "parameters": {"binary_data": name == "fp16" or draw(st.booleans())}}
            for name in draft.arrays
        ]
    if draw(st.booleans()):
        draft.message["id"] = draw(st.text(max_size=5))
    return draft


FAULTS = (
    "shape",
    "datatype",
    "name",
    "data",
    "element",
    "size",
    "drop",
    "twice",
    "length",
    "cut",
    "more",
    "parameters",
    "outputs",
    "field",
    "blob",
    "texts",
    "texts",
)
texts = st.lists(st.binary(max_size=6), max_size=10)


@st.composite
def damaged(draw: st.DrawFn) -> Draft:
    """A request with one to three faults."""
    draft = draw(drafts())
    for fault in draw(st.lists(st.sampled_from(FAULTS), min_size=1, max_size=3)):
        draft.faults.append(fault)
        inputs = draft.message["inputs"]
        if not isinstance(inputs, list) or not inputs or not all(isinstance(item, dict) for item in inputs):
            break  # nothing is left to damage
        _damage(draw, draft, fault)
    return draft


def _damage(draw: st.DrawFn, draft: Draft, fault: str) -> None:
    inputs = draft.message["inputs"]
    item = draw(st.sampled_from(inputs))
    if fault == "shape":
        item["shape"] = draw(
            st.lists(st.integers(-2, 4) | st.sampled_from([2**31, 2**63, 2**64]), max_size=4) | anything
        )
    elif fault == "datatype":
        item["datatype"] = draw(st.sampled_from([*DTYPES, "BYTES", "BF16", "fp32"]) | anything)
    elif fault == "name":
        item["name"] = draw(anything)
    elif fault == "data":
        item["data"] = draw(anything)
    elif fault == "element" and isinstance(item.get("data"), list) and item["data"]:
        item["data"][draw(st.integers(0, len(item["data"]) - 1))] = draw(anything)
    elif fault == "size":
        size = draw(st.integers(-3, 60) | st.sampled_from(HUGE) | anything)
        item["parameters"] = {"binary_data_size": size}
    elif fault == "drop":
        inputs.remove(item)
    elif fault == "twice":
        inputs.append(dict(item))
    elif fault == "length":
        draft.length_error = draw(st.integers(-50, 50) | st.sampled_from([10**6, 10**30]))
    elif fault == "cut":
        draft.cut = draw(st.integers(1, 40))
    elif fault == "more":
        draft.more = draw(st.binary(min_size=1, max_size=9))
    elif fault == "blob" and draft.blobs:
        _replace(draft, draw(st.sampled_from(list(draft.blobs))), draw(st.binary(max_size=40)))
    elif fault == "texts":
        pieces = [struct.pack("<I", max(len(text) + draw(st.integers(-2, 3)), 0)) + text for text in draw(texts)]
        _replace(draft, "bytes_in", b"".join(pieces)[: draw(st.integers(0, 60))])
    elif fault in ("parameters", "outputs"):
        draft.message[fault] = draw(anything)
    elif fault == "field":
        draft.message[draw(st.sampled_from(["id", "inputs", "model_name"]))] = draw(anything)


def _replace(draft: Draft, name: str, blob: bytes) -> None:
    """Other bytes for an input, as many as its header says."""
    item = next((item for item in draft.message["inputs"] if item.get("name") == name), None)
    if item is not None and name in draft.blobs:
        draft.blobs[name] = blob
        item["parameters"] = {"binary_data_size": len(blob)}


def parsed(answer: Answer) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header of an answer, and its outputs as arrays; everything in it has to fit."""
    length = answer.headers.get(LENGTH)
    size = len(answer.body) if length is None else int(length)
    message = json.loads(answer.body[:size])
    blob, at = answer.body[size:], 0
    outputs = {}
    for item in message["outputs"]:
        count = math.prod(item["shape"])
        taken = (item.get("parameters") or {}).get("binary_data_size")
        if taken is None:
            values, datatype = item["data"], item["datatype"]
            assert len(values) == count
            if datatype == "BYTES":
                outputs[item["name"]] = values
            else:
                outputs[item["name"]] = np.array(values, DTYPES[datatype]).reshape(item["shape"])
            continue
        piece, at = blob[at : at + taken], at + taken
        assert len(piece) == taken
        outputs[item["name"]] = (
            texts_of(piece, count)
            if item["datatype"] == "BYTES"
            else np.frombuffer(piece, DTYPES[item["datatype"]]).reshape(item["shape"])
        )
    assert at == len(blob)
    return message, outputs


def texts_of(blob: bytes, count: int) -> list[str]:
    found, at = [], 0
    for _ in range(count):
        (size,) = struct.unpack_from("<I", blob, at)
        found.append(blob[at + 4 : at + 4 + size].decode())
        at += 4 + size
    assert at == len(blob)
    return found


@given(drafts())
def test_a_right_request_gets_the_right_numbers_in_every_mixture_of_forms(every: Berth, draft: Draft) -> None:
    body, headers = draft.body()
    answer = every.post("/v2/models/every/infer", body, headers)
    assert answer.status == 200, answer.body
    message, outputs = parsed(answer)
    assert message.get("id") == draft.message.get("id")
    for name, array in draft.arrays.items():
        turned = array[:, ::-1]
        if name == "bytes":
            assert outputs["bytes_out"] == list(turned.ravel())
        else:
            assert np.array_equal(outputs[f"{name}_out"], turned, equal_nan=name.startswith("fp")), name


@given(damaged())
def test_a_damaged_request_is_answered_and_never_with_500(every: Berth, draft: Draft) -> None:
    note(str(draft.faults))
    body, headers = draft.body()
    answer = every.post("/v2/models/every/infer", body, headers)
    if answer.status == 200:  # the fault was none: an unknown field, the same shape again
        parsed(answer)
    else:
        assert answer.status in REFUSED, answer.body
        assert list(answer.json) == ["error"]


@given(drafts() | damaged(), st.sampled_from(["gzip", "deflate"]), st.integers(0, 8), st.binary(max_size=4))
def test_a_compressed_request_may_be_damaged_too(
    every: Berth, draft: Draft, encoding: str, cut: int, more: bytes
) -> None:
    body, headers = draft.body()
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    packed = packed[: len(packed) - cut] + more
    answer = every.post("/v2/models/every/infer", packed, {**headers, "Content-Encoding": encoding})
    assert answer.status in {200, *REFUSED}, answer.body
    if cut or more:
        assert answer.status == 400


@given(st.binary(max_size=60), st.sampled_from(["0", "00", "0x0", "1", "-0", "9" * 13, "\u00b2"]))
def test_raw_requests_of_any_bytes(onnx_server: Berth, body: bytes, length: str) -> None:
    answer = onnx_server.post("/v2/models/double/infer", body, {LENGTH: length.encode("latin-1")})  # type: ignore[dict-item]
    if length in ("0", "00") and len(body) == 8:
        assert answer.status == 200
    else:
        assert answer.status == 400, answer.body


names = st.sampled_from(["id", "parameters", "bool_in", "bytes_in", "fp64_in", "uint8_in"]) | st.text(max_size=4)


@given(st.sampled_from(["generate", "generate_stream", "infer_stream"]), anything | st.dictionaries(names, anything))
def test_the_generate_extension_takes_any_json(every: Berth, action: str, body: Any) -> None:
    answer = every.post(f"/v2/models/every/{action}", json.dumps(body).encode())
    assert answer.status in REFUSED, answer.body


@given(st.sampled_from(["index", "models/every/load", "models/a%00/unload"]), st.binary(max_size=20) | anything)
def test_the_repository_takes_any_body(every: Berth, action: str, body: Any) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert every.post(f"/v2/repository/{action}", data).status in {200, 400, 403}


@given(
    st.text(max_size=12) | st.lists(st.sampled_from(["every", "versions", "1", "", "%2F", "%", "..", "ready", "infer"]))
)
def test_any_path_is_answered(every: Berth, path: Any) -> None:
    text = path if isinstance(path, str) else "/".join(path)
    target = "".join(c for c in text if c.isprintable() and c not in " ?#").encode("utf-8", "replace").decode("latin-1")
    with every.connect() as connection:
        connection.sendall(b"GET /v2/models/%b HTTP/1.1\r\nHost: x\r\n\r\n" % target.encode("latin-1"))
        (answer,) = read_answers(connection, 1)
    assert answer.status in {200, 400, 404, 405}


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\x18\4"
PIECES = (
    b"GET /v2 HTTP/1.1\r\n",
    b"POST /v2/models/every/infer HTTP/1.1\r\n",
    b"POST /v2/models/every/generate HTTP/1.0\r\n",
    b"Host: x\r\n",
    b"Content-Length: 2\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length: -1\r\n",
    b"content-length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Inference-Header-Content-Length: 2\r\n",
    b"Inference-Header-Content-Length: 99\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    b"\r\n",
    b"{}",
    b"2\r\n{}\r\n",
    b"0\r\n\r\n",
    b"fffffffffffffffff\r\n",
    PREFACE,
    b"\0",
    b" folded\r\n",
    b": nameless\r\n",
)


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=6), max_size=14), st.lists(st.integers(1, 80), max_size=6))
def test_what_is_hardly_http_ends_with_answers_and_never_with_500(
    every: Berth, pieces: list[bytes], cuts: list[int]
) -> None:
    """In pieces of any size; then the sender is done, and the server ends the connection."""
    data = b"".join(pieces)
    received = bytearray()
    with every.connect() as connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for size in cuts:
            connection.sendall(data[:size])
            data = data[size:]
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):  # its deadline is the test's: a hang is a failure
            received += piece
    answers = bytes(received)
    if PREFACE in b"".join(pieces):  # what is said in HTTP/2 begins with its settings, and is for test_http2.py
        answers = answers.partition(SETTINGS)[0]
    for status in statuses(answers):
        assert status < 500 or status == 501, answers
    assert every.get("/v2/health/live").status == 200


def statuses(data: bytes) -> list[int]:
    """The statuses of the answers in what came back, each of which has to be whole."""
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        assert first.startswith(b"HTTP/1.1 "), data
        found.append(int(first.split()[1]))
        length = next((int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")), 0)
        assert len(rest) >= length, data
        data = rest[length:]
    return found


def test_the_server_has_not_stumbled(every: Berth) -> None:
    """After all of the above: it lives, its worker was never replaced, and it logged no fault of its own."""
    try:
        assert every.get("/v2/health/ready").status == 200
    except http.client.HTTPException as error:
        raise AssertionError("the server does not answer any more") from error
    assert "request failed" not in every.log()
    assert "predict failed" not in every.log()
    assert every.process.poll() is None
