"""Waiting for a runc container's process, and sending it signals. For `runc.engine`.

A process is held by descriptor (pidfd), so a signal can never reach a later process that got its id, and its end wakes
us without polling. The exit code comes from the monitor's record, a moment later.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

from dockyard.engines.base import unknown_container
from dockyard.engines.runc import freezer
from dockyard.engines.runc.records import Life, is_watched, open_process, read_facts, read_life
from dockyard.errors import EngineError

POLL = 0.02
MONITOR_PATIENCE = 5.0


class ExitCodeUnknownError(EngineError):
    """A container has ended, and nobody noted how."""


def send(folder: Path, number: signal.Signals) -> None:
    """Send a signal to the container's first process, and wake it; nothing happens when it is gone."""
    life = read_life(folder)
    process = open_process(life) if life is not None and life.state == "running" else None
    if process is None:
        return
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, number)
        if life is not None and freezer.is_frozen(life.pid):
            freezer.thaw(life.pid)
    finally:
        os.close(process)


async def exit_code(folder: Path) -> int:
    """Wait for the end, without a deadline, and return the exit code; ExitCodeUnknownError when nobody noted it."""
    while (life := read_life(folder)) is None:
        if read_facts(folder) is None:
            raise unknown_container(folder.name)
        await asyncio.sleep(POLL)
    await _process_end(life)
    return await _noted(folder, life)


async def ended(folder: Path, patience: float) -> None:
    """Wait until the process is gone and its end noted, or `patience` seconds are over."""
    life = read_life(folder)
    if life is not None:
        with suppress(TimeoutError, EngineError):
            async with asyncio.timeout(patience):
                await _process_end(life)
                await _noted(folder, life)


async def _process_end(life: Life) -> None:
    if life.exit_code is not None:
        return
    process = open_process(life)
    if process is None:
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(process, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(process)
        os.close(process)


async def _noted(folder: Path, life: Life) -> int:
    """The exit code from the record; the monitor writes it right after the process has ended."""
    give_up = asyncio.get_running_loop().time() + MONITOR_PATIENCE
    while True:
        watched = is_watched(life) and asyncio.get_running_loop().time() < give_up
        life = read_life(folder) or life
        if life.exit_code is not None:
            return life.exit_code
        if not watched:
            raise ExitCodeUnknownError(
                f"container {folder.name} has ended, with what exit code is not known",
                remedy="Its monitor was killed as well, or the machine restarted: start the container again.",
            )
        await asyncio.sleep(POLL / 4)
