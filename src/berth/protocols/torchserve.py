"""TorchServe's REST API: `GET /ping`, `POST /predictions/{m}[/{version}]`, `GET /models` and `GET /models/{m}`.

A prediction's body is the only input itself (a picture's bytes, a text), or JSON with the inputs by name or in order,
or a form with a part for each; a part or key `data` or `body`, which TorchServe's clients send, is the only input.
Texts and bytes are answered as they are, everything else as JSON; a predictor that yields answers in chunks. Errors
are `{"code", "type", "message"}`. site.py mounts it, before native.py, which has the longer paths below `/models/`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from msgspec import inspect as kinds

from berth.errors import InputError
from berth.files import DEFAULT_CONTENT_TYPE, File
from berth.health import Health
from berth.protocols.base import (
    BINARY,
    Handler,
    Headers,
    Request,
    Response,
    Route,
    json_response,
    refuse_input,
    refusing_route,
)
from berth.protocols.multipart import MAX_PARTS, parse_boundary, parse_parts
from berth.protocols.plain_rows import PlainRows, read_json
from berth.protocols.site import Site
from berth.protocols.streaming import EVENT_STREAM, NO_CACHE, choose_stream
from berth.repository import Repository
from berth.rows import Cell, cell_of
from berth.served import ServedModel
from berth.work import Work

INPUT_STATUS = 400
TEXT = b"text/plain; charset=utf-8"
_PREDICTIONS, _EXPLANATIONS, _MODELS = "/predictions/", "/explanations/", "/models/"
_OTHERS = ("", "predict", "docs", "openapi.json")  # what native.py and openapi.py have below a model's name
_ALIASES = ("data", "body")
_TYPES = {
    400: "BadRequestException",
    404: "ModelNotFoundException",
    405: "MethodNotAllowedException",
    408: "RequestTimeoutException",
    413: "RequestEntityTooLargeException",
    501: "NotImplementedException",
    503: "ServiceUnavailableException",
    504: "InferenceTimeoutException",
}
_CONTENT_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(; *[\w-]+=[\w.+-]+)*", re.ASCII)


def face(site: Site) -> TorchServe:
    """The face of a server."""
    return TorchServe(site.repository, site.health)


def ping(health: Health, _: Request) -> Response:
    """Whether requests are wanted, as TorchServe says it; SageMaker and Vertex AI look at the status."""
    why = health.why_not
    return json_response({"status": "Unhealthy", "error": why}, 503) if why else json_response({"status": "Healthy"})


def error_response(status: int, text: str, headers: Headers = (), *, kind: str = "") -> Response:
    """An error in TorchServe's shape; `kind` is its type where the status does not say it."""
    kind = kind or _TYPES.get(status, "InternalServerException")
    return json_response({"code": status, "type": kind, "message": text}, status, headers)


class TorchServe:
    """The inference API, and of the management API what only looks."""

    def __init__(self, repository: Repository, health: Health) -> None:
        self._repository = repository
        self._ping = functools.partial(ping, health)

    def routes(self) -> list[Route]:
        """Health and the list of models."""
        return [
            Route("/ping", "torchserve.ping", {"GET": self._ping}),
            Route("/models", "torchserve.models", {"GET": self._list}, error_response),
        ]

    def resolve(self, path: str) -> Route | None:
        """Predictions and descriptions of one model; what is not there is refused in TorchServe's shape."""
        if path.startswith(_PREDICTIONS):
            return self._of_model(path, path[len(_PREDICTIONS) :], self._prediction)
        if path.startswith(_EXPLANATIONS):
            return refusing_route(path, "torchserve.explain", 501, "explanations are not offered", error_response)
        rest = path.removeprefix(_MODELS)
        others = rest.rpartition("/")[2] in _OTHERS and not any(served.name == rest for served in self._repository)
        if rest == path or others:
            return None
        return self._of_model(path, rest, self._description)

    def _of_model(self, path: str, rest: str, make: Callable[[str, list[ServedModel]], Route]) -> Route:
        """The route for `name`, `name/version` or `name/all`; a name may contain slashes, so the longest one counts."""
        fitting = [served.name for served in self._repository if f"{rest}/".startswith(f"{served.name}/")]
        if not fitting:
            known = ", ".join(dict.fromkeys(repr(served.name) for served in self._repository)) or "none"
            text = f"Model not found: {rest}; this server has {known}"
            return refusing_route(path, "torchserve.unknown", 404, text, error_response)
        name = max(fitting, key=len)
        version = rest[len(name) + 1 :].removeprefix("versions/")
        every = [served for served in self._repository if served.name == name]
        found = every if version == "all" else [served for served in every if served.version == version]
        if not version:
            found = every[-1:]
        if not found:
            shape = functools.partial(error_response, kind="ModelVersionNotFoundException")
            text = f"Model version: {version} does not exist for model: {name}"
            return refusing_route(path, "torchserve.unknown", 404, text, shape)
        return make(path, found)

    def _prediction(self, path: str, found: list[ServedModel]) -> Route:
        handler = found[-1].made(Prediction).handle
        methods: dict[str, Handler] = {"POST": handler, "PUT": handler}
        return Route(path, "torchserve.predictions", methods, error_response, queue=found[-1])

    def _description(self, path: str, found: list[ServedModel]) -> Route:
        handler: Handler = functools.partial(_describe, found)
        return Route(path, "torchserve.model", {"GET": handler}, error_response)

    def _list(self, _: Request) -> Response:
        latest = {served.name: served for served in self._repository}
        return json_response({"models": [{"modelName": name, "modelUrl": _url(one)} for name, one in latest.items()]})


