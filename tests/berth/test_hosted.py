"""What SageMaker, Vertex AI and Cloud Run ask of a container."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from berth.config import read_config
from berth.errors import ConfigError
from tests.berth.support import DEADLINE_S, Answer, Berth, environment, form, read_answers, serving
from tests.berth.test_native import png

VERTEX = {"AIP_HEALTH_ROUTE": "/alive", "AIP_PREDICT_ROUTE": "/predict"}


def faces(name: str, **settings: str) -> dict[str, str]:
    return {"PREDICTOR": f"models_faces:{name}", **settings}


@contextmanager
def on_vertex(variables: Mapping[str, str] = VERTEX, **settings: str) -> Iterator[Berth]:
    with serving(variables=variables, **settings) as server:
        yield server


def invoke(server: Berth, body: Any, **headers: str) -> Answer:
    return server.post("/invocations", body, {name.replace("_", "-"): value for name, value in headers.items()})


# -- SageMaker --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mix() -> Iterator[Berth]:
    with serving(**faces("Mix")) as server:
        yield server


@pytest.fixture(scope="module")
def iris(weights: Path) -> Iterator[Berth]:
    with serving(FORMAT="sklearn", WEIGHTS=str(weights / "iris.joblib")) as server:
        yield server


def test_sagemaker_pings_and_invokes_as_predict(mix: Berth) -> None:
    assert mix.get("/ping").status == 200
    question = {"size": 1.5, "colour": "red"}
    answer = invoke(mix, question, Content_Type="application/json", X_Amzn_SageMaker_Custom_Attributes="trace=1")
    assert answer.json == mix.predict(**question).json == {"size": 1.5, "colour": "red", "whole": 0}
    assert "X-Amzn-SageMaker-Custom-Attributes" not in answer.headers
    assert invoke(mix, {"size": "big"}).status == 422
    assert mix.get("/invocations").status == 405


def test_sagemaker_invokes_with_a_form() -> None:
    with serving(**faces("Picture")) as server:
        body, kind = form({"image": ("a.png", "image/png", png())})
        assert invoke(server, body, Content_Type=kind).json["shape"] == [3, 4, 3]


def test_sagemaker_streams_what_a_predictor_yields() -> None:
    with serving(**faces("Tokens", WORKERS="1")) as server:
        assert invoke(server, {"text": "a b"}).body == b'data: "a "\n\ndata: "b "\n\n'
        assert invoke(server, {"text": "a b"}, Accept="application/json").json == ["a ", "b "]


def test_lines_of_csv_are_rows_of_a_tensor(iris: Berth) -> None:
    rows = b"5.1,3.5,1.4,0.2\n6.7,3,5.2,2.3\r\n"
    answer = invoke(iris, rows, Content_Type="text/csv")
    assert [row["label"] for row in answer.json] == [0, 2]
    flat = invoke(iris, rows, Content_Type="text/csv; charset=utf-8", Accept="text/csv")
    assert flat.headers["Content-Type"] == "text/csv; charset=utf-8"
    lines = flat.body.decode().splitlines()
    assert [line.split(",")[0] for line in lines] == ["0", "2"]
    assert all(len(line.split(",")) == 4 for line in lines)
    jsonl = invoke(iris, rows, Content_Type="text/csv", Accept="application/jsonlines")
    assert [json.loads(line)["label"] for line in jsonl.body.splitlines()] == [0, 2]


def test_cells_of_csv_are_inputs_in_order_or_by_their_names(mix: Berth) -> None:
    expected = [{"size": 1.5, "colour": "red", "whole": 3}, {"size": 2.0, "colour": "a,b", "whole": 0}]
    assert invoke(mix, b'1.5,red,3\n2,"a,b"\n', Content_Type="text/csv").json == expected
    named = b'colour,whole,size\nred,3,1.5\n"a,b",,2\n'
    assert invoke(mix, named, Content_Type="text/csv").json == expected
    flat = invoke(mix, named, Content_Type="text/csv", Accept="text/csv").body
    assert flat == b'1.5,red,3\n2.0,"a,b",0\n'


def test_a_line_of_csv_is_the_vector_that_a_predictor_takes(weights: Path) -> None:
    with serving(**faces("Sum")) as server:
        assert invoke(server, b"1,2,3\n4\n", Content_Type="text/csv").json == [6.0, 4.0]
        assert invoke(server, b"1,2,3\n4\n", Content_Type="text/csv", Accept="text/csv").body == b"6.0\n4.0\n"
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "pair.onnx")) as server:
        assert invoke(server, b"1,2\n3,4\n", Content_Type="text/csv").json == [3.0, 7.0]
    with serving(**faces("Shout")) as server:
        assert invoke(server, b'"a b"\nc\n', Content_Type="text/csv").json == ["A B", "C"]


def test_lines_of_json_are_rows_and_so_is_the_answer(mix: Berth) -> None:
    lines = b'{"size": 1, "colour": "a"}\n\n{"size": 2, "colour": "b", "whole": 1}\n'
    answer = invoke(mix, lines, Content_Type="application/jsonlines")
    assert answer.headers["Content-Type"] == "application/jsonl"
    assert [json.loads(line)["colour"] for line in answer.body.splitlines()] == ["a", "b"]
    array = invoke(mix, lines, Content_Type="application/jsonlines", Accept="application/json")
    assert [row["whole"] for row in array.json] == [0, 1]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ["at least one row"]),
        (b"1.5,red,3,4\n", ["row 1", "size, colour, whole", "4"]),
        (b"big,red\n", ["rows[0]", "$.size"]),
        (b"1.5,red\n1.5\n", ["rows[1]", "colour"]),
        (b'1.5,"red\n', ["not valid CSV"]),
        (b"1.5,\xff\n", ["not valid CSV"]),
    ],
)
def test_csv_that_does_not_fit_is_400_and_says_where(mix: Berth, body: bytes, words: list[str]) -> None:
    answer = invoke(mix, body, Content_Type="text/csv")
    assert answer.status == 400
    assert all(word in answer.json["error"] for word in words), answer.json


def test_csv_for_what_is_no_row_of_cells_is_refused(iris: Berth) -> None:
    wrong = invoke(iris, b"a,b,c,d\n", Content_Type="text/csv")
    assert wrong.status == 400
    assert "numbers" in wrong.json["error"]
    with serving(**faces("Picture")) as server:
        answer = invoke(server, b"1,2\n", Content_Type="text/csv")
        assert answer.status == 415
        assert "'image'" in answer.json["error"]


def test_a_full_queue_and_a_deadline_have_their_statuses_on_sagemaker() -> None:
    with serving(**faces("Shout", MODEL_NAME="shout", MAX_QUEUE="1")) as server:
        slow = threading.Thread(target=invoke, args=(server, {"text": "slow"}))
        slow.start()
        server.wait_for_pending("shout", 1)
        full = invoke(server, b"a\n", Content_Type="text/csv")
        slow.join()
        assert full.status == 503
        assert "queue is full" in full.json["error"]
        late = invoke(server, {"text": "slow"}, X_Request_Timeout="0.2")
        assert late.status == 504


def test_every_health_route_says_when_no_more_requests_are_wanted() -> None:
    paths = ("/ping", "/alive", "/v1/models/shout")
    with on_vertex(**faces("Shout", MODEL_NAME="shout")) as server, ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in paths]
        for path, connection in zip(paths, connections, strict=True):
            connection.sendall(f"GET {path} HTTP/1.1\r\n".encode())
        server.process.terminate()
        server.wait_for_event("draining")
        for path, connection in zip(paths, connections, strict=True):
            connection.sendall(b"Host: x\r\n\r\n")
            (answer,) = read_answers(connection, 1)
            assert answer.status == 503, path
            assert "draining" in answer.json["error"]
        assert answer.json["ready"] is False
        assert answer.json["model_version_status"][0]["status"]["error_code"] == "UNAVAILABLE"


# -- Vertex AI --------------------------------------------------------------------------------------------------------


def test_vertex_names_its_routes_and_wraps_rows() -> None:
    with on_vertex(**faces("Shout")) as server:
        assert server.get("/alive").json == {"status": "Healthy"}
        body = {"instances": ["a", {"text": "b"}], "parameters": {"times": 2}}
        assert server.post("/predict", body).json == {"predictions": ["AA", "BB"]}
        assert server.post("/predict", {"instances": ["a"], "parameters": None}).json == {"predictions": ["A"]}
        assert server.post("/models/model/predict", {"text": "a"}).json == "A"


def test_vertex_parameters_go_to_every_row_of_a_tensor(weights: Path) -> None:
    with on_vertex(FORMAT="onnx", WEIGHTS=str(weights / "pair.onnx")) as server:
        body = {"instances": [{"a": 1}, {"a": 2}], "parameters": {"b": 10}}
        assert server.post("/predict", body).json == {"predictions": [11.0, 12.0]}
        assert server.post("/predict", body | {"instances": [1, 2]}).json == {"predictions": [11.0, 12.0]}


def test_vertex_routes_may_be_its_long_default_ones_or_one_path() -> None:
    base = "/v1/endpoints/123/deployedModels/456"
    long = {"AIP_HEALTH_ROUTE": base, "AIP_PREDICT_ROUTE": f"{base}:predict"}
    with on_vertex(long, **faces("Shout")) as server:
        assert server.get(base).status == 200
        assert server.post(f"{base}:predict", {"instances": ["a"]}).json == {"predictions": ["A"]}
        assert server.post("/predict", {"text": "a"}).json == "A"
    with on_vertex({"AIP_HEALTH_ROUTE": "/m", "AIP_PREDICT_ROUTE": "/m"}, **faces("Shout")) as server:
        assert server.get("/m").status == 200
        assert server.post("/m", {"instances": ["a"]}).json == {"predictions": ["A"]}


def test_vertex_raw_predictions_are_native_and_may_stream() -> None:
    with on_vertex(**faces("Tokens")) as server:
        assert server.post("/predict", {"text": "a b"}).body == b'data: "a "\n\ndata: "b "\n\n'
        assert server.post("/predict", {"instances": ["a b"]}).json == {"predictions": [["a ", "b "]]}
        body, kind = form({"text": b"a"})
        assert server.post("/predict", body, {"Content-Type": kind, "Accept": "application/json"}).json == ["a "]
        assert server.post("/predict", b"{").status == 400


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"instances": []}, "at least one row"),
        ({"instances": [1]}, "$.text"),
        ({"instances": ["a"], "parameters": {"speed": 1}}, "'speed'"),
        ({"instances": ["a"], "parameters": [1]}, "expected an object"),
        ({"instances": ["refuse"]}, "not this one"),
    ],
)
def test_what_vertex_sends_wrongly_is_400(body: Any, words: str, vertex: Berth) -> None:
    answer = vertex.post("/predict", body)
    assert answer.status == 400
    assert words in answer.json["error"]


@pytest.fixture(scope="module")
def vertex() -> Iterator[Berth]:
    with on_vertex(**faces("Shout", WORKERS="1")) as server:
        yield server


def test_a_route_of_vertex_that_is_no_path_stops_the_start() -> None:
    with pytest.raises(ConfigError, match=r"AIP_PREDICT_ROUTE.*begins with /.*'predict'"):
        read_config({"BERTH_PREDICTOR": "models:Slow", "AIP_PREDICT_ROUTE": "predict"})


# -- Ports ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "port"),
    [
        ({}, 8080),
        ({"PORT": "9000"}, 9000),
        ({"AIP_HTTP_PORT": "9001"}, 9001),
        ({"AIP_HTTP_PORT": "9001", "PORT": "9000"}, 9001),
        ({"BERTH_PORT": "9002", "AIP_HTTP_PORT": "9001", "PORT": "9000"}, 9002),
    ],
)
def test_the_platform_may_choose_the_port(variables: dict[str, str], port: int) -> None:
    assert read_config({"BERTH_PREDICTOR": "models:Slow", **variables}).listen.port == port


def test_a_bad_port_names_its_variable() -> None:
    with pytest.raises(ConfigError, match=r"AIP_HTTP_PORT.*'http'"):
        read_config({"BERTH_PREDICTOR": "models:Slow", "AIP_HTTP_PORT": "http"})


@pytest.mark.parametrize("name", ["PORT", "AIP_HTTP_PORT"])
def test_the_command_serve_listens_where_the_platform_says(name: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = environment(**faces("Shout"), HOST="127.0.0.1") | {name: str(port)}
    process = subprocess.Popen([sys.executable, "-m", "berth", "serve"], env=settings, stderr=subprocess.DEVNULL)
    try:
        assert wait_until_healthy(port) == {"status": "Healthy"}
    finally:
        process.terminate()
        assert process.wait(DEADLINE_S) == 0


def wait_until_healthy(port: int) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        try:
            connection.request("GET", "/ping")
            return json.loads(connection.getresponse().read())
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise AssertionError(f"nothing answers on port {port}")
