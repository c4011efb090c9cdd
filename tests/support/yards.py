"""A real yard for tests: `dockyard up` as a process, with real engines and a real Envoy, and load that counts failures.

Used by the journeys. A yard that is killed can be started again; at the end all that it ran is stopped.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
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
from dockyard.spec.status import DeploymentStatus, Event, Proposal, Receipt, Replica
from tests.support.load import Load, free_port
from tests.support.projects import CommandLine

START_DEADLINE = 30.0
_T = TypeVar("_T")
_numbers = itertools.count(1)
ADDER_BODY = {"left": 1.0, "right": 2.0}
"""What the adder answers with 3.5."""


@dataclass(frozen=True)
class Answer:
    """What came back through the gateway; `body` is its JSON."""

    status: int
    body: Any
    headers: Mapping[str, str]
    """By name, in small letters."""

    @property
    def revision(self) -> int | None:
        """Which revision answered; None: the gateway itself."""
        told = self.headers.get("x-dockyard-revision")
        return None if told is None else int(told)


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

    def change(self, begin: Callable[[Client], Awaitable[Proposal]]) -> Receipt:
        """Begin something that ends with a receipt, and wait for it."""

        async def asked(client: Client) -> Receipt:
            proposal = await begin(client)
            assert proposal.rollout is not None, proposal
            return await _receipt(client, proposal.deployment, proposal.rollout)

        return self.client(asked)

    def deploy(self, deployment: Deployment, why: str = "a test") -> Receipt:
        """Deploy, and wait for the receipt."""
        return self.change(lambda client: client.deploy(deployment, why=why))

    def rollback(self, name: str, revision: int | None = None) -> Receipt:
        """Roll back, and wait for the receipt."""
        return self.change(lambda client: client.rollback(name, revision, why="a test"))

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
        answer = self.answer(path, body, deadline=deadline)
        return answer.status, answer.body

    def answer(
        self, path: str, body: object = None, headers: Mapping[str, str] | None = None, *, deadline: float = 10.0
    ) -> Answer:
        """One request through the gateway, with these headers, `Host` among them if need be."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=deadline)
        try:
            text = None if body is None else json.dumps(body)
            sent = {"Content-Type": "application/json"} | dict(headers or {})
            connection.request("GET" if text is None else "POST", path, text, sent)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, json.loads(answer.read() or b"null"), found)
        finally:
            connection.close()

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError((self.home.yard / "up.log").read_text())
        with socket.socket(socket.AF_UNIX) as one:
            return one.connect_ex(str(self.home.yard_socket)) == 0


@dataclass(frozen=True)
class Site:
    """A deployment of the adder under a name that no test had before, so that its history is its own."""

    yard: RunningYard
    name: str

    @property
    def path(self) -> str:
        """Where it answers."""
        return f"/models/{self.name}/predict"

    def wanted(self, **fields: object) -> Deployment:
        """The deployment, with these settings."""
        return Deployment(**({"name": self.name, "image": "adder:1"} | fields))  # type: ignore[arg-type]

    def deploy(self, why: str = "a test", /, **fields: object) -> Receipt:
        """Deploy it with these settings."""
        return self.yard.deploy(self.wanted(**fields), why)

    def status(self) -> DeploymentStatus:
        """How it goes."""
        return self.yard.status(self.name)

    def load(self) -> Load:
        """Requests, as fast as they go."""
        return Load(self.yard.port, self.path, ADDER_BODY)

    def ask(self, deadline: float = 10.0) -> tuple[int, object]:
        """One request."""
        return self.yard.ask(self.path, ADDER_BODY, deadline)

    def answer(self, headers: Mapping[str, str] | None = None) -> Answer:
        """One request with these headers, and all of its answer."""
        return self.yard.answer(self.path, ADDER_BODY, headers)

    def pid_of(self, replica: Replica) -> int:
        """The process of a replica."""
        return self.yard.pid_of(replica.id, replica.engine)

    def events(self) -> list[Event]:
        """All that happened to it."""

        async def told(client: Client) -> list[Event]:
            return [event async for event in client.events(0, deployment=self.name)]

        return self.yard.client(told)


@contextmanager
def deployed(yard: RunningYard, **fields: object) -> Iterator[Site]:
    """The adder with these settings, deleted at the end."""
    site = Site(yard, f"adder-{next(_numbers)}")
    receipt = site.deploy(**fields)
    assert receipt.succeeded, receipt
    yield site
    yard.client(lambda client: client.delete(site.name, why="the test is over"))
    until(lambda: site.name not in {each.name for each in yard.client(Client.deployments)}, "it is not deleted", 60)


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
