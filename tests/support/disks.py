"""Small disks, for tests of what happens when one is full. Only root can mount them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """An empty disk of that size (as mount says it: `64m`) at a place, until the body ends."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], check=True, timeout=20)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True, timeout=20)


def fill(place: Path, left: int) -> Path:
    """Leave only so many bytes of a disk; the file that takes the rest."""
    room = os.statvfs(place)
    filler = place / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_bsize - left))
    return filler
