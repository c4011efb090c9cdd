"""The load of deployments over time as `dockyard top --since` shows it: a table each, a row a step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import click
from rich.table import Table
from rich.text import Text

from dockyard.cli.showing import cell, moment, number, table
from dockyard.spec.resources import format_bytes
from dockyard.spec.status import LoadHistory, LoadStep

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}
_NUMBERS = ("requests/s", "errors/s", "p50", "p99", "in flight", "replicas", "CPUs", "memory")
_DAY = 86_400


def seconds(least: int) -> Callable[[click.Context, click.Parameter, str | None], int | None]:
    """The callback of an option that is a time as people write it, `90s`, `15m`, `6h` or `1d`: at most a day."""

    def read(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
        if text is None:
            return None
        match = re.fullmatch(r"(\d{1,6})(s|m|min|h|d)", text, re.ASCII)
        found = int(match[1]) * _UNITS[match[2]] if match else 0
        if not least <= found <= _DAY:
            what = f"{text!r} is no time from {least} s to a day, such as 15m, 6h or 1d"
            raise click.BadParameter(what, context, option)
        return found

    return read


def drawn(history: LoadHistory) -> Table | Text:
    """The steps from the first on of which anything is known."""
    steps = list(history.steps)
    while steps and not _known(steps[0]):
        del steps[0]
    if not steps:
        return cell(f"{history.deployment}: nothing is known of its load in that time", "dim")
    rows = table("from", *_NUMBERS, right=_NUMBERS)
    rows.title, rows.title_justify, rows.title_style = cell(history.deployment), "left", "bold"
    rows.caption, rows.caption_justify = f"averages and percentiles of {history.step_s:g} s each", "left"
    for each in steps:
        rows.add_row(*_cells(each, history.step_s))
    return rows


def _known(step: LoadStep) -> bool:
    return any(each is not None for each in _values(step))


def _values(step: LoadStep) -> Iterable[float | None]:
    rates = (step.requests_per_second, step.errors_per_second, step.p50_ms, step.p99_ms)
    return (*rates, step.in_flight, step.ready, step.cpus, step.memory)


def _cells(step: LoadStep, length: float) -> list[str]:
    began = moment(step.at)
    rates = [number(each) for each in (step.requests_per_second, step.errors_per_second)]
    latencies = [number(each, " ms") for each in (step.p50_ms, step.p99_ms)]
    use = [number(step.in_flight), number(step.ready), number(step.cpus, digits=2)]
    memory = "-" if step.memory is None else format_bytes(step.memory)
    return [began if length % 60 else began[:-3], *rates, *latencies, *use, memory]
