"""The labels that Dockyard puts on its containers, and what they say: all that is known of one after a crash.

`base` writes them, engines read them back in `list`, and remove what they name when the container goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dockyard.engines import secrets

MANAGED = "dev.dockyard.managed"
IMAGE = "dev.dockyard.image"
SOCKETS = "dev.dockyard.sockets"
SOCKETS_OWNER = "dev.dockyard.sockets.owner"
PORTS = "dev.dockyard.ports"
TCP_PORT = "dev.dockyard.tcp-port"
SECRETS = "dev.dockyard.secrets"
OWN = frozenset({MANAGED, IMAGE, SOCKETS, SOCKETS_OWNER, PORTS, TCP_PORT, SECRETS})

HTTP_SOCKET = "http.sock"
ACTIVATE_SOCKET = "activate.sock"


def socket_of(labels: Mapping[str, str]) -> Path | None:
    """The HTTP socket of a container with these labels."""
    folder = labels.get(SOCKETS)
    return Path(folder) / HTTP_SOCKET if folder else None


def ports_of(labels: Mapping[str, str]) -> tuple[int, ...]:
    """The published TCP ports of a container with these labels."""
    return tuple(int(text) for text in labels.get(PORTS, "").split(",") if text.isdigit())


def tcp_port_of(labels: Mapping[str, str]) -> int:
    """The port inside on which a foreign server listens; 0 if there is none."""
    text = labels.get(TCP_PORT, "")
    return int(text) if text.isdigit() else 0


def remove_leftovers(labels: Mapping[str, str]) -> None:
    """Remove what a container leaves on the host: its secrets, and the socket folder if it is the container's own."""
    remove_sockets(labels)
    secrets.remove(labels.get(SECRETS, ""))


def remove_sockets(labels: Mapping[str, str]) -> None:
    """Remove a container's socket folder: the two sockets and the folder itself, nothing else that may be in it.

    Nothing happens to the folder of a listener that outlives the container.
    """
    folder = labels.get(SOCKETS)
    if not folder or not Path(folder).is_absolute() or labels.get(SOCKETS_OWNER) == "listener":
        return
    for name in (HTTP_SOCKET, ACTIVATE_SOCKET):
        path = Path(folder) / name
        if path.is_socket():
            path.unlink(missing_ok=True)
    with suppress(OSError):
        Path(folder).rmdir()
