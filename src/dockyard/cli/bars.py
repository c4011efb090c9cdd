"""Progress bars on a terminal. Imported by `progress` when there is one: drawing takes time to import."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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

from dockyard.cli.progress import Lines


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


class Bars(Lines):
    """A `build.progress.Progress` that draws, above the lines of what is finished."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(stderr=True)
        columns = (
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), _Amount(), TimeElapsedColumn(),
        )  # fmt: skip
        self._bars = Progress(*columns, console=self._console, transient=True)

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    @contextmanager
    def _running(self, title: str, total: int | None) -> Iterator[_Running]:
        task = self._bars.add_task(title, total=total)
        try:
            yield _Running(self._bars, task)
        finally:
            self._bars.remove_task(task)

    def _finished(self, title: str, seconds: float) -> None:
        self._console.print(f"  [green]✓[/] {title} [dim]{seconds:.1f} s[/]", highlight=False)
