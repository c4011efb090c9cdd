"""The access log in bounds: a file that has grown too long is set aside, and the oldest one goes.

Envoy only appends. The file is renamed, then Envoy is asked to open a new one; until it does, it goes on writing to the
renamed one, so no line is lost. `envoy` calls `rotate` every few seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from dockyard.errors import GatewayError

_LOG = logging.getLogger(__name__)


class Rotation:
    """Of the log at `path`, with older files beside it: `NAME.1` is the youngest of them, `NAME.FILES` the oldest."""

    def __init__(self, path: Path, reopen: Callable[[], Awaitable[None]], *, max_bytes: int, files: int) -> None:
        self._path = path
        self._reopen = reopen
        self._max_bytes = max_bytes
        self._files = files
        # A renamed file is still being written to. So it is, too, when an owner before this one ended in between.
        self._owed = not path.exists() and self._older(1).exists()

    async def rotate(self) -> bool:
        """Begin a new file if the current one is too long; whether that was done. Never raises: it is tried again."""
        try:
            if not self._owed and self._size() <= self._max_bytes:
                return False
            if not self._owed:
                self._shift()
                self._owed = True
            await self._reopen()
        except (OSError, GatewayError) as error:
            _LOG.warning("the access log %s cannot be rotated now: %s", self._path, error)
            return False
        self._owed = False
        return True

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def _shift(self) -> None:
        for number in range(self._files, 0, -1):
            younger = self._older(number - 1)
            if younger.exists():
                younger.replace(self._older(number))

    def _older(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path
