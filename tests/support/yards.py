"""A real yard for tests: `dockyard up` as a process, with real engines and a real Envoy, and load that counts failures.

Used by the journeys. A yard that is killed can be started again; at the end all that it ran is stopped.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dockyard.client import Client
from dockyard.client.address import YardAddress
from dockyard.spec.deployment import Deployment
from dockyard.spec.home import Home
from dockyard.spec.status import DeploymentStatus, Receipt
from tests.support.load import free_port
from tests.support.projects import CommandLine

START_DEADLINE = 30.0
_T = TypeVar("_T")


@dataclass
class RunningYard:
    """A yard that runs on `port`, and what can be done to it."""

    home: Home
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def line(self) -> CommandLine:
        """The command line, for this yard."""
        return CommandLine(self.home, self.environment)

    def start(self) -> None:
        """Start it, and wait until its API answers."""
        self.home.yard.mkdir(parents=True, exist_ok=True)
        with (self.home.yard / "up.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.line.command("up", "--port", str(self.port), *self.options),
                env=self.line.variables(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._answers, "the yard does not answer", START_DEADLINE)

    def kill(self) -> None:
        """SIGKILL, as from a crash."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM, as from a service manager; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def client(self, use: Callable[[Client], Awaitable[_T]]) -> _T:
        """Do something with a client of this yard."""

        async def asked() -> _T:
            async with Client(YardAddress.of(self.line.variables())) as client:
                return await use(client)

        return asyncio.run(asyncio.wait_for(asked(), 120))

    def deploy(self, deployment: Deployment, why: str = "a test") -> Receipt:
        """Deploy, and wait for the receipt."""

        async def asked(client: Client) -> Receipt:
            proposal = await client.deploy(deployment, why=why)
            assert proposal.rollout is not None, proposal
            return await _receipt(client, deployment.name, proposal.rollout)

        return self.client(asked)

    def rollback(self, name: str, revision: int | None = None) -> Receipt:
        """Roll back, and wait for the receipt."""

        async def asked(client: Client) -> Receipt:
            proposal = await client.rollback(name, revision, why="a test")
            assert proposal.rollout is not None, proposal
            return await _receipt(client, name, proposal.rollout)

        return self.client(asked)

    def status(self, name: str) -> DeploymentStatus:
        """One deployment."""
        return self.client(lambda client: client.status(name))

    def pid_of(self, replica: str, engine: str) -> int:
        """The process of a replica's container on this host."""
        if engine == "runc":
            state = json.loads((self.home.runc / "containers" / replica / "state.json").read_text())
            return int(state["pid"])
        address = self.environment["DOCKER_HOST"]
        told = subprocess.run(
            ["docker", "-H", address, "inspect", "-f", "{{.State.Pid}}", replica],
            capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
        return int(told.stdout)

    def ask(self, path: str, body: object = None, deadline: float = 10.0) -> tuple[int, Any]:
        """One request through the gateway: status, and the JSON of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=deadline)
        try:
            text = None if body is None else json.dumps(body)
            connection.request("GET" if text is None else "POST", path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        finally:
            connection.close()

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError((self.home.yard / "up.log").read_text())
        with socket.socket(socket.AF_UNIX) as one:
            return one.connect_ex(str(self.home.yard_socket)) == 0


async def _receipt(client: Client, name: str, rollout: int) -> Receipt:
    async for update in client.rollout(name, rollout):
        if update.receipt is not None:
            return update.receipt
    raise AssertionError("the rollout ended without a receipt")


@contextmanager
def running_yard(home: Home, environment: Mapping[str, str], *options: str) -> Iterator[RunningYard]:
    """A yard in this home, whose state is removed at the end with all that it ran."""
    yard = RunningYard(home, free_port(), environment, options)
    try:
        yard.start()
        yield yard
    finally:
        done = yard.line("down", "--grace", "1")
        if yard.process is not None and done.returncode:
            yard.kill()  # one that does not stop; what it runs ends all the same, and the reason is told below
            yard.line("down", "--grace", "1")
        elif yard.process is not None:
            yard.process.wait(10)
        shutil.rmtree(home.yard, ignore_errors=True)
        assert done.returncode == 0, done.stderr


def until(holds: Callable[[], object], what: str, deadline: float = 20.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + deadline
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
