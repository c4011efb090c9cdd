"""Which containers of an engine are replicas of this home's yard: those whose sockets lie in its home.

On one Docker the yards of several homes may have replicas, and two of them the same id, where one was restored from a
backup of the other. So the id alone says nothing: a container belongs to the home that has its sockets. A foreign
server has none; it belongs to the yard whose records know it. Pure but for resolving links in paths. `adopt`, `drift`
and `cli.down` ask here before they touch anything, `lost` and `cli.rebuilding` before there are any records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dockyard.engines.base import Container
from dockyard.yard.store import Store


@dataclass(frozen=True)
class Own:
    """What tells a yard's own replicas: its id, the folder of its home that has their sockets, and which it has noted,
    each with the folder of its sockets."""

    yard: str
    sockets: Path
    known: Mapping[str, Path]

    @classmethod
    def of(cls, store: Store, sockets: Path) -> Own:
        """Of the yard whose state this is, in the home that has this folder of sockets."""
        return cls(store.yard, sockets, {each.id: each.folder for each in store.replicas()})

    def has(self, container: Container) -> bool:
        """Whether a container with this yard's id is a replica of this yard, and not of one restored elsewhere."""
        if container.socket is None:
            return container.name in self.known
        return in_home(container, self.sockets) or container.socket.parent == self.known.get(container.name)


def in_home(container: Container, sockets: Path) -> bool:
    """Whether a container's sockets are in this folder of a home."""
    socket = container.socket
    return socket is not None and socket.resolve().is_relative_to(sockets.resolve())
