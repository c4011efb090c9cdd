"""berth as a child process of `dockyard dev`: started, listened to, and ended by its pid.

loop.py starts one for every state of the project.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dockyard.dev.speech import Speech
from dockyard.errors import EngineError, PortTakenError

GRACE_S = 3.0  # for requests in flight when a file has changed
_PIECE = 1 << 16
_LINE_LIMIT = 1 << 20


@dataclass(frozen=True)
class Plan:
    """What to start: the Python, all variables, and the project's folder."""

    python: Path
    variables: Mapping[str, str]
    folder: Path


class Server:
    """One running berth."""

    def __init__(self, process: asyncio.subprocess.Process, speech: Speech) -> None:
        self._process = process
        self._speech = speech
        self._listening = asyncio.ensure_future(self._listen())

    @classmethod
    async def start(cls, plan: Plan, speech: Speech) -> Server:
        """Start berth; EngineError when its Python cannot be run."""
        try:
            process = await asyncio.create_subprocess_exec(
                str(plan.python), "-m", "berth", "serve",
                cwd=plan.folder, env=dict(plan.variables),
                stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
        except OSError as error:
            raise EngineError(
                f"{plan.python} cannot be run: {error.strerror}", remedy="Name another --python."
            ) from error
        return cls(process, speech)

    async def wait(self) -> str:
        """How it ended, once it has and all that it said was heard."""
        code = await self._process.wait()
        await asyncio.wait({self._listening}, timeout=1.0)  # what it started may hold the pipe open
        self._speech.end()
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after a short grace."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            try:
                async with asyncio.timeout(GRACE_S):
                    await self._process.wait()
                    break
            except TimeoutError:
                continue
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        rest = b""
        while data := await self._process.stderr.read(_PIECE):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._speech.hear(line.decode("utf-8", "replace").rstrip("\r"))
            if len(rest) > _LINE_LIMIT:
                self._speech.hear(rest.decode("utf-8", "replace"))
                rest = b""
        if rest:
            self._speech.hear(rest.decode("utf-8", "replace"))


def check_port(host: str, port: int) -> None:
    """PortTakenError when something listens there; EngineError when it cannot be listened on."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"port {port} on {host} is in use by another program",
                remedy=f"Choose another one with -p, or stop what uses it (`ss -ltnp 'sport = :{port}'` shows it).",
            ) from error
        raise EngineError(
            f"port {port} on {host} cannot be listened on: {error.strerror}", remedy="Choose another one with -p."
        ) from error
