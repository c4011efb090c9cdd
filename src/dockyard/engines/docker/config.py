"""What we ask of Docker for a container, in the words of its API; and what its answers mean.

Pure: `engine.py` sends and receives. What must hold is said in the threat table: not root, no capabilities, no new
privileges, read-only root, Docker's system call filter, limits, no network. Source: Docker Engine API 1.40 to 1.47.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dockyard.engines import labels as label
from dockyard.engines.access import SECRETS_MOUNT, SOCKET_MOUNT
from dockyard.engines.base import (
    LOG_BYTES,
    OOM_SCORE,
    Container,
    ContainerSpec,
    Ending,
    State,
    TcpAddress,
    tmp_options,
)
from dockyard.spec.deployment import Mount

ENGINE = "docker"
_NEVER = "0001-01-01T00:00:00Z"
_STATES = {"created": State.CREATED, "paused": State.FROZEN, "exited": State.EXITED, "dead": State.EXITED}

INTERNAL_NETWORK = "dockyard-internal"
"""Where foreign servers are: this host reaches them, they reach nobody, not even each other."""

NETWORK_REQUEST: dict[str, Any] = {
    "Name": INTERNAL_NETWORK,
    "Driver": "bridge",
    "Internal": True,
    "CheckDuplicate": True,
    "Options": {"com.docker.network.bridge.enable_icc": "false"},
    "Labels": {label.MANAGED: "1"},
}


@dataclass(frozen=True)
class Given:
    """What of the host a container is given, checked: mounts with real sources, and the folder of its secrets."""

    mounts: tuple[Mount, ...] = ()
    secrets: Path | None = None


NOTHING = Given()


def create_request(
    spec: ContainerSpec, reference: str, given: Given = NOTHING, *, attached: bool, podman: bool = False
) -> dict[str, Any]:
    """The body of `POST /containers/create`; `reference` is the image as the engine knows it."""
    return {
        "Image": reference,
        "Entrypoint": list(spec.image.config.entrypoint) or None,
        "Cmd": list(spec.command or spec.image.config.command) or None,
        "Env": [f"{name}={value}" for name, value in spec.variables.items()],
        "User": f"{spec.user.uid}:{spec.user.gid}",
        "Hostname": spec.name,
        "Labels": spec.all_labels(given.secrets),
        "NetworkDisabled": network_of(spec) == "none",
        "Tty": False,
        "OpenStdin": attached,
        "StdinOnce": attached,
        "AttachStdin": attached,
        "AttachStdout": attached,
        "AttachStderr": attached,
        "HostConfig": _host_config(spec, given, attached=attached, podman=podman),
    }


def network_of(spec: ContainerSpec) -> str:
    """The network that a container begins in: that of foreign servers, the named one, or none."""
    return INTERNAL_NETWORK if spec.tcp_port else spec.network or "none"


def _host_config(spec: ContainerSpec, given: Given, *, attached: bool, podman: bool) -> dict[str, Any]:
    limits = spec.resources
    kept = {"Type": "json-file", "Config": {"max-size": str(LOG_BYTES), "max-file": "2"}}
    return {
        "NetworkMode": network_of(spec),
        "IpcMode": "private",
        "ReadonlyRootfs": True,
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Memory": limits.memory,
        "MemorySwap": limits.memory,
        "NanoCpus": round(limits.cpus * 1_000_000_000),
        "PidsLimit": limits.pids,
        "OomScoreAdj": OOM_SCORE,
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        "Tmpfs": {"/tmp": ",".join(_tmp_options(spec, podman=podman))},  # noqa: S108
        "Mounts": _mounts(spec, given),
        "DeviceRequests": _gpus(spec.gpus),
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "none", "Config": {}} if attached else kept,
        "AutoRemove": False,
    }


def _tmp_options(spec: ContainerSpec, *, podman: bool) -> list[str]:
    """Podman refuses an owner, and its /tmp is root's: the mode lets the user write all the same."""
    options = tmp_options(spec.user)
    return [option for option in options if not (podman and option.startswith(("uid=", "gid=")))]


