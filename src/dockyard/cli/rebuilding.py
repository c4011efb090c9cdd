"""A yard's state made anew from the containers that are there, for `dockyard restore --from-engine`.

Everything is read and checked before the old state is put aside: every engine that may have replicas must answer, or a
part of them would be forgotten, and only those of this home are taken, for another home's yard may be on the same
engine.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from dockyard.cli.up import Here, engines_here
from dockyard.engines.base import Container, Engine, State
from dockyard.engines.detect import silent_docker
from dockyard.errors import YardConflictError, YardError
from dockyard.gateway.snapshot import Snapshot
from dockyard.oci.files import store_errors, sync_folder
from dockyard.spec.home import Home
from dockyard.supply.audit_verifier import keys_in
from dockyard.yard.adopt import UNREAD
from dockyard.yard.audit import PUBLIC_KEY
from dockyard.yard.belonging import in_home
from dockyard.yard.database import files_of
from dockyard.yard.labels import ReplicaLabels, read_labels
from dockyard.yard.lock import alone, holder
from dockyard.yard.lost import endpoints_of, last_routed
from dockyard.yard.rebuild import FoundReplica, rebuild
from dockyard.yard.state import Phase
from dockyard.yard.store import FILE_NAME, Store

_PHASES = {State.RUNNING: Phase.READY, State.FROZEN: Phase.FROZEN}
_DOCKER = "docker"


async def from_engine(home: Home, *, without_docker: bool = False) -> tuple[str, ...]:
    """Make a new state of this home's replicas, put the old one aside, if there is any; the deployments' names.

    YardError, and nothing has changed, while a yard runs, an engine that may have replicas does not answer, or there
    are none. `without_docker`: what Docker has is left out, and left alone.
    """
    if (pid := holder(home.yard)) is not None:
        raise runs_already(pid)
    containers = await _containers(home, without_docker=without_docker)
    routed = last_routed(home)
    found = _own(containers, home, routed)
    with alone(home.yard):
        return _replace(home, found, routed, _DOCKER if without_docker else "")


async def _containers(home: Home, *, without_docker: bool) -> Sequence[tuple[str, Container]]:
    """All that the engines of this host have, each with its engine's name."""
    here = await engines_here(home, "auto")
    engines = {name: each for name, each in here.engines.items() if not (without_docker and name == _DOCKER)}
    try:
        if not without_docker:
            _check_docker(here)
        _check_runc(home, engines)
        return [(name, each) for name, engine in engines.items() for each in await engine.list()]
    finally:
        for engine in here.engines.values():
            await engine.close()


def _check_docker(here: Here) -> None:
    """YardError when Docker may be on this host, and does not answer."""
    if _DOCKER in here.engines and _DOCKER not in here.silent:
        return
    why = "the old state says so" if _DOCKER in here.silent else _sign_of_docker()
    if not why:
        return
    raise YardError(
        f"Docker may have replicas of this yard ({why}), and does not answer; nothing was changed",
        remedy="Start it, then do this again. If this yard has none there: `restore --from-engine --without-docker`.",
    )


def _sign_of_docker() -> str:
    """Why one may think that Docker, or Podman, has containers here; empty when nothing says so."""
    if host := os.environ.get("DOCKER_HOST"):
        return f"DOCKER_HOST is {host}"
    socket = silent_docker(os.environ).where.removeprefix("unix://")
    if Path(socket).exists():
        return f"{socket} is there"
    path = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
    programs = filter(None, (shutil.which(name, path=path) for name in ("dockerd", "podman")))
    return next((f"{program} is there" for program in programs), "")


def _check_runc(home: Home, engines: Mapping[str, Engine]) -> None:
    """YardError when runc has containers in this home, and cannot be asked."""
    folder = home.runc / "containers"
    if "runc" in engines or not folder.is_dir():
        return
    with store_errors(folder):
        names = sorted(path.name for path in folder.iterdir())
    if names:
        raise YardError(
            f"runc has containers in {folder}, and cannot be used here; nothing was changed",
            remedy="Do this as root, with runc installed (Debian: apt-get install runc).",
            detail=", ".join(names),
        )


