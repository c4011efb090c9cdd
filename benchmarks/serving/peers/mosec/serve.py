"""The mosec worker in its four forms: JSON or raw floats, one request a call or a batch."""

import os
from typing import Any

import numpy as np
import orjson
from mosec import Server, Worker

from benchmarks.serving import workload

BATCH = int(os.environ.get("BENCH_BATCH", "1"))


class Json(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.predict = workload.load()

    def deserialize(self, data: bytes) -> Any:
        asked = orjson.loads(data)["inputs"][0]
        return np.array(asked["data"], np.float32).reshape(asked["shape"])

    def serialize(self, data: Any) -> bytes:
        output = {"name": "Y", "shape": data.shape, "datatype": "FP32", "data": data.ravel()}
        return orjson.dumps({"model_name": "model", "outputs": [output]}, option=orjson.OPT_SERIALIZE_NUMPY)

    def forward(self, data: Any) -> Any:
        if BATCH == 1:
            return self.predict(data)
        return np.split(self.predict(np.concatenate(data)), len(data))


class Raw(Json):
    resp_mime_type = "application/octet-stream"

    def deserialize(self, data: bytes) -> Any:
        return np.frombuffer(data, np.float32).reshape(-1, *workload.shape())

    def serialize(self, data: Any) -> bytes:
        return data.tobytes()


if __name__ == "__main__":
    server = Server()
    worker = Json if workload.PROTOCOL == "json" else Raw
    server.append_worker(worker, num=workload.WORKERS, max_batch_size=BATCH, max_wait_time=1, route="/infer")
    server.run()