def _mounts(spec: ContainerSpec, given: Given) -> list[dict[str, Any]]:
    found = [_bind(mount.source, mount.target, writable=mount.writable) for mount in given.mounts]
    if spec.sockets is not None:
        found.append(_bind(str(spec.sockets.folder), SOCKET_MOUNT))
    if given.secrets is not None:
        found.append(_bind(str(given.secrets), SECRETS_MOUNT))
    return found


def _bind(source: str, target: str, *, writable: bool = False) -> dict[str, Any]:
    """What is mounted below the source on the host stays out: read-only would not hold for it."""
    options = {"Propagation": "private", "NonRecursive": True}
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": not writable, "BindOptions": options}


def _gpus(wanted: Sequence[str]) -> list[dict[str, Any]]:
    if not wanted:
        return []
    which: dict[str, Any] = {"Count": -1} if "all" in wanted else {"DeviceIDs": list(wanted)}
    return [{**which, "Capabilities": [["gpu"]]}]


def container_of(answer: dict[str, Any]) -> Container:
    """The container that `GET /containers/{id}/json` describes."""
    state = answer["State"]
    labels = dict(answer["Config"].get("Labels") or {})
    status = _STATES.get(state["Status"], State.RUNNING)
    ending = Ending(int(state["ExitCode"]), bool(state.get("OOMKilled"))) if status is State.EXITED else None
    return Container(
        id=answer["Id"],
        name=answer["Name"].removeprefix("/"),
        image=labels.get(label.IMAGE, answer["Image"]),
        state=status,
        ending=ending,
        started=_time(state.get("StartedAt", _NEVER)),
        pid=int(state.get("Pid") or 0) or None,
        tcp=_tcp_address(answer, label.tcp_port_of(labels)),
        labels=labels,
        engine=ENGINE,
    )


def _tcp_address(answer: dict[str, Any], port: int) -> TcpAddress | None:
    networks = answer.get("NetworkSettings", {}).get("Networks") or {}
    address = (networks.get(INTERNAL_NETWORK) or {}).get("IPAddress")
    return TcpAddress(address, port) if address and port else None


def _time(text: str) -> datetime | None:
    """Docker's time (RFC 3339 with nanoseconds); None for its zero."""
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(text)


def remedy_of_start(words: str, *, gpus: bool) -> str:
    """How to mend a start that Docker refused with these words."""
    if "apparmor_parser" in words:
        return (
            "Install AppArmor's tools, which this host's kernel makes Docker need (Debian: apt-get install apparmor)."
        )
    if gpus:
        return "Check that this host has these GPUs (`nvidia-smi -L`) and the NVIDIA Container Toolkit."
    return "Check that the image has this program for this machine's architecture."


def present_run(diff_ids: Sequence[str], present: Sequence[Sequence[str]]) -> int:
    """How many layers, from the lowest up, are those of some image that the engine has.

    An engine knows a layer by the chain from the lowest one to it, so only such a run can be left out of a load.
    """
    longest = 0
    for layers in present:
        count = 0
        for ours, its in zip(diff_ids, layers, strict=False):
            if ours != its:
                break
            count += 1
        longest = max(longest, count)
    return longest


def is_podman(version: Mapping[str, Any]) -> bool:
    """Whether the engine that says this of itself is Podman, which speaks Docker's API with some words missing."""
    return any("podman" in str(part.get("Name", "")).lower() for part in version.get("Components") or [])


def loads_thin_archives(info: Mapping[str, Any], version: Mapping[str, Any]) -> bool:
    """Whether a load may leave out layers: Docker with one of its own storage drivers, by its info and version."""
    status = [str(value) for pair in info.get("DriverStatus") or [] for value in pair]
    return not is_podman(version) and not any("io.containerd.snapshotter" in value for value in status)
