"""`dockyard down`: stop the yard of this host with everything that it runs. Nothing is forgotten."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress

import click

from dockyard.cli import places
from dockyard.cli.up import engines_here, gateway_settings
from dockyard.engines.base import Container, Engine
from dockyard.errors import ContainerNotFoundError, EngineError, YardError
from dockyard.gateway.envoy import EnvoyGateway
from dockyard.spec.home import Home
from dockyard.yard.adopt import replicas_on
from dockyard.yard.belonging import Own
from dockyard.yard.lock import holder
from dockyard.yard.store import FILE_NAME, Store

GRACE_S = 30.0
_POLL_S = 0.05


@click.command()
@click.option("--grace", default=GRACE_S, show_default=True, help="Seconds that requests in flight get.")
def command(grace: float) -> None:
    """Stop the yard, its gateway and its replicas. `dockyard up` starts them all again, as they were."""
    home = places.home()
    _stop_yard(home)
    asyncio.run(_stop_rest(home, grace))


def _stop_yard(home: Home) -> None:
    pid = holder(home.yard)
    if pid is None:
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while holder(home.yard) is not None:
        if time.monotonic() > deadline:
            raise YardError(f"the yard (process {pid}) does not stop", remedy="Look at its log, or kill it.")
        time.sleep(_POLL_S)
    click.echo("the yard has stopped", err=True)


async def _stop_rest(home: Home, grace: float) -> None:
    """The gateway first, so that nothing new comes; it lets requests in flight finish."""
    if not (home.yard / FILE_NAME).exists():
        click.echo(f"there is no yard at {home.yard}", err=True)
        return
    store = Store.open(home.yard / FILE_NAME)
    own = Own.of(store, home.containers)
    store.close()
    gateway = await EnvoyGateway.start(gateway_settings(home, None))
    await gateway.stop()
    click.echo("the gateway has stopped", err=True)
    here = await engines_here(home, "auto")
    silent: list[EngineError] = []
    for engine in here.engines.values():
        try:
            found = await replicas_on(engine, own)
            await asyncio.gather(*(_stop(engine, each, grace) for each in found.values()))
            click.echo(f"{engine.name}: {len(found)} replicas have stopped", err=True)
        except EngineError as error:
            silent.append(error)
        finally:
            await engine.close()
    if silent:
        raise silent[0]


async def _stop(engine: Engine, container: Container, grace: float) -> None:
    with suppress(ContainerNotFoundError):
        await engine.stop(container.id, grace)
        await engine.remove(container.id)
