"""The engine interface and its nouns: what to start, what was started, what was moved.

`docker.py` and `runc/` implement `Engine`; `launch.py`, `once.py` and the command line speak to nothing else. The
suite in tests/conformance/test_engines.py is the interface's other half: it runs against every implementation.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from dockyard.engines import labels as label
from dockyard.engines.access import check_access
from dockyard.errors import ContainerNotFoundError, EngineError, ImageNotFoundError
from dockyard.oci.image import Image
from dockyard.oci.layout import Layout
from dockyard.spec.deployment import Mount
from dockyard.spec.resources import Resources

DEFAULT_USER = 65532
TMP_BYTES = 256 << 20
LEAST_MEMORY = 16 << 20
OPEN_FILES = 65536
LOG_BYTES = 10 << 20
OOM_SCORE = 500

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,62}", re.ASCII)


class State(Enum):
    """Where a container is in its life."""

    CREATED = "created"
    RUNNING = "running"
    FROZEN = "frozen"
    """All its processes are stopped in mid-step, and go on after a thaw."""
    EXITED = "exited"


class Owner(Enum):
    """Who owns the folder of a container's sockets, and so removes it."""

    CONTAINER = "container"
    LISTENER = "listener"


@dataclass(frozen=True)
class Sockets:
    """The folder of sockets that is mounted read-only at /run/berth, and the host's TCP ports handed over through it.

    `owner`: with CONTAINER, `Engine.remove` removes the folder; with LISTENER it outlives any number of containers.
    """

    folder: Path
    ports: tuple[int, ...] = ()
    owner: Owner = Owner.CONTAINER


@dataclass(frozen=True)
class ContainerSpec:
    """What to start. EngineError, naming the rule, for a name, limit, mount, secret or network that cannot be.

    `command` replaces the image's command (its entrypoint stays), `environment` adds to the image's. `secrets`: name ->
    content, or the absolute path of a file of the host; each is /run/secrets/NAME, in memory only. `gpus`: numbers or
    UUIDs, or `all`. `network`: nothing, or the name of a Docker network. `tcp_port`: where a foreign server listens
    inside; it then joins a network that only the host reaches. The last four are Docker's alone. `yielding`: where the
    engine can, its processes give way from the first instruction on, until whoever started it says otherwise (`weigh`).
    """

    name: str
    image: Image
    image_name: str = ""
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    resources: Resources = field(default_factory=Resources)
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    sockets: Sockets | None = None
    mounts: tuple[Mount, ...] = ()
    secrets: Mapping[str, bytes | Path] = field(default_factory=dict, hash=False, repr=False)
    gpus: tuple[str, ...] = ()
    network: str = ""
    tcp_port: int = 0
    yielding: bool = False

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise EngineError(
                f"{self.name[:80]!r} cannot be a container's name",
                remedy="Use 2 to 63 letters, digits, '_', '.' and '-', beginning with a letter or digit.",
            )
        limits = self.resources
        if limits.memory < LEAST_MEMORY or limits.cpus < 0.01 or limits.pids < 1:
            raise EngineError(
                f"limits of {limits.memory} bytes, {limits.cpus} CPUs and {limits.pids} processes are too small",
                remedy=f"Give a container at least {LEAST_MEMORY >> 20} MiB of memory, 0.01 CPUs and 1 process.",
            )
        taken = label.OWN & set(self.labels)
        if taken:
            raise EngineError(f"label {min(taken)} belongs to Dockyard", remedy="Choose another name for your label.")
        check_access(self.mounts, self.secrets, self.network, self.tcp_port)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The program and its arguments; EngineError when neither image nor spec names a program."""
        config = self.image.config
        found = (*config.entrypoint, *(self.command or config.command))
        if not found:
            raise EngineError(
                f"image {self.image_name or self.image.digest} does not say what to run", remedy="Give a command."
            )
        return found

    @property
    def variables(self) -> dict[str, str]:
        """The whole environment: a default PATH, the image's, the spec's, the later winning."""
        image = dict(entry.partition("=")[::2] for entry in self.image.config.environment)
        path = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        return {**path, **image, **self.environment}

    def all_labels(self, secrets: Path | None = None) -> dict[str, str]:
        """The image's labels, the caller's, and Dockyard's own, from which `list` rebuilds a Container later.

        All of our own are always there, so that one baked into an image never counts. `secrets` is the folder of its
        secrets on the host.
        """
        sockets = self.sockets
        own = {
            label.MANAGED: "1",
            label.IMAGE: self.image_name or self.image.digest,
            label.SOCKETS: str(sockets.folder) if sockets else "",
            label.SOCKETS_OWNER: sockets.owner.value if sockets else "",
            label.PORTS: ",".join(str(port) for port in sockets.ports) if sockets else "",
            label.TCP_PORT: str(self.tcp_port or ""),
            label.SECRETS: str(secrets or ""),
        }
        return {**self.image.config.labels, **self.labels, **own}

    @property
    def user(self) -> User:
        """Who the process is: the image's numeric user, or 65532:0 when that is root, a name, or nobody."""
        uid, _, gid = self.image.config.user.partition(":")
        if not _is_id(uid) or int(uid) == 0 or (gid and not _is_id(gid)):
            return User(DEFAULT_USER, 0)
        return User(int(uid), int(gid or 0))


