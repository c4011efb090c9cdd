"""NVIDIA's `tritonclient`, http and http.aio, against berth: every method, every datatype, and what is refused."""

from __future__ import annotations

import asyncio
import http.client
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http
import tritonclient.http.aio
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests.conformance.clients import BRAIN, ENCODED, KINDS, Kind, listening, models

FAILED = InferenceServerException


@pytest.fixture(scope="module", params=["predictor", "predictor in a worker", "onnx", "onnx in a worker"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    backend, _, worker = request.param.partition(" in ")
    path = models(tmp_path_factory.mktemp("models"), backend, 1 if worker else 0)
    with listening(MODELS=path, MODEL_CONTROL="on") as found:
        yield found


class Blocking:
    """The asyncio client with the face of the other one, so that the same tests hold for both."""

    def __init__(self, address: str) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._connect(address))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *arguments, **options: self._runner.run(found(*arguments, **options))

    async def _connect(self, address: str) -> tritonclient.http.aio.InferenceServerClient:
        return tritonclient.http.aio.InferenceServerClient(address)

    def end(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture(params=["http", "http.aio"])
def client(request: pytest.FixtureRequest, address: str) -> Iterator[Any]:
    if request.param == "http":
        with tritonclient.http.InferenceServerClient(address) as blocking:
            yield blocking
        return
    wrapped = Blocking(address)
    yield wrapped
    wrapped.end()


def tensor(name: str, array: Any, datatype: str, *, binary: bool = True) -> InferInput:
    made = InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def ones(rows: int = 2, columns: int = 3) -> list[InferInput]:
    return [tensor("x", np.ones((rows, columns), np.float32), "FP32")]


def same(kind: Kind, got: Any) -> bool:
    expected = kind.array[:, ::-1]
    if kind.datatype == "BYTES":
        texts = [item.decode() if isinstance(item, bytes) else item for item in got.ravel()]
        return texts == list(expected.ravel()) and got.shape == expected.shape
    return got.dtype == expected.dtype and got.shape == expected.shape and got.tobytes() == expected.tobytes()


def test_health(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("every")
    assert client.is_model_ready("add", "2.0-rc.1")
    assert client.is_model_ready(ENCODED)
    assert not client.is_model_ready("add", "9")
    assert not client.is_model_ready("nobody")


def test_metadata(client: Any) -> None:
    server = client.get_server_metadata()
    assert server["name"] == "berth"
    assert "binary_tensor_data" in server["extensions"]
    described = client.get_model_metadata("every")
    assert described["name"] == "every"
    assert described["versions"] == ["1"]
    for side, key in (("inputs", "input"), ("outputs", "output")):
        assert [(item["name"], item["datatype"], item["shape"]) for item in described[side]] == [
            (getattr(kind, key), kind.datatype, [-1, 3]) for kind in KINDS
        ]
    assert client.get_model_metadata("add", "1")["versions"] == ["1"]


def test_configuration(client: Any) -> None:
    config = client.get_model_config("add", "1")
    assert config["name"] == "add"
    assert config["max_batch_size"] == 64
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, -1]}]
    assert config["output"] == [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1, -1]}]


def test_statistics_count_what_was_asked(client: Any) -> None:
    def counted() -> tuple[int, int]:
        (stats,) = client.get_inference_statistics("add", "1")["model_stats"]
        return stats["inference_count"], stats["inference_stats"]["success"]["count"]

    rows, requests = counted()
    client.infer("add", ones(rows=5), "1")
    assert counted() == (rows + 5, requests + 1)
    everything = client.get_inference_statistics()["model_stats"]
    assert {"every", "brain", "add", ENCODED, "nap"} <= {item["name"] for item in everything}


def test_models_are_listed_loaded_and_unloaded(client: Any) -> None:
    def state() -> str:
        index = client.get_model_repository_index()
        return next(str(item["state"]) for item in index if item["name"] == "spare")

    assert state() == "UNAVAILABLE"
    client.load_model("spare")
    assert state() == "READY"
    assert client.infer("spare", ones()).as_numpy("y").tolist() == [[2, 2, 2], [2, 2, 2]]
    client.unload_model("spare")
    assert state() == "UNAVAILABLE"
    with pytest.raises(FAILED, match="no model 'spare'"):
        client.infer("spare", ones())
    with pytest.raises(FAILED, match="no model 'nobody' to load"):
        client.load_model("nobody")


def test_a_configuration_that_comes_with_a_load_is_refused(client: Any) -> None:
    with pytest.raises(FAILED, match="parameter 'config'") as refused:
        client.load_model("spare", config='{"max_batch_size": 3}')
    assert refused.value.status() == "501"
    with pytest.raises(FAILED, match="parameter"):
        client.load_model("spare", config="{}", files={"file:1/model.onnx": b"x"})


