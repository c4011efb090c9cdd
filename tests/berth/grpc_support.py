"""gRPC's own client in front of a berth: channels, stubs and requests, for the tests in this folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.berth.support import DEADLINE_S, Berth

MAX_BYTES = 2**31 - 1
_OPTIONS = [("grpc.max_receive_message_length", MAX_BYTES), ("grpc.max_send_message_length", MAX_BYTES)]


@contextmanager
def channel_to(server: Berth) -> Iterator[grpc.Channel]:
    """A channel of its own."""
    options = [*_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"unix:{server.socket_path}", options) as channel:
        grpc.channel_ready_future(channel).result(DEADLINE_S)
        yield channel


@contextmanager
def stub_of(server: Berth) -> Iterator[Any]:
    """The service's stub on a channel of its own."""
    with channel_to(server) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def raw_request(model: str, array: np.ndarray[Any, Any], name: str = "x", datatype: str = "FP32", **more: Any) -> Any:
    """A request with one raw tensor."""
    tensor = {"name": name, "datatype": datatype, "shape": list(array.shape)}
    return service_pb2.ModelInferRequest(
        model_name=model, inputs=[tensor], raw_input_contents=[array.tobytes()], **more
    )


def typed_request(model: str, name: str, datatype: str, shape: list[int], **contents: Any) -> Any:
    """A request with one typed tensor."""
    tensor = {"name": name, "datatype": datatype, "shape": shape, "contents": contents}
    return service_pb2.ModelInferRequest(model_name=model, inputs=[tensor])


def predict_request(model: str, **values: Any) -> Any:
    """A request for one call of a predictor whose parameters are texts, whole numbers, floats or booleans."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, value in values.items():
        datatype, field, data = _typed(value)
        tensor = request.inputs.add(name=name, datatype=datatype, shape=[1])
        getattr(tensor.contents, field).append(data)
    return request


def _typed(value: Any) -> tuple[str, str, Any]:
    if isinstance(value, bool):
        return "BOOL", "bool_contents", value
    if isinstance(value, int):
        return "INT64", "int64_contents", value
    if isinstance(value, float):
        return "FP64", "fp64_contents", value
    return "BYTES", "bytes_contents", value.encode()


def error_of(call: Any, *arguments: Any, **options: Any) -> grpc.RpcError:
    """The error that a call ends with."""
    try:
        call(*arguments, timeout=DEADLINE_S, **options)
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call went well")


def metric(server: Berth, start: str) -> float:
    """The value of the first sample whose line begins so."""
    lines = server.get("/metrics").body.decode().splitlines()
    return float(next(line for line in lines if line.startswith(start)).rpartition(" ")[2])
