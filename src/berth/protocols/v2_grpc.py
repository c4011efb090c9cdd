"""The Open Inference Protocol (V2) over gRPC: the calls of `inference.GRPCInferenceService`.

The same models, queues and limits as V2 over REST, and the same words where something is wrong. A request with raw
tensors is answered raw, one with typed contents typed. v2_grpc_codec.py knows the tensors, v2_protobuf.py the messages;
grpc.py mounts the calls.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import berth
from berth.errors import InputError
from berth.health import Health
from berth.protocols.base import Refusal, Request, Response, Route
from berth.protocols.grpc_base import GRPC, answer_of, call_route, framed, parsed
from berth.protocols.v2_grpc_codec import Form, GrpcInputs, GrpcOutputs, check_fields, streamed
from berth.protocols.v2_grpc_express import Frames, GrpcLane
from berth.protocols.v2_messages import INPUT_STATUS, priority_of, timeout_of
from berth.protocols.v2_protobuf import MESSAGES, PACKAGE, SERVICE
from berth.protocols.v2_repository import V2Repository, config_of, statistics_of
from berth.repository import Repository
from berth.served import ServedModel
from berth.work import Work

EXTENSIONS = ("model_configuration", "model_repository", "statistics")
ALIAS_HEADER = b"x-dockyard-deployment"
"""Dockyard's gateway says with it under which name the caller knows the model, where that is not the model's own."""
_FINAL = "triton_final_response"
_ASK_FINAL = "triton_enable_empty_final_response"
_InferRequest = MESSAGES["ModelInferRequest"]
_InferResponse = MESSAGES["ModelInferResponse"]


class V2Grpc:
    """The V2 face of a server's models, over gRPC."""

    def __init__(self, repository: Repository, control: V2Repository, health: Health, frames: Frames) -> None:
        self._repository = repository
        self._control = control
        self._health = health
        self._lane = GrpcLane("v2.grpc.ModelInfer", frames)

    def forget(self) -> None:
        """The models have changed."""
        self._lane.forget()

    def routes(self) -> list[Route]:
        """Every call."""
        service = f"{PACKAGE}.{SERVICE}"
        routes: list[Route] = [
            call_route(
                service, name, f"v2.grpc.{name}", functools.partial(self._answer, name, getattr(self, attribute))
            )
            for name, attribute in _CALLS.items()
        ]
        return [
            *routes,
            call_route(service, "RepositoryModelLoad", "v2.grpc.RepositoryModelLoad", self._load),
            call_route(service, "RepositoryModelUnload", "v2.grpc.RepositoryModelUnload", self._unload),
            call_route(service, "ModelInfer", "v2.grpc.ModelInfer", self._infer, lane=self._lane, infers=True),
            call_route(
                service,
                "ModelStreamInfer",
                "v2.grpc.ModelStreamInfer",
                self._stream_infer,
                streams_in=True,
                item_error=_stream_error,
                infers=True,
            ),
        ]

    def resolve(self, _: str) -> None:
        """All its paths are fixed."""

    def _answer(self, name: str, answer: Callable[[Any], dict[str, Any]], request: Request) -> Response:
        """A call that asks no model: its message in, the fields of its answer out."""
        message = parsed(MESSAGES[f"{name}Request"], request.body)
        if name in _ASK_MODEL:
            message.name = self._own_name(message.name, request)
        fields = answer(message)
        return answer_of(MESSAGES[f"{name}Response"](**fields))

    def _own_name(self, name: str, request: Request) -> str:
        return self._repository.own_name(name, request.headers.get(ALIAS_HEADER, b"").decode("latin-1"))

    def _find(self, message: Any) -> ServedModel:
        return self._repository.find(message.name, message.version or None)

    # -- the server, its models and their repository ------------------------------------------------------------------

    def _live(self, _: Any) -> dict[str, Any]:
        return {"live": not self._health.why_dead()}

    def _ready(self, _: Any) -> dict[str, Any]:
        return {"ready": self._health.ready}

    def _model_ready(self, message: Any) -> dict[str, Any]:
        served = self._find(message)
        return {"ready": not (self._health.why_dead() or served.why_unready or self._health.why_not)}

    def _server_metadata(self, _: Any) -> dict[str, Any]:
        return {"name": "berth", "version": berth.__version__, "extensions": EXTENSIONS}

    def _metadata(self, message: Any) -> dict[str, Any]:
        served = self._find(message)
        kinds = {"inputs": served.model.inputs, "outputs": served.model.outputs}
        tensors = {
            kind: [{"name": spec.name, "datatype": spec.datatype, "shape": spec.shape} for spec in specs]
            for kind, specs in kinds.items()
        }
        return {"name": served.name, "versions": [served.version], "platform": served.model.platform, **tensors}

    def _config(self, message: Any) -> dict[str, Any]:
        return {"config": config_of(self._find(message))}

    def _statistics(self, message: Any) -> dict[str, Any]:
        wanted = [self._find(message)] if message.name else list(self._repository)
        return {"model_stats": [statistics_of(served) for served in wanted]}

    def _index(self, message: Any) -> dict[str, Any]:
        models = self._control.index()
        return {"models": [model for model in models if model["state"] == "READY" or not message.ready]}

    async def _load(self, request: Request) -> Response:
        message = parsed(MESSAGES["RepositoryModelLoadRequest"], request.body)
        for name in message.parameters:
            if name == "config" or name.startswith("file:"):
                raise Refusal(501, f"parameter {name!r}: models are loaded as the server's settings say")
        name = message.model_name or message.repository_name
        await self._control.load(name)
        return answer_of(MESSAGES["RepositoryModelLoadResponse"](model_name=name, isLoaded=True))

    async def _unload(self, request: Request) -> Response:
        message = parsed(MESSAGES["RepositoryModelUnloadRequest"], request.body)
        name = message.model_name or message.repository_name
        await self._control.unload(name)
        return answer_of(MESSAGES["RepositoryModelUnloadResponse"](model_name=name, isUnloaded=True))

    # -- inference ----------------------------------------------------------------------------------------------------

    def _infer(self, request: Request) -> Work:
        message = _read(request.body)
        inference = self._inference(message, request)
        work, form = inference.work(message)
        if inference.lane_fits(message, form, work):
            assert inference.packing is not None
            self._lane.learn(inference.served, inference.packing, inference.outputs, form, request.body)
        return work

    def _stream_infer(self, request: Request) -> Work:
        message = _read(request.body)
        inference = self._inference(message, request)
        work, form = inference.work(message)
        if inference.served.model.streams:
            final = _ASK_FINAL in message.parameters and message.parameters[_ASK_FINAL].bool_param
            work.stream = StreamItems(inference, form, final=final)
        else:
            work.encode = functools.partial(inference.encode_streamed, form)
        return work

    def _inference(self, message: Any, request: Request) -> Inference:
        name = self._own_name(message.model_name, request)
        return self._repository.find(name, message.model_version or None).made(Inference)


