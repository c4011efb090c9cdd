"""V2's model repository extension, and what V2 says of one model beyond its tensors: config and statistics.

Loading and unloading over the wire is off unless BERTH_MODEL_CONTROL says on: whoever may ask the model need not be
allowed to take it away. application.py mounts the routes.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

from berth.metrics import Histogram
from berth.protocols.base import Handler, Refusal, Request, Response, Route, json_response
from berth.repository import Repository
from berth.served import ServedModel
from berth.tensors import TensorSpec

_MODELS = "/v2/repository/models/"


class Control(Protocol):
    """Who loads and unloads."""

    @property
    def names(self) -> list[tuple[str, str]]:
        """Name and version of every model that could be loaded."""

    async def load(self, name: str) -> None:
        """Load a name; Refusal says why not."""

    async def unload(self, name: str) -> None:
        """Unload a name; Refusal says why not."""


class V2Repository:
    """The repository's routes."""

    def __init__(self, repository: Repository, control: Control, *, allowed: bool) -> None:
        self._repository = repository
        self._control = control
        self._allowed = allowed

    def routes(self) -> list[Route]:
        """The index."""
        return [Route("/v2/repository/index", "v2.repository_index", {"POST": self._index, "GET": self._index})]

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

    def _index(self, _: Request) -> Response:
        return json_response(self.index())

    async def _load(self, name: str, _: Request) -> Response:
        await self.load(name)
        return Response(b"{}")

    async def _unload(self, name: str, _: Request) -> Response:
        await self.unload(name)
        return Response(b"{}")


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