class Prediction:
    """Predictions of one model: raw bodies and forms to inputs, answers to raw bodies."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._model = served.model
        self._rows = PlainRows(served)
        self._names = self._rows.names
        self._only = self._rows.only({})
        self._types = {item.name: item.type for item in served.model.signature.inputs}
        self._cells = {name: cell_of(kind) for name, kind in self._types.items()}

    def handle(self, request: Request) -> Work:
        """Decode a body by its form, and by what the model takes."""
        accept = request.headers.get(b"accept", b"").lower()
        json_only = b"application/json" in accept and EVENT_STREAM not in accept
        try:
            call = self._rows.call(self._inputs(request), "inputs")
        except InputError as error:
            raise refuse_input(error, INPUT_STATUS) from error
        if not self._model.streams:
            return Work(self._served, [call], self._encode_json if json_only else self._encode, INPUT_STATUS)
        work = Work(self._served, [call], self._encode_items, INPUT_STATUS)
        work.stream = choose_stream(accept, self._model.encode) if _asks(accept) else Chunks(self._model.encode)
        return work

    # -- requests -----------------------------------------------------------------------------------------------------

    def _inputs(self, request: Request) -> dict[str, Any]:
        content_type = request.headers.get(b"content-type", b"")
        kind = content_type.partition(b";")[0].strip().lower()
        if kind == b"multipart/form-data":
            parts = parse_parts(request.body, parse_boundary(content_type))
            return self._form([(part.name, part.data, part.filename or "", part.content_type) for part in parts])
        if kind == b"application/x-www-form-urlencoded":
            pairs = self._pairs(request.body)
            if pairs and all(name in self._names or name in _ALIASES for name, _ in pairs):
                return self._form([(name, text.encode(), "", DEFAULT_CONTENT_TYPE) for name, text in pairs])
            kind = b""  # curl says so of everything
        return self._raw(request.body, kind.decode("latin-1") or DEFAULT_CONTENT_TYPE)

    def _pairs(self, body: bytes) -> list[tuple[str, str]]:
        try:
            return parse_qsl(body.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_PARTS)
        except ValueError:
            return []

    def _form(self, parts: list[tuple[str, bytes, str, str]]) -> dict[str, Any]:
        fields: dict[str, list[Any]] = {}
        for part_name, data, filename, content_type in parts:
            name = self._only if part_name in _ALIASES and part_name not in self._names else part_name
            name = name or part_name
            fields.setdefault(name, []).append(self._value(name, data, filename, content_type))
        lists = self._model.signature.takes_list
        return {
            name: values if len(values) > 1 or (self._cells.get(name) is Cell.RAW and lists(name)) else values[0]
            for name, values in fields.items()
        }

    def _raw(self, body: bytes, content_type: str) -> dict[str, Any]:
        only, is_json = self._only, content_type == "application/json"
        if only is None or self._cells[only] not in (Cell.RAW, Cell.TEXT):
            return self._of_json(read_json(body))
        if is_json or body[:1] == b"{":
            value = self._perhaps_json(body)
            if isinstance(value, dict) and not value.keys().isdisjoint((*self._names, *_ALIASES)):
                return self._of_json(value)
            if is_json and isinstance(value, str | list):
                return self._rows.named(value, "the body", {})
        return {only: self._value(only, body, "", content_type)}

    def _perhaps_json(self, body: bytes) -> Any:
        try:
            return read_json(body)
        except InputError:
            return None

    def _of_json(self, value: Any) -> dict[str, Any]:
        """Inputs by name, in order, or the only one."""
        if isinstance(value, dict) and len(value) == 1 and self._only is not None:
            ((name, inner),) = value.items()
            if name in _ALIASES and name not in self._names:
                value = inner
        if isinstance(value, list) and self._only is None:
            if len(value) != len(self._names):
                raise InputError(f"expected {len(self._names)} inputs, {', '.join(self._names)}, got {len(value)}")
            value = dict(zip(self._names, value, strict=True))
        return self._rows.named(value, "the body", {})

    def _value(self, name: str, data: bytes, filename: str, content_type: str) -> Any:
        """A part, or a whole body, as what its input wants."""
        if self._cells.get(name) is Cell.RAW:
            return data if _is_bytes(kinds.type_info(self._types[name])) else File(data, filename, content_type)
        try:
            return self._model.signature.parse_text(name, data.decode())
        except UnicodeDecodeError as error:
            raise InputError(f"input {name!r}: expected UTF-8 text, got other bytes") from error

    # -- answers ------------------------------------------------------------------------------------------------------

    def _encode(self, answers: list[Any]) -> Response:
        answer = answers[0]
        if isinstance(answer, str):
            return Response(answer.encode(), 200, TEXT)
        if isinstance(answer, File):
            return Response(answer.data, 200, _content_type(answer))
        if isinstance(answer, bytes | bytearray | memoryview):
            return Response(bytes(answer), 200, BINARY)
        return Response(self._model.encode(answer))

    def _encode_json(self, answers: list[Any]) -> Response:
        return Response(self._model.encode(answers[0]))

    def _encode_items(self, answers: list[Any]) -> Response:
        return Response(b"[%b]" % b",".join(map(self._model.encode, answers)))


class Chunks:
    """A stream as TorchServe sends it: texts and bytes as they are, everything else as a line of JSON."""

    def __init__(self, encode: Callable[[Any], bytes]) -> None:
        self._encode = encode
        self._content_type = TEXT

    def head(self) -> Response:
        """Status, and the content type of the first item."""
        return Response(b"", 200, self._content_type, NO_CACHE)

    def item(self, answer: Any) -> bytes:
        """One chunk."""
        if isinstance(answer, str):
            return answer.encode()
        if isinstance(answer, File | bytes | bytearray | memoryview):
            self._content_type = BINARY
            return answer.data if isinstance(answer, File) else bytes(answer)
        self._content_type = b"application/jsonl"
        return self._encode(answer) + b"\n"

    def end(self) -> bytes:
        """Nothing: the end of the body says it."""
        return b""

    def failed(self, status: int, text: str) -> bytes:
        """The last chunk, on a line of its own."""
        error = {"code": status, "type": _TYPES.get(status, "InternalServerException"), "message": text}
        return b"\n%b\n" % msgspec.json.encode(error)


def _asks(accept: bytes) -> bool:
    """Whether a caller names one of the forms that native.py offers for streams."""
    return any(form in accept for form in (EVENT_STREAM, b"application/json", b"jsonl", b"ndjson"))


def _is_bytes(info: kinds.Type) -> bool:
    if isinstance(info, kinds.Metadata):
        return _is_bytes(info.type)
    if isinstance(info, kinds.ListType):
        return _is_bytes(info.item_type)
    if isinstance(info, kinds.UnionType):
        return any(map(_is_bytes, info.types))
    return isinstance(info, kinds.BytesType)


def _content_type(file: File) -> bytes:
    """A file's content type, where it can stand in a header."""
    return file.content_type.encode() if _CONTENT_TYPE.fullmatch(file.content_type) else BINARY


def _url(served: ServedModel) -> str:
    return served.settings.weights or served.settings.predictor


def _describe(found: list[ServedModel], _: Request) -> Response:
    return json_response([_description(served) for served in found])


def _description(served: ServedModel) -> dict[str, Any]:
    serving = served.settings.serving
    count = max(1, serving.workers)
    status = "UNHEALTHY" if served.why_unready else "READY"
    return {
        "modelName": served.name,
        "modelVersion": served.version,
        "modelUrl": _url(served),
        "runtime": "python",
        "minWorkers": count,
        "maxWorkers": count,
        "batchSize": served.max_rows,
        "maxBatchDelay": int(serving.max_batch_delay * 1000),
        "loadedAtStartup": served.settings.at_start,
        "workers": [{"id": str(number), "status": status, "gpu": False} for number in range(count)],
    }
