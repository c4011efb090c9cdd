"""Triton's own gRPC clients against berth: the blocking one, the asynchronous one, and streams of both."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as blocking
import tritonclient.grpc.aio as asynchronous
from tritonclient.utils import InferenceServerException

from tests.berth.support import DEADLINE_S, Berth, serving

MODULES = {"blocking": blocking, "asynchronous": asynchronous}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Berth]:
    """A predictor of arrays and texts, and one that yields; both may be loaded and unloaded."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "models.json").write_text(
        '[{"name": "sum", "predictor": "models_grpc:Sum"}, {"name": "count", "predictor": "models_grpc:Count"}]'
    )
    with serving(MODELS=str(folder / "models.json"), MODEL_CONTROL="on") as running:
        yield running


@pytest.fixture
def client(server: Berth) -> Iterator[blocking.InferenceServerClient]:
    with blocking.InferenceServerClient(f"unix:{server.socket_path}") as made:
        yield made


@pytest.fixture
async def aio(server: Berth) -> AsyncIterator[asynchronous.InferenceServerClient]:
    async with asynchronous.InferenceServerClient(f"unix:{server.socket_path}") as made:
        yield made


def inputs(module: Any = blocking) -> list[Any]:
    """Two rows for `sum`: numbers of shape [2, 3], and a text each."""
    numbers = module.InferInput("numbers", [2, 3], "FP32")
    numbers.set_data_from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3))
    text = module.InferInput("text", [2], "BYTES")
    text.set_data_from_numpy(np.array(["a", "é"], dtype=object))
    return [numbers, text]


def counting(count: int) -> list[Any]:
    made = blocking.InferInput("count", [1], "INT64")
    made.set_data_from_numpy(np.array([count], np.int64))
    return [made]


def check(result: Any) -> None:
    np.testing.assert_array_equal(result.as_numpy("total"), np.array([3, 12], np.float64))
    assert [item.decode() for item in result.as_numpy("text")] == ["a!", "é!"]


def test_the_client_is_one_that_was_tried() -> None:
    assert int(version("tritonclient").split(".")[0]) == 2


def test_the_server_describes_itself(client: Any) -> None:
    assert client.is_server_live(client_timeout=DEADLINE_S)
    assert client.is_server_ready(client_timeout=DEADLINE_S)
    assert client.is_model_ready("sum", "1", client_timeout=DEADLINE_S)
    assert client.get_server_metadata(as_json=True)["name"] == "berth"
    metadata = client.get_model_metadata("sum", as_json=True)
    assert [item["name"] for item in metadata["inputs"]] == ["numbers", "text"]
    assert client.get_model_config("count", as_json=True)["config"]["model_transaction_policy"] == {"decoupled": True}
    names = [item["name"] for item in client.get_model_repository_index(as_json=True)["models"]]
    assert names == ["sum", "count"]


def test_infer(client: Any) -> None:
    result = client.infer("sum", inputs(), request_id="7", client_timeout=DEADLINE_S)
    check(result)
    assert result.get_response().id == "7"
    only = client.infer("sum", inputs(), outputs=[blocking.InferRequestedOutput("text")])
    assert only.as_numpy("total") is None
    assert client.get_inference_statistics("sum").model_stats[0].inference_count >= 4


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_infer_compressed(client: Any, algorithm: str) -> None:
    check(client.infer("sum", inputs(), compression_algorithm=algorithm, client_timeout=DEADLINE_S))


def test_infer_with_a_priority_and_a_timeout(client: Any) -> None:
    check(client.infer("sum", inputs(), priority=1, timeout=20_000_000, client_timeout=DEADLINE_S))


def test_callbacks(client: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for _ in range(20):
        client.async_infer("sum", inputs(), lambda result, error: answers.put((result, error)))
    for _ in range(20):
        result, error = answers.get(timeout=DEADLINE_S)
        assert error is None
        check(result)


def test_errors_are_the_clients_own(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="no model 'nobody'") as missing:
        client.infer("nobody", inputs())
    assert missing.value.status() == "StatusCode.NOT_FOUND"
    wrong = inputs()
    wrong[0].set_shape([3, 2])
    with pytest.raises(InferenceServerException, match="expected shape") as bad:
        client.infer("sum", wrong)
    assert bad.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_models_are_loaded_and_unloaded(client: Any) -> None:
    client.unload_model("sum")
    assert [item.state for item in client.get_model_repository_index().models] == ["UNAVAILABLE", "READY"]
    client.load_model("sum")
    assert client.is_model_ready("sum")
    check(client.infer("sum", inputs()))


def test_streams_of_models_that_answer_once_and_of_those_that_yield(client: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for index in range(5):
        client.async_stream_infer("sum", inputs(), request_id=str(index))
    seen = set()
    for _ in range(5):
        result, error = answers.get(timeout=DEADLINE_S)
        assert error is None
        check(result)
        seen.add(result.get_response().id)
    assert seen == {"0", "1", "2", "3", "4"}
    client.async_stream_infer("count", counting(3), enable_empty_final_response=True)
    items = [answers.get(timeout=DEADLINE_S)[0] for _ in range(4)]
    assert [item.as_numpy("output")[0] for item in items[:3]] == [0, 1, 2]
    finals = [item.get_response().parameters["triton_final_response"].bool_param for item in items]
    assert finals == [False, False, False, True]
    client.async_stream_infer("count", counting(-1))
    result, error = answers.get(timeout=DEADLINE_S)
    assert result is None
    assert "expected 0 or more" in error.message()
    client.async_stream_infer("sum", inputs())
    check(answers.get(timeout=DEADLINE_S)[0])
    client.stop_stream()


def test_a_stream_that_is_stopped_by_cancelling(client: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("count", counting(1_000_000))
    assert answers.get(timeout=DEADLINE_S)[1] is None
    client.stop_stream(cancel_requests=True)
    check(client.infer("sum", inputs(), client_timeout=DEADLINE_S))


async def test_the_asynchronous_client(aio: Any) -> None:
    assert await aio.is_server_ready()
    assert await aio.is_model_ready("sum")
    check(await aio.infer("sum", inputs(asynchronous), client_timeout=DEADLINE_S))
    with pytest.raises(InferenceServerException, match="no model 'nobody'"):
        await aio.infer("nobody", inputs(asynchronous))


async def test_streams_of_the_asynchronous_client(aio: Any) -> None:
    async def asked() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": "count", "inputs": counting(3), "request_id": "a"}
        yield {"model_name": "sum", "inputs": inputs(asynchronous), "request_id": "b"}

    found: dict[str, int] = {}
    async for result, error in aio.stream_infer(asked(), stream_timeout=DEADLINE_S):
        assert error is None
        identity = result.get_response().id
        found[identity] = found.get(identity, 0) + 1
    assert found == {"a": 3, "b": 1}
