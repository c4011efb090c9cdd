"""The deployment: what a user asks the yard to keep running, as one frozen, validated value.

Field names are the keys of a deployment file; `spec.load` reads it, the command line makes one from a project or an
image, `client` sends it and the yard keeps it. Everything but `replicas` belongs to a revision: a change of it is a
new revision, rolled out; a change of `replicas` is a change of scale.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, field

from dockyard.spec.project import Table

Name = Annotated[str, Meta(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?\Z")]
"""Of a deployment: a DNS label of at most 40 characters, for it becomes part of host, container and cluster names."""

_LABELS = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"
HostName = Annotated[str, Meta(pattern=rf"^(?:\*[.-])?{_LABELS}\Z", max_length=253)]
"""Of HTTP requests: DNS labels in small letters; `*.` or `*-` in front stands for whatever is there."""
LOCAL_DOMAIN = "localhost"
"""The gateway serves every deployment under NAME of this domain."""

Seconds = Annotated[float, Meta(ge=0, le=86_400)]


class StrategyKind(StrEnum):
    """How traffic moves from one revision to the next."""

    ROLLING = "rolling"
    BLUE_GREEN = "blue-green"


class Keep(StrEnum):
    """What becomes of the old revision's replicas during the rollback window."""

    WARM = "warm"
    FROZEN = "frozen"
    STOPPED = "stopped"


class Strategy(Table, frozen=True, kw_only=True):
    """How a new revision takes over."""

    kind: StrategyKind = StrategyKind.ROLLING
    max_surge: Annotated[int, Meta(ge=0, le=100)] = 1
    """Rolling: how many replicas there may be beyond the wanted number."""
    max_unavailable: Annotated[int, Meta(ge=0, le=100)] = 0
    """Rolling: how many fewer than the wanted number may be ready."""
    preview: bool = False
    """Blue-green: wait, reachable under the preview host and header, until somebody says `promote`."""
    keep: Keep = Keep.FROZEN
    """What the old revision's replicas become after the switch, for `rollback_window_s`."""
    rollback_window_s: Seconds = 600.0
    progress_deadline_s: Annotated[float, Meta(ge=1, le=86_400)] = 300.0
    """A rollout that gets no further for so long is rolled back."""
    hold_and_swap: Literal["auto", "never"] = "auto"
    """Whether the old may stop before the new starts when memory does not fit both; requests wait meanwhile."""


class Limits(Table, frozen=True, kw_only=True):
    """What one replica may use; an empty `memory`, and zeros, mean what the image's labels say."""

    memory: Annotated[str, Meta(pattern=r"^(\d+(\.\d+)?\s*([KMG]i?B?|B)?)?\Z")] = ""
    cpus: Annotated[float, Meta(ge=0, le=1024)] = 0.0
    pids: Annotated[int, Meta(ge=0, le=100_000)] = 0
    gpus: tuple[Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]+\Z", max_length=80)], ...] = ()
    """Numbers or UUIDs of GPUs, or `all`."""


class Mount(Table, frozen=True, kw_only=True):
    """A folder or file of the host that a replica sees."""

    source: Annotated[str, Meta(pattern=r"^/")]
    target: Annotated[str, Meta(pattern=r"^/")]
    writable: bool = False


class Probes(Table, frozen=True, kw_only=True):
    """How a replica is judged."""

    goldens: bool = True
    """Answer the image's goldens on this hardware before a replica is ready; images without any skip it."""
    start_deadline_s: Annotated[float, Meta(ge=1, le=86_400)] = 120.0
    ready_path: Annotated[str, Meta(pattern=r"^/")] = "/v2/health/ready"
    live_path: Annotated[str, Meta(pattern=r"^/")] = "/v2/health/live"
    live_every_s: Annotated[float, Meta(ge=0.1, le=3_600)] = 5.0
    live_timeout_s: Annotated[float, Meta(ge=0.1, le=3_600)] = 2.0
    live_failures: Annotated[int, Meta(ge=1, le=100)] = 3
    """So many in a row, and the replica counts as hung and is replaced."""


class Server(Table, frozen=True, kw_only=True):
    """The server in an image that Dockyard did not build: it listens on a TCP port of its own."""

    preset: Literal["", "triton", "tfserving", "torchserve"] = ""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    command: tuple[str, ...] = ()


class Network(Table, frozen=True, kw_only=True):
    """What a replica can reach: nothing, unless an egress network is named."""

    egress: Annotated[str, Meta(pattern=r"^([a-zA-Z0-9][a-zA-Z0-9_.-]*)?\Z", max_length=100)] = ""
    """The name of a Docker network that the operator made."""


class Routing(Table, frozen=True, kw_only=True):
    """Where the gateway serves it; by default under the deployment's name in every protocol's paths, and by host."""

    hosts: tuple[HostName, ...] = ()
    """No other deployment may have them, and none ends in `.localhost`: those are the gateway's own."""
    timeout_s: Annotated[float, Meta(ge=0.1, le=86_400)] = 300.0
    """Of one request, from its last byte in to its last byte out."""


class Deployment(Table, frozen=True, kw_only=True):
    """What is asked for. `image` is a name until the command line resolves it, `name@sha256:...` from then on."""

    name: Name
    image: Annotated[str, Meta(min_length=1, max_length=512)]
    replicas: Annotated[int, Meta(ge=0, le=1000)] = 1
    engine: Literal["", "docker", "runc"] = ""
    """Empty: the yard's own choice."""
    resources: Limits = field(default_factory=Limits)
    environment: dict[Annotated[str, Meta(pattern=r"^[A-Za-z_]\w*\Z")], str] = field(default_factory=dict)
    secrets: dict[Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*\Z", max_length=100)], str] = field(
        default_factory=dict
    )
    """Name -> absolute path of a file on the yard's host; it appears as /run/secrets/NAME, in memory only."""
    mounts: tuple[Mount, ...] = ()
    network: Network = field(default_factory=Network)
    probes: Probes = field(default_factory=Probes)
    server: Server = field(default_factory=Server)
    strategy: Strategy = field(default_factory=Strategy)
    routing: Routing = field(default_factory=Routing)
    placement: dict[str, str] = field(default_factory=dict)
    """Labels that the host must have."""
