"""A rollout as it goes on, and its receipt: live on a terminal, plain lines elsewhere, JSON lines for programs.

Called by deploy, rollback, restart, promote and status. What goes on is written to standard error, the receipt to
standard output. Ctrl-C ends the watching, never the rollout.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from types import TracebackType
from typing import Protocol, Self

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dockyard.cli.plain import plain
from dockyard.cli.showing import cell, console, span, state, table
from dockyard.cli.yards import print_line
from dockyard.client import Client
from dockyard.errors import YardGoneError
from dockyard.spec.status import Problem, Receipt, RolloutUpdate

_PREVIEW = "preview"
_LOG_LINES = 10


class Watch(Protocol):
    """Shows one update after the other; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, update: RolloutUpdate) -> None:
        """What is new."""
        ...


def watch(*, as_json: bool) -> Watch:
    """The way to show a rollout here."""
    screen = console(stderr=True)
    return JsonWatch() if as_json else LiveWatch(screen) if screen.is_terminal else LineWatch(screen)


async def follow(yard: Client, name: str, number: int | None, shown: Watch) -> RolloutUpdate:
    """Show a rollout until it is over, or waits to be promoted; gives the last update."""
    last: RolloutUpdate | None = None
    with shown:
        async with aclosing(yard.rollout(name, number)) as updates:
            async for update in updates:
                last = update
                shown.show(update)
                if update.receipt is not None or update.rollout.phase == _PREVIEW:
                    break
    if last is None:
        raise YardGoneError(f"the yard told nothing of the rollout of {name}", remedy=f"Ask it: dockyard status {name}")
    return last


def finish(name: str, last: RolloutUpdate, *, as_json: bool) -> int:
    """Tell how it ended; the exit code: 0 when the new revision has the traffic, or waits to be promoted."""
    if last.receipt is None:
        if not as_json:
            click.secho(f"{name}: revision {last.rollout.target} is ready, and waits", bold=True)
            click.echo(f"  see it:    dockyard status {name}")
            click.echo(f"  go on:     dockyard promote {name}")
            click.echo(f"  give up:   dockyard abort {name}")
        return 0
    if as_json:
        print_line(receipt=last.receipt)
    else:
        show_receipt(last.receipt, last.problem)
    return 0 if last.receipt.succeeded else 1


def tell_interrupted(name: str) -> None:
    """After Ctrl-C: the rollout goes on, and how to get back to it."""
    click.echo(f"\nThe rollout of {name} goes on without us.", err=True)
    click.echo(f"  follow it:   dockyard status {name} --follow", err=True)
    click.echo(f"  give it up:  dockyard abort {name}", err=True)


def show_receipt(receipt: Receipt, problem: Problem | None = None) -> None:
    """What a rollout did to requests."""
    out = console()
    out.print(_headline(receipt))
    old = f"{receipt.requests_old:,} on revision {receipt.source}, " if receipt.source is not None else ""
    shared = f"{receipt.requests_shared:,} on either, " if receipt.requests_shared else ""
    dropped = Text(f"{receipt.dropped:,} dropped", style="red" if receipt.dropped else "")
    new = f"{receipt.requests_new:,} on revision {receipt.target}, "
    requests = Text(f"  requests  {old}{shared}{new}").append_text(dropped)
    if receipt.in_flight_at_switch:
        requests.append(f", {receipt.in_flight_at_switch:,} in flight at the switch")
    out.print(requests)
    if latency := _latency(receipt):
        out.print(Text(f"  latency   {latency}"))
    if receipt.hold_s:
        out.print(Text(f"  held      requests waited {receipt.hold_s:.2f} s: old and new did not fit into memory"))
    if problem is not None and not receipt.succeeded:
        show_problem(out, problem)


def show_problem(out: Console, problem: Problem) -> None:
    """What went wrong, with the last lines of the log."""
    where = f" [{problem.replica}]" if problem.replica else ""
    out.print(cell(f"  {problem.what}{where}, {span(time.time() - problem.at)} ago", "red"))
    for line in problem.log[-_LOG_LINES:]:
        out.print(cell(f"    {line}", "dim"), soft_wrap=True)