_ASK_MODEL = frozenset({"ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"})
_CALLS = {
    "ServerLive": "_live",
    "ServerReady": "_ready",
    "ModelReady": "_model_ready",
    "ServerMetadata": "_server_metadata",
    "ModelMetadata": "_metadata",
    "ModelConfig": "_config",
    "ModelStatistics": "_statistics",
    "RepositoryIndex": "_index",
}


class Inference:
    """Inference requests for one model: messages to work, answers to messages."""

    def __init__(self, served: ServedModel) -> None:
        model = served.model
        self.served = served
        self.packing = model.packing
        self.outputs = GrpcOutputs(model.outputs, served.name, served.version)
        self._model = model
        self._inputs = GrpcInputs(model.inputs, model.packing, rowwise=model.rowwise)

    def work(self, message: Any) -> tuple[Work, Form]:
        """What a request asks of the model, and how the answer is to look; Refusal."""
        try:
            rows = 0
            packed = self._inputs.packed(message)
            if packed is not None:
                calls, rows = packed
                raw = True
            else:
                calls = self._model.calls_of(self._inputs.decode(message))
                raw = bool(message.raw_input_contents)
            if not calls:
                raise InputError("expected at least one row, got none")
            form = self.outputs.form(message, raw=raw)
            given = message.parameters
            parameters = {name: _value(given[name]) for name in ("timeout", "priority") if name in given}
            encode = functools.partial(self._encode, form)
            timeout, priority = timeout_of(parameters), priority_of(parameters)
            return Work(self.served, calls, encode, INPUT_STATUS, timeout, rows, priority), form
        except InputError as error:
            self.served.metrics.failures["OTHER"] += 1  # refused before it was work for the model
            raise Refusal(INPUT_STATUS, str(error)) from error

    def lane_fits(self, message: Any, form: Form, work: Work) -> bool:
        """Whether requests like this one may take the express lane."""
        plain = self.packing is not None and work.rows == 1 and form.raw and self.outputs.fixed_size
        return plain and not (form.id or message.parameters)

    def _encode(self, form: Form, answers: list[Any]) -> Response:
        if self.packing is not None:
            body = self.outputs.encode_row(answers[0], form)
            if body is not None:
                return Response(body, 200, GRPC)
        return Response(framed(self.encode_tensors(form, answers)), 200, GRPC)

    def encode_streamed(self, form: Form, answers: list[Any]) -> Response:
        """The only item of a stream for a model that answers once."""
        return Response(streamed(self.encode_tensors(form, answers, _final(last=True))), 200, GRPC)

    def encode_tensors(self, form: Form, answers: list[Any], extra: bytes = b"") -> bytes:
        """A ModelInferResponse."""
        return self.outputs.encode(self._model.tensors_of(answers), form, extra)


