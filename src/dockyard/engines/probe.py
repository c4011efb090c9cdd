"""One question to a replica with a deadline: does it answer, and with what status?

`launch` asks foreign servers whether they are ready; the yard asks replicas whether they live. An answer that does not
come is an outcome like any other, with its reason, not an error.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from dockyard.engines.base import TcpAddress

_HEAD_LIMIT = 1 << 16


@dataclass(frozen=True)
class Answer:
    """The status of what was answered, or why nothing was: `status` is 0 then. `reason` is a phrase for people."""

    status: int
    reason: str

    @property
    def ok(self) -> bool:
        """Whether it answered 200."""
        return self.status == 200


async def probe(address: Path | TcpAddress, path: str, deadline: float) -> Answer:
    """GET `path` and read the status within `deadline` seconds, connecting included; the body is not read."""
    try:
        async with asyncio.timeout(deadline):
            line = await _ask(address, path)
    except TimeoutError:
        return Answer(0, f"no answer within {deadline:g} s")
    except asyncio.IncompleteReadError:
        return Answer(0, "hung up without an answer")
    except OSError as error:
        return Answer(0, os.strerror(error.errno) if error.errno else str(error))
    except asyncio.LimitOverrunError:
        return Answer(0, "answered something endless, which is not HTTP")
    version, _, rest = line.partition(" ")
    status = rest[:3]
    if not version.startswith("HTTP/1.") or not status.isdigit():
        return Answer(0, f"answered {line[:60]!r}, which is not HTTP")
    return Answer(int(status), f"answered {rest[:60]}")


async def _ask(address: Path | TcpAddress, path: str) -> str:
    """The first line of the answer."""
    if isinstance(address, TcpAddress):
        reader, writer = await asyncio.open_connection(address.host, address.port, limit=_HEAD_LIMIT)
    else:
        reader, writer = await asyncio.open_unix_connection(address, limit=_HEAD_LIMIT)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return (await reader.readuntil(b"\r\n")).decode("latin-1").rstrip()
    finally:
        writer.transport.abort()
