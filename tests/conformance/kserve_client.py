"""Asks a server through `kserve.InferenceRESTClient` and prints what came back, as one JSON object.

test_kserve.py runs this in the client's own environment: `python kserve_client.py URL`. Each check is a name with the
value it gave, or with `{"raised": class, "text": ..., "status": ...}`.
"""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

URL = sys.argv[1]
NUMBERS = np.array([[0.5, -1.0, 3.0], [1.0, 2.0, 4.0]], np.float32)


def tensor(name, array, datatype, *, binary):
    made = InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def add(*, binary, identity="id-1", **more):
    return InferRequest("add", [tensor("x", NUMBERS, "FP32", binary=binary)], request_id=identity, **more)


async def infer(client, model, request):
    headers = {}
    answer = await client.infer(URL, request, model_name=model, response_headers=headers)
    outputs = {item.name: [item.datatype, item.shape, item.as_numpy().tolist()] for item in answer.outputs}
    binary = "inference-header-content-length" in headers
    return {"id": answer.id, "model": answer.model_name, "outputs": outputs, "binary": binary}


async def texts(client, *, binary):
    array = np.array([["a", "ä", ""]], dtype=np.object_)
    if binary:
        array = np.array([[item.encode() for item in array[0]]], dtype=np.object_)
    request = InferRequest("text", [tensor("x", array, "BYTES", binary=binary)], request_id="t")
    answer = await client.infer(URL, request, model_name="text")
    return [item.decode() if isinstance(item, bytes) else item for item in answer.outputs[0].as_numpy().ravel()]


async def half(client):
    array = np.array([[0.5, -2.0, 65504.0]], np.float16)
    everything = {"binary_data_output": True}
    request = InferRequest("half", [tensor("x", array, "FP16", binary=True)], request_id="h", parameters=everything)
    answer = await client.infer(URL, request, model_name="half")
    return answer.outputs[0].as_numpy().tolist()


async def checks():
    async with (
        InferenceRESTClient(RESTConfig(protocol="v2")) as v2,
        InferenceRESTClient(RESTConfig(protocol="v1")) as v1,
    ):
        all_binary, one_json = {"binary_data_output": True}, [RequestedOutput("y", {"binary_data": False})]
        one_binary = [RequestedOutput("y", {"binary_data": True})]
        wrong = InferRequest("add", [tensor("z", NUMBERS, "FP32", binary=True)], request_id="w")
        asked = {
            "live": v2.is_server_live(URL),
            "ready": v2.is_server_ready(URL),
            "model ready": v2.is_model_ready(URL, "add"),
            "model ready, none": v2.is_model_ready(URL, "nobody"),
            "json": infer(v2, "add", add(binary=False)),
            "binary": infer(v2, "add", add(binary=True, parameters=all_binary)),
            "binary in": infer(v2, "add", add(binary=True)),
            "binary out": infer(v2, "add", add(binary=False, request_outputs=one_binary)),
            "override": infer(v2, "add", add(binary=True, parameters=all_binary, request_outputs=one_json)),
            "dict": infer(v2, "add", {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}),
            "encoded": infer(v2, "team/iris%20v2", add(binary=True)),
            "text in json": texts(v2, binary=False),
            "text in binary": texts(v2, binary=True),
            "half": half(v2),
            "no model": infer(v2, "nobody", add(binary=True)),
            "wrong input": infer(v2, "add", wrong),
            "explain": v1.explain(URL, "add", {"instances": [[1.0, 2.0]]}),
            "explain, v2": v2.explain(URL, "add", {"instances": [[1.0, 2.0]]}),
            "v1 live": v1.is_server_live(URL),
            "v1 model ready": v1.is_model_ready(URL, "add"),
            "v1 predict": v1.infer(URL, {"instances": NUMBERS.tolist()}, model_name="add"),
            "v1 no model": v1.infer(URL, {"instances": NUMBERS.tolist()}, model_name="nobody"),
        }
        return {name: await outcome(each) for name, each in asked.items()}


async def outcome(asked):
    try:
        return await asked
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        return {"raised": type(error).__name__, "text": str(error), "status": status}


print(json.dumps(asyncio.run(checks())))