def test_every_datatype_travels_as_bytes(client: Any) -> None:
    answer = client.infer("every", [tensor(kind.input, kind.array, kind.datatype) for kind in KINDS])
    assert [kind.datatype for kind in KINDS if not same(kind, answer.as_numpy(kind.output))] == []
    assert all("binary_data_size" in answer.get_output(kind.output)["parameters"] for kind in KINDS)


def test_every_datatype_but_fp16_travels_as_json(client: Any) -> None:
    inputs = [tensor(kind.input, kind.array, kind.datatype, binary=kind.datatype == "FP16") for kind in KINDS]
    outputs = [InferRequestedOutput(kind.output, binary_data=kind.datatype == "FP16") for kind in KINDS]
    answer = client.infer("every", inputs, outputs=outputs)
    assert [kind.datatype for kind in KINDS if not same(kind, answer.as_numpy(kind.output))] == []
    assert all("data" in answer.get_output(kind.output) for kind in KINDS if kind.datatype != "FP16")


def test_bf16_travels_as_bytes(client: Any) -> None:
    answer = client.infer("brain", [tensor(BRAIN.input, BRAIN.array, "BF16")])
    (output,) = answer.get_response()["outputs"]
    assert output["datatype"] == "BF16"
    assert same(BRAIN, answer.as_numpy(output["name"]))


def test_bf16_has_no_json_form(client: Any) -> None:
    asked = InferRequestedOutput(client.get_model_metadata("brain")["outputs"][0]["name"], binary_data=False)
    with pytest.raises(FAILED, match="BF16 has no JSON form") as refused:
        client.infer("brain", [tensor(BRAIN.input, BRAIN.array, "BF16")], outputs=[asked])
    assert refused.value.status() == "400"


def test_one_output_of_many_may_be_asked_for(client: Any) -> None:
    answer = client.infer(
        "every",
        [tensor(kind.input, kind.array, kind.datatype) for kind in KINDS],
        outputs=[InferRequestedOutput("int32_out", binary_data=False), InferRequestedOutput("fp16_out")],
    )
    assert [item["name"] for item in answer.get_response()["outputs"]] == ["int32_out", "fp16_out"]
    assert answer.as_numpy("uint8_out") is None


def test_versions_and_names_that_need_encoding(client: Any) -> None:
    assert client.infer("add", ones()).as_numpy("y").max() == 3
    for version, expected in (("1", 2), ("2.0-rc.1", 3)):
        answer = client.infer("add", ones(), version)
        assert answer.as_numpy("y").tolist() == [[expected] * 3] * 2
        assert answer.get_response()["model_version"] == version
    answer = client.infer(ENCODED, ones())
    assert answer.get_response()["model_name"] == ENCODED
    assert answer.as_numpy("y").max() == 2


def test_the_request_id_comes_back_and_parameters_do_not_matter(client: Any) -> None:
    answer = client.infer(
        "add", ones(), request_id="id-ä", parameters={"flag": True, "text": "a", "number": 1.5}, priority=1
    )
    assert answer.get_response()["id"] == "id-ä"
    assert "parameters" not in answer.get_response()
    assert "id" not in client.infer("add", ones(), sequence_id=7, sequence_start=True).get_response()


