"""Whatever is sent in another server's dialect, the answer is never 500, and its errors have the dialect's shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.berth.support import Berth, serving
from tests.berth.test_fuzz import anything

BOUNDED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FIRST = {"name": "mix", "predictor": "models_faces:Mix"}
FACES = ("Blob", "Divide", "Sum", "Reverse", "Chat", "WholeChat", "Complete", "Embed", "EmbedAll")
TENSORS = ("double", "pair", "text", "fixed", "wide")
NAMES = ("mix", *FACES, "Typed", *TENSORS)
INPUTS = ("x", "a", "b", "data", "body", "text", "texts", "number", "file", "size", "colour", "whole", "scale", "b64")

values = st.sampled_from([{"b64": "YQ=="}, {"b64": "?"}, [[1.0, 2.0]], [1, 2], "abc", float("nan")]) | anything
inputs = st.dictionaries(st.sampled_from(INPUTS), values, max_size=4)
rows = st.lists(inputs | values, max_size=3)
messages = st.lists(
    st.fixed_dictionaries({}, optional={"role": values, "content": values | st.lists(inputs, max_size=2)}), max_size=2
)
questions = st.fixed_dictionaries(
    {"model": st.sampled_from(NAMES) | anything},
    optional={
        **dict.fromkeys(("input", "prompt"), values),
        "messages": messages | values,
        **dict.fromkeys(
            ("stream", "stop", "n", "max_tokens", "temperature", "dimensions", "encoding_format", "tools", "seed"),
            values,
        ),
        "stream_options": values,
    },
)


@pytest.fixture(scope="module")
def server(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Berth]:
    models: list[dict[str, Any]] = [FIRST, {"name": "Typed", "predictor": "models:Typed"}]
    models += [{"name": name, "predictor": f"models_faces:{name}"} for name in FACES]
    models += [{"name": name, "format": "onnx", "weights": str(weights / f"{name}.onnx")} for name in TENSORS]
    path = tmp_path_factory.mktemp("fuzz") / "models.json"
    path.write_text(json.dumps(models))
    with serving(variables={"AIP_PREDICT_ROUTE": "/rows"}, MODELS=str(path)) as berth:
        yield berth


@BOUNDED
@given(
    st.sampled_from(NAMES),
    st.fixed_dictionaries(
        {}, optional={"instances": rows | values, "inputs": inputs | values, "signature_name": values}
    ),
)
def test_tensorflow_serving_never_answers_500(server: Berth, name: str, body: Any) -> None:
    answer = server.post(f"/v1/models/{name}:predict", body)
    assert answer.status in (200, 400), answer.body
    assert set(answer.json) <= {"predictions", "outputs"} or isinstance(answer.json["error"], str)


@BOUNDED
@given(
    st.sampled_from(NAMES),
    st.binary(max_size=30) | (inputs | values).map(lambda value: json.dumps(value).encode()),
    st.sampled_from(["", "application/json", "application/x-www-form-urlencoded", "text/plain"]),
)
def test_torchserve_never_answers_500(server: Berth, name: str, body: bytes, kind: str) -> None:
    answer = server.post(f"/predictions/{name}", body, {"Content-Type": kind} if kind else {})
    assert answer.status in (200, 400), answer.body
    if answer.status == 400:
        assert answer.json.keys() == {"code", "type", "message"}


@BOUNDED
@given(
    st.text('1.5,\n"abé ', max_size=20).map(str.encode)
    | rows.map(lambda lines: "\n".join(map(json.dumps, lines)).encode()),
    st.sampled_from(["text/csv", "application/jsonlines", "application/json"]),
    st.sampled_from(["", "text/csv", "application/jsonlines", "application/json"]),
)
def test_invocations_never_answer_500(server: Berth, body: bytes, kind: str, accept: str) -> None:
    answer = server.post("/invocations", body, {"Content-Type": kind, "Accept": accept})
    assert answer.status in (200, 400, 422), answer.body


@BOUNDED
@given(st.fixed_dictionaries({"instances": rows | values}, optional={"parameters": inputs | values}))
def test_vertex_never_answers_500(server: Berth, body: Any) -> None:
    assert server.post("/rows", body).status in (200, 400)


@BOUNDED
@given(st.sampled_from(["embeddings", "chat/completions", "completions"]), questions | anything)
def test_openai_never_answers_500(server: Berth, path: str, body: Any) -> None:
    answer = server.post(f"/v1/{path}", body if body is not None else b"")
    assert answer.status in (200, 400, 404), answer.body
    if answer.status != 200:
        assert answer.json["error"].keys() == {"message", "type", "param", "code"}
