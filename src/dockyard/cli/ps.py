"""`dockyard ps`: the containers that Dockyard started, on every engine that answers."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.table import Table

from dockyard.cli import compose
from dockyard.cli.containers import Found, all_containers
from dockyard.cli.showing import span, table


@click.command()
@compose.engine_option("Which engine to ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(engine: str, as_json: bool) -> None:
    """List containers."""
    asyncio.run(_list(engine, as_json))


async def _list(engine: str, as_json: bool) -> None:
    async with all_containers(engine) as found:
        if as_json:
            click.echo(json.dumps([_as_json(each) for each in found], indent=2))
        elif not found:
            click.echo("No containers: `dockyard run IMAGE -d` starts one.")
        else:
            Console().print(_table(found), highlight=False)


def _table(found: tuple[Found, ...]) -> Table:
    rows = table("name", "image", "state", "up", "engine", "address", fold=["address"])
    for each in found:
        one = each.container
        state = one.state.value if one.exit_code is None else f"{one.state.value} ({one.exit_code})"
        up = _age(one.started) if one.exit_code is None else ""
        rows.add_row(one.name, one.image, state, up, one.engine, _address(each))
    return rows


def _address(found: Found) -> str:
    one = found.container
    return f"http://127.0.0.1:{one.ports[0]}" if one.ports else f"unix:{one.socket}" if one.socket else ""


def _age(started: datetime | None) -> str:
    return "" if started is None else span((datetime.now(UTC) - started).total_seconds())


def _as_json(found: Found) -> dict[str, object]:
    one = found.container
    return {
        "id": one.id,
        "name": one.name,
        "image": one.image,
        "state": one.state.value,
        "exit_code": one.exit_code,
        "started": one.started.isoformat() if one.started else None,
        "engine": one.engine,
        "socket": str(one.socket) if one.socket else None,
        "ports": list(one.ports),
    }
