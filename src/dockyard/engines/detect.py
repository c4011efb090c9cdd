"""Which engine to use on this machine, and why: Docker (or Podman) if one answers, else runc if we are root.

The command line calls it and shows `why`. It asks sockets itself, with a short deadline, and loads only the engine that
was chosen, by its name: Docker's client alone takes half a second to import, which runc's users need not pay.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from dockyard.engines.base import Engine
from dockyard.errors import EngineError, EngineNotFoundError

ENGINES = ("docker", "runc")

PING_DEADLINE = 3.0
_ANSWER_LIMIT = 4096
_PROGRAM_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Choice:
    """An engine, open; close it. `why` is a sentence for the user."""

    engine: Engine
    why: str


@dataclass(frozen=True)
class Found:
    """An engine that can be used: where (a socket's address or a program's path), and why it was chosen."""

    name: Literal["docker", "runc"]
    where: str
    why: str


async def detect(home: Path, *, prefer: str | None = None, environment: Mapping[str, str] | None = None) -> Choice:
    """Choose an engine and open it; `home` is where runc keeps layers and containers.

    EngineNotFoundError, saying what was tried, when there is none or not the one to `prefer`; EngineError when
    DOCKER_HOST names an engine on another machine.
    """
    if prefer is not None and prefer not in ENGINES:
        raise EngineError(f"there is no engine {prefer[:40]!r}", remedy=f"Choose one of: {', '.join(ENGINES)}.")
    found = await find(os.environ if environment is None else environment, prefer)
    return Choice(open_engine(found, home), found.why)


def silent_docker(environment: Mapping[str, str]) -> Found:
    """Docker, though it does not answer now: where it is looked for first. For who knows that it belongs here.

    EngineError when DOCKER_HOST names an engine on another machine.
    """
    host = environment.get("DOCKER_HOST", "")
    addresses = [_local(host)] if host else _usual_addresses(environment)
    there = (each for each in addresses if Path(each.removeprefix("unix://")).exists())
    return Found("docker", next(there, addresses[0]), "docker: it does not answer now, but did before")


def open_engine(found: Found, home: Path) -> Engine:
    """The engine that was found, its module loaded only now."""
    if found.name == "docker":
        return cast(Engine, importlib.import_module("dockyard.engines.docker.engine").DockerEngine(found.where))
    return cast(Engine, importlib.import_module("dockyard.engines.runc.engine").RuncEngine(home, Path(found.where)))


async def find(environment: Mapping[str, str], prefer: str | None = None) -> Found:
    """Choose without opening."""
    refusals: list[str] = []
    if prefer != "runc":
        host = environment.get("DOCKER_HOST", "")
        for address in [_local(host)] if host else _usual_addresses(environment):
            try:
                server = await _ping(address)
            except _NoAnswerError as error:
                refusals.append(f"docker: {address} {error}")
            else:
                named = " (DOCKER_HOST)" if host else ""
                return Found("docker", address, f"docker: {server} answers on {address}{named}")
        if host:
            raise EngineNotFoundError(
                f"DOCKER_HOST names an engine that cannot be used: {refusals[0]}",
                remedy="Start that engine, or unset DOCKER_HOST to let Dockyard choose another.",
            )
    if prefer != "docker":
        program = shutil.which("runc", path=f"{environment.get('PATH', '')}:{_PROGRAM_FOLDERS}")
        refusal = _refusal_of_runc(program)
        if program is not None and not refusal:
            reason = "it was asked for" if prefer == "runc" else "no Docker answers, and this is root"
            return Found("runc", program, f"runc: {program}, as {reason}")
        refusals.append(refusal)
    raise EngineNotFoundError(
        f"no {prefer or 'container'} engine can be used on this machine",
        detail="\n".join(refusals),
        remedy="Start Docker or Podman, or install runc and run this as root.",
    )


def _local(host: str) -> str:
    """Check DOCKER_HOST: it must be a unix socket of this machine."""
    if host.startswith("unix:///"):
        return host
    raise EngineError(
        f"DOCKER_HOST={host} is not on this machine: containers get their sockets from it, and those cannot be shared",
        remedy="Run dockyard on that machine itself, or set DOCKER_HOST to a local unix:// socket, or unset it.",
    )


def _usual_addresses(environment: Mapping[str, str]) -> list[str]:
    """Where Docker and Podman listen, the machine's before the user's."""
    paths = ["/var/run/docker.sock"]
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        paths += [f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock"]
    paths.append("/run/podman/podman.sock")
    return [f"unix://{path}" for path in paths]


class _NoAnswerError(Exception):
    """Why nothing usable answers at an address."""


async def _ping(address: str) -> str:
    """Ask an engine for a sign of life; its name and version."""
    try:
        async with asyncio.timeout(PING_DEADLINE):
            reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix://"), limit=_ANSWER_LIMIT)
            try:
                writer.write(b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
            finally:
                writer.close()
    except TimeoutError:
        raise _NoAnswerError(f"does not answer within {PING_DEADLINE:g} s") from None
    except FileNotFoundError:
        raise _NoAnswerError("is not there") from None
    except PermissionError:
        raise _NoAnswerError("may not be used by this user (add it to the group docker, or use root)") from None
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise _NoAnswerError(f"does not answer like an engine: {error}") from None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    if " 200 " not in f"{first} " or "api-version" not in headers:
        raise _NoAnswerError(f"does not answer like an engine: {first[:80]!r}")
    name, _, version = headers.get("server", "docker").partition(" ")[0].partition("/")
    return f"{'Podman' if name == 'libpod' else name.capitalize()} {version}".strip()


def _refusal_of_runc(program: str | None) -> str:
    """Why runc cannot be used; empty when it can."""
    if program is None:
        return "runc: not on the PATH"
    if os.geteuid() != 0:
        return f"runc: {program} is there, but this is not root"
    return ""
