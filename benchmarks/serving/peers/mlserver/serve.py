"""The runtime that MLServer loads."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.serving import workload


class Runtime(MLModel):
    async def load(self) -> bool:
        self.run = workload.load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        array = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output("Y", self.run(array))
        return InferenceResponse(model_name=self.name, outputs=[output])
