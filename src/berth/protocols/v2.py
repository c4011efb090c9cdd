"""The Open Inference Protocol (V2) over REST: metadata, health of the model, and inference.

`v2_codec.py` turns tensors into bytes and back; this file knows the routes and the envelope. Paths may name any
version; model names are percent-encoded, with `/` kept. Bad input is 400. application.py mounts the routes.
"""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from berth.errors import InputError
from berth.health import Health
from berth.model import Model
from berth.protocols.base import BINARY, Handler, Refusal, Request, Response, Route, json_response
from berth.protocols.v2_codec import InferRequest, Inputs, Outputs, Wanted, parse_infer_request
from berth.tensors import Array, TensorSpec
from berth.work import Work

INPUT_STATUS = 400
EXTENSIONS = ("binary_tensor_data",)
_HEADER_LENGTH = b"inference-header-content-length"


class V2:
    """The V2 face of one model."""

    def __init__(self, model: Model, name: str, version: str, server_version: str, health: Health) -> None:
        self._model = model
        self._name = name
        self._health = health
        self._inputs = Inputs(model.inputs, rowwise=model.rowwise)
        self._outputs = Outputs(model.outputs, name, version)
        self._server = {"name": "berth", "version": server_version, "extensions": EXTENSIONS}
        self._metadata = {
            "name": name,
            "versions": [version],
            "platform": model.platform,
            "inputs": [_describe(item) for item in model.inputs],
            "outputs": [_describe(item) for item in model.outputs],
        }
        self._actions: dict[str, tuple[str, str, Handler]] = {
            "": ("v2.metadata", "GET", lambda _: json_response(self._metadata)),
            "/ready": ("v2.model_ready", "GET", self._ready),
            "/infer": ("v2.infer", "POST", self.infer),
        }
        self._exact = {path: self._route(path, action) for path, action in self._paths(quote(name), quote(version))}

    def routes(self) -> list[Route]:
        """The routes as clients usually write them; `resolve` knows all their other spellings."""
        server = Route("/v2", "v2.server", {"GET": lambda _: json_response(self._server)})
        models = Route("/v2/models", "v2.models", {"GET": lambda _: json_response({"models": [self._name]})})
        return [server, models, *self._exact.values()]

    def resolve(self, path: str) -> Route | None:
        """A path with another version or another percent-encoding; Refusal (404) for another model."""
        if path.rstrip("/") == "/v2":
            return Route("/v2", "v2.server", {"GET": lambda _: json_response(self._server)})
        if not path.startswith("/v2/models/"):
            return None
        rest = unquote(path[len("/v2/models/") :])
        if rest != self._name and not rest.startswith(self._name + "/"):
            known = f"no model at {unquote(path)!r}; this server has {self._name!r}"
            raise Refusal(404, known)
        action = rest[len(self._name) :]
        if action.startswith("/versions/"):
            _, slash, tail = action[len("/versions/") :].partition("/")
            action = slash + tail
        return self._route(path, action) if action in self._actions else None

    def infer(self, request: Request) -> Work:
        """Decode an inference request, JSON or with binary tensors, whatever its Content-Type."""
        length = request.headers.get(_HEADER_LENGTH)
        try:
            if length is None:
                return self._work(parse_infer_request(request.body), b"")
            size = _header_length(length, len(request.body))
            if size == 0:
                return self._raw(request.body)
            return self._work(parse_infer_request(request.body[:size]), request.body[size:])
        except InputError as error:
            raise Refusal(INPUT_STATUS, str(error)) from error

    def _work(self, message: InferRequest, blob: bytes) -> Work:
        tensors = self._inputs.decode(message.inputs, blob)
        calls = self._model.calls_of(tensors)
        if not calls:
            raise InputError("expected at least one row, got none")
        if message.id is None and message.outputs is None and message.parameters is None:
            return Work(calls, self._encode_all, INPUT_STATUS)
        wanted = self._outputs.wanted(message)
        return Work(calls, functools.partial(self._encode, wanted), INPUT_STATUS, _timeout(message.parameters))

    def _raw(self, body: bytes) -> Work:
        tensors = self._inputs.decode_raw(body)
        return Work(self._model.calls_of(tensors), functools.partial(self._encode, Wanted(binary=True)), INPUT_STATUS)

    def _encode_all(self, answers: list[Any]) -> Response:
        return Response(self._outputs.encode_all(self._model.tensors_of(answers)))

    def _encode(self, wanted: Wanted, answers: list[Any]) -> Response:
        tensors: dict[str, Array] = self._model.tensors_of(answers)
        body, header_length = self._outputs.encode(tensors, wanted)
        if header_length is None:
            return Response(body)
        return Response(body, 200, BINARY, ((b"Inference-Header-Content-Length", b"%d" % header_length),))

    def _ready(self, _: Request) -> Response:
        if self._health.ready:
            return json_response({"name": self._name, "ready": True})
        return json_response({"name": self._name, "ready": False, "error": self._health.why_not}, 503)

    def _paths(self, name: str, version: str) -> list[tuple[str, str]]:
        bases = (f"/v2/models/{name}", f"/v2/models/{name}/versions/{version}")
        return [(base + action, action) for base in bases for action in self._actions]

    def _route(self, path: str, action: str) -> Route:
        name, method, handler = self._actions[action]
        return Route(path, name, {method: handler})


def _describe(item: TensorSpec) -> dict[str, Any]:
    described: dict[str, Any] = {"name": item.name, "datatype": item.datatype, "shape": list(item.shape)}
    return described | {"optional": True} if item.optional else described


def _header_length(text: bytes, body: int) -> int:
    if not text.isdigit() or len(text) > 12 or int(text) > body:
        got = text.decode("latin-1")
        raise InputError(f"Inference-Header-Content-Length: expected a number from 0 to {body}, got {got!r}")
    return int(text)


def _timeout(parameters: dict[str, Any] | None) -> float | None:
    """The caller's own deadline: V2's reserved parameter `timeout`, in microseconds."""
    timeout = (parameters or {}).get("timeout")
    if timeout is None:
        return None
    if not isinstance(timeout, int) or isinstance(timeout, bool) or timeout < 0:
        raise InputError(f"parameter 'timeout': expected microseconds, got {msgspec.json.encode(timeout).decode()}")
    return timeout / 1e6 if timeout else None
