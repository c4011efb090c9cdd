"""The LitServe API in its two forms, one request a call or a batch."""

import os
from typing import Any

import litserve
import numpy as np
from fastapi import Response

from benchmarks.serving import workload

BATCH = int(os.environ.get("BENCH_BATCH", "1"))


class Json(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = workload.load()

    def decode_request(self, request):  # hints here would make FastAPI check them
        asked = request["inputs"][0]
        return np.array(asked["data"], np.float32).reshape(asked["shape"])

    def batch(self, inputs: list[Any]) -> Any:
        return np.concatenate(inputs)

    def predict(self, x: Any) -> Any:
        return self.model(x)

    def unbatch(self, output: Any) -> list[Any]:
        return np.split(output, len(output))

    def encode_response(self, output):
        described = {"name": "Y", "shape": output.shape, "datatype": "FP32", "data": output.ravel().tolist()}
        return {"model_name": "model", "outputs": [described]}


class Form(Json):
    def decode_request(self, request):
        return np.frombuffer(request["data"].file.read(), np.float32).reshape(-1, *workload.shape())

    def encode_response(self, output):
        return Response(output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    kind = Json if workload.PROTOCOL == "json" else Form
    api = kind(max_batch_size=BATCH, batch_timeout=0.001 if BATCH > 1 else 0.0)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=workload.WORKERS, timeout=60, fast_queue=True
    )
    server.run(
        host="127.0.0.1",
        port=workload.PORT,
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )
