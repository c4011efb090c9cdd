"""KServe's own `InferenceRESTClient` and `InferenceGRPCClient`, in an environment of their own, against berth."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.conformance.clients import ENCODED, adding, listening, write
from tests.conformance.environments import HERE, python_of

ASK_S = 120
NUMBERS = np.array([[0.5, -1.0, 3.0], [1.0, 2.0, 4.0]])
SUM = ["FP32", [2, 3], (NUMBERS + 1).tolist()]

pytestmark = pytest.mark.slow  # the first run installs some 65 packages


@dataclass(frozen=True)
class Said:
    """What the client got from one server, by the name of the check."""

    address: str
    answers: dict[str, Any]
    grpc: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.answers[name]

    @property
    def speaks_v1(self) -> bool:
        """Whether the server has the routes of KServe's older protocol."""
        connection = http.client.HTTPConnection(self.address, timeout=20)
        connection.request("GET", "/v1/models")
        status = connection.getresponse().status
        connection.close()
        return status != 404


@pytest.fixture(scope="module", params=[0, 1], ids=["inline", "in a worker"])
def said(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Said]:
    folder = tmp_path_factory.mktemp("models")
    adding(folder / "add.onnx", 1)
    for name, kind in (("text", TensorProto.STRING), ("half", TensorProto.FLOAT16)):
        x, y = (helper.make_tensor_value_info(end, kind, ["N", 3]) for end in "xy")
        write(folder / f"{name}.onnx", helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], name, [x], [y]))
    files = {"add": "add", ENCODED: "add", "text": "text", "half": "half"}
    entries = [
        {"name": name, "format": "onnx", "weights": str(folder / f"{file}.onnx"), "workers": request.param}
        for name, file in files.items()
    ]
    entries.append({"name": "nap", "predictor": "models_clients:Nap", "workers": request.param})
    (folder / "models.json").write_text(json.dumps(entries))
    python = python_of("kserve")
    with listening(MODELS=str(folder / "models.json")) as address:
        rest = _ask(python, "kserve_client.py", f"http://{address}")
        yield Said(address, rest, _ask(python, "kserve_grpc_client.py", address))


def _ask(python: Path, script: str, url: str) -> dict[str, Any]:
    command = [str(python), str(HERE / script), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S, check=False)
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_health(said: Said) -> None:
    assert [said[name] for name in ("live", "ready", "model ready")] == [True, True, True]
    assert said["model ready, none"] is False


@pytest.mark.parametrize(
    ("check", "binary"),
    [("json", False), ("binary", True), ("binary in", False), ("binary out", True), ("override", False)],
)
def test_inference(said: Said, check: str, binary: bool) -> None:
    assert said[check] == {"id": "id-1", "model": "add", "outputs": {"y": SUM}, "binary": binary}


def test_a_plain_dictionary_is_a_request(said: Said) -> None:
    assert said["dict"] == {"id": None, "model": "add", "outputs": {"y": ["FP32", [1, 1], [[2.0]]]}, "binary": False}


def test_a_name_that_needs_encoding(said: Said) -> None:
    assert said["encoded"]["model"] == ENCODED


def test_text_and_half_precision(said: Said) -> None:
    assert said["text in json"] == said["text in binary"] == ["a", "ä", ""]
    assert said["half"] == [[0.5, -2.0, 65504.0]]


@pytest.mark.parametrize(
    ("check", "status", "words"),
    [("no model", 404, "no model 'nobody'"), ("wrong input", 400, "unexpected input 'z'; the model takes 'x'")],
)
def test_errors_reach_the_caller_as_text(said: Said, check: str, status: int, words: str) -> None:
    assert said[check]["raised"] == "HTTPStatusError"
    assert said[check]["status"] == status
    assert words in said[check]["text"]


def test_explanations_are_refused(said: Said) -> None:
    assert said["explain"]["status"] in {404, 501}
    assert said["explain"]["text"].partition(",")[0]  # the server's own words come first
    assert said["explain, v2"]["raised"] == "UnsupportedProtocol"  # the client's own refusal


def test_the_first_version_of_the_protocol(said: Said) -> None:
    if not said.speaks_v1:
        pytest.skip("this server has no /v1/models")
    assert said["v1 live"] is True
    assert said["v1 model ready"] is True
    assert said["v1 predict"] == {"predictions": (NUMBERS + 1).tolist()}
    assert said["v1 no model"]["status"] == 404
    assert "nobody" in said["v1 no model"]["text"]


def test_health_over_grpc(said: Said) -> None:
    assert [said.grpc[name] for name in ("live", "ready", "model ready")] == [True, True, True]
    none = said.grpc["model ready, none"]
    assert none is False or none["code"] == "NOT_FOUND"


@pytest.mark.parametrize("check", ["raw", "typed", "output", "with headers", "parameters"])
def test_inference_over_grpc(said: Said, check: str) -> None:
    assert said.grpc[check] == {"id": "id-1", "model": "add", "outputs": {"y": SUM}}


def test_names_and_ids_over_grpc(said: Said) -> None:
    assert said.grpc["name"]["model"] == ENCODED
    assert not said.grpc["without id"]["id"]
    assert said.grpc["many"] == list(range(20))


def test_text_half_precision_and_much_over_grpc(said: Said) -> None:
    assert said.grpc["text, raw"] == said.grpc["text, typed"] == ["a", "ä", ""]
    assert said.grpc["half"] == [[0.5, -2.0, 65504.0]]
    assert said.grpc["large"] == 2 * 1024 * 2048


@pytest.mark.parametrize(
    ("check", "code", "words"),
    [
        ("no model", "NOT_FOUND", "no model 'nobody'"),
        ("wrong input", "INVALID_ARGUMENT", "unexpected input 'z'; the model takes 'x'"),
        ("wrong output", "INVALID_ARGUMENT", "'z'"),
        ("too late", "DEADLINE_EXCEEDED", ""),
    ],
)
def test_errors_over_grpc_have_a_code_and_a_text(said: Said, check: str, code: str, words: str) -> None:
    assert said.grpc[check]["code"] == code
    assert words in said.grpc[check]["text"]
