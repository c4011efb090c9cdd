"""The life of `dockyard dev`: plan, serve, wait for a change or an end, and again, until it is told to stop.

A project that is wrong, and a server that ended, leave their error on the screen; the next change tries again.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dockyard.dev.server import Plan, Server
from dockyard.dev.speech import Say, Speech
from dockyard.dev.watch import Look, state_of, wait_for_change
from dockyard.errors import DockyardError

_SHOWN = 3


@dataclass(frozen=True)
class Project:
    """A project as it is at any moment: how to serve it, and which files it has. Both are asked again and again."""

    folder: Path
    plan: Callable[[], Plan]
    look: Look


@dataclass(frozen=True)
class Manner:
    """How to talk: where lines go, whole tracebacks or not, the server's JSON as it is or not, and its address."""

    say: Say
    whole: bool
    raw: bool
    url: str


async def develop(project: Project, manner: Manner) -> None:
    """Serve until SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    try:
        while not stop.is_set():
            await _serve_once(project, manner, stopping)
    finally:
        stopping.cancel()
    manner.say("plain", "stopped")


async def _serve_once(project: Project, manner: Manner, stopping: asyncio.Future[Any]) -> None:
    """Serve the project as it is now until one of its files changes."""
    before = await asyncio.to_thread(lambda: state_of(project.look()))
    changing: asyncio.Future[Any] = asyncio.ensure_future(wait_for_change(project.look, before))
    server = await _start(project, manner)
    try:
        if server is not None:
            ending: asyncio.Future[Any] = asyncio.ensure_future(server.wait())
            await asyncio.wait({ending, changing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if ending.done() and not stopping.done():
                manner.say("bad", f"the server {ending.result()}; waiting for a change")
            else:
                await server.stop()
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)
        await asyncio.wait({changing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if changing.done() and not stopping.done():
            manner.say("dim", f"{_named(changing.result(), project.folder)} changed")
    finally:
        changing.cancel()
        await asyncio.gather(changing, return_exceptions=True)
        if server is not None:
            await server.stop()


async def _start(project: Project, manner: Manner) -> Server | None:
    started = time.monotonic()

    def ready() -> None:
        manner.say(
            "good", f"ready after {time.monotonic() - started:.1f} s: {manner.url}   (for people: {manner.url}/docs)"
        )

    try:
        plan = await asyncio.to_thread(project.plan)
        speech = Speech(project.folder, manner.say, ready, whole=manner.whole, raw=manner.raw)
        return await Server.start(plan, speech)
    except DockyardError as error:
        for line in f"error: {error}".splitlines():
            manner.say("bad", line)
        manner.say("dim", "waiting for a change")
        return None


def _named(paths: Sequence[Path], folder: Path) -> str:
    names = [str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path) for path in paths]
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