class User(NamedTuple):
    """A numeric user and group."""

    uid: int
    gid: int


def tmp_options(user: User) -> list[str]:
    """Mount options of /tmp. It belongs to the user, for some runc versions give it the mode of the image's /tmp."""
    return ["nosuid", "nodev", "exec", "mode=1777", f"size={TMP_BYTES}", f"uid={user.uid}", f"gid={user.gid}"]


def is_name(text: str) -> bool:
    """Whether this can be a container's name."""
    return _NAME.fullmatch(text) is not None


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) < 1 << 31


class TcpAddress(NamedTuple):
    """Where a foreign server answers, as seen from this host."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Ending:
    """How a container ended. The exit code is 128 + n when signal n ended it, None when nobody noted it.

    `oom_killed`: the kernel killed a process of it, for it had used all the memory that it may.
    """

    exit_code: int | None
    oom_killed: bool = False


@dataclass(frozen=True)
class Container:
    """A container as its engine sees it. `started` is aware; `ending` is there once it has ended.

    `pid` is its first process, as this host counts, while there is one. `tcp` is where a foreign server answers.
    """

    id: str
    name: str
    image: str
    state: State
    ending: Ending | None
    started: datetime | None
    pid: int | None
    tcp: TcpAddress | None
    labels: Mapping[str, str] = field(hash=False)
    engine: str

    @property
    def exit_code(self) -> int | None:
        """Its exit code, if it has ended and the code is known."""
        return self.ending.exit_code if self.ending else None

    @property
    def oom_killed(self) -> bool:
        """Whether it ended after the kernel had killed a process of it for want of memory."""
        return self.ending is not None and self.ending.oom_killed

    @property
    def socket(self) -> Path | None:
        """The unix socket on which it serves HTTP."""
        return label.socket_of(self.labels)

    @property
    def ports(self) -> tuple[int, ...]:
        """The TCP ports of 127.0.0.1 on which it serves as well."""
        return label.ports_of(self.labels)

    @property
    def address(self) -> Path | TcpAddress | None:
        """Where to send requests: a unix socket, or the address of a foreign server; None while it has none."""
        return self.socket or self.tcp


@dataclass(frozen=True)
class Loaded:
    """What a load cost: the layers that the engine lacked, the bytes that were read for it, seconds."""

    moved_layers: int
    moved_bytes: int
    seconds: float


class Output(NamedTuple):
    """Some bytes that a container wrote."""

    stream: Literal["stdout", "stderr"]
    data: bytes


class Attached(Protocol):
    """A running container's standard streams."""

    container: Container

    async def write(self, data: bytes) -> None:
        """Write to its standard input, waiting while it does not read. Nothing happens once it has ended."""

    async def close_input(self) -> None:
        """End its standard input."""

    def output(self) -> AsyncIterator[Output]:
        """What it writes, until it ends. To be read once."""


