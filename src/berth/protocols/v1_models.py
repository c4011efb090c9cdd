"""`GET /v1/models` and `GET /v1/models/{m}`: one path that three families of clients ask, and one answer for all.

TensorFlow Serving's clients read `model_version_status`, KServe's (V1) `name`, `ready` and `models`, OpenAI's `id`,
`object` and `data`; each ignores the others' fields. Errors are `{"error": "text"}`, which OpenAI's clients take too.
docs/decisions/0022 says why. site.py mounts it, after tfserving.py, which has the rest below `/v1/models/`.
"""

from __future__ import annotations

import functools
import time
from typing import Any

from berth.health import Health
from berth.protocols.base import Request, Response, Route, json_response
from berth.protocols.site import Site
from berth.repository import Repository
from berth.served import ServedModel

_MODELS = "/v1/models/"


def face(site: Site) -> V1Models:
    """The face of a server."""
    return V1Models(site.repository, site.health)


class V1Models:
    """Which models there are, and whether each is ready."""

    def __init__(self, repository: Repository, health: Health) -> None:
        self._repository = repository
        self._health = health
        self._since = int(time.time())

    def routes(self) -> list[Route]:
        """The list."""
        return [Route("/v1/models", "v1.models", {"GET": self._list})]

    def resolve(self, path: str) -> Route | None:
        """One model: all its versions, or the one that is named; Refusal (404)."""
        if not path.startswith(_MODELS):
            return None
        served, rest = self._repository.split(path[len(_MODELS) :])
        if rest:
            return None
        every = path == _MODELS + served.name
        versions = [one for one in self._repository if one.name == served.name and (every or one is served)]
        return Route(path, "v1.model", {"GET": functools.partial(self._describe, versions, served)})

    def _list(self, _: Request) -> Response:
        names = list(dict.fromkeys(served.name for served in self._repository))
        return json_response({"object": "list", "data": [self._card(name) for name in names], "models": names})

    def _describe(self, versions: list[ServedModel], served: ServedModel, _: Request) -> Response:
        why = self._health.why_dead() or served.why_unready or self._health.why_not
        described = {
            **self._card(served.name),
            "name": served.name,
            "ready": not why,
            "model_version_status": [_status(one, self._health.why_not) for one in versions],
        }
        return json_response({**described, "error": why}, 503) if why else json_response(described)

    def _card(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._since, "owned_by": "berth"}


def _status(served: ServedModel, why_not: str) -> dict[str, Any]:
    why = served.why_unready or why_not
    status = {"error_code": "UNAVAILABLE" if why else "OK", "error_message": why}
    return {"version": served.version, "state": "LOADING" if why else "AVAILABLE", "status": status}
