"""The peers that berth is compared with: one folder each, found by looking.

A folder holds a declaration (`__init__.py`, imported by the harness, which has none of the peer's packages) with a
tuple `PEERS`, and mostly a `serve.py` that the peer's own Python runs. Adding a peer is adding a folder.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.asking import Ask
from benchmarks.serving.models import Model

ROOT = Path(__file__).parents[3]  # what `benchmarks` is imported from, by the servers too


@dataclass(frozen=True, eq=False)
class Site:
    """Where and what one server is to serve. `folder` is empty and its own, for configuration files."""

    python: Path
    folder: Path
    port: int
    grpc_port: int
    model: Model
    protocol: str


@dataclass(frozen=True, eq=False)
class Peer:
    """One server in one configuration.

    `asks` lists the protocols it speaks for a model, in the order of `asking.PROTOCOLS`; an empty list leaves the model
    out. `requirements` are installed into an environment of its own (none: the harness's environment serves). A peer
    that needs one process a route (`per_protocol`) is started anew for each protocol, so that its memory is not counted
    twice. `one_port`: gRPC is spoken where HTTP is. A `constant` is there for scale. `health` is asked while the 20 ms
    predictor computes.
    """

    name: str
    title: str
    note: str
    asks: Callable[[Model], Sequence[Ask]]
    command: Callable[[Site], Sequence[str]]
    requirements: tuple[str, ...] = ()
    environment: Callable[[Site], Mapping[str, str]] = lambda _site: {}
    programs: tuple[str, ...] = ()
    health: str = "/v2/health/live"
    per_protocol: bool = False
    one_port: bool = False
    constant: bool = False


def python_path(declaration: str) -> dict[str, str]:
    """The environment in which `serve` next to a declaration's `__file__` can be imported by that name."""
    return {"PYTHONPATH": os.pathsep.join((str(ROOT), str(Path(declaration).parent)))}


def serve_file(declaration: str) -> str:
    """The `serve.py` next to a declaration's `__file__`."""
    return str(Path(declaration).with_name("serve.py"))


def discover() -> dict[str, Peer]:
    """Every declared peer by name: berth first, then by name, constants for scale last."""
    modules = [importlib.import_module(f"{__name__}.{item.name}") for item in pkgutil.iter_modules(__path__)]
    peers: list[Peer] = [peer for module in modules for peer in module.PEERS]
    peers.sort(key=lambda peer: (peer.name != "berth", peer.constant, peer.name))
    return {peer.name: peer for peer in peers}
