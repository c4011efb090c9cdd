"""Socket activation: listeners that an engine made, instead of ports that we bind.

The engine listens before the container exists and hands the descriptors over a unix socket in a mounted folder, so the
container needs no network and connections queue in the kernel while the model loads. One message in: a JSON line that
names the listeners, with their descriptors as SCM_RIGHTS, in order. One word out when requests are welcome: `ready`.
The server calls this before it loads the model.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Literal

import msgspec

from berth.errors import ConfigError

WAIT_S = 5.0
MAX_LISTENERS = 16
_MAX_MESSAGE = 65_536


class _Listener(msgspec.Struct):
    kind: Literal["unix", "tcp"]


class _Handover(msgspec.Struct):
    listeners: list[_Listener]


class Activation(msgspec.Struct, frozen=True):
    """The listeners that were handed over, and the connection on which to say `ready`."""

    listeners: tuple[socket.socket, ...]
    peer: socket.socket

    def ready(self) -> None:
        """Tell the engine that requests are welcome, and hang up."""
        try:
            self.peer.sendall(b"ready\n")
        except OSError:
            pass  # the engine went away; the listeners are ours and work without it
        finally:
            self.peer.close()


def activate(path: str, wait: float = WAIT_S) -> Activation | None:
    """Take the listeners offered at `path`; None when nobody offers any within `wait` seconds.

    ConfigError when something answers there and does not keep to the contract.
    """
    if not path or not os.path.exists(path):  # noqa: PTH110
        return None
    deadline = time.monotonic() + wait
    peer = _connect(path, deadline)
    if peer is None:
        return None
    try:
        message, descriptors = _receive(peer, deadline)
    except TimeoutError:
        peer.close()
        return None
    return Activation(_listeners(path, message, descriptors), peer)


def _connect(path: str, deadline: float) -> socket.socket | None:
    while True:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(max(deadline - time.monotonic(), 0.01))
        try:
            peer.connect(path)
        except OSError:
            peer.close()
        else:
            return peer
        if time.monotonic() >= deadline or not os.path.exists(path):  # noqa: PTH110
            return None
        time.sleep(0.05)


def _receive(peer: socket.socket, deadline: float) -> tuple[bytes, list[int]]:
    message, descriptors = b"", list[int]()
    while not message.endswith(b"\n"):
        peer.settimeout(max(deadline - time.monotonic(), 0.01))
        data, new, _, _ = socket.recv_fds(peer, _MAX_MESSAGE, MAX_LISTENERS)
        descriptors += new
        message += data
        if not data or len(message) > _MAX_MESSAGE:
            break
    peer.settimeout(WAIT_S)
    return message, descriptors


def _listeners(path: str, message: bytes, descriptors: list[int]) -> tuple[socket.socket, ...]:
    try:
        handover = msgspec.json.decode(message, type=_Handover)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: expected one JSON line that names the listeners: {error}") from error
    if len(handover.listeners) != len(descriptors) or not descriptors:
        raise ConfigError(
            f"{path}: expected as many descriptors as listeners, got {len(descriptors)} for {len(handover.listeners)}"
        )
    sockets = []
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
        listener = socket.socket(fileno=descriptor)
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ConfigError(f"{path}: a descriptor that was handed over does not listen")
        listener.setblocking(False)
        sockets.append(listener)
    return tuple(sockets)
