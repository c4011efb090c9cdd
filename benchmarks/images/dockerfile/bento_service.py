"""The file-type model as a BentoML service, as its documentation has them: the raw file in, its kind out."""

import json
from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
import onnxruntime

HERE = Path(__file__).parent
LENGTH, BLOCK, NOTHING = 1024, 4096, 256
File = Annotated[Path, bentoml.validators.ContentType("application/octet-stream")]


@bentoml.service
class FileType:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(HERE / "model.onnx", options)
        self.labels = json.loads((HERE / "labels.json").read_text())

    @bentoml.api
    def predict(self, file: File) -> dict[str, object]:
        data = file.read_bytes()
        tokens = np.full((1, 2 * LENGTH), NOTHING, dtype=np.int32)
        first = np.frombuffer(data[:BLOCK].lstrip()[:LENGTH], dtype=np.uint8)
        last = np.frombuffer(data[-BLOCK:].rstrip()[-LENGTH:], dtype=np.uint8)
        tokens[0, : len(first)] = first
        tokens[0, 2 * LENGTH - len(last) :] = last
        (scores,) = self.session.run(None, {self.session.get_inputs()[0].name: tokens})
        best = int(scores[0].argmax())
        return {"kind": self.labels[best], "score": float(scores[0, best])}