class StreamItems:
    """A predictor that yields, as items of ModelStreamInfer."""

    def __init__(self, inference: Inference, form: Form, *, final: bool) -> None:
        self._inference = inference
        self._form = form
        self._final = final

    def head(self) -> Response:
        """Nothing: the stream of responses has begun."""
        return Response(b"", 200, GRPC)

    def item(self, answer: Any) -> bytes:
        """One response."""
        return streamed(self._inference.encode_tensors(self._form, [answer], _final(last=False)))

    def end(self) -> bytes:
        """An empty response that says that it is the last, for callers that asked for one."""
        if not self._final:
            return b""
        served = self._inference.served
        last = _InferResponse(model_name=served.name, model_version=served.version, id=self._form.id)
        return streamed(last.SerializeToString() + _final(last=True))

    def failed(self, _: int, text: str) -> bytes:
        """The error, as the last response."""
        return _error_item(text, self._form.id)


def _read(body: bytes) -> Any:
    """An inference request; Refusal."""
    try:
        check_fields(body)
    except InputError as error:
        raise Refusal(INPUT_STATUS, str(error)) from error
    return parsed(_InferRequest, body)


def _final(*, last: bool) -> bytes:
    """The parameter that tells whether more responses to a request follow, as fields of a ModelInferResponse."""
    response = _InferResponse()
    response.parameters[_FINAL].bool_param = last
    encoded: bytes = response.SerializeToString()
    return encoded


def _stream_error(text: str, request: Request) -> bytes:
    """An error as an item; with the request's id, as far as it can be read."""
    try:
        return _error_item(text, _read(request.body).id)
    except Refusal:
        return _error_item(text, "")


def _error_item(text: str, identity: str) -> bytes:
    item = MESSAGES["ModelStreamInferResponse"](error_message=text, infer_response={"id": identity})
    return framed(item.SerializeToString())


def _value(parameter: Any) -> Any:
    """A parameter's value, whichever of its fields it is in."""
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)
