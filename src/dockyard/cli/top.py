"""`dockyard top`: what every deployment and replica does and uses, live; or what deployments did, over the last day."""

from __future__ import annotations

import asyncio

import click
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dockyard.cli import top_history
from dockyard.cli.showing import cell, console, number, state, table
from dockyard.cli.top_history import seconds
from dockyard.cli.yards import ask, print_item, print_json
from dockyard.client import Client
from dockyard.spec.resources import format_bytes
from dockyard.spec.status import Load, LoadHistory, ReplicaLoad, Top

_NUMBERS = ("requests/s", "errors/s", "p50", "p99", "in flight", "CPUs", "memory")


@click.command()
@click.argument("names", nargs=-1)
@click.option("--once", is_flag=True, help="Show it once.")
@click.option("--every", type=click.FloatRange(0.2, 3600), default=2.0, help="Seconds between two looks.")
@click.option(
    "--since",
    callback=seconds(10),
    metavar="TIME",
    help="Show the last 15m, 6h or 1d instead, a row a step; a day at most.",
)
@click.option(
    "--step", callback=seconds(2), metavar="TIME", help="With --since: how long a step is. Default: by the time."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: once, or an object a line.")
def command(
    names: tuple[str, ...], once: bool, every: float, since: int | None, step: int | None, as_json: bool
) -> None:
    """Show the load of deployments NAMES (default: all) and their replicas, until Ctrl-C; or what it was."""
    if since is not None:
        _show_history(names, since, step or 0, as_json=as_json)
        return
    if step is not None:
        raise click.UsageError("--step says how long the steps of --since are: give that too.")
    if once or (not as_json and not console().is_terminal):
        top = _only(ask(lambda yard: yard.top()), names)
        print_json(top) if as_json else console().print(drawn(top))
        return
    ask(lambda yard: _go_on(yard, names, every, as_json=as_json))


def _show_history(names: tuple[str, ...], since: int, step: int, *, as_json: bool) -> None:
    async def asked(yard: Client) -> list[LoadHistory]:
        wanted = names or [each.deployment for each in (await yard.top()).deployments]
        return [await yard.load_history(name, since_s=since, step_s=step) for name in wanted]

    histories = ask(asked)
    if as_json:
        print_json(histories)
        return
    for history in histories:
        console().print(top_history.drawn(history))


async def _go_on(yard: Client, names: tuple[str, ...], every: float, *, as_json: bool) -> None:
    with Live(console=console(), screen=not as_json, auto_refresh=False) as live:
        while True:
            top = _only(await yard.top(), names)
            if as_json:
                print_item(top)
            else:
                live.update(drawn(top), refresh=True)
            await asyncio.sleep(every)


def _only(top: Top, names: tuple[str, ...]) -> Top:
    kept = tuple(each for each in top.deployments if not names or each.deployment in names)
    return Top(at=top.at, window_s=top.window_s, deployments=kept)


def drawn(top: Top) -> Table:
    """The load as a table; rates and percentiles are of the last seconds that its caption names."""
    rows = table("name", "revision", "phase", *_NUMBERS, right=("revision", *_NUMBERS))
    rows.caption, rows.caption_justify = f"rates and latencies of the last {top.window_s:g} s", "left"
    for load in top.deployments:
        rows.add_row(*_deployment(load))
        for each in load.replicas:
            rows.add_row(*_replica(each))
    return rows


def _deployment(load: Load) -> list[str | Text]:
    memory = "-" if load.memory is None else format_bytes(load.memory)
    rates = [number(each) for each in (load.requests_per_second, load.errors_per_second)]
    latencies = [number(each, " ms") for each in (load.p50_ms, load.p99_ms)]
    use = [str(load.in_flight), number(load.cpus, digits=2), memory]
    return [cell(load.deployment, "bold"), "", "", *rates, *latencies, *use]


def _replica(load: ReplicaLoad) -> list[str | Text]:
    memory = "-" if load.memory is None else format_bytes(load.memory)
    if load.memory is not None and load.memory_limit:
        memory = f"{memory} ({100 * load.memory / load.memory_limit:.0f} %)"
    use = [str(load.in_flight), number(load.cpus, digits=2), memory]
    rate = number(load.requests_per_second)
    return [cell(f"  {load.id}", "dim"), str(load.revision), state(load.phase), rate, "", "", "", *use]
