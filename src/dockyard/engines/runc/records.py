"""What the runc engine keeps of a container on the disk, and how to tell whether it still lives.

A container is a folder named after it. `container.json` (facts, written once by the engine), `plan` (for the
monitor), `state.json` (written by the monitor: running, then exited). Everything `list` says comes from here, so it
holds after a crash of anything: what `state.json` calls running is believed only while its process is there, told
from a later process of the same id by the time of its birth and the boot.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from dockyard.engines import labels as label
from dockyard.engines.base import Container, Ending, State
from dockyard.engines.runc import freezer
from dockyard.errors import EngineError
from dockyard.oci.files import store_errors

ENGINE = "runc"


class Facts(msgspec.Struct, frozen=True):
    """`container.json`: what does not change."""

    name: str
    image: str
    labels: dict[str, str]


class Plan(NamedTuple):
    """`plan`: what the monitor is to do, a line for each field. `lower` are folders in `layers`, or none to mount.

    `log_bytes` is when the log is rotated; 0 leaves the container the monitor's own standard streams.
    """

    runc: str
    state: str
    id: str
    layers: str
    lower: str
    log_bytes: int

    def text(self) -> bytes:
        """As the monitor reads it."""
        return "\n".join(str(value) for value in self).encode()

    @classmethod
    def of_text(cls, text: str) -> Plan:
        """Read it back; ValueError when it is not whole."""
        runc, state, container, layers, lower, log_bytes = text.split("\n")
        return cls(runc, state, container, layers, lower, int(log_bytes))


class Life(msgspec.Struct, frozen=True):
    """`state.json`: the container's process and its monitor's, and the end once known. Times in seconds since 1970.

    `born` is when a process began, in ticks since the boot.
    """

    state: str
    pid: int
    born: int
    boot: str
    started: float
    monitor: int
    monitor_born: int
    exit_code: int | None = None
    oom_killed: bool = False
    ended: float | None = None


def write(path: Path, document: object) -> None:
    """Write a JSON document, or bytes, that nobody reads yet."""
    with store_errors(path):
        path.write_bytes(document if isinstance(document, bytes) else msgspec.json.encode(document))


def read_facts(folder: Path) -> Facts | None:
    """A container's facts; None when there is no such container."""
    try:
        return msgspec.json.decode((folder / "container.json").read_bytes(), type=Facts)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except msgspec.MsgspecError as error:
        raise EngineError(
            f"{folder}/container.json is damaged: {error}", remedy=f"Remove the container {folder.name!r}."
        ) from error


def read_life(folder: Path) -> Life | None:
    """A container's life; None before it began, or when its record was damaged by a power cut."""
    try:
        return msgspec.json.decode((folder / "state.json").read_bytes(), type=Life)
    except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
        return None


def is_alive(life: Life) -> bool:
    """Whether the very process of the container still runs."""
    return boot_id() == life.boot and _runs(life.pid, life.born)


def is_watched(life: Life) -> bool:
    """Whether its monitor still runs, and so will note the end."""
    return boot_id() == life.boot and _runs(life.monitor, life.monitor_born)


def _runs(pid: int, born: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(fields[19]) == born and fields[0] not in {b"Z", b"X"}


def boot_id() -> str:
    """The name that the kernel gave to this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def open_process(life: Life) -> int | None:
    """A descriptor of the process (pidfd), which cannot come to mean another one; None when it is gone."""
    try:
        descriptor = os.pidfd_open(life.pid)
    except ProcessLookupError:
        return None
    if is_alive(life):
        return descriptor
    os.close(descriptor)
    return None


def read_container(folder: Path) -> Container | None:
    """The container of a folder; None when there is none."""
    facts = read_facts(folder)
    if facts is None:
        return None
    life = read_life(folder)
    if life is not None and life.state == "running" and not is_alive(life):
        life = read_life(folder) or life
    state = _state(life)
    there = life is not None and state in {State.RUNNING, State.FROZEN}
    return Container(
        id=facts.name,
        name=facts.name,
        image=facts.image,
        state=state,
        ending=Ending(life.exit_code, life.oom_killed) if life and state is State.EXITED else None,
        started=datetime.fromtimestamp(life.started, UTC) if life else None,
        pid=life.pid if life and there else None,
        tcp=None,
        labels=facts.labels,
        engine=ENGINE,
    )


def secrets_of(folder: Path) -> str:
    """The folder of a container's secrets; empty when it has none."""
    facts = read_facts(folder)
    return facts.labels.get(label.SECRETS, "") if facts else ""


def facts_of(name: str, labels: Mapping[str, str]) -> Facts:
    """The facts of a container that is about to start."""
    return Facts(name, labels[label.IMAGE], dict(labels))


def _state(life: Life | None) -> State:
    if life is None:
        return State.CREATED
    if life.state != "running" or not is_alive(life):
        return State.EXITED
    return State.FROZEN if freezer.is_frozen(life.pid) else State.RUNNING
