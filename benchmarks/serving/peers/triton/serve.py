"""The model of Triton's python backend: whatever Triton hands over at once runs at once."""

from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from benchmarks.serving import workload


class TritonPythonModel:
    def initialize(self, args: Any) -> None:
        self.run = workload.load()

    def execute(self, requests: list[Any]) -> list[Any]:
        arrays = [triton.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
        if len(arrays) == 1:
            return [self.answer(self.run(arrays[0]))]
        ends = np.cumsum([len(array) for array in arrays])[:-1]
        return [self.answer(part) for part in np.split(self.run(np.concatenate(arrays)), ends)]

    def answer(self, array: Any) -> Any:
        return triton.InferenceResponse(output_tensors=[triton.Tensor("Y", array)])
