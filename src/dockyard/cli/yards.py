"""What the verbs that speak to a yard share: asking it, options that all have, and JSON.

`up` starts a yard; where it is the environment says (DOCKYARD_YARD), and how to be let in.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click
import msgspec

from dockyard.client import Client, YardAddress

_Answer = TypeVar("_Answer")
_Command = TypeVar("_Command", bound=Callable[..., Any])


def ask(question: Callable[[Client], Awaitable[_Answer]]) -> _Answer:
    """Put a question to the yard and wait for the answer; errors are those of the yard."""

    async def asked() -> _Answer:
        async with Client(YardAddress.of(os.environ)) as yard:
            return await question(yard)

    return asyncio.run(asked())


def json_option(command: _Command) -> _Command:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def lines_option(command: _Command) -> _Command:
    """--json of verbs that go on telling."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line.")(command)


def why_option(command: _Command) -> _Command:
    """--why."""
    return click.option("--why", default="", help="The reason, for history and audit log.")(command)


def print_json(told: Any) -> None:
    """A noun, or several, as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())


def print_line(**told: Any) -> None:
    """One line of JSON, at once."""
    click.echo(msgspec.json.encode(told).decode())


def print_item(noun: msgspec.Struct) -> None:
    """A noun as one line of JSON, at once."""
    click.echo(msgspec.json.encode(noun).decode())
