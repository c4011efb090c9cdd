"""`dockyard predict`: one question to a model, wherever it is: a URL, a running container, or an image.

An image is started for the question and gone after it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from contextlib import suppress
from typing import Any

import click

from dockyard.cli import compose, places
from dockyard.cli.ask import SEE_LOG, Address, predict, read_inputs
from dockyard.cli.containers import all_containers
from dockyard.cli.launching import Wish, limits, start
from dockyard.engines.base import Container
from dockyard.engines.launch import last_lines
from dockyard.errors import ContainerNotFoundError, EngineNotFoundError, ImageNotFoundError, PredictionError


@click.command()
@click.argument("target", metavar="IMAGE|NAME|URL")
@click.option("-i", "--input", "pairs", multiple=True, metavar="NAME=VALUE", help="An input; NAME=@FILE reads a file.")
@click.option("--timeout", type=click.FloatRange(0.1), default=60.0, help="Seconds to wait for the answer.")
@compose.engine_option("Where the container runs.")
def command(target: str, pairs: tuple[str, ...], timeout: float, engine: str) -> None:
    """Ask a model and print its answer as JSON.

    The target is an image, the name of a running container, or a URL. Without -i, the inputs are read as a JSON object
    from standard input.
    """
    given = None if pairs else _standard_input()
    answer = asyncio.run(_ask(target, pairs, given, timeout, engine))
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False))


def _standard_input() -> dict[str, Any]:
    if sys.stdin.isatty():
        raise click.UsageError("Give inputs with -i NAME=VALUE, or a JSON object on standard input.")
    try:
        value = json.load(sys.stdin)
    except ValueError as error:
        raise PredictionError(
            f"standard input is not JSON: {error}", remedy='Give an object, such as {"length": 5.1}.'
        ) from error
    if not isinstance(value, dict):
        raise PredictionError(
            "standard input is JSON, but not an object", remedy='Give inputs by name: {"length": 5.1}.'
        )
    return value


async def _ask(target: str, pairs: tuple[str, ...], given: dict[str, Any] | None, deadline: float, engine: str) -> Any:
    def put(address: Address) -> Any:
        inputs = given if given is not None else read_inputs(pairs, address, deadline=deadline)
        return predict(address, inputs, deadline=deadline)

    if target.startswith(("http://", "https://")):
        return await asyncio.to_thread(put, Address(url=target))
    container = await _running(target, engine)
    if container is not None:
        return await asyncio.to_thread(put, _address(container))
    async with compose.chosen_engine(engine) as chosen:
        image = _image(target)
        name = f"predict-{secrets.token_hex(4)}"
        started = await start(chosen, Wish(image, target, name, {}, limits(image), deadline=deadline))
        try:
            return await asyncio.to_thread(put, _address(started))
        except PredictionError as error:
            if error.remedy != SEE_LOG:
                raise
            # The container is gone when this is read, and its log with it: show the end of that here.
            log = await last_lines(chosen, started.id)
            raise PredictionError(error.what, detail=log, remedy="The end of its log stands above.") from error
        finally:
            with suppress(ContainerNotFoundError):
                await chosen.remove(started.id)


async def _running(name: str, engine: str) -> Container | None:
    """The running container of that name; None if there is none, or no engine to ask."""
    with suppress(EngineNotFoundError):
        async with all_containers(engine) as found:
            return next((each.container for each in found if each.container.name == name), None)
    return None


def _image(target: str) -> Any:
    try:
        return places.runnable(target)
    except ImageNotFoundError as error:
        raise ImageNotFoundError(
            f"no container is named {target!r}, and {error.what}",
            remedy=f"{error.remedy} `dockyard ps` lists containers, `dockyard images` images.",
        ) from error


def _address(container: Container) -> Address:
    if container.socket is not None:
        return Address(socket=container.socket)
    return Address(url=f"http://127.0.0.1:{container.ports[0]}")