def test_a_timeout_ends_a_request(client: Any) -> None:
    nap = [tensor("seconds", np.array([5.0]), "FP64")]
    with pytest.raises(FAILED, match="deadline") as late:
        client.infer("nap", nap, timeout=200_000)
    assert late.value.status() == "504"
    assert client.infer("add", ones(), timeout=30_000_000).as_numpy("y").max() == 3


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_both_ways_may_be_compressed(client: Any, algorithm: str) -> None:
    array = np.arange(3000, dtype=np.float32).reshape(1000, 3)
    for binary in (True, False):
        answer = client.infer(
            "add",
            [tensor("x", array, "FP32", binary=binary)],
            outputs=[InferRequestedOutput("y", binary_data=binary)],
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
        assert np.array_equal(answer.as_numpy("y"), array + 2)


@pytest.mark.parametrize(
    ("ask", "status", "words"),
    [
        (lambda c: c.infer("nobody", ones()), "404", "no model 'nobody'"),
        (lambda c: c.infer("add", ones(), "3"), "404", "no version '3'"),
        (lambda c: c.get_model_metadata("nobody"), "404", "no model 'nobody'"),
        (lambda c: c.infer("add", []), "400", "missing input 'x'"),
        (lambda c: c.infer("add", [*ones(), *ones()]), "400", "twice"),
        (lambda c: c.infer("add", [tensor("x", np.ones((2, 2)), "FP64")]), "400", "expected datatype FP32"),
        (
            lambda c: c.infer("add", [tensor("x", np.ones(2, "f"), "FP32")]),
            "400",
            r"expected shape \[-1, -1\]",
        ),
        (
            lambda c: c.infer("add", [tensor("z", np.ones((1, 2), "f"), "FP32")]),
            "400",
            "unexpected input 'z'",
        ),
        (
            lambda c: c.infer("add", ones(), outputs=[InferRequestedOutput("z")]),
            "400",
            "unexpected output 'z'",
        ),
        (
            lambda c: c.infer("add", ones(), outputs=[InferRequestedOutput("y", class_count=2)]),
            "501",
            "classification extension is not offered",
        ),
        (lambda c: c.infer("add", ones(), priority=-1), "400", "priority"),
    ],
)
def test_what_is_wrong_is_said(client: Any, ask: Callable[[Any], Any], status: str, words: str) -> None:
    with pytest.raises(FAILED, match=words) as refused:
        ask(client)
    assert refused.value.status() == status


def test_a_failing_model_keeps_its_secrets(client: Any) -> None:
    with pytest.raises(FAILED, match="error id") as failed:
        client.infer("nap", [tensor("seconds", np.array([-1.0]), "FP64")])
    assert failed.value.status() == "500"
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda c: c.get_system_shared_memory_status(), "shared memory"),
        (lambda c: c.register_system_shared_memory("r", "/key", 64), "shared memory"),
        (lambda c: c.unregister_system_shared_memory(), "shared memory"),
        (lambda c: c.get_cuda_shared_memory_status("a b"), "shared memory"),
        (lambda c: c.register_cuda_shared_memory("r", "aGFuZGxl", 0, 64), "shared memory"),
        (lambda c: c.unregister_cuda_shared_memory("r"), "shared memory"),
        (lambda c: c.get_log_settings(), "BERTH_LOG_LEVEL"),
        (lambda c: c.update_log_settings({"log_verbose_level": 1}), "BERTH_LOG_LEVEL"),
        (lambda c: c.get_trace_settings(), "trace settings"),
        (lambda c: c.get_trace_settings("add"), "trace settings"),
        (lambda c: c.update_trace_settings("add", {"trace_level": ["OFF"]}), "trace settings"),
        (
            lambda c: c.infer("add", [InferInput("x", [1, 1], "FP32").set_shared_memory("r", 4)]),
            "shared memory",
        ),
        (lambda c: c.infer("add", ones(), outputs=[in_shared_memory()]), "shared memory"),
    ],
)
def test_what_is_not_offered_is_501_and_says_so(client: Any, ask: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(FAILED, match=words) as refused:
        ask(client)
    assert refused.value.status() == "501"


def in_shared_memory() -> InferRequestedOutput:
    output = InferRequestedOutput("y")
    output.set_shared_memory("r", 24)
    return output


def test_bodies_may_be_made_and_read_apart_from_the_connection(client: Any, address: str) -> None:
    body, length = client.generate_request_body(ones(), request_id="7")
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("POST", "/v2/models/add/infer", body, {"Inference-Header-Content-Length": str(length)})
    response = connection.getresponse()
    answer = client.parse_response_body(
        response.read(), header_length=int(response.headers["Inference-Header-Content-Length"])
    )
    connection.close()
    assert answer.get_response()["id"] == "7"
    assert answer.as_numpy("y").max() == 3


def test_requests_in_the_background(address: str) -> None:
    with tritonclient.http.InferenceServerClient(address, concurrency=4) as client:
        asked = [client.async_infer("add", [tensor("x", np.full((1, 2), i, "f"), "FP32")]) for i in range(12)]
        assert [int(item.get_result().as_numpy("y")[0, 0]) for item in asked] == [i + 2 for i in range(12)]
        with pytest.raises(FAILED, match="no model 'nobody'"):
            client.async_infer("nobody", ones()).get_result()


async def test_many_at_once_each_get_their_own_answer(address: str) -> None:
    async with tritonclient.http.aio.InferenceServerClient(address) as client:

        async def ask(index: int) -> Any:
            rows = index % 3 + 1
            answer = await client.infer("add", [tensor("x", np.full((rows, 2), index, "f"), "FP32")])
            return answer.as_numpy("y")

        answers = await asyncio.gather(*map(ask, range(60)))
    for index, answer in enumerate(answers):
        assert np.array_equal(answer, np.full((index % 3 + 1, 2), index + 2, "f"))
