"""`Site`: what a protocol may know of the server that it is mounted in, and the list of all protocols.

Each protocol is a module of this package with a function `face(site)`. server.py mounts those that are named here, in
this order; where two have the same path, the later one answers. application.py asks for the routes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import msgspec

from berth.config import Config
from berth.health import Health
from berth.metrics import Metrics
from berth.protocols.base import Route
from berth.repository import Repository

FACES = (
    "torchserve",
    "native",
    "v2",
    "v2_repository",
    "v2_unoffered",
    "probes",
    "openapi",
    "tfserving",
    "v1_models",
    "openai",
    "hosted",
)
_FIRST = frozenset({"native", "v2", "v2_repository", "v2_unoffered", "probes"})


class Face(Protocol):
    """A protocol as the application sees it."""

    def routes(self) -> list[Route]:
        """The routes whose paths are always the same."""

    def resolve(self, path: str) -> Route | None:
        """The route of a path that names a model, if it is one of this protocol's; Refusal when the model is not."""


class Control(Protocol):
    """Who loads and unloads."""

    @property
    def names(self) -> list[tuple[str, str]]:
        """Name and version of every model that could be loaded."""

    async def load(self, name: str) -> None:
        """Load a name; Refusal says why not."""

    async def unload(self, name: str) -> None:
        """Unload a name; Refusal says why not."""


class Site(msgspec.Struct, frozen=True):
    """One server, as its protocols see it."""

    config: Config
    repository: Repository
    health: Health
    metrics: Metrics
    control: Control


class Faces:
    """The protocols of one server, as it finds routes by their paths; `rest` mounts those that are not there yet."""

    def __init__(self, faces: Sequence[Face], rest: Callable[[], Sequence[Face]] | None = None) -> None:
        self._rest = rest
        self._use(faces)

    def find(self, path: str, spelled: str) -> Route | None:
        """The route of a path, or of the same without its percent-encoding; Refusal when its model is not there."""
        if self._rest is not None and spelled not in self._fixed and not _is_firsts(spelled):
            self._use(self._rest())
            self._rest = None
        route = self._fixed.get(path) or self._fixed.get(spelled)
        if route is not None:
            return route
        return next((found for face in self._faces if (found := face.resolve(spelled)) is not None), None)

    def _use(self, faces: Sequence[Face]) -> None:
        self._faces = faces
        self._fixed = {route.path: route for face in faces for route in face.routes()}


def mount(site: Site) -> Faces:
    """The faces of a server.

    Half of them wait for a path that may be theirs: most servers are never asked one, and every start would pay for
    them. A platform that names routes of its own may name any, so there all are mounted at once.
    """
    hosted = site.config.hosted
    if hosted.health_route or hosted.predict_route:
        return Faces(made(site, FACES))
    return Faces(made(site, [name for name in FACES if name in _FIRST]), lambda: made(site, FACES))


def made(site: Site, names: Iterable[str]) -> list[Face]:
    """The faces with these names, in this order."""
    modules: list[Any] = [importlib.import_module(f"berth.protocols.{name}") for name in names]
    return [module.face(site) for module in modules]


def _is_firsts(path: str) -> bool:
    """Whether none but the first can have this path, fixed ones apart."""
    return path == "/predict" or path.startswith("/v2/")
