"""`dockyard test`: run an image's goldens inside the image, on a real engine, under the limits it will have."""

from __future__ import annotations

import asyncio
import secrets

import click

from dockyard.cli import compose, places
from dockyard.cli.launching import Wish, limits
from dockyard.engines.once import run_once


@click.command()
@click.argument("image", required=False)
@click.option("--timeout", type=click.FloatRange(1), default=300.0, help="Seconds that all goldens may take.")
@compose.engine_option("What starts the container.")
def command(image: str | None, timeout: float, engine: str) -> None:
    """Run the goldens of IMAGE (default: the image of the project here); fails if one of them does."""
    name = places.image_name(image)
    raise SystemExit(asyncio.run(_test(name, timeout, engine)))


async def _test(name: str, deadline: float, engine_name: str) -> int:
    image = places.store().resolve(name)
    wish = Wish(image, name, f"test-{secrets.token_hex(4)}", {}, limits(image))
    async with compose.chosen_engine(engine_name) as engine:
        await engine.load(image, places.store(), name)
        finished = await run_once(engine, wish.spec(("selftest",)), None, deadline)
    click.echo(finished.stdout.decode("utf-8", "replace"), nl=False)
    click.echo(finished.stderr.decode("utf-8", "replace"), nl=False, err=True)
    return finished.exit_code
