"""V2's model repository extension, and what V2 says of one model beyond its tensors: config and statistics.

Loading and unloading over the wire is off unless BERTH_MODEL_CONTROL says on: whoever may ask the model need not be
allowed to take it away. site.py mounts it.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import msgspec

from berth.metrics import Histogram
from berth.protocols.base import Handler, Refusal, Request, Response, Route, json_response
from berth.protocols.site import Control, Site
from berth.repository import Repository
from berth.served import ServedModel
from berth.tensors import TensorSpec

_MODELS = "/v2/repository/models/"


def face(site: Site) -> V2Repository:
    """The face of a server."""
    return V2Repository(site.repository, site.control, allowed=site.config.model_control)


class _IndexRequest(msgspec.Struct):
    ready: bool = False


class _LoadRequest(msgspec.Struct):
    parameters: dict[str, Any] | None = None


_Message = TypeVar("_Message", _IndexRequest, _LoadRequest)


class V2Repository:
    """The repository's routes."""

    def __init__(self, repository: Repository, control: Control, *, allowed: bool) -> None:
        self._repository = repository
        self._control = control
        self._allowed = allowed

    def routes(self) -> list[Route]:
        """The index."""
        methods: dict[str, Handler] = {"POST": self._index, "GET": self._index}
        return [Route("/v2/repository/index", "v2.repository_index", methods, plain=True)]

    def resolve(self, path: str) -> Route | None:
        """Loading and unloading one name."""
        if not path.startswith(_MODELS):
            return None
        name, _, action = path[len(_MODELS) :].rpartition("/")
        if not name or action not in ("load", "unload"):
            return None
        handler: Handler = functools.partial(self._load if action == "load" else self._unload, name)
        return Route(path, f"v2.repository_{action}", {"POST": handler})

    def index(self) -> list[dict[str, str]]:
        """Every model that this server was given, and whether it is loaded."""
        loaded = {(served.name, served.version): served.why_unready for served in self._repository}
        return [
            {"name": name, "version": version, "state": "UNAVAILABLE", "reason": "not loaded"}
            if (name, version) not in loaded
            else _state(name, version, loaded[name, version])
            for name, version in dict.fromkeys((*self._control.names, *loaded))
        ]

    async def load(self, name: str) -> None:
        """Load a name, if that is allowed here; Refusal."""
        self._check()
        await self._control.load(name)

    async def unload(self, name: str) -> None:
        """Unload a name, if that is allowed here; Refusal."""
        self._check()
        await self._control.unload(name)

    def _check(self) -> None:
        if not self._allowed:
            raise Refusal(403, "loading and unloading is off; set BERTH_MODEL_CONTROL=on to allow it")

    def _index(self, request: Request) -> Response:
        found = self.index()
        if _parsed(request.body, _IndexRequest).ready:
            found = [item for item in found if item["state"] == "READY"]
        return json_response(found)

    async def _load(self, name: str, request: Request) -> Response:
        self._check()
        _refuse_overrides(request.body)
        await self.load(name)
        return Response(b"{}")

    async def _unload(self, name: str, request: Request) -> Response:
        self._check()
        _parsed(request.body, _LoadRequest)
        await self.unload(name)
        return Response(b"{}")


def _refuse_overrides(body: bytes) -> None:
    """Refuse a configuration or files that the caller sends along: what a model is, the server's own settings say."""
    parameters = _parsed(body, _LoadRequest).parameters or {}
    given = next((key for key in parameters if key == "config" or key.startswith("file:")), None)
    if given is not None:
        raise Refusal(501, f"parameter {given!r}: models are loaded as the server's settings say, not as callers do")


def _parsed(body: bytes, kind: type[_Message]) -> _Message:
    """A request's body, which may be empty."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, f"the body does not fit the model repository extension: {error}") from error


def _state(name: str, version: str, why: str) -> dict[str, str]:
    return {"name": name, "version": version, "state": "UNAVAILABLE" if why else "READY", "reason": why}


def config_of(served: ServedModel) -> dict[str, Any]:
    """The model's configuration in the shape that Triton's clients know."""
    model = served.model
    return {
        "name": served.name,
        "platform": model.platform,
        "backend": served.settings.format or "python",
        "max_batch_size": served.max_rows if model.joins else 0,
        "input": [_tensor(spec) for spec in model.inputs],
        "output": [_tensor(spec) for spec in model.outputs],
        "model_transaction_policy": {"decoupled": model.streams},
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    datatype = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    described: dict[str, Any] = {"name": spec.name, "data_type": datatype, "dims": list(spec.shape)}
    return described | {"optional": True} if spec.optional else described


def statistics_of(served: ServedModel) -> dict[str, Any]:
    """What was counted for the model, in the shape that Triton's clients know; times in nanoseconds."""
    metrics = served.metrics
    failures = sum(metrics.failures.values())
    return {
        "name": served.name,
        "version": served.version,
        "last_inference": int(metrics.last * 1000),
        "inference_count": int(metrics.batch.sum),
        "execution_count": metrics.runs,
        "inference_stats": {
            "success": _duration(metrics.successes, metrics.request),
            "fail": {"count": failures, "ns": 0},
            "queue": _duration(metrics.successes, metrics.queue),
            "compute_input": _duration(metrics.successes, metrics.decode),
            "compute_infer": {"count": metrics.successes, "ns": int(metrics.computed * 1e9)},
            "compute_output": _duration(metrics.successes, metrics.encode),
        },
        "batch_stats": [],
    }


def _duration(count: int, histogram: Histogram) -> dict[str, int]:
    return {"count": count, "ns": int(histogram.sum * 1e9)}
