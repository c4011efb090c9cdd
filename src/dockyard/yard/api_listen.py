"""Where the API listens: a unix socket that only its owner can use, and TCP with TLS.

Plain TCP is had only on loopback, and by an ugly name. Called by `api`; `dockyard up` makes the `Listener`s.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from dockyard.errors import PortTakenError, YardConflictError, YardError
from dockyard.yard.api_streams import Limits

_BACKLOG = 128
_PATH_LIMIT = 107


@dataclass(frozen=True)
class UnixListener:
    """A unix socket. `mode` is 0600 unless a group may connect too; the kernel tells who does."""

    path: Path
    mode: int = 0o600


@dataclass(frozen=True)
class TcpListener:
    """A TCP port (0: the kernel chooses), with TLS unless `unsafe_plain` is said and the host is loopback."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None
    unsafe_plain: bool = False


Listener = UnixListener | TcpListener


def tcp_listener(
    listen: str, certificate: Path | None = None, key: Path | None = None, *, unsafe_plain: bool = False
) -> TcpListener:
    """`HOST:PORT` as an option says it, with what goes along; YardError, with the mend, when they do not fit."""
    host, colon, port = listen.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise YardError(f"{listen!r} is not HOST:PORT", remedy="Write it like 0.0.0.0:7443 or [::1]:7443.")
    if unsafe_plain and certificate is None:
        if not _is_loopback(host):
            raise YardError(
                f"{listen} would carry tokens in the clear over a network",
                remedy="Give --tls-cert and --tls-key; --unsafe-plain-http is for loopback only.",
            )
        return TcpListener(host, int(port), unsafe_plain=True)
    if certificate is None or key is None:
        raise YardError(
            f"listening on {listen} needs a certificate and its key", remedy="Give both --tls-cert and --tls-key."
        )
    return TcpListener(host, int(port), certificate, key)


@asynccontextmanager
async def bound(listeners: Sequence[Listener], server: web.Server, limits: Limits) -> AsyncIterator[tuple[str, ...]]:
    """Listen at all of them, and stop at the end; gives `unix:///...` and `https://...` addresses."""
    factory = _bounded(server, limits.connections)
    async with AsyncExitStack() as stack:
        addresses = []
        for each in listeners:
            one = _unix(each, factory) if isinstance(each, UnixListener) else _tcp(each, factory)
            addresses.append(await stack.enter_async_context(one))
        yield tuple(addresses)


@asynccontextmanager
async def _unix(listener: UnixListener, factory: Callable[[], asyncio.BaseProtocol]) -> AsyncIterator[str]:
    connection = _bind_unix(listener)
    mine = listener.path.stat().st_ino
    started = await asyncio.get_running_loop().create_unix_server(factory, sock=connection, backlog=_BACKLOG)
    try:
        yield f"unix://{listener.path}"
    finally:
        started.close()
        if listener.path.exists() and listener.path.stat().st_ino == mine:
            listener.path.unlink()


def _bind_unix(listener: UnixListener) -> socket.socket:
    path = listener.path
    if len(os.fsencode(path)) > _PATH_LIMIT:
        raise YardError(
            f"{path} is too long a path for a unix socket ({_PATH_LIMIT} bytes)",
            remedy="Choose a shorter home: DOCKYARD_HOME sets it.",
        )
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _clear(path)
        mask = os.umask(0o777 & ~listener.mode)
        try:
            connection.bind(str(path))
        finally:
            os.umask(mask)
    except OSError as error:
        connection.close()
        raise YardError(
            f"{path} cannot be made: {error.strerror or error}", remedy="Check that this user may write there."
        ) from error
    except YardError:
        connection.close()
        raise
    return connection


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens on; YardConflictError when a yard answers there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise YardError(f"{path} is there, and is no socket", remedy="Move it away.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise YardConflictError(f"a yard answers at {path} already", remedy="Stop it first, or use that one.")


@asynccontextmanager
async def _tcp(listener: TcpListener, factory: Callable[[], asyncio.BaseProtocol]) -> AsyncIterator[str]:
    context = None if listener.unsafe_plain and _is_loopback(listener.host) else _context(listener)
    loop = asyncio.get_running_loop()
    try:
        started = await loop.create_server(factory, listener.host, listener.port, ssl=context, backlog=_BACKLOG)
    except OSError as error:
        where = f"{listener.host}:{listener.port}"
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(f"{where} is in use", remedy="Choose another port: --listen HOST:PORT.") from error
        raise YardError(f"the yard cannot listen on {where}: {error.strerror or error}") from error
    try:
        host = f"[{listener.host}]" if ":" in listener.host else listener.host
        yield f"{'https' if context else 'http'}://{host}:{started.sockets[0].getsockname()[1]}"
    finally:
        started.close()


def _context(listener: TcpListener) -> ssl.SSLContext:
    if listener.certificate is None or listener.key is None:
        raise YardError("TCP without TLS is refused", remedy="Give --tls-cert and --tls-key.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(listener.certificate, listener.key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise YardError(
            f"{listener.certificate} and {listener.key} cannot be used for TLS: {error}",
            remedy="They are a PEM certificate (with its chain) and its PEM key without a password.",
        ) from error
    return context


def _no_password() -> str:
    raise ValueError("the key has a password")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bounded(server: web.Server, most: int) -> Callable[[], asyncio.BaseProtocol]:
    """The server's connections, at most so many at a time; a further one is closed at once."""

    def make() -> asyncio.BaseProtocol:
        return server() if len(server.connections) < most else _Closed()

    return make


class _Closed(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
