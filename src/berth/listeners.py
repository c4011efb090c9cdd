"""The sockets that a server accepts on: handed over by an engine, or bound to an address of our own.

server.py opens them before anything is loaded, so that an address that is taken stops the start at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import stat
import struct
import sys
from pathlib import Path

import msgspec

from berth.activation import Activation, activate
from berth.config import ListenSettings
from berth.errors import ConfigError

_SO_ATTACH_FILTER = 26
# A classic BPF program over a TCP segment: drop it if it asks for a new connection (SYN without ACK), else let it pass.
_NO_NEW_CONNECTIONS = (
    (0x30, 0, 0, 13),  # load the byte of flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # pass
)


class Listeners(msgspec.Struct, frozen=True):
    """The sockets to serve on; `activation` is who handed them over, if somebody did."""

    sockets: tuple[socket.socket, ...]
    activation: Activation | None
    addresses: tuple[str, ...]

    def turn_away(self) -> None:
        """Complete no further connection, so that those that wait to be accepted can be, before the listeners close.

        A listener that closes resets whoever waits in it, though the other side has sent a request already. Whoever
        comes now is not connected, tries again a second later, and is refused. Listeners that were handed over stay
        open at the engine, and are left alone.
        """
        if self.activation is not None:
            return
        for listener in self.sockets:
            if listener.family != socket.AF_UNIX:
                _drop_new_connections(listener)

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


def _drop_new_connections(listener: socket.socket) -> None:
    steps = b"".join(
        code.to_bytes(2, sys.byteorder) + bytes((yes, no)) + value.to_bytes(4, sys.byteorder)
        for code, yes, no, value in _NO_NEW_CONNECTIONS
    )
    buffer = ctypes.create_string_buffer(steps)
    program = struct.pack("HL", len(_NO_NEW_CONNECTIONS), ctypes.addressof(buffer))
    with contextlib.suppress(OSError):  # a sandbox without filters: a few may be reset
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


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
