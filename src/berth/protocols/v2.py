"""The Open Inference Protocol (V2) over REST: metadata, health of the models, and inference.

`v2_inputs.py` turns tensors into bytes and back; this file knows the routes and the envelope. Model names are
percent-encoded in paths, with `/` kept. Bad input is 400. site.py mounts it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import berth
from berth.errors import InputError
from berth.health import Health
from berth.protocols.base import BINARY, Handler, Refusal, Request, Response, Route, json_response
from berth.protocols.numbers import LARGE
from berth.protocols.site import Site
from berth.protocols.streaming import Events
from berth.protocols.v2_express import ExpressLane
from berth.protocols.v2_generate import Generation
from berth.protocols.v2_inputs import Inputs
from berth.protocols.v2_messages import (
    INPUT_STATUS,
    Blob,
    InferRequest,
    ShortWay,
    Wanted,
    check_parameters,
    parse_infer_request,
    priority_of,
    timeout_of,
)
from berth.protocols.v2_outputs import Outputs
from berth.protocols.v2_repository import config_of, statistics_of
from berth.repository import Repository
from berth.served import ServedModel
from berth.tensors import Array, TensorSpec
from berth.work import Work

INFER = "v2.infer"  # the route's name in logs and metrics
EXTENSIONS = ("binary_tensor_data", "generate", "model_configuration", "model_repository", "statistics")
_HEADER_LENGTH = b"inference-header-content-length"
_MODELS = "/v2/models/"


def face(site: Site) -> V2:
    """The face of a server."""
    return V2(site.repository, site.health)


class V2:
    """The V2 face of a server's models."""

    def __init__(self, repository: Repository, health: Health) -> None:
        self._repository = repository
        self._health = health
        self._server = {"name": "berth", "version": berth.__version__, "extensions": EXTENSIONS}

    def routes(self) -> list[Route]:
        """The server's own routes."""
        return [
            Route("/v2", "v2.server", {"GET": self._describe_server}),
            Route("/v2/", "v2.server", {"GET": self._describe_server}),
            Route("/v2/models", "v2.models", {"GET": self._names}, plain=True),
            Route("/v2/models/stats", "v2.stats", {"GET": self._statistics}, plain=True),
        ]

    def resolve(self, path: str) -> Route | None:
        """The route of one model; Refusal (404) when there is no such model."""
        if not path.startswith(_MODELS):
            return None
        served, action = self._repository.split(path[len(_MODELS) :])
        found = _ACTIONS.get(action)
        if found is None:
            return None
        name, method, make = found
        express = served.made(Inference).express if action == "/infer" else None
        # tritonclient's http.aio accepts gzip for every answer, and unfolds it for inference alone.
        plain = method == "GET"
        queue = None if plain else served
        handlers = {method: make(self, served)}
        return Route(path, name, handlers, express=express, large=name in _LARGE, queue=queue, plain=plain)

    def metadata(self, served: ServedModel) -> Handler:
        """What the model takes and answers."""
        described = json_response(
            {
                "name": served.name,
                "versions": [served.version],
                "platform": served.model.platform,
                "inputs": [_describe(item) for item in served.model.inputs],
                "outputs": [_describe(item) for item in served.model.outputs],
            }
        )
        return lambda _: described

    def ready(self, served: ServedModel) -> Handler:
        """Whether the model wants requests."""

        def handler(_: Request) -> Response:
            why = self._health.why_dead() or served.why_unready or self._health.why_not
            if not why:
                return json_response({"name": served.name, "ready": True})
            return json_response({"name": served.name, "ready": False, "error": why}, 503)

        return handler

    def config(self, served: ServedModel) -> Handler:
        """How the model is served."""
        return lambda _: json_response(config_of(served))

    def statistics(self, served: ServedModel) -> Handler:
        """What was counted for the model."""
        return lambda _: json_response({"model_stats": [statistics_of(served)]})

    def infer(self, served: ServedModel) -> Handler:
        """Ask the model."""
        return served.made(Inference).handle

    def infer_stream(self, served: ServedModel) -> Handler:
        """Ask the model, and hear each item as an event."""
        return served.made(Inference).handle_stream

    def generate(self, served: ServedModel) -> Handler:
        """Ask the model with plain JSON."""
        return served.made(Generation).generate

    def generate_stream(self, served: ServedModel) -> Handler:
        """The same, item by item."""
        return served.made(Generation).generate_stream

    def _describe_server(self, _: Request) -> Response:
        return json_response(self._server)

    def _statistics(self, _: Request) -> Response:
        return json_response({"model_stats": [statistics_of(served) for served in self._repository]})

    def _names(self, _: Request) -> Response:
        return json_response({"models": list(dict.fromkeys(served.name for served in self._repository))})


_LARGE = (INFER, "v2.infer_stream")
_ACTIONS: dict[str, tuple[str, str, Callable[[V2, ServedModel], Handler]]] = {
    "": ("v2.metadata", "GET", V2.metadata),
    "/ready": ("v2.model_ready", "GET", V2.ready),
    "/config": ("v2.config", "GET", V2.config),
    "/stats": ("v2.stats", "GET", V2.statistics),
    "/infer": (INFER, "POST", V2.infer),
    "/infer_stream": ("v2.infer_stream", "POST", V2.infer_stream),
    "/generate": ("v2.generate", "POST", V2.generate),
    "/generate_stream": ("v2.generate_stream", "POST", V2.generate_stream),
}


class Inference:
    """Inference requests for one model: bytes to work, answers to bytes."""

    def __init__(self, served: ServedModel) -> None:
        model = served.model
        self._served = served
        self._model = model
        self._inputs = Inputs(model.inputs, rowwise=model.rowwise)
        self._outputs = Outputs(model.outputs, served.name, served.version)
        self._short: ShortWay | None = None
        self._encode_usual = self._encode_all
        self.express: ExpressLane | None = None
        if model.packing is not None:
            self._short = ShortWay(model.packing)
            if self._outputs.plain:
                self._encode_usual = self._encode_rows
                self.express = ExpressLane(served, model.packing, self._outputs, INFER)

    def handle(self, request: Request) -> Work:
        """Decode an inference request, JSON or with binary tensors, whatever its Content-Type."""
        length = request.head.headers.get(_HEADER_LENGTH)
        try:
            if length is None:
                return self._json(request.body)
            body = memoryview(request.body)  # tensors stay where they arrived
            size = _header_length(length, len(body))
            if size == 0:
                return self._raw(body)
            message = parse_infer_request(bytes(body[:size]))
            return self._work(message, self._calls(message, body[size:]))
        except InputError as error:
            raise Refusal(INPUT_STATUS, str(error)) from error

    def handle_stream(self, request: Request) -> Work:
        """As `handle`, answered with an event per item; binary tensors are not for events."""
        work = self.handle(request)
        work.stream = Events(lambda answer: self._outputs.encode_all(self._model.tensors_of([answer])))
        return work

    def _json(self, body: bytes) -> Work:
        if self._short is not None and len(body) < LARGE:
            found = self._short.read(body)
            if found is not None:
                check_parameters(found[0])
                return self._work(*found)
        message = parse_infer_request(body)
        return self._work(message, self._calls(message, b""))

    def _calls(self, message: InferRequest, blob: Blob) -> list[Any]:
        calls = self._model.calls_of(self._inputs.decode(message.inputs, blob))
        if not calls:
            raise InputError("expected at least one row, got none")
        return calls

    def _work(self, message: InferRequest, calls: list[Any], rows: int = 0) -> Work:
        if message.id is None and message.outputs is None and message.parameters is None:
            return Work(self._served, calls, self._encode_usual, INPUT_STATUS, None, rows)
        wanted = self._outputs.wanted(message)
        encode = functools.partial(self._encode, wanted)
        timeout, priority = timeout_of(message.parameters), priority_of(message.parameters)
        return Work(self._served, calls, encode, INPUT_STATUS, timeout, rows, priority)

    def _raw(self, body: Blob) -> Work:
        calls = self._model.calls_of(self._inputs.decode_raw(body))
        return Work(self._served, calls, functools.partial(self._encode, Wanted(binary=True)), INPUT_STATUS)

    def _encode_rows(self, answers: list[Any]) -> Response:
        body = self._outputs.encode_row(answers[0])
        return Response(body) if body is not None else self._encode_all(answers)

    def _encode_all(self, answers: list[Any]) -> Response:
        return Response(self._outputs.encode_all(self._model.tensors_of(answers)))

    def _encode(self, wanted: Wanted, answers: list[Any]) -> Response:
        tensors: dict[str, Array] = self._model.tensors_of(answers)
        body, header_length = self._outputs.encode(tensors, wanted)
        if header_length is None:
            return Response(body)
        return Response(body, 200, BINARY, ((b"Inference-Header-Content-Length", b"%d" % header_length),))


def _describe(item: TensorSpec) -> dict[str, Any]:
    described: dict[str, Any] = {"name": item.name, "datatype": item.datatype, "shape": list(item.shape)}
    return described | {"optional": True} if item.optional else described


def _header_length(text: bytes, body: int) -> int:
    if not text.isdigit() or len(text) > 12 or int(text) > body:
        got = text.decode("latin-1")
        raise InputError(f"Inference-Header-Content-Length: expected a number from 0 to {body}, got {got!r}")
    return int(text)
