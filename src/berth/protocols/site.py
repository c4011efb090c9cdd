"""`Site`: what a protocol may know of the server that it is mounted in, and the list of all protocols.

Each protocol is a module of this package with a function `face(site)`. server.py mounts those that are named here, in
this order; where two have the same path, the later one answers.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

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


@dataclass(frozen=True)
class Site:
    """One server, as its protocols see it."""

    config: Config
    repository: Repository
    health: Health
    metrics: Metrics
    control: Control


def mount(site: Site, names: Iterable[str] = FACES) -> list[Face]:
    """The faces of a server."""
    modules: list[Any] = [importlib.import_module(f"berth.protocols.{name}") for name in names]
    return [module.face(site) for module in modules]
