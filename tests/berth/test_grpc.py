"""V2 over gRPC, asked by gRPC's own client: every call, every status, deadlines, cancellation, limits, streams."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import service_pb2

from berth.protocols.v2_protobuf import MESSAGES
from tests.berth.grpc_support import (
    channel_to,
    error_of,
    metric,
    predict_request,
    raw_request,
    stub_of,
    typed_request,
)
from tests.berth.support import DEADLINE_S, Berth, predictor, serving

Code = grpc.StatusCode
ONE = np.array([[1, 2]], np.float32)


@pytest.fixture(scope="module")
def stub(onnx_server: Berth) -> Iterator[Any]:
    with stub_of(onnx_server) as made:
        yield made


def answers(response: Any) -> dict[str, Any]:
    """Raw FP32 outputs as lists."""
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {out.name: np.frombuffer(raw, np.float32).reshape(out.shape).tolist() for out, raw in pairs}


# -- the server and its models ----------------------------------------------------------------------------------------


def test_live_ready_and_metadata(stub: Any) -> None:
    assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=DEADLINE_S).live
    assert stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=DEADLINE_S).ready
    assert stub.ModelReady(service_pb2.ModelReadyRequest(name="double"), timeout=DEADLINE_S).ready
    assert stub.ModelReady(service_pb2.ModelReadyRequest(name="double", version="3"), timeout=DEADLINE_S).ready
    server = stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=DEADLINE_S)
    assert server.name == "berth"
    assert set(server.extensions) == {"model_configuration", "model_repository", "statistics"}
    model = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="double"), timeout=DEADLINE_S)
    assert (model.name, list(model.versions), model.platform) == ("double", ["3"], "onnxruntime_onnx")
    assert [(item.name, item.datatype, list(item.shape)) for item in model.inputs] == [("x", "FP32", [-1, 2])]
    assert [(item.name, item.datatype, list(item.shape)) for item in model.outputs] == [("y", "FP32", [-1, 2])]


def test_the_name_that_callers_know_the_model_by_is_its_own_where_the_gateway_says_so(stub: Any) -> None:
    by, more = [("x-dockyard-deployment", "flowers")], [("x-dockyard-deployment", "roses")]
    metadata = service_pb2.ModelMetadataRequest(name="flowers")
    assert stub.ModelMetadata(metadata, metadata=by, timeout=DEADLINE_S).name == "double"
    assert stub.ModelReady(service_pb2.ModelReadyRequest(name="flowers"), metadata=by, timeout=DEADLINE_S).ready
    for _ in range(3):  # the general way, then the express lane
        answer = stub.ModelInfer(raw_request("flowers", ONE), metadata=by, timeout=DEADLINE_S)
        assert (answer.model_name, answers(answer)) == ("double", {"y": [[2, 4]]})
    (streamed,) = stub.ModelStreamInfer(iter([raw_request("flowers", ONE)]), metadata=by, timeout=DEADLINE_S)
    assert streamed.infer_response.model_name == "double"
    assert stub.ModelInfer(raw_request("double", ONE), metadata=by, timeout=DEADLINE_S).model_name == "double"
    with pytest.raises(grpc.RpcError, match="no model 'flowers'; this server has 'double'"):
        stub.ModelMetadata(metadata, metadata=more, timeout=DEADLINE_S)


def test_config_statistics_and_index_say_what_rest_says(stub: Any, onnx_server: Berth) -> None:
    stub.ModelInfer(raw_request("double", ONE), timeout=DEADLINE_S)
    config = stub.ModelConfig(service_pb2.ModelConfigRequest(name="double"), timeout=DEADLINE_S).config
    said = onnx_server.get("/v2/models/double/config").json
    assert (config.name, config.backend, config.max_batch_size) == (
        said["name"],
        said["backend"],
        said["max_batch_size"],
    )
    assert config.input[0].name == "x"
    assert list(config.input[0].dims) == said["input"][0]["dims"]
    statistics = stub.ModelStatistics(service_pb2.ModelStatisticsRequest(), timeout=DEADLINE_S).model_stats
    assert [(each.name, each.version) for each in statistics] == [("double", "3")]
    assert (
        statistics[0].inference_count
        == onnx_server.get("/v2/models/double/stats").json["model_stats"][0]["inference_count"]
    )
    assert statistics[0].inference_stats.success.count >= 1
    index = stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=DEADLINE_S).models
    assert [(each.name, each.version, each.state) for each in index] == [("double", "3", "READY")]


def test_what_does_not_exist_is_not_found_or_unimplemented(stub: Any, onnx_server: Berth) -> None:
    error = error_of(stub.ModelMetadata, service_pb2.ModelMetadataRequest(name="nobody"))
    assert (error.code(), error.details()) == (Code.NOT_FOUND, "no model 'nobody'; this server has 'double'")
    error = error_of(stub.ModelInfer, raw_request("double", ONE, model_version="9"))
    assert (error.code(), error.details()) == (Code.NOT_FOUND, "model 'double' has no version '9'; loaded: '3'")
    assert error_of(stub.ModelReady, service_pb2.ModelReadyRequest(name="nobody")).code() is Code.NOT_FOUND
    error = error_of(stub.TraceSetting, service_pb2.TraceSettingRequest())
    assert error.code() is Code.UNIMPLEMENTED
    assert "no call /inference.GRPCInferenceService/TraceSetting" in error.details()
    assert onnx_server.post("/inference.GRPCInferenceService/ServerLive", b"").status == 404  # not over HTTP/1.1


# -- tensors ----------------------------------------------------------------------------------------------------------


def test_raw_is_answered_raw_and_typed_typed(stub: Any) -> None:
    raw = stub.ModelInfer(raw_request("double", ONE, id="seven"), timeout=DEADLINE_S)
    assert answers(raw) == {"y": [[2, 4]]}
    assert (raw.model_name, raw.model_version, raw.id) == ("double", "3", "seven")
    assert not raw.outputs[0].HasField("contents")
    typed = stub.ModelInfer(
        typed_request("double", "x", "FP32", [2, 2], fp32_contents=[1, 2, 3, 4]), timeout=DEADLINE_S
    )
    assert list(typed.outputs[0].contents.fp32_contents) == [2, 4, 6, 8]
    assert list(typed.outputs[0].shape) == [2, 2]
    assert not typed.raw_output_contents
    assert typed.id == ""


def test_outputs_can_be_named(stub: Any) -> None:
    named = stub.ModelInfer(raw_request("double", ONE, outputs=[{"name": "y"}]), timeout=DEADLINE_S)
    assert answers(named) == {"y": [[2, 4]]}
    error = error_of(stub.ModelInfer, raw_request("double", ONE, outputs=[{"name": "y"}] * 2))
    assert (error.code(), error.details()) == (Code.INVALID_ARGUMENT, "output 'y' occurs twice")
    error = error_of(stub.ModelInfer, raw_request("double", ONE, outputs=[{"name": "z"}]))
    assert (error.code(), error.details()) == (Code.INVALID_ARGUMENT, "unexpected output 'z'; the model answers 'y'")


def mixed() -> Any:
    request = typed_request("double", "x", "FP32", [1, 2], fp32_contents=[1, 2])
    request.raw_input_contents.append(ONE.tobytes())
    return request


def with_parameter(name: str, **value: Any) -> Any:
    request = raw_request("double", ONE)
    request.parameters[name].CopyFrom(service_pb2.InferParameter(**value))
    return request


def shared() -> Any:
    request = raw_request("double", ONE)
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"
    return request


BAD = [
    (raw_request("double", ONE, name="z"), "unexpected input 'z'; the model takes 'x'"),
    (raw_request("double", ONE, datatype="FP64"), "input 'x': expected datatype FP32, got FP64"),
    (raw_request("double", ONE.reshape(2, 1)), "input 'x': expected shape [-1, 2], got [2, 1]"),
    (
        raw_request("double", np.zeros((1, 2), np.float64)),
        "input 'x': expected 8 bytes for shape [1, 2] of FP32, got 16",
    ),
    (raw_request("double", np.zeros((0, 2), np.float32)), None),
    (
        typed_request("double", "x", "FP32", [1, 2], fp32_contents=[1]),
        "expected 2 fp32_contents for shape [1, 2], got 1",
    ),
    (
        typed_request("double", "x", "FP32", [1, 2], int_contents=[1, 2]),
        "expected FP32 in fp32_contents, got int_contents",
    ),
    (typed_request("double", "x", "FP32", [-1, 2], fp32_contents=[1, 2]), "expected dimensions of 0 or more"),
    (typed_request("double", "x", "FP32", [2**40, 2**40]), "expected shape"),
    (mixed(), "input 'x' has contents beside raw_input_contents; send one of them"),
    (service_pb2.ModelInferRequest(model_name="double"), "missing input 'x'"),
    (shared(), "shared memory is not offered"),
    (with_parameter("timeout", string_param="soon"), "parameter 'timeout': expected microseconds"),
    (with_parameter("priority", int64_param=-1), "parameter 'priority': expected 0 or more"),
]


@pytest.mark.parametrize(("request_", "text"), BAD, ids=range(len(BAD)))
def test_bad_input_is_an_invalid_argument_that_says_why(stub: Any, request_: Any, text: str | None) -> None:
    if text is None:  # no rows at all: whatever REST says is right
        assert stub.ModelInfer(request_, timeout=DEADLINE_S).raw_output_contents == [b""]
        return
    error = error_of(stub.ModelInfer, request_)
    assert error.code() is Code.INVALID_ARGUMENT, error.details()
    assert text in error.details()


def test_a_message_that_is_no_protobuf_is_an_invalid_argument(onnx_server: Berth) -> None:
    with channel_to(onnx_server) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        error = error_of(call, b"\xff\xff")
        assert error.code() is Code.INVALID_ARGUMENT
        assert "no inference.ModelInferRequest" in error.details()


def test_a_status_text_may_have_any_characters() -> None:
    with serving(**predictor("RaisesInPredict", MODEL_NAME="m")) as server, stub_of(server) as stub:
        error = error_of(stub.ModelReady, service_pb2.ModelReadyRequest(name="größe 100%\n"))
        assert error.details() == "no model 'größe 100%\\n'; this server has 'm'"
        assert error_of(stub.ModelInfer, predict_request("m", x=3)).details() == "x: three is not for me"
        failed = error_of(stub.ModelInfer, predict_request("m", x=1))
        assert failed.code() is Code.INTERNAL
        assert "broken" not in failed.details()
        logged = server.wait_for_event("predict failed", error_id=failed.details().rsplit(maxsplit=1)[-1])
        assert "broken" in logged["traceback"]
        assert dict(failed.trailing_metadata())["x-request-id"] == logged["request_id"]


@pytest.mark.parametrize(
    ("file", "datatype", "dtype", "field"),
    [("bytes", "INT8", np.int8, "int_contents"), ("half", "FP16", np.float16, None)],
)
def test_small_and_half_numbers(weights: Path, file: str, datatype: str, dtype: Any, field: str | None) -> None:
    data = np.array([[1, -2]] if datatype == "FP16" else [1, -2], dtype)
    with (
        serving(FORMAT="onnx", WEIGHTS=str(weights / f"{file}.onnx"), MODEL_NAME="m") as server,
        stub_of(server) as stub,
    ):
        raw = stub.ModelInfer(raw_request("m", data, datatype=datatype), timeout=DEADLINE_S)
        assert raw.raw_output_contents == [data.tobytes()]
        if field is None:
            error = error_of(stub.ModelInfer, typed_request("m", "x", datatype, [1, 2], fp32_contents=[1, 2]))
            assert "FP16 has no typed contents; send it in raw_input_contents" in error.details()
            return
        typed = stub.ModelInfer(typed_request("m", "x", datatype, [2], **{field: [1, -2]}), timeout=DEADLINE_S)
        assert list(getattr(typed.outputs[0].contents, field)) == [1, -2]
        error = error_of(stub.ModelInfer, typed_request("m", "x", datatype, [1], **{field: [300]}))
        assert "expected int8 (-128 to 127), got 300" in error.details()


def test_texts_travel_raw_and_typed(weights: Path) -> None:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "text.onnx"), MODEL_NAME="m") as server, stub_of(server) as stub:
        typed = stub.ModelInfer(
            typed_request("m", "x", "BYTES", [2], bytes_contents=[b"a", "é".encode()]), timeout=DEADLINE_S
        )
        assert list(typed.outputs[0].contents.bytes_contents) == [b"a", "é".encode()]
        blob = np.frombuffer(b"\x01\0\0\0a\x02\0\0\0bc", np.uint8)
        request = raw_request("m", blob, datatype="BYTES")
        request.inputs[0].shape[:] = [2]
        assert stub.ModelInfer(request, timeout=DEADLINE_S).raw_output_contents == [blob.tobytes()]


def test_a_predictor_with_many_types_answers_over_grpc(typed_server: Berth) -> None:
    with stub_of(typed_server) as stub:
        request = predict_request("typed", count=2, name="ab", colour="blue", ratio=0.25)
        numbers = request.inputs.add(name="numbers", datatype="FP32", shape=[1, 1, 2])
        numbers.contents.fp32_contents.extend([1, 2])
        answer = stub.ModelInfer(request, timeout=DEADLINE_S)
        found = json.loads(answer.outputs[0].contents.bytes_contents[0])
        assert (found["text"], found["sum"], found["colour"], found["ratio"]) == ("abab", 3.0, "blue", 0.25)


def test_large_tensors_pass_in_both_directions(weights: Path) -> None:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "wide.onnx"), MODEL_NAME="m") as server, stub_of(server) as stub:
        data = np.arange(8 * 1024 * 1024 // 4, dtype=np.float32).reshape(2, -1)
        for _ in range(3):
            answer = stub.ModelInfer(raw_request("m", data), timeout=DEADLINE_S)
            assert answer.raw_output_contents[0] == (data * 2).tobytes()
        with ThreadPoolExecutor(8) as pool:
            several = pool.map(lambda _: stub.ModelInfer(raw_request("m", data), timeout=DEADLINE_S), range(8))
            assert all(answer.raw_output_contents[0] == (data * 2).tobytes() for answer in several)


# -- deadlines, cancellation, limits ----------------------------------------------------------------------------------


def test_deadlines_are_kept() -> None:
    with serving(**predictor("Slow", MODEL_NAME="m", REQUEST_TIMEOUT_S="0.3")) as server, stub_of(server) as stub:
        error = error_of(stub.ModelInfer, predict_request("m", seconds=0.6))
        assert error.code() is Code.DEADLINE_EXCEEDED
        assert "the request's deadline" in error.details()
    with serving(**predictor("Slow", MODEL_NAME="m")) as server, stub_of(server) as stub:
        request = predict_request("m", seconds=0.5)
        request.parameters["timeout"].int64_param = 100_000
        assert error_of(stub.ModelInfer, request).code() is Code.DEADLINE_EXCEEDED


def test_a_call_that_is_cancelled_is_not_run() -> None:
    with serving(**predictor("Slow", MODEL_NAME="m")) as server, stub_of(server) as stub:
        running = stub.ModelInfer.future(predict_request("m", seconds=0.7), timeout=DEADLINE_S)
        wait_until(lambda: metric(server, "berth_pending_requests{") == 1)
        waiting = stub.ModelInfer.future(predict_request("m", seconds=0.1), timeout=DEADLINE_S)
        wait_until(lambda: metric(server, "berth_pending_requests{") == 2)
        waiting.cancel()
        wait_until(lambda: metric(server, 'nv_inference_request_failure{model="m",version="1",reason="CANCELED"}') == 1)
        assert running.result().outputs[0].contents.fp64_contents[0] == 0.7
        assert metric(server, "nv_inference_exec_count{") == 1


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_full_queue_is_unavailable_and_says_when_to_come_back() -> None:
    with serving(**predictor("Slow", MODEL_NAME="m", MAX_QUEUE="1")) as server, stub_of(server) as stub:
        running = stub.ModelInfer.future(predict_request("m", seconds=1.0), timeout=DEADLINE_S)
        wait_until(lambda: metric(server, "berth_pending_requests{") == 1)
        error = error_of(stub.ModelInfer, predict_request("m", seconds=0.0))
        assert error.code() is Code.UNAVAILABLE
        assert "the queue is full" in error.details()
        assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) >= 1000
        running.result()


def test_a_message_over_the_limit_is_refused_with_the_setting(weights: Path) -> None:
    settings = {"FORMAT": "onnx", "WEIGHTS": str(weights / "wide.onnx"), "MODEL_NAME": "m", "MAX_BODY_BYTES": "100000"}
    with serving(**settings) as server, stub_of(server) as stub:
        fits = np.zeros((1, 24_000), np.float32)
        assert stub.ModelInfer(raw_request("m", fits), timeout=DEADLINE_S).raw_output_contents == [fits.tobytes()]
        for size in (26_000, 3_000_000):
            error = error_of(stub.ModelInfer, raw_request("m", np.zeros((1, size), np.float32)))
            assert error.code() is Code.RESOURCE_EXHAUSTED
            assert "expected at most 100000 bytes (BERTH_MAX_BODY_BYTES)" in error.details()
        squeezed = raw_request("m", np.zeros((1, 3_000_000), np.float32))
        error = error_of(stub.ModelInfer, squeezed, compression=grpc.Compression.Gzip)
        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert "unfolds to more than 100000 bytes" in error.details()
        assert stub.ModelInfer(raw_request("m", fits), timeout=DEADLINE_S).raw_output_contents == [fits.tobytes()]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_calls_are_answered(weights: Path, compression: Any) -> None:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "wide.onnx"), MODEL_NAME="m") as server, stub_of(server) as stub:
        data = np.ones((1, 10_000), np.float32)
        answer, call = stub.ModelInfer.with_call(raw_request("m", data), timeout=DEADLINE_S, compression=compression)
        assert answer.raw_output_contents == [(data * 2).tobytes()]
        assert call.code() is Code.OK


# -- streams ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["Tokens", "AsyncTokens"])
def tokens(request: pytest.FixtureRequest) -> Iterator[Berth]:
    with serving(PREDICTOR=f"models_streams:{request.param}", MODEL_NAME="m") as server:
        yield server


def texts(item: Any) -> tuple[str, int]:
    outputs = {output.name: output.contents for output in item.infer_response.outputs}
    return outputs["text"].bytes_contents[0].decode(), outputs["index"].int64_contents[0]


def final(item: Any) -> bool:
    return bool(item.infer_response.parameters["triton_final_response"].bool_param)


def test_a_predictor_that_yields_gives_one_response_per_item(tokens: Berth) -> None:
    with stub_of(tokens) as stub:
        request = predict_request("m", text="a", count=3)
        request.id = "one"
        items = list(stub.ModelStreamInfer(iter([request]), timeout=DEADLINE_S))
        assert [texts(item) for item in items] == [("a", 0), ("a", 1), ("a", 2)]
        assert {item.infer_response.id for item in items} == {"one"}
        assert not any(final(item) for item in items)
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        items = list(stub.ModelStreamInfer(iter([request]), timeout=DEADLINE_S))
        assert [final(item) for item in items] == [False, False, False, True]
        assert not items[-1].infer_response.outputs
        assert items[-1].infer_response.id == "one"
        whole = stub.ModelInfer(predict_request("m", text="a", count=3), timeout=DEADLINE_S)
        assert list(whole.outputs[1].contents.int64_contents) == [0, 1, 2]


def test_an_item_arrives_before_the_next_is_made(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with serving(PREDICTOR="models_grpc:Gated", MODEL_NAME="m") as server, stub_of(server) as stub:
        stream = stub.ModelStreamInfer(iter([predict_request("m", gate=str(gate))]), timeout=DEADLINE_S)
        assert next(stream).infer_response.outputs
        gate.touch()  # the second is not made before this
        assert len(list(stream)) == 1


def test_an_error_is_a_response_and_the_stream_goes_on(tokens: Berth) -> None:
    with stub_of(tokens) as stub:
        bad = predict_request("m", text="a")
        bad.id = "bad"
        broken = predict_request("m", text="break", count=4)
        broken.id = "broken"
        unknown = predict_request("nobody", text="a")
        requests = [bad, broken, unknown, predict_request("m", text="z", count=1)]
        items = list(stub.ModelStreamInfer(iter(requests), timeout=DEADLINE_S))
        errors = [item for item in items if item.error_message]
        assert sorted(item.infer_response.id for item in errors) == ["", "bad", "broken"]
        assert any("no model 'nobody'" in item.error_message for item in errors)
        assert not any("secret" in item.error_message for item in errors)
        fine = [texts(item) for item in items if not item.error_message]
        assert sorted(fine) == [("break", 0), ("break", 1), ("z", 0)]


def test_a_stream_that_is_cancelled_closes_the_generator(tokens: Berth, tmp_path: Path) -> None:
    note = tmp_path / "note"
    with stub_of(tokens) as stub:
        request = predict_request("m", text="a", count=10_000, pause=0.02, note=str(note))
        stream = stub.ModelStreamInfer(iter([request]), timeout=DEADLINE_S)
        next(stream)
        stream.cancel()
        wait_until(lambda: note.exists() and note.read_text() == "closed")
        assert (
            len(list(stub.ModelStreamInfer(iter([predict_request("m", text="a", count=1)]), timeout=DEADLINE_S))) == 1
        )


def test_a_caller_that_reads_slowly_holds_the_predictor_back(tmp_path: Path) -> None:
    note = tmp_path / "note"
    with serving(PREDICTOR="models_streams:Bulky", MODEL_NAME="m") as server, stub_of(server) as stub:
        request = predict_request("m", count=2000, note=str(note))
        stream = stub.ModelStreamInfer(iter([request]), timeout=DEADLINE_S)
        next(stream)
        wait_until(lambda: note.exists() and unchanged(note))
        assert int(note.read_text()) < 1000
        assert server.get("/v2/health/live").status == 200
        assert sum(1 for _ in stream) == 1999


def unchanged(note: Path) -> bool:
    before = note.read_text()
    time.sleep(0.5)
    return note.read_text() == before != ""


def test_many_requests_are_in_flight_on_one_stream(onnx_server: Berth) -> None:
    with stub_of(onnx_server) as stub:
        count = 300
        requests = [raw_request("double", np.full((1, 2), index, np.float32), id=str(index)) for index in range(count)]
        items = list(stub.ModelStreamInfer(iter(requests), timeout=DEADLINE_S))
        found = {item.infer_response.id: answers(item.infer_response)["y"][0][0] for item in items}
        assert found == {str(index): 2.0 * index for index in range(count)}
        assert all(final(item) for item in items)
        assert list(stub.ModelStreamInfer(iter([]), timeout=DEADLINE_S)) == []


def test_a_stream_keeps_its_requests_apart_and_open(onnx_server: Berth) -> None:
    gate = threading.Event()

    def asked() -> Iterator[Any]:
        yield raw_request("double", ONE, id="first")
        assert gate.wait(DEADLINE_S)
        yield raw_request("double", ONE, name="wrong", id="second")
        yield raw_request("double", ONE, id="third")

    with stub_of(onnx_server) as stub:
        stream = stub.ModelStreamInfer(asked(), timeout=DEADLINE_S)
        assert next(stream).infer_response.id == "first"
        gate.set()
        rest = {item.infer_response.id: item.error_message for item in stream}
        assert rest == {"second": "unexpected input 'wrong'; the model takes 'x'", "third": ""}


# -- repository, health, reflection -----------------------------------------------------------------------------------


def test_models_are_loaded_and_unloaded_by_either_clients_message(tmp_path: Path) -> None:
    models = [
        {"name": "a", "predictor": "models:Environment"},
        {"name": "b", "predictor": "models:Environment", "at_start": False},
    ]
    (tmp_path / "models.json").write_text(json.dumps(models))
    with serving(MODELS=str(tmp_path / "models.json"), MODEL_CONTROL="on") as server, stub_of(server) as stub:
        states = {each.name: each.state for each in stub.RepositoryIndex(service_pb2.RepositoryIndexRequest()).models}
        assert states == {"a": "READY", "b": "UNAVAILABLE"}
        ready = stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(ready=True)).models
        assert [each.name for each in ready] == ["a"]
        stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(model_name="b"), timeout=DEADLINE_S)
        assert stub.ModelInfer(predict_request("b", name="HOME"), timeout=DEADLINE_S).model_name == "b"
        stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(model_name="b"), timeout=DEADLINE_S)
        assert error_of(stub.ModelInfer, predict_request("b", name="HOME")).code() is Code.NOT_FOUND
        with channel_to(server) as channel:  # KServe's message has the name in field 1, and hears it again
            load = channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelLoad")
            assert load(b"\x0a\x01b", timeout=DEADLINE_S) == b"\x0a\x01b\x10\x01"
        assert stub.ModelReady(service_pb2.ModelReadyRequest(name="b"), timeout=DEADLINE_S).ready
        assert (
            error_of(stub.RepositoryModelLoad, service_pb2.RepositoryModelLoadRequest(model_name="c")).code()
            is Code.NOT_FOUND
        )
        request = service_pb2.RepositoryModelLoadRequest(model_name="a")
        request.parameters["config"].string_param = "{}"
        assert error_of(stub.RepositoryModelLoad, request).code() is Code.UNIMPLEMENTED


def test_loading_is_off_unless_allowed(stub: Any) -> None:
    error = error_of(stub.RepositoryModelLoad, service_pb2.RepositoryModelLoadRequest(model_name="double"))
    assert error.code() is Code.PERMISSION_DENIED
    assert "BERTH_MODEL_CONTROL" in error.details()


def test_health_is_checked_and_watched() -> None:
    with serving(**predictor("Slow", MODEL_NAME="m")) as server, channel_to(server) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        status = health_pb2.HealthCheckResponse
        for service in ("", "m", "inference.GRPCInferenceService"):
            request = health_pb2.HealthCheckRequest(service=service)
            assert health.Check(request, timeout=DEADLINE_S).status == status.SERVING
        assert error_of(health.Check, health_pb2.HealthCheckRequest(service="other")).code() is Code.NOT_FOUND
        unknown = health.Watch(health_pb2.HealthCheckRequest(service="other"), timeout=DEADLINE_S)
        assert next(unknown).status == status.SERVICE_UNKNOWN
        unknown.cancel()
        watched = health.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
        assert next(watched).status == status.SERVING
        server.process.terminate()
        assert next(watched).status == status.NOT_SERVING
        with pytest.raises(grpc.RpcError) as ended:
            next(watched)
        assert ended.value.code() is Code.UNAVAILABLE
        assert server.process.wait(DEADLINE_S) == 0


def status_of(call: Any, request: bytes) -> grpc.StatusCode:
    try:
        return call(request, timeout=DEADLINE_S)[1].code()
    except grpc.RpcError as error:
        return error.code()


def test_reflection_describes_what_is_served(onnx_server: Berth) -> None:
    with channel_to(onnx_server) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        assert services == {
            "inference.GRPCInferenceService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        pool = DescriptorPool(database)
        for service in services:
            for method in pool.FindServiceByName(service).methods:
                if not (method.client_streaming or method.server_streaming):
                    call = channel.unary_unary(f"/{service}/{method.name}").with_call
                    assert status_of(call, b"") is not Code.UNIMPLEMENTED, method.name
        request = pool.FindMessageTypeByName("inference.ModelInferRequest")
        ours = {field.name: field.number for field in request.fields}
        assert ours == {field.name: field.number for field in service_pb2.ModelInferRequest.DESCRIPTOR.fields}


def test_the_newer_reflection_answers_as_the_older(onnx_server: Berth) -> None:
    requests = [
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService.ModelInfer"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="grpc/health/v1/health.proto"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such"),
        reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="inference.ModelInferRequest"),
        reflection_pb2.ServerReflectionRequest(),
    ]
    with channel_to(onnx_server) as channel:
        found = []
        for version in ("v1", "v1alpha"):
            path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            call = channel.stream_stream(path)
            sent = iter([request.SerializeToString() for request in requests])
            found.append(
                [reflection_pb2.ServerReflectionResponse.FromString(each) for each in call(sent, timeout=DEADLINE_S)]
            )
        assert found[0] == found[1]
        kinds = [each.WhichOneof("message_response") for each in found[0]]
        assert kinds == ["file_descriptor_response"] * 2 + [
            "error_response",
            "all_extension_numbers_response",
            "error_response",
        ]


def test_our_messages_have_the_numbers_and_types_of_tritons() -> None:
    for name, ours in MESSAGES.items():
        theirs: Any = service_pb2
        for part in name.split("."):
            theirs = getattr(theirs, part, None)
        if theirs is None or name.startswith(("ModelConfig", "ModelInput", "ModelOutput", "ModelTransactionPolicy")):
            continue
        known = {field.name: field for field in theirs.DESCRIPTOR.fields}
        for field in ours.DESCRIPTOR.fields:
            if field.name in ("isLoaded", "isUnloaded") or name.endswith(("LoadResponse", "UnloadResponse")):
                continue  # KServe's
            assert (field.number, field.type) == (known[field.name].number, known[field.name].type), (name, field.name)


# -- with everything else ---------------------------------------------------------------------------------------------


def test_the_cache_knows_a_question_whichever_way_it_comes(weights: Path) -> None:
    settings = {"FORMAT": "onnx", "WEIGHTS": str(weights / "double.onnx"), "MODEL_NAME": "m", "CACHE_BYTES": "1000000"}
    with serving(**settings) as server, stub_of(server) as stub:
        tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
        assert (
            server.post("/v2/models/m/infer", {"inputs": [tensor]}).headers["Cache-Status"] == "berth; fwd=miss; stored"
        )
        for request in (raw_request("m", ONE), typed_request("m", "x", "FP32", [1, 2], fp32_contents=[1, 2])):
            _, call = stub.ModelInfer.with_call(request, timeout=DEADLINE_S)
            assert dict(call.initial_metadata())["cache-status"].startswith("berth; hit")
        assert metric(server, "nv_inference_exec_count{") == 1
        assert metric(server, "berth_cache_hits_total{") == 2


def test_calls_run_together_with_json_requests() -> None:
    settings = predictor("Batched", MODEL_NAME="m", MAX_BATCH_DELAY_MS="10000", MAX_BATCH_SIZE="2")
    with serving(**settings) as server, stub_of(server) as stub, ThreadPoolExecutor(1) as pool:
        rest = pool.submit(server.predict, x=1, slow=0.0)
        answer = stub.ModelInfer(predict_request("m", x=2, slow=0.0), timeout=DEADLINE_S)
        assert json.loads(answer.outputs[0].contents.bytes_contents[0]) == {"x": 2, "batch": 2}
        assert rest.result().json == {"x": 1, "batch": 2}


def test_workers_answer_over_grpc() -> None:
    with serving(**predictor("Structured", MODEL_NAME="m", WORKERS="1")) as server, stub_of(server) as stub:
        answer = stub.ModelInfer(predict_request("m", x=3.0), timeout=DEADLINE_S)
        outputs = {output.name: output.contents for output in answer.outputs}
        assert list(outputs["vector"].fp32_contents) == [3, 3, 3]


def test_a_drain_under_load_loses_nothing(weights: Path) -> None:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "double.onnx"), MODEL_NAME="m") as server:
        outcomes: list[grpc.StatusCode] = []
        stopping = threading.Event()

        def ask(stub: Any) -> None:
            while True:
                try:
                    answer = stub.ModelInfer(raw_request("m", ONE), timeout=DEADLINE_S)
                    assert answers(answer) == {"y": [[2, 4]]}
                    outcomes.append(Code.OK)
                except grpc.RpcError as error:
                    outcomes.append(error.code())
                    texts_.append(error.details())
                    return

        texts_: list[str] = []
        with stub_of(server) as one, stub_of(server) as two, ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask, stub) for stub in (one, two) for _ in range(4)]
            wait_until(lambda: len(outcomes) > 200)
            before = len(outcomes)
            stopping.set()
            assert server.terminate() == 0
            for each in asking:
                each.result(DEADLINE_S)
        assert outcomes.count(Code.OK) > before  # it answered on while it drained
        # Whoever asked after the end found nobody: refused before it was sent, and safe to send again.
        assert all("connect" in text.lower() for text in texts_), texts_
        assert server.events()[-1]["message"] == "stopped"


def test_calls_take_part_in_traces_and_say_whose_answer_they_are(onnx_server: Berth) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = (("traceparent", f"00-{trace}-b7ad6b7169203331-01"), ("prefer", "model-info"), ("x-request-id", "mine"))
    with stub_of(onnx_server) as stub:
        _, call = stub.ModelInfer.with_call(raw_request("double", ONE), timeout=DEADLINE_S, metadata=metadata)
        said = dict(call.initial_metadata())
        assert (said["model-name"], said["model-version"]) == ("double", "3")
        logged = onnx_server.wait_for_event("request", request_id="mine", route="v2.grpc.ModelInfer")
        assert (logged["trace_id"], logged["model"], logged["status"]) == (trace, "double", 200)


def test_what_is_refused_counts_as_the_models_failure(onnx_server: Berth) -> None:
    failures = 'nv_inference_request_failure{model="double",version="3",reason="OTHER"}'
    before = metric(onnx_server, failures)
    with stub_of(onnx_server) as stub:
        error_of(stub.ModelInfer, raw_request("double", ONE, name="wrong"))
    assert metric(onnx_server, failures) == before + 1
