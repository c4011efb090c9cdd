"""Real servers behind a real Envoy, and plain clients in front of it, shared by the tests in this folder."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from dockyard.gateway.base import GatewaySettings, Limits
from dockyard.gateway.envoy import EnvoyGateway
from dockyard.gateway.process import Process
from dockyard.gateway.snapshot import Endpoint, Service, Snapshot, UnixAddress

DEADLINE_S = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings(folder: Path, **limits: Any) -> GatewaySettings:
    return GatewaySettings(folder / "gateway", port=free_port(), workers=1, limits=Limits(**limits))


@asynccontextmanager
async def running(chosen: GatewaySettings, told: list[str] | None = None) -> AsyncIterator[EnvoyGateway]:
    """A gateway until the block ends; nothing of it is left, whatever happens."""
    gateway = None
    try:
        gateway = await EnvoyGateway.start(chosen, (told if told is not None else []).append)
        yield gateway
        await gateway.stop()
    finally:
        if gateway is not None:
            await gateway.close()
        end(chosen.folder)


def end(folder: Path) -> None:
    """Kill the Envoy of this folder, if one is left."""
    if process := Process.found(folder):
        os.kill(process.record.pid, signal.SIGKILL)
        process.let_go()
        Path(f"/dev/shm/envoy_shared_memory_{process.record.base_id}0").unlink(missing_ok=True)


def runs(folder: Path) -> bool:
    """Whether an Envoy of this folder runs."""
    if process := Process.found(folder):
        process.let_go()
    return process is not None


def service(name: str, *replicas: Replica, **fields: Any) -> Service:
    """One deployment, all its traffic on revision 1, which has these replicas."""
    endpoints = {1: tuple(replica.endpoint for replica in replicas)}
    return Service(**{"name": name, "weights": {1: 100}, "endpoints": endpoints, **fields})


def snapshot(*services: Service) -> Snapshot:
    return Snapshot(services=services)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(address: str, path: str = "/", method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    """One request on a connection of its own; underscores in the names of headers are hyphens."""
    return await asyncio.to_thread(_ask, address, path, method, body, headers)


def _ask(address: str, path: str, method: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=DEADLINE_S)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


async def raw(address: str, data: bytes) -> bytes:
    """Whatever comes back to these bytes, until the connection is closed or a second passes without any."""
    place = urlsplit(address)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(data)
    answer = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        while piece := await asyncio.wait_for(reader.read(65536), 1):
            answer += piece
    writer.close()
    return answer


@dataclass
class Replica:
    """A small HTTP/1.1 server on a unix socket: it answers with what it was asked, as JSON.

    Cleared `go` makes it wait before it answers. `status` is what it answers with; 0: it hangs up instead.
    """

    name: str
    path: Path
    status: int = 200
    seen: list[str] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    draining: bool = False
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.name, UnixAddress(str(self.path)), draining=self.draining)

    @property
    def drained(self) -> Endpoint:
        return msgspec.structs.replace(self.endpoint, draining=True)

    async def start(self) -> None:
        self.go.set()
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self.path, backlog=1024)

    async def stop(self) -> None:
        """Listen no more, close the connections, and wait until they are."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        await until(lambda: not self._writers, "the connections are closed")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
                await reader.readexactly(int(headers.get("content-length", 0)))
                self.seen.append(lines[0])
                await self.go.wait()
                if not self.status:
                    break
                method, path, _ = lines[0].split(" ")
                body = json.dumps({"replica": self.name, "method": method, "path": path, "headers": headers}).encode()
                head = f"HTTP/1.1 {self.status} X\r\nserver: secret\r\ncontent-type: application/json\r\n"
                writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self._writers.discard(writer)


@asynccontextmanager
async def replicas(folder: Path, *names: str) -> AsyncIterator[list[Replica]]:
    """So many small servers, until the block ends."""
    made = [Replica(name, folder / f"{name}.sock") for name in names]
    for each in made:
        await each.start()
    try:
        yield made
    finally:
        for each in made:
            each.go.set()
            await each.stop()


@dataclass
class Load:
    """What several callers in a row of requests got: how often each status; `broken`: no answer at all."""

    statuses: dict[int, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return len(self.broken) + sum(times for status, times in self.statuses.items() if status != 200)


@asynccontextmanager
async def load(address: str, path: str, callers: int = 8) -> AsyncIterator[Load]:
    """Callers that POST over keep-alive connections, each one request after the other, until the block ends."""
    result, over = Load(), asyncio.Event()
    place = urlsplit(address)

    async def call() -> None:
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        request = f"POST {path} HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-length: 2\r\n\r\n{{}}".encode()
        try:
            while not over.is_set():
                writer.write(request)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
                length = next(
                    line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
                )
                await reader.readexactly(int(length))
                status = int(head.split(b" ")[1])
                result.statuses[status] = result.statuses.get(status, 0) + 1
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            result.broken.append(repr(error))
        finally:
            writer.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(call())
        try:
            yield result
        finally:
            over.set()


async def until(condition: Any, what: str) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what
