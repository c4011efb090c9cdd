"""`dockyard run`: a container of an image, in the foreground until Ctrl-C, or detached."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress

import click

from dockyard.cli import compose, places
from dockyard.cli.launching import Wish, environment_of, free_name, limits, start
from dockyard.engines.base import Container, Engine
from dockyard.errors import ContainerNotFoundError
from dockyard.spec.resources import parse_bytes


@click.command()
@click.argument("image", required=False)
@click.option("-d", "--detach", is_flag=True, help="Return when it is ready, and leave it running.")
@click.option("--name", help="Name of the container. By default the image's.")
@click.option("-p", "--publish", type=click.IntRange(1, 65535), help="Also answer on this TCP port of 127.0.0.1.")
@click.option("-e", "--env", "variables", multiple=True, metavar="NAME=VALUE", help="A variable for the model.")
@click.option("--memory", help="Limit, such as 512MiB.")
@click.option("--cpus", type=click.FloatRange(0.01), help="Limit; may be a fraction.")
@click.option("--pids", type=click.IntRange(1), help="Limit of processes and threads.")
@click.option("--timeout", type=click.FloatRange(0.1), default=120.0, help="Seconds it may take to become ready.")
@compose.engine_option("What starts the container.")
def command(
    image: str | None,
    detach: bool,
    name: str | None,
    publish: int | None,
    variables: tuple[str, ...],
    memory: str | None,
    cpus: float | None,
    pids: int | None,
    timeout: float,
    engine: str,
) -> None:
    """Start a container of IMAGE (default: the image of the project here)."""
    image_name = places.image_name(image)
    found = places.runnable(image_name)
    wish = Wish(
        image=found,
        image_name=image_name,
        name=name or "",
        environment=environment_of(variables),
        resources=limits(found, parse_bytes(memory) if memory else None, cpus, pids),
        publish=publish,
        deadline=timeout,
    )
    code = asyncio.run(_run(wish, engine, detach=detach))
    if code:
        raise SystemExit(code)


async def _run(wish: Wish, engine_name: str, *, detach: bool) -> int:
    async with compose.chosen_engine(engine_name) as engine:
        named = wish if wish.name else await _named(engine, wish)
        started = time.monotonic()
        container = await start(engine, named)
        seconds = time.monotonic() - started
        if detach:
            _tell(container, seconds)
            return 0
        return await _follow(engine, container, seconds)


async def _named(engine: Engine, wish: Wish) -> Wish:
    return Wish(**{**wish.__dict__, "name": await free_name(engine, wish.image_name)})


def _tell(container: Container, seconds: float) -> None:
    click.secho(f"{container.name} is ready after {seconds:.2f} s", bold=True, err=True)
    for port in container.ports:
        click.echo(f"  http://127.0.0.1:{port}   (a description for people: /docs)", err=True)
    if container.socket is not None:
        click.echo(f"  unix:{container.socket}", err=True)
    click.echo(f"  ask it:  dockyard predict {container.name} -i NAME=VALUE", err=True)


async def _follow(engine: Engine, container: Container, seconds: float) -> int:
    """Show the log until the container ends or Ctrl-C; then leave nothing of it. Its exit code, 0 after Ctrl-C."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    _tell(container, seconds)
    showing = asyncio.ensure_future(_show(engine, container))
    ended = asyncio.ensure_future(engine.wait(container.id))
    stopping = asyncio.ensure_future(asked.wait())
    try:
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            click.echo("stopping: requests in flight finish first", err=True)
            await engine.stop(container.id)
            return 0
        await asyncio.wait({showing}, timeout=2)
        return ended.result()
    finally:
        for task in (showing, ended, stopping):
            task.cancel()
        await asyncio.gather(showing, ended, stopping, return_exceptions=True)
        with suppress(ContainerNotFoundError):
            await engine.remove(container.id)


async def _show(engine: Engine, container: Container) -> None:
    async for line in engine.logs(container.id, follow=True):
        click.echo(line)
