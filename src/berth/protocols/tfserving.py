"""TensorFlow Serving's REST API, which KServe calls V1: `POST /v1/models/{m}:predict` and `GET .../metadata`.

A request has `instances` (rows) or `inputs` (columns); plain_rows.py says what they look like. The answer is
`predictions` for rows and `outputs` for columns. `signature_name` is accepted: a model here has one signature. NaN and
infinities are read as bare tokens and written as null, so that every answer is valid JSON. Bad input is 400.
v1_models.py has the models' status; site.py mounts both.
"""

from __future__ import annotations

import functools
from typing import Any

from berth.errors import InputError
from berth.protocols.base import Handler, Refusal, Request, Response, Route, json_response, refuse_input
from berth.protocols.plain_rows import PlainRows, read_object
from berth.protocols.site import Site
from berth.repository import Repository
from berth.served import ServedModel
from berth.tensors import TensorSpec
from berth.work import Work

INPUT_STATUS = 400
_MODELS = "/v1/models/"
_METADATA = "/metadata"
_NOT_OFFERED = ("classify", "explain", "regress")
_DTYPES = {"BOOL": "DT_BOOL", "FP16": "DT_HALF", "FP32": "DT_FLOAT", "FP64": "DT_DOUBLE", "BYTES": "DT_STRING"}


def face(site: Site) -> TfServing:
    """The face of a server."""
    return TfServing(site.repository)


class TfServing:
    """Predictions and metadata, below `/v1/models/`."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def routes(self) -> list[Route]:
        """None: every path names a model."""
        return []

    def resolve(self, path: str) -> Route | None:
        """A model with a verb after a colon, or its metadata; Refusal for other verbs and for unknown models."""
        if not path.startswith(_MODELS):
            return None
        rest = path[len(_MODELS) :]
        if rest.endswith(_METADATA):
            served, tail = self._repository.split(rest.removesuffix(_METADATA))
            return None if tail else Route(path, "tfserving.metadata", {"GET": _metadata(served)})
        name, colon, verb = rest.rpartition(":")
        if not colon or "/" in verb or any(served.name == rest for served in self._repository):
            return None
        served, tail = self._repository.split(name)
        if tail:
            return None
        if verb in _NOT_OFFERED:
            handler: Handler = functools.partial(_not_offered, verb)
            return Route(path, f"tfserving.{verb}", {"POST": handler})
        if verb != "predict":
            raise Refusal(404, f"no verb {verb!r}; ask {_MODELS}{name}:predict")
        return Route(path, "tfserving.predict", {"POST": served.made(Prediction).handle}, queue=served)


class Prediction:
    """Requests in rows and columns for one model."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._rows = PlainRows(served)

    def handle(self, request: Request) -> Work:
        """Decode either kind of request."""
        try:
            body = read_object(request.body)
            if ("instances" in body) == ("inputs" in body):
                raise InputError("expected either `instances` (rows) or `inputs` (columns), not both and not neither")
            if not isinstance(body.get("signature_name", ""), str):
                raise InputError("signature_name: expected a string")
            if "instances" in body:
                return Work(self._served, self._rows.calls_of_rows(body["instances"]), self._predictions, INPUT_STATUS)
            return Work(self._served, self._rows.calls_of_columns(body["inputs"]), self._outputs, INPUT_STATUS)
        except InputError as error:
            raise refuse_input(error, INPUT_STATUS) from error

    def _predictions(self, answers: list[Any]) -> Response:
        return Response(b'{"predictions":%b}' % self._rows.rows(answers))

    def _outputs(self, answers: list[Any]) -> Response:
        return Response(b'{"outputs":%b}' % self._rows.columns(answers))


def _not_offered(verb: str, _: Request) -> Response:
    raise Refusal(501, f":{verb} is not offered; :predict is")


def _metadata(served: ServedModel) -> Handler:
    """The one signature, as TensorFlow's `GetModelMetadata` shows it in JSON."""
    model = served.model
    signature = {
        "inputs": {spec.name: _tensor(spec) for spec in model.inputs},
        "outputs": {spec.name: _tensor(spec) for spec in model.outputs},
        "method_name": "tensorflow/serving/predict",
    }
    described = json_response(
        {
            "model_spec": {"name": served.name, "signature_name": "", "version": served.version},
            "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
        }
    )
    return lambda _: described


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    dimensions = [{"size": str(size), "name": ""} for size in spec.shape]
    return {
        "dtype": _DTYPES.get(spec.datatype, f"DT_{spec.datatype}"),
        "tensor_shape": {"dim": dimensions, "unknown_rank": False},
        "name": spec.name,
    }