class Engine(Protocol):
    """Starts, lists, stops and removes containers. Containers outlive the engine object and the process.

    Every method raises EngineError when the engine fails or does not answer in time, and ContainerNotFoundError for an
    id that it does not know. Where an id is asked for, a name does as well.
    """

    @property
    def name(self) -> str:
        """`docker` or `runc`."""

    async def load(self, image: Image, layout: Layout, name: str) -> Loaded:
        """Make the image known to the engine under this name, moving only the layers that it lacks."""

    async def check(self, spec: ContainerSpec) -> None:
        """EngineError for what this engine cannot give a container, before anything is made for it."""

    async def start(self, spec: ContainerSpec) -> Container:
        """Start a container; ImageNotFoundError when not loaded, StartError when its program cannot be run."""

    def attach(self, spec: ContainerSpec) -> AbstractAsyncContextManager[Attached]:
        """Start a container with its standard streams in our hands; leaving the block removes it. It keeps no log."""

    async def list(self) -> tuple[Container, ...]:
        """Dockyard's containers on this engine, by name."""

    async def inspect(self, container_id: str) -> Container:
        """One container."""

    def logs(self, container_id: str, *, follow: bool = False, tail: int | None = None) -> AsyncIterator[str]:
        """Lines of its output, oldest first, the last `tail` or all that is kept; following until it ends."""

    async def freeze(self, container_id: str) -> None:
        """Stop all its processes in mid-step; nothing happens if they are. EngineError when it does not run."""

    async def thaw(self, container_id: str) -> None:
        """Let them go on; nothing happens if they do. EngineError when it does not run."""

    async def stop(self, container_id: str, grace: float = 30.0) -> int | None:
        """SIGTERM, then SIGKILL after `grace` seconds; the exit code (128 + n for signal n). It is thawed first.

        None when it has ended and nobody knows how, as after a power failure.
        """

    async def wait(self, container_id: str, deadline: float | None = None) -> int:
        """The exit code, once it ends; EngineError when it still runs after `deadline` seconds.

        It wakes at once and costs little while it waits: have one for each container, rather than list them again.
        """

    async def remove(self, container_id: str) -> None:
        """Kill it if it runs and leave nothing of it: no container, mount or secret, and no socket that it owns."""

    async def prune(self, needed: Sequence[Image], older_than: float) -> int:
        """Free what it keeps of images that are none of these and that no container has; the bytes that it tells of.

        What was loaded within the last `older_than` seconds stays, for somebody may be about to start it. So does what
        Dockyard did not bring, or somebody named; and what the engine does not let go of now, for the next time.
        """

    async def warnings(self) -> tuple[str, ...]:
        """What of its own settings will cost requests one day: sentences for its operator, each with the remedy."""

    async def close(self) -> None:
        """Let go of connections. Containers go on running."""


def unknown_container(container_id: str) -> ContainerNotFoundError:
    """The error for an id that the engine does not know."""
    return ContainerNotFoundError(
        f"there is no container {container_id[:80]!r}", remedy="List the containers to see their names."
    )


def unknown_image(spec: ContainerSpec, engine: str) -> ImageNotFoundError:
    """The error for an image that was not loaded."""
    return ImageNotFoundError(
        f"{engine} does not have image {spec.image_name or spec.image.digest}",
        remedy="Load it into the engine first; `dockyard run` does so by itself.",
    )


def name_taken(spec: ContainerSpec, engine: str) -> EngineError:
    """The error for a second container of one name."""
    return EngineError(
        f"{engine} already has a container named {spec.name!r}",
        remedy="Choose another name, or stop and remove that container first.",
    )


def still_running(container_id: str, deadline: float) -> EngineError:
    """The error of a `wait` that took too long."""
    return EngineError(
        f"container {container_id} still runs after {deadline:g} s", remedy="Wait longer, or stop the container."
    )


def not_running(container_id: str) -> EngineError:
    """The error of freezing or thawing what does not run."""
    return EngineError(f"container {container_id[:80]} does not run", remedy="Start it again first.")


def docker_only(what: str, spec: ContainerSpec) -> EngineError:
    """The error of runc, which has no networks and no devices, for a wish that only Docker can fulfil."""
    return EngineError(
        f"container {spec.name} asks for {what}, which the runc engine does not have",
        remedy='Run it on Docker (`engine = "docker"`), or leave that out.',
    )
