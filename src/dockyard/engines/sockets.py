"""The host's side of socket activation: a replica's listening sockets, and handing them to a container.

A container has no network at all. It serves on sockets that were bound and listened on here, before it started, and
that it receives as descriptors (SCM_RIGHTS) over a unix socket in a folder mounted at /run/berth. A `Listener` is those
sockets; an `Activation` is one hand-over of it to one start. Whoever keeps the listener open loses no connection when
the container ends: they queue in the kernel until the next one takes over. Called by `launch`; the other side is berth,
and the protocol is one JSON line with the descriptors there, one line `ready` back.
"""

from __future__ import annotations

import asyncio
import errno
import json
import select
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from dockyard.engines.labels import ACTIVATE_SOCKET, HTTP_SOCKET
from dockyard.errors import EngineError, PortTakenError, StartError

BACKLOG = 4096
PATH_LIMIT = 107
_READY = b"ready"
_ANSWER_LIMIT = 4096


class Listener:
    """The listening sockets of one replica, in a folder of its own. `socket` is the unix socket to speak HTTP to.

    `bind` makes one; `recovery.recover` gets one back from a container. `ports` are TCP ports bound on 127.0.0.1.
    As long as this or a container has it open, connections are taken in; `close` lets go of ours, `discard` ends it.
    """

    def __init__(self, folder: Path, sockets: Sequence[socket.socket]) -> None:
        self.folder = folder
        self.socket = folder / HTTP_SOCKET
        self.sockets = tuple(sockets)

    @classmethod
    def bind(cls, folder: Path, publish: int | None = None) -> Listener:
        """Bind and listen; PortTakenError when the port is in use. `publish=0` lets the kernel choose a port.

        A socket that a process now dead left in the folder is replaced.
        """
        check_folder(folder)
        ports = [_listen_on_port(publish)] if publish is not None else []
        try:
            _make_folder(folder)
            return cls(folder, [listen_on_path(folder / HTTP_SOCKET), *ports])
        except BaseException:
            for each in ports:
                each.close()
            _remove_folder(folder)
            raise

    @property
    def ports(self) -> tuple[int, ...]:
        """The published TCP ports."""
        return tuple(int(each.getsockname()[1]) for each in self.sockets if each.family == socket.AF_INET)

    @property
    def closed(self) -> bool:
        """Whether our copies are gone."""
        return any(each.fileno() < 0 for each in self.sockets)

    @property
    def waiting(self) -> bool:
        """Whether a connection waits to be accepted. Register `fileno` with a loop to be told so."""
        poll = select.poll()
        for each in self.sockets:
            poll.register(each, select.POLLIN)
        return bool(poll.poll(0))

    def fileno(self) -> int:
        """The descriptor of the unix socket: readable when somebody waits, which wakes a replica that sleeps."""
        return self.sockets[0].fileno()

    def close(self) -> None:
        """Let go of our copies. A container that has them serves on; without one, connections are refused."""
        for each in self.sockets:
            each.close()

    def discard(self) -> None:
        """Close, and remove the socket and its folder: this replica is gone, or its start has failed."""
        self.close()
        _remove_folder(self.folder)

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.discard()


class Activation:
    """One hand-over of a listener to one container that is about to start. Close it in any case."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._path = listener.folder / ACTIVATE_SOCKET
        self._peer: socket.socket | None = None
        if listener.closed:
            raise EngineError(
                f"the listener of {listener.socket} is closed and cannot be handed over",
                remedy="Bind it anew, or recover it from the container that has it.",
            )
        self._control = listen_on_path(self._path)

    async def hand_over(self) -> None:
        """Wait until the container asks, then give it the listeners. The caller sets the deadline."""
        loop = asyncio.get_running_loop()
        peer, _ = await loop.sock_accept(self._control)
        self._peer = peer
        sockets = self._listener.sockets
        kinds = [{"kind": "unix" if each.family == socket.AF_UNIX else "tcp"} for each in sockets]
        message = json.dumps({"listeners": kinds}).encode() + b"\n"
        try:
            socket.send_fds(peer, [message], [each.fileno() for each in sockets])
        except OSError as error:
            raise _gave_up("closed the activation socket before it took the listeners") from error

    async def wait_ready(self) -> None:
        """Wait until the container says `ready`; StartError when it hangs up. The caller sets the deadline."""
        assert self._peer is not None
        loop = asyncio.get_running_loop()
        answer = b""
        while b"\n" not in answer and len(answer) < _ANSWER_LIMIT:
            try:
                data = await loop.sock_recv(self._peer, _ANSWER_LIMIT)
            except ConnectionError as error:
                raise _gave_up("broke the activation connection") from error
            if not data:
                raise _gave_up("hung up without saying that it is ready")
            answer += data
        if answer.partition(b"\n")[0] != _READY:
            raise _gave_up(f"answered {answer[:60]!r} where 'ready' was expected")

    def close(self) -> None:
        """Remove the activation socket. What was handed over serves on."""
        self._control.close()
        if self._peer is not None:
            self._peer.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Activation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_folder(folder: Path) -> None:
    """EngineError when this cannot be the folder of sockets."""
    if not folder.is_absolute():
        raise EngineError(f"{folder} is not an absolute path", remedy="Give the runtime folder's whole path.")
    if len(str(folder / ACTIVATE_SOCKET).encode()) > PATH_LIMIT:
        raise EngineError(
            f"{folder} is too long a path for a unix socket ({PATH_LIMIT} bytes with its name)",
            remedy="Choose a shorter runtime folder: DOCKYARD_HOME sets it.",
        )


def _make_folder(folder: Path) -> None:
    """The container comes in through the mount; the parent keeps the host's other users out."""
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o755, exist_ok=True)
        folder.chmod(0o755)
    except OSError as error:
        raise _cannot_make(folder, error) from error


def _remove_folder(folder: Path) -> None:
    for name in (HTTP_SOCKET, ACTIVATE_SOCKET):
        (folder / name).unlink(missing_ok=True)
    try:
        folder.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise


def _cannot_make(path: Path, error: OSError) -> EngineError:
    return EngineError(
        f"the sockets in {path} cannot be made: {error.strerror or error}",
        remedy="Check that its disk has room and that this user may write there.",
    )


def _gave_up(how: str) -> StartError:
    return StartError(
        f"the container {how}", remedy="Read its log; an image that was not built by Dockyard cannot be launched."
    )


def listen_on_path(path: Path) -> socket.socket:
    """A unix socket that everybody who can reach its folder may connect to."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listener.setblocking(False)
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(BACKLOG)
    except BaseException as error:
        listener.close()
        if isinstance(error, OSError):
            raise _cannot_make(path.parent, error) from error
        raise
    return listener


def _listen_on_port(port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise EngineError(f"{port} is not a TCP port", remedy="Choose one between 1 and 65535.")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(("127.0.0.1", port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _port_error(port, error) from error
    return listener


def _port_error(port: int, error: OSError) -> EngineError:
    if error.errno == errno.EADDRINUSE:
        return PortTakenError(
            f"port {port} on 127.0.0.1 is in use by another program",
            remedy=f"Choose another port, or stop what uses it (`ss -ltnp 'sport = :{port}'` shows it).",
        )
    if error.errno == errno.EACCES:
        return EngineError(
            f"port {port} is reserved for root", remedy="Choose a port from 1024 on, or run this as root."
        )
    return EngineError(f"port {port} cannot be listened on: {error.strerror}", remedy="Choose another port.")
