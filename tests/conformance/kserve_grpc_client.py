"""Asks a server through `kserve.InferenceGRPCClient` and prints what came back, as one JSON object.

test_kserve.py runs this in the client's own environment: `python kserve_grpc_client.py HOST:PORT`. Each check is a name
with the value it gave, or with `{"raised": class, "code": ..., "text": ...}`.
"""

import asyncio
import json
import logging
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.infer_type import RequestedOutput

URL = sys.argv[1]
NUMBERS = np.array([[0.5, -1.0, 3.0], [1.0, 2.0, 4.0]], np.float32)
TOGETHER = 20


def request(model, array, datatype, *, raw, name="x", **more):
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=raw)
    return InferRequest(model, [tensor], **more)


def add(*, raw, model="add", identity="id-1", **more):
    return request(model, NUMBERS, "FP32", raw=raw, request_id=identity, **more)


async def infer(client, asked, **more):
    answer = await client.infer(asked, **more)
    outputs = {item.name: [item.datatype, item.shape, item.as_numpy().tolist()] for item in answer.outputs}
    return {"id": answer.id, "model": answer.model_name, "outputs": outputs}


async def texts(client, *, raw):
    array = np.array([[b"a", "ä".encode(), b""]], dtype=np.object_)
    answer = await client.infer(request("text", array, "BYTES", raw=raw))
    return [item.decode() if isinstance(item, bytes) else item for item in answer.outputs[0].as_numpy().ravel()]


async def half(client):
    array = np.array([[0.5, -2.0, 65504.0]], np.float16)
    answer = await client.infer(request("half", array, "FP16", raw=True))
    return answer.outputs[0].as_numpy().tolist()


async def many(client):
    answers = await asyncio.gather(*(infer(client, add(raw=True, identity=str(number))) for number in range(TOGETHER)))
    return [int(answer["id"]) for answer in answers]


async def large(client):
    """More than the 4 MiB at which gRPC stops by default."""
    array = np.ones((1024, 2048), np.float32)
    answer = await client.infer(request("add", array, "FP32", raw=True))
    return float(answer.outputs[0].as_numpy().sum())


async def checks():
    async with InferenceGRPCClient(URL) as client:
        asked = {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model ready": client.is_model_ready("add"),
            "model ready, none": client.is_model_ready("nobody"),
            "raw": infer(client, add(raw=True)),
            "typed": infer(client, add(raw=False)),
            "without id": infer(client, add(raw=True, identity=None)),
            "output": infer(client, add(raw=True, request_outputs=[RequestedOutput("y")])),
            "with headers": infer(client, add(raw=True), headers=(("x-request-id", "seen"),), timeout=10),
            "parameters": infer(client, add(raw=True, parameters={"priority": 1, "mine": "a"})),
            "name": infer(client, add(raw=True, model="team/iris v2")),
            "text, raw": texts(client, raw=True),
            "text, typed": texts(client, raw=False),
            "half": half(client),
            "many": many(client),
            "large": large(client),
            "no model": infer(client, add(raw=True, model="nobody")),
            "wrong input": infer(client, request("add", NUMBERS, "FP32", raw=True, name="z")),
            "wrong output": infer(client, add(raw=True, request_outputs=[RequestedOutput("z")])),
            "too late": infer(client, request("nap", np.array([2.0]), "FP64", raw=True, name="seconds"), timeout=0.2),
        }
        return {name: await outcome(each) for name, each in asked.items()}


async def outcome(asked):
    try:
        return await asked
    except grpc.RpcError as error:
        return {"raised": type(error).__name__, "code": error.code().name, "text": error.details()}
    except Exception as error:
        return {"raised": type(error).__name__, "code": None, "text": str(error)}


logging.disable(logging.CRITICAL)  # it logs each error that it raises
print(json.dumps(asyncio.run(checks())))
