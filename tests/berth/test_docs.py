"""/openapi.json and /docs: what callers and people read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from berth.protocols import v2
from tests.berth.support import Berth, predictor, serving

CHROMIUM = shutil.which("chromium")


def resolve(document: dict[str, Any], name: str) -> dict[str, Any]:
    """A component as a schema of its own."""
    return {**document["components"]["schemas"][name], "components": document["components"]}


def test_the_document_describes_every_input_with_default_and_description(typed_server: Berth) -> None:
    document = typed_server.get("/openapi.json").json
    assert document["openapi"] == "3.1.0"
    assert document["info"] == {"title": "typed", "version": "1", "description": "One of every <kind>."}
    schema = document["components"]["schemas"]["Input"]
    assert schema["required"] == ["count", "name", "numbers"]
    assert schema["additionalProperties"] is False
    fields = schema["properties"]
    assert fields["count"] == {"type": "integer", "minimum": 1, "maximum": 10, "description": "How many <b>times</b>."}
    assert fields["colour"]["default"] == "red"
    assert fields["mode"]["enum"] == ["fast", "slow"]
    assert fields["tags"]["default"] == []
    assert fields["ratio"]["default"] == 0.5
    assert fields["numbers"]["description"] == "array of float32, any x 2"
    assert document["paths"]["/predict"]["post"]["description"] == "Says back what it was given."


def test_the_schema_accepts_what_the_server_accepts_and_refuses_what_it_refuses(typed_server: Berth) -> None:
    schema = resolve(typed_server.get("/openapi.json").json, "Input")
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    good = {"count": 2, "name": "ab", "numbers": [[1, 2]], "point": {"x": 1.5}}
    for change in ({}, {"count": 11}, {"extra": 1}, {"numbers": [[1]]}, {"colour": "green"}, {"point": {}}):
        body = good | change
        assert validator.is_valid(body) == (typed_server.post("/predict", body).status == 200), change


def test_the_output_schema_fits_the_answer() -> None:
    with serving(**predictor("Structured")) as server:
        schema = resolve(server.get("/openapi.json").json, "Output")
        jsonschema.validate(server.predict(x=2).json, schema, jsonschema.Draft202012Validator)
        assert schema["components"]["schemas"]["Verdict"]["properties"]["score"]["description"] == "from 0 to 1"


def test_tensor_models_are_described_too(onnx_server: Berth) -> None:
    document = onnx_server.get("/openapi.json").json
    schema = resolve(document, "Input")
    assert schema["required"] == ["x"]
    jsonschema.validate({"x": [[1.5, 2]]}, schema)
    assert "/v2/models/double/infer" in document["paths"]


def test_every_v2_route_of_a_model_is_described(onnx_server: Berth) -> None:
    paths = onnx_server.get("/openapi.json").json["paths"]
    for action, (_, method, _) in v2._ACTIONS.items():
        for base in ("/v2/models/double", "/v2/models/double/versions/{version}"):
            assert method.lower() in paths[base + action], base + action


def test_another_models_document_names_its_own_route(tmp_path: Path) -> None:
    entries = [{"name": "first", "predictor": "models:Echo"}, {"name": "a b", "predictor": "models:Structured"}]
    (tmp_path / "models.json").write_text(json.dumps(entries))
    with serving(MODELS=str(tmp_path / "models.json")) as server:
        assert "/predict" in server.get("/openapi.json").json["paths"]
        paths = server.get("/models/a%20b/openapi.json").json["paths"]
        assert next(iter(paths)) == "/models/a%20b/predict"
        assert server.post("/models/a%20b/predict", {"x": 1}).json["score"] == 0.5


def test_the_documents_example_is_taken(typed_server: Berth, onnx_server: Berth) -> None:
    for server in (typed_server, onnx_server):
        document = server.get("/openapi.json").json
        example = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
        assert server.post("/predict", example).status == 200


def test_the_page_needs_nothing_from_elsewhere(typed_server: Berth) -> None:
    answer = typed_server.get("/docs")
    page = answer.body.decode()
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", page)
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "One of every &lt;kind&gt;." in page
    assert "How many &lt;b&gt;times&lt;/b&gt;." in page
    assert typed_server.get("/").body == answer.body


@pytest.fixture(scope="module")
def tcp_server() -> Iterator[str]:
    """models.Typed behind a TCP port, for a browser."""
    with serving(**predictor("Typed", MODEL_NAME="typed")) as server:
        forwarder = subprocess.Popen(
            [shutil.which("python3") or "python3", str(Path(__file__).with_name("forward.py")), server.socket_path],
            stdout=subprocess.PIPE,
        )
        assert forwarder.stdout is not None
        port = forwarder.stdout.readline().decode().strip()
        yield f"http://127.0.0.1:{port}"
        forwarder.terminate()
        forwarder.wait()
        forwarder.stdout.close()


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_renders_the_parameters_and_runs_the_script(tcp_server: str, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path}"]
    done = subprocess.run(
        [CHROMIUM, *flags, "--virtual-time-budget=2000", "--dump-dom", f"{tcp_server}/docs"],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    page = done.stdout
    for name in ("count", "name", "numbers", "colour", "mode", "point", "tags", "ratio"):
        assert f'<code class="name">{name}</code>' in page
        assert f'name="{name}"' in page
    # The script, and only ours, has run: it wrote this server's address into the command.
    assert f"curl -X POST {tcp_server}/predict" in page
    assert json.loads(re.search(r"-d '(\{.*\})'", page)[1]) == {"count": 1, "name": "text", "numbers": [[0, 0]]}  # type: ignore[index]
