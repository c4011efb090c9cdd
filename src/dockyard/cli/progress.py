"""What a command is doing, on standard error: bars on a terminal, elsewhere a line for each finished piece of work.

Called by the verbs that build.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from types import TracebackType
from typing import cast

import click

from dockyard.build.progress import Task

_WORTH_TELLING = 0.05  # seconds


class _Unseen:
    def advance(self, amount: int) -> None:
        """A line tells the end alone."""


class Lines:
    """A `build.progress.Progress` of plain lines; pieces of work shorter than a twentieth of a second leave none."""

    def __init__(self) -> None:
        self._lock = Lock()

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to put back."""

    @contextmanager
    def task(self, title: str, total: int | None = None) -> Iterator[Task]:
        """See `build.progress.Progress.task`."""
        started = time.monotonic()
        with self._running(title, total) as running:
            yield running
        seconds = time.monotonic() - started
        if seconds >= _WORTH_TELLING:
            with self._lock:
                self._finished(title, seconds)

    @contextmanager
    def _running(self, title: str, total: int | None) -> Iterator[Task]:
        yield _Unseen()

    def _finished(self, title: str, seconds: float) -> None:
        click.echo(f"  ✓ {title} {seconds:.1f} s", err=True)


def shown(*, lasting: bool = False) -> AbstractContextManager[Lines]:
    """How progress is told here; in lines, too, where a `lasting` process builds again and again."""
    if lasting or not sys.stderr.isatty():
        return Lines()
    # Imported only now: drawing costs every command without a terminal a twentieth of a second.
    return cast(Lines, importlib.import_module("dockyard.cli.bars").Bars())
