"""Steps that must not stop half way when the task that does them is cancelled. For `launch` and the engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from dockyard.engines.base import Engine
from dockyard.errors import DockyardError

_T = TypeVar("_T")


async def finish(work: Coroutine[Any, Any, _T], undo: Callable[[_T], Coroutine[Any, Any, None]] | None = None) -> _T:
    """Do `work`, which has a deadline of its own, to its end. When cancelled meanwhile, `undo` it, then raise that."""
    task = asyncio.ensure_future(work)
    cancelled = await _uninterrupted(task)
    if cancelled is None:
        return task.result()
    if undo is not None and not task.exception():
        undoing = asyncio.ensure_future(undo(task.result()))
        await _uninterrupted(undoing)
        await asyncio.gather(undoing, return_exceptions=True)
    raise cancelled


async def _uninterrupted(task: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait for a task whatever happens; the cancellation that came meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


async def remove_surely(engine: Engine, container_id: str) -> None:
    """Remove a container, come what may; its own failure does not hide the error that led here."""
    try:
        await finish(engine.remove(container_id))
    except DockyardError:
        return
