"""A yard's state made anew from the containers that still run, for `dockyard restore --from-engine`."""

from __future__ import annotations

import time
from collections.abc import Mapping

import click

from dockyard.cli import places
from dockyard.cli.up import engines_here
from dockyard.engines.base import Container, Engine, State
from dockyard.errors import GatewayError, YardConflictError, YardError
from dockyard.gateway.envoy import SNAPSHOT
from dockyard.gateway.snapshot import Snapshot
from dockyard.oci.files import store_errors
from dockyard.spec.home import Home
from dockyard.yard.labels import read_labels
from dockyard.yard.lock import alone, holder
from dockyard.yard.rebuild import FoundReplica, rebuild
from dockyard.yard.state import Phase
from dockyard.yard.store import FILE_NAME, Store

_PHASES = {State.RUNNING: Phase.READY, State.FROZEN: Phase.FROZEN}


async def from_engine(home: Home) -> tuple[str, ...]:
    """Put the old state aside, if there is any, and make a new one."""
    if (pid := holder(home.yard)) is not None:
        raise runs_already(pid)
    engines = (await engines_here(home, "auto")).engines
    try:
        found = [each for engine in engines.values() for each in await _replicas(engine)]
    finally:
        for engine in engines.values():
            await engine.close()
    with alone(home.yard):
        _put_aside(home)
        store = Store.open(home.yard / FILE_NAME)
        try:
            return rebuild(store, found, _active(home))
        finally:
            store.close()


async def _replicas(engine: Engine) -> list[FoundReplica]:
    found = []
    for container in await engine.list():
        replica = _replica(engine, container)
        if replica is not None:
            found.append(replica)
    return found


def _replica(engine: Engine, container: Container) -> FoundReplica | None:
    try:
        labels = read_labels(container.labels, container.name)
    except YardError as error:
        click.echo(f"left alone: {error.what}", err=True)
        return None
    if labels is None:
        return None
    folder = container.socket.parent if container.socket else places.home().containers / container.name
    phase = _PHASES.get(container.state, Phase.CRASHED)
    return FoundReplica(labels, engine.name, container.id, folder, phase)


def _active(home: Home) -> Mapping[str, int]:
    """The revision with the most traffic of each deployment, by what the gateway accepted last."""
    try:
        snapshot = Snapshot.from_json((home.yard / "gateway" / SNAPSHOT).read_bytes())
    except (FileNotFoundError, GatewayError):
        return {}
    return {each.name: max(each.shares, key=each.shares.__getitem__) for each in snapshot.services if each.shares}


def _put_aside(home: Home) -> None:
    stamp = time.strftime("%Y%m%dT%H%M%S")
    with store_errors(home.yard):
        for path in sorted(home.yard.glob(f"{FILE_NAME}*")):
            aside = path.with_name(f"{path.name}.lost-{stamp}")
            path.rename(aside)
            click.echo(f"{path} is now {aside.name}", err=True)


def runs_already(pid: int) -> YardConflictError:
    """The error of restoring under a yard that runs."""
    return YardConflictError(
        f"a yard runs here (process {pid})",
        remedy="Stop it first: `dockyard down`, which stops its replicas too, or `kill`, which leaves them.",
    )
