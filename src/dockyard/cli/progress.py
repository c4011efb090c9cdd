"""Progress bars of a build on a terminal; plain lines where there is none. Called by `cli.build`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text


class _Amount(DownloadColumn):
    """Bytes where a total is known, and nothing where the work cannot be measured."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.total else Text("")


class _Running:
    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def advance(self, amount: int) -> None:
        self._bars.advance(self._task, amount)


class Bars:
    """A `build.progress.Progress` that draws; each finished piece of work leaves a line with its seconds.

    Pieces of work shorter than a twentieth of a second leave none.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = Lock()
        columns = (
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), _Amount(), TimeElapsedColumn(),
        )  # fmt: skip
        self._bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    @contextmanager
    def task(self, title: str, total: int | None = None) -> Iterator[_Running]:
        """See `build.progress.Progress.task`."""
        started = time.monotonic()
        task = self._bars.add_task(title, total=total)
        try:
            yield _Running(self._bars, task)
        finally:
            self._bars.remove_task(task)
        seconds = time.monotonic() - started
        if seconds >= 0.05:
            with self._lock:
                self._console.print(f"  [green]✓[/] {title} [dim]{seconds:.1f} s[/]", highlight=False)