def _own(containers: Sequence[tuple[str, Container]], home: Home, routed: Snapshot | None) -> list[FoundReplica]:
    """Those that are replicas of this home; tells how many others there are. YardError when it has none."""
    labelled = [one for engine, each in containers if (one := _labelled(engine, each)) is not None]
    home_yards = {one.labels.yard for one in labelled if in_home(one.container, home.containers)} | _yards_of_log(home)
    known = endpoints_of(routed)

    def is_own(one: _Labelled) -> bool:
        if one.container.socket is not None:
            return in_home(one.container, home.containers)
        return one.container.name in known if routed is not None else one.labels.yard in home_yards

    own = [one.found(home) for one in labelled if is_own(one)]
    others = len(labelled) - len(own)
    if others:
        click.echo(f"left alone: {others} replicas of yards with other homes than {home.root}", err=True)
    if not own:
        raise YardError(
            f"no engine has a replica whose home is {home.root}; nothing was changed",
            remedy="Restore a backup: `dockyard restore FILE`. For a new, empty yard start one, once "
            f"{home.yard / FILE_NAME} is moved away.",
        )
    return own


@dataclass(frozen=True)
class _Labelled:
    """A container that is a replica of some yard."""

    engine: str
    container: Container
    labels: ReplicaLabels

    def found(self, home: Home) -> FoundReplica:
        socket = self.container.socket
        folder = socket.parent if socket else home.containers / self.container.name
        phase = _PHASES.get(self.container.state, Phase.CRASHED)
        return FoundReplica(self.labels, self.engine, self.container.id, folder, phase)


def _labelled(engine: str, container: Container) -> _Labelled | None:
    try:
        labels = read_labels(container.labels, container.name)
    except YardError as error:
        click.echo(f"left alone: {error.what}", err=True)
        return None
    return None if labels is None else _Labelled(engine, container, labels)


def _yards_of_log(home: Home) -> set[str]:
    """The ids under which this home's audit log was signed."""
    try:
        keys = keys_in((home.yard / PUBLIC_KEY).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return set()
    return {key.partition("+")[0].rpartition("/")[2] for key in keys}


def _replace(home: Home, found: Sequence[FoundReplica], routed: Snapshot | None, unread: str) -> tuple[str, ...]:
    """Make the new state beside the old one, and only once it is whole put it in its place."""
    with _beside(home) as folder:
        store = Store.open(folder / FILE_NAME)
        try:
            names = rebuild(store, found, _active(routed))
            store.set_note(UNREAD, unread)
        finally:
            store.close()
        _put_aside(home)
        with store_errors(home.yard):
            pairs = zip(files_of(folder / FILE_NAME), files_of(home.yard / FILE_NAME), strict=True)
            for made, final in reversed(tuple(pairs)):
                if made.exists():
                    made.rename(final)
    sync_folder(home.yard)
    return names


@contextmanager
def _beside(home: Home) -> Iterator[Path]:
    with store_errors(home.yard):
        folder = tempfile.TemporaryDirectory(prefix=".rebuilt-", dir=home.yard)
    with folder as name:
        yield Path(name)


def _active(routed: Snapshot | None) -> Mapping[str, int]:
    """The revision with the most traffic of each deployment, by what the gateway accepted last."""
    services = routed.services if routed else ()
    return {each.name: max(each.shares, key=each.shares.__getitem__) for each in services if each.shares}


def _put_aside(home: Home) -> None:
    """The old state under a name by which SQLite still reads it; copies of it are aside already."""
    path = home.yard / FILE_NAME
    aside = path.with_name(f"{path.name}.lost-{time.strftime('%Y%m%dT%H%M%S')}")
    with store_errors(home.yard):
        for old, new in zip(files_of(path), files_of(aside), strict=True):
            if old.exists():
                old.rename(new)
                click.echo(f"{old} is now {new.name}", err=True)


def runs_already(pid: int) -> YardConflictError:
    """The error of restoring under a yard that runs."""
    return YardConflictError(
        f"a yard runs here (process {pid})",
        remedy="Stop it first: `dockyard down`, which stops its replicas too, or `kill`, which leaves them.",
    )
