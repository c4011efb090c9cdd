"""The KServe model and its server."""

from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid

from benchmarks.serving import workload


class Served(Model):
    def __init__(self) -> None:
        super().__init__("model")
        self.load()

    def load(self) -> bool:
        self.run = workload.load()
        self.ready = True
        return self.ready

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        result = self.run(payload.inputs[0].as_numpy())
        output = InferOutput("Y", list(result.shape), "FP32")
        output.set_data_from_numpy(result, binary_data=payload.use_binary_outputs)
        return InferResponse(
            payload.id or generate_uuid(),
            "model",
            [output],
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


if __name__ == "__main__":
    ModelServer().start([Served()])
