"""A backup for one caller: made beside the running yard in a folder of its own, then read out, then gone.

One at a time, for each takes twice its size on the disk while it is made. What a yard left that was killed meanwhile
goes when the next is made. `governing` offers it.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

from dockyard.errors import YardBusyError
from dockyard.oci.files import as_store_error
from dockyard.spec.home import Home
from dockyard.yard.backup import write_backup

_PIECE = 1 << 20
_PREFIX = "backup-"


class Backups:
    """The backups of one home."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._busy = False

    async def make(self, *, images: bool) -> AsyncGenerator[bytes, None]:
        """The bytes of a backup, the first of them once all of it is made. StoreError; YardBusyError while another is
        made or read."""
        if self._busy:
            raise YardBusyError("a backup is being made already", remedy="Wait until that one has ended.")
        self._busy = True
        try:
            folder = await asyncio.to_thread(self._folder)
            try:
                file = folder / "backup.tar"
                await _to_its_end(file, self._home, images=images)
                with file.open("rb") as source:
                    while piece := await asyncio.to_thread(source.read, _PIECE):
                        yield piece
            finally:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        finally:
            self._busy = False

    def _folder(self) -> Path:
        for left in self._home.yard.glob(f"{_PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)
        try:
            return Path(tempfile.mkdtemp(dir=self._home.yard, prefix=_PREFIX))
        except OSError as error:
            raise as_store_error(error, self._home.yard) from error


async def _to_its_end(file: Path, home: Home, *, images: bool) -> None:
    """Write it in a thread; cancelled, wait for that all the same, since nothing may be removed under it."""
    writing = asyncio.ensure_future(asyncio.to_thread(write_backup, home, file, with_images=images))
    try:
        await asyncio.shield(writing)
    finally:
        if not writing.done():
            await asyncio.wait({writing})
            writing.exception()
