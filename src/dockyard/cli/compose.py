"""Wires concrete engines to the interface: the only place that decides which one starts containers.

Called by the verbs that need an engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import click

from dockyard.cli import places
from dockyard.engines.base import Engine
from dockyard.engines.detect import Choice, detect

ENGINES = ("auto", "docker", "runc")


_Command = TypeVar("_Command", bound=Callable[..., Any])


def engine_option(text: str) -> Callable[[_Command], _Command]:
    """The option --engine of a verb, which DOCKYARD_ENGINE answers where it is not given."""
    return click.option(
        "--engine",
        type=click.Choice(ENGINES),
        default="auto",
        envvar="DOCKYARD_ENGINE",
        show_envvar=True,
        help=text,
    )


@asynccontextmanager
async def chosen_engine(name: str, *, tell: bool = True) -> AsyncIterator[Engine]:
    """The engine asked for, or the one that answers; says which and why on standard error."""
    choice: Choice = await detect(places.home().runc, prefer=None if name == "auto" else name)
    if tell:
        click.secho(f"engine: {choice.why}", dim=True, err=True)
    try:
        yield choice.engine
    finally:
        await choice.engine.close()