def _headline(receipt: Receipt) -> Text:
    after = f"after {receipt.seconds:.1f} s"
    if receipt.succeeded:
        return Text("✓ ", "green").append(f"{receipt.deployment} runs revision {receipt.target} {after}", "bold")
    left = f"; revision {receipt.source} has the traffic" if receipt.source is not None else ""
    why = f": {plain(receipt.why)}" if receipt.why else ""
    ended = f"{receipt.deployment}: revision {receipt.target} {receipt.outcome} {after}{why}{left}"
    return Text("✗ ", "red").append(ended, "bold")


def _latency(receipt: Receipt) -> str:
    pairs = (
        ("p50", receipt.p50_before_ms, receipt.p50_after_ms),
        ("p99", receipt.p99_before_ms, receipt.p99_after_ms),
    )
    told = [
        f"{name} {before:.1f} -> {after:.1f} ms" if before is not None else f"{name} {after:.1f} ms"
        for name, before, after in pairs
        if after is not None
    ]
    return ", ".join(told)


class _Quiet:
    """A watch that needs no opening and no closing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class JsonWatch(_Quiet):
    """An object a line, on standard output."""

    def show(self, update: RolloutUpdate) -> None:
        """One line."""
        print_line(update=update)


class LineWatch(_Quiet):
    """A line whenever something changed that people care about."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._said = ""

    def show(self, update: RolloutUpdate) -> None:
        """One line, unless the last one said the same."""
        said = _summary(update)
        if said != self._said:
            self._said = said
            self._screen.print(Text(f"{time.strftime('%H:%M:%S', time.localtime(update.at))}  {said}"), soft_wrap=True)


class LiveWatch:
    """Drawn anew on every update; what was last seen stays."""

    def __init__(self, screen: Console) -> None:
        self._live = Live(console=screen, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, update: RolloutUpdate) -> None:
        """Draw it."""
        self._live.update(drawn(update))


def _summary(update: RolloutUpdate) -> str:
    rollout = update.rollout
    traffic = ", ".join(f"revision {each.revision} {each.weight} %" for each in update.traffic if not each.preview)
    message = f"  {plain(rollout.message)}" if rollout.message else ""
    problem = f"  ! {plain(update.problem.what)}" if update.problem is not None else ""
    told = f"{rollout.phase:<9} {rollout.ready}/{rollout.wanted} ready{message}{problem}"
    return f"{told}  [{traffic}]" if traffic else told


def drawn(update: RolloutUpdate) -> RenderableType:
    """The rollout for a terminal: how far, which replicas, where the traffic goes."""
    rollout = update.rollout
    head = Table.grid(padding=(0, 1))
    head.add_row(
        state(rollout.phase),
        ProgressBar(total=1.0, completed=rollout.progress, width=24),
        f"{rollout.ready}/{rollout.wanted} ready",
        cell(rollout.message, "dim"),
        Text(span(update.at - rollout.started), "dim"),
    )
    parts: list[RenderableType] = [head, _replicas(update)]
    if update.traffic:
        parts.append(_traffic(update))
    if update.problem is not None:
        parts.append(cell(f"  {update.problem.what}", "red"))
        parts += [cell(f"    {line}", "dim") for line in update.problem.log[-3:]]
    return Group(*parts)


def _replicas(update: RolloutUpdate) -> Table:
    rows = table("  replica", "revision", "phase", "for", "in flight", right=("revision", "in flight"))
    for each in sorted(update.replicas, key=lambda one: (one.revision, one.id)):
        marks = f" ({each.crashes} crashes)" if each.crashes else ""
        phase = state(each.phase).append(marks, "red")
        rows.add_row(cell(f"  {each.id}"), str(each.revision), phase, span(update.at - each.since), str(each.in_flight))
    return rows


def _traffic(update: RolloutUpdate) -> Text:
    told = Text("  traffic  ", "dim")
    for each in update.traffic:
        told.append(f"revision {each.revision} ", "").append(
            "preview  " if each.preview else f"{'█' * round(each.weight / 5)} {each.weight} %  ",
            "green" if each.revision == update.rollout.target else "blue",
        )
    return told
