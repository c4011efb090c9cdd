"""OpenAI's API: `/v1/embeddings`, `/v1/chat/completions` and `/v1/completions`; v1_models.py has `/v1/models`.

A request names its model, as `name` or `name/versions/version`. What the model can do follows from its signature:
openai_embeddings.py and openai_generation.py say how. Unknown routes below `/v1/` are refused in OpenAI's shape too,
except those below `/v1/models/`, which are TensorFlow Serving's. site.py mounts it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

from berth.errors import InputError
from berth.protocols.base import Handler, Refusal, Request, Response, Route, refusing_route
from berth.protocols.openai_embeddings import Embeddings
from berth.protocols.openai_errors import Problem, error_response
from berth.protocols.openai_generation import ChatGeneration, TextGeneration
from berth.protocols.plain_rows import read_object
from berth.protocols.site import Site
from berth.repository import Repository
from berth.served import ServedModel
from berth.work import Work

_PREFIX, _MODELS = "/v1/", "/v1/models/"


class _Maker(Protocol):
    """What makes work of a request for one model."""

    def work(self, body: dict[str, Any]) -> Work:
        """Problem or InputError says why not."""


def face(site: Site) -> OpenAi:
    """The face of a server."""
    return OpenAi(site.repository)


class OpenAi:
    """The routes; the model is in the body."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def routes(self) -> list[Route]:
        """One for each kind of question."""
        return [
            self._post("/v1/embeddings", "openai.embeddings", Embeddings),
            self._post("/v1/chat/completions", "openai.chat", ChatGeneration),
            self._post("/v1/completions", "openai.completions", TextGeneration),
        ]

    def resolve(self, path: str) -> Route | None:
        """Whatever else is asked below `/v1/`: refused in OpenAI's shape."""
        if not path.startswith(_PREFIX) or path.startswith(_MODELS):
            return None
        text = f"no route {path}; this server has /v1/models, /v1/embeddings, /v1/chat/completions and /v1/completions"
        return refusing_route(path, "openai.unknown", 404, text, error_response)

    def _post(self, path: str, name: str, make: Callable[[ServedModel], _Maker]) -> Route:
        handler: Handler = functools.partial(self._handle, make)
        return Route(path, name, {"POST": handler}, error_response)

    def _handle(self, make: Callable[[ServedModel], _Maker], request: Request) -> Work | Response:
        try:
            body = read_object(request.body)
            return self._find(body.get("model")).made(make).work(body)
        except Problem as problem:
            return problem.response
        except InputError as error:
            return Problem(str(error)).response

    def _find(self, name: Any) -> ServedModel:
        if not isinstance(name, str) or not name:
            raise Problem("model: expected the name of a model", "model")
        try:
            served, rest = self._repository.split(name)
        except Refusal as refusal:
            raise Problem(refusal.text, "model", "model_not_found", refusal.status) from refusal
        if rest:
            raise Problem(f"no model {name!r}", "model", "model_not_found", 404)
        return served
