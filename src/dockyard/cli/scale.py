"""`dockyard scale`: another number of replicas, waited for."""

from __future__ import annotations

import asyncio
import time

import click

from dockyard.cli import rollouts
from dockyard.cli.proposals import show
from dockyard.cli.showing import console
from dockyard.cli.yards import ask, json_option, print_json, why_option
from dockyard.client import Client
from dockyard.errors import YardBusyError
from dockyard.spec.status import DeploymentStatus

_LOOK_S = 0.2


@click.command()
@click.argument("name")
@click.argument("replicas", type=click.IntRange(0, 1000))
@why_option
@click.option("-d", "--detach", is_flag=True, help="Return at once, and let it go on.")
@click.option("--timeout", type=click.FloatRange(0), default=300.0, help="Seconds to wait until so many are ready.")
@json_option
def command(name: str, replicas: int, why: str, detach: bool, timeout: float, as_json: bool) -> None:
    """Ask for so many REPLICAS of deployment NAME, and wait until they are ready. 0 puts it to sleep."""
    proposal = ask(lambda yard: yard.scale(name, replicas, why=why))
    if not as_json:
        show(proposal, stderr=True)
    if detach:
        if as_json:
            print_json(proposal)
        return
    status = ask(lambda yard: _wait(yard, name, replicas, timeout))
    if as_json:
        print_json(status)
    else:
        click.secho(f"{name} has {status.ready} of {replicas} replicas ready", bold=True)


async def _wait(yard: Client, name: str, replicas: int, patience: float) -> DeploymentStatus:
    """Until exactly so many serve."""
    until = time.monotonic() + patience
    while True:
        status = await yard.status(name)
        running = sum(each.revision == status.active and each.phase != "stopped" for each in status.replicas)
        if status.ready == replicas == running:
            return status
        if time.monotonic() >= until:
            if status.problem is not None:
                rollouts.show_problem(console(stderr=True), status.problem)
            raise YardBusyError(
                f"{name} has {status.ready} of {replicas} replicas ready after {patience:g} s",
                remedy=f"See why: dockyard status {name}",
            )
        await asyncio.sleep(_LOOK_S)
