"""What a build says while it works, without knowing who listens.

The builder's parts call `Progress`; the command line draws bars (`cli.progress`), tests and programs stay silent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One running piece of work."""

    def advance(self, amount: int) -> None:
        """`amount` more of the total is done. May be called from any thread."""


class Progress(Protocol):
    """Where work in progress is told."""

    def task(self, title: str, total: int | None = None) -> AbstractContextManager[Task]:
        """A piece of work that lasts as long as the context; `total` in bytes, None when it cannot be known."""


class _Unseen:
    def advance(self, amount: int) -> None:
        """Nobody is listening."""


class Silent:
    """A Progress that tells nobody."""

    @contextmanager
    def task(self, title: str, total: int | None = None) -> Iterator[Task]:
        """See `Progress.task`."""
        yield _Unseen()
