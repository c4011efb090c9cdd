"""What the server has of a model that lives in worker processes: all of its face but `run`.

Protocols decode, check and encode with it as with a loaded model; no weights are loaded and no predictor is made.
pool.py says where it runs.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NoReturn

from berth.config import ModelSettings
from berth.model import Model, PredictorModel, TensorModel
from berth.predictors import Predictor, find_predictor, kind_of, takes_lists
from berth.signature import signature_of
from berth.tensors import Array, TensorSpec
from berth.workers.process import Description


class RemotePredictor(PredictorModel):
    """A user's class that no object was made of here."""

    def __init__(self, predictor: type[Any]) -> None:
        predict = inspect.getattr_static(predictor, "predict")
        bound = types.MethodType(predict, predictor) if inspect.isfunction(predict) else predictor.predict
        rows, kind = takes_lists(bound), kind_of(bound)
        signature = signature_of(bound, rows=rows, streams=kind.streams)
        signature.schemas()  # a hint without a schema stops the start, not the first look at /docs
        super().__init__(Predictor(_elsewhere, signature, kind, rows, _elsewhere))

    def run(self, calls: Sequence[Any]) -> NoReturn:
        """Never called: the pool runs it."""
        _elsewhere()


class RemoteTensors(TensorModel):
    """A backend's model, from the description that a worker sent."""

    def __init__(self, description: Description) -> None:
        super().__init__(_RemoteBackend(description))
        self._alike = self.steady
        self.steady = False  # a run is never quick enough to be done on the loop

    def key(self, call: Any) -> Hashable:
        """Nothing where the model leaves no choice; names and trailing shapes elsewhere."""
        return None if self._alike else super().key(call)

    def run(self, calls: Sequence[Any]) -> NoReturn:
        """Never called: the pool runs it."""
        _elsewhere()


class _RemoteBackend:
    def __init__(self, description: Description) -> None:
        self.platform = description.platform
        self.inputs: Sequence[TensorSpec] = description.inputs
        self.outputs: Sequence[TensorSpec] = description.outputs
        self.joins_rows = description.joins

    def infer(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        _elsewhere()


def remote_model(settings: ModelSettings, description: Description) -> Model:
    """The model of these settings, which workers have loaded and described."""
    if settings.predictor:
        return RemotePredictor(find_predictor(settings.predictor))
    return RemoteTensors(description)


def _elsewhere(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("this model runs in worker processes")
