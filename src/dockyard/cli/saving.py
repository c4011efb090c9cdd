"""An answer of the yard that is a file: written under a temporary name, durable, then renamed; or to standard output.

Called by `audit export` and `backup`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

from dockyard.cli.yards import ask
from dockyard.client import Client
from dockyard.oci.files import PartialFile, sync_folder


def save(parts: Callable[[Client], AsyncGenerator[bytes, None]], file: Path) -> int:
    """Write them to `file` (`-`: standard output), readable by its owner alone; how many bytes they were."""

    if str(file) == "-":
        size = ask(lambda yard: _copy(parts(yard), sys.stdout.buffer.write))
        sys.stdout.buffer.flush()
        return size
    final = file.absolute()
    with PartialFile(final.parent, f".{file.name}.") as partial:
        partial.path.chmod(0o600)
        size = ask(lambda yard: _copy(parts(yard), partial.write))
        partial.commit(final)
    sync_folder(final.parent)
    return size


async def _copy(stream: AsyncGenerator[bytes, None], write: Callable[[bytes], object]) -> int:
    size = 0
    async with aclosing(stream) as parts:
        async for part in parts:
            write(part)
            size += len(part)
    return size
