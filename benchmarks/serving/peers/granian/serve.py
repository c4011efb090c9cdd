"""The bare handler and its granian."""

from typing import Any

import numpy as np
import orjson
from granian import Granian

from benchmarks.serving import workload

predict = workload.load()


async def app(scope: Any, protocol: Any) -> None:
    body = await protocol()
    if scope.path == "/infer":
        asked = orjson.loads(body)["inputs"][0]
        result = predict(np.array(asked["data"], np.float32).reshape(asked["shape"]))
        output = {"name": "Y", "shape": result.shape, "datatype": "FP32", "data": result.ravel()}
        answer = orjson.dumps({"model_name": "model", "outputs": [output]}, option=orjson.OPT_SERIALIZE_NUMPY)
        protocol.response_bytes(200, [("content-type", "application/json")], answer)
    elif scope.path == "/raw":
        result = predict(np.frombuffer(body, np.float32).reshape(-1, *workload.shape()))
        protocol.response_bytes(200, [("content-type", "application/octet-stream")], result.tobytes())
    else:
        protocol.response_empty(200, [])


if __name__ == "__main__":
    Granian(
        "serve:app",
        address="127.0.0.1",
        port=workload.PORT,
        interface="rsgi",
        workers=1,
        runtime_threads=1,
        loop="uvloop",
        log_access=False,
        log_level="warning",
    ).serve()
