"""The sockets that a server accepts on: handed over by an engine, or bound to an address of our own.

server.py opens them before anything is loaded, so that an address that is taken stops the start at once.
"""

from __future__ import annotations

import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from berth.activation import Activation, activate
from berth.config import ListenSettings
from berth.errors import ConfigError


@dataclass(frozen=True)
class Listeners:
    """The sockets to serve on; `activation` is who handed them over, if somebody did."""

    sockets: tuple[socket.socket, ...]
    activation: Activation | None
    addresses: tuple[str, ...]

    def close(self) -> None:
        """Close them all."""
        for listener in self.sockets:
            listener.close()


def open_listeners(settings: ListenSettings) -> Listeners:
    """Take the listeners that an engine offers, or bind our own; ConfigError when an address cannot be had."""
    activation = activate(settings.activation)
    if activation is not None:
        names = tuple(f"activated:{index}" for index in range(len(activation.listeners)))
        return Listeners(activation.listeners, activation, names)
    if settings.socket:
        return Listeners((_bind_unix(settings.socket),), None, (f"unix:{settings.socket}",))
    listener = _bind_tcp(settings.host, settings.port)
    return Listeners((listener,), None, (f"http://{settings.host}:{listener.getsockname()[1]}",))


def _bind_tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"BERTH_HOST, BERTH_PORT: cannot listen on {host} port {port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


def _bind_unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if stat.S_ISSOCK(Path(path).stat().st_mode):
            Path(path).unlink()  # left behind by a server that was killed
    except FileNotFoundError:
        pass
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise ConfigError(f"BERTH_SOCKET: cannot listen on {path}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener
