"""The host's side of socket activation: make a container's listening sockets and hand them to it.

A container has no network at all. It serves on sockets that were bound and listened on here, before it started, and
that it receives as descriptors (SCM_RIGHTS) over a unix socket in a folder mounted at /run/berth. So connections queue
in the kernel while it starts, and a published TCP port is just a second listener. Called by `launch`; the other side
is berth, and the protocol is one JSON line with the descriptors there, one line `ready` back.
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from pathlib import Path
from types import TracebackType

from dockyard.engines.base import ACTIVATE_SOCKET, HTTP_SOCKET
from dockyard.errors import EngineError, PortTakenError, StartError

BACKLOG = 4096
PATH_LIMIT = 107
_READY = b"ready"
_ANSWER_LIMIT = 4096


class Activation:
    """The sockets of one container that is about to start, in a folder of its own. Close it in any case.

    `folder` is what to mount; `socket` the unix socket to speak HTTP to; `ports` the TCP ports bound on 127.0.0.1.
    """

    def __init__(self, folder: Path, publish: int | None = None) -> None:
        """Bind everything; PortTakenError when the port is in use. `publish=0` lets the kernel choose a port."""
        if not folder.is_absolute():
            raise EngineError(f"{folder} is not an absolute path", remedy="Give the runtime folder's whole path.")
        if len(str(folder / ACTIVATE_SOCKET).encode()) > PATH_LIMIT:
            raise EngineError(
                f"{folder} is too long a path for a unix socket ({PATH_LIMIT} bytes with its name)",
                remedy="Choose a shorter runtime folder: DOCKYARD_HOME sets it.",
            )
        self.folder = folder
        self.socket = folder / HTTP_SOCKET
        self.ports: tuple[int, ...] = ()
        self._listeners: list[socket.socket] = []
        self._control: socket.socket | None = None
        self._peer: socket.socket | None = None
        try:
            self._bind(publish)
        except BaseException:
            self.discard()
            raise

    def _bind(self, publish: int | None) -> None:
        if publish is not None:
            port = _listen_on_port(publish)
            self._listeners.append(port)
            self.ports = (int(port.getsockname()[1]),)
        try:
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o755, exist_ok=True)
            self.folder.chmod(0o755)
            self._listeners.insert(0, _listen_on_path(self.socket))
            self._control = _listen_on_path(self.folder / ACTIVATE_SOCKET)
        except OSError as error:
            raise EngineError(
                f"the sockets in {self.folder} cannot be made: {error.strerror or error}",
                remedy="Check that its disk has room and that this user may write there.",
            ) from error

    async def hand_over(self) -> None:
        """Wait until the container asks, then give it the listeners. The caller sets the deadline."""
        assert self._control is not None
        loop = asyncio.get_running_loop()
        peer, _ = await loop.sock_accept(self._control)
        self._peer = peer
        kinds = [{"kind": "unix" if each.family == socket.AF_UNIX else "tcp"} for each in self._listeners]
        message = json.dumps({"listeners": kinds}).encode() + b"\n"
        try:
            socket.send_fds(peer, [message], [each.fileno() for each in self._listeners])
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
        """Let go of our copies of the descriptors and remove the activation socket. What was handed over serves on."""
        for each in (*self._listeners, self._control, self._peer):
            if each is not None:
                each.close()
        self._listeners.clear()
        (self.folder / ACTIVATE_SOCKET).unlink(missing_ok=True)

    def discard(self) -> None:
        """Close, and remove the sockets and the folder: the start has failed."""
        self.close()
        self.socket.unlink(missing_ok=True)
        try:
            self.folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise

    def __enter__(self) -> Activation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.discard()


def _gave_up(how: str) -> StartError:
    return StartError(
        f"the container {how}", remedy="Read its log; an image that was not built by Dockyard cannot be launched."
    )


def _listen_on_path(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
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
