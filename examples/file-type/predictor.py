"""What kind of file is this? The network looks at the first and the last bytes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime

from berth import File, Meta

HERE = Path(__file__).parent
# What the network was trained on: 1,024 bytes of each end, taken from blocks of 4,096, white space stripped, and 256
# where a file has no byte.
LENGTH, BLOCK, NOTHING = 1024, 4096, 256


@dataclass
class Kind:
    """The network's best guess."""

    kind: str
    score: Annotated[float, Meta(ge=0, le=1, description="how sure the network is")]


class FileType:
    """The network of the package `magika`, 214 kinds of files."""

    def load(self) -> None:
        self.labels = json.loads((HERE / "labels.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(HERE / "model.onnx", options)
        self.input = self.session.get_inputs()[0].name

    def predict(self, file: Annotated[File, Meta(description="any file, whole")]) -> Kind:
        """Name the kind of one file."""
        tokens = np.full((1, 2 * LENGTH), NOTHING, dtype=np.int32)
        first = np.frombuffer(file.data[:BLOCK].lstrip()[:LENGTH], dtype=np.uint8)
        last = np.frombuffer(file.data[-BLOCK:].rstrip()[-LENGTH:], dtype=np.uint8)
        tokens[0, : len(first)] = first
        tokens[0, 2 * LENGTH - len(last) :] = last
        (scores,) = self.session.run(None, {self.input: tokens})
        best = int(scores[0].argmax())
        return Kind(self.labels[best], float(scores[0, best]))
