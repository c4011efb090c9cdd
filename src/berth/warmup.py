"""The first run of each batch size, before anybody waits for it.

A runtime allocates, compiles or picks kernels when it first sees a shape; that takes seconds in some. loading.py calls
this where the model was loaded, before the server is ready.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from berth.model import Model, TensorModel
from berth.tensors import Array


def warm_up(model: Model, sizes: Sequence[int]) -> None:
    """Run zeros of every size, where the model's inputs have a known shape; a model that refuses them is left alone.

    A predictor is asked only if sizes were given: what it does besides computing is its own business.
    """
    if not (isinstance(model, TensorModel) or (sizes and model.joins)):
        return
    specs = [spec for spec in model.inputs if not spec.optional]
    if any(spec.datatype == "BYTES" or -1 in spec.shape[1:] for spec in specs):
        return
    for size in (sizes or (1,)) if model.joins else (1,):
        shapes = {spec.name: [size if length == -1 else length for length in spec.shape] for spec in specs}
        zeros: dict[str, Array] = {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in specs}
        try:
            model.run(model.calls_of(zeros))
        except Exception:
            return  # zeros may be no input that it takes
