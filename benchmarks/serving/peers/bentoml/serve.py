"""The BentoML service: typed JSON, and raw floats as a file."""

import os
from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
from bentoml.validators import ContentType

from benchmarks.serving import workload

BATCH = int(os.environ.get("BENCH_BATCH", "1"))


@bentoml.service(workers=workload.WORKERS, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Model:
    def __init__(self) -> None:
        self.predict = workload.load()

    @bentoml.api(batchable=BATCH > 1, max_batch_size=max(2, BATCH))
    def infer(self, X: np.ndarray) -> np.ndarray:  # noqa: N803
        return self.predict(X.astype(np.float32, copy=False))

    @bentoml.api
    def raw(self, data: Annotated[Path, ContentType("application/octet-stream")], /) -> bytes:
        array = np.frombuffer(data.read_bytes(), np.float32).reshape(-1, *workload.shape())
        return self.predict(array).tobytes()
