"""Keeps a build's caches from growing for ever. `dockyard gc` calls it.

Trees are touched when a build uses them, so none goes while it is in use. A cache that is gone costs the next build
some seconds, nothing else.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from dockyard.oci.files import store_errors

KEPT = 30 * 86_400.0  # seconds


def clean(cache: Path, age: float, *, everything: bool) -> int:
    """Remove scratch folders older than `age`, and caches older than a month (or all of them); the bytes freed."""
    freed = 0
    for path in _entries(cache):
        limit = age if everything or path.name.startswith("work-") else max(KEPT, age)
        with store_errors(path):
            if time.time() - path.stat().st_mtime < limit:
                continue
            freed += _size(path)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    return freed


def _entries(cache: Path) -> Iterator[Path]:
    """What may go, each by itself: one tree, one package, one note."""
    for folder in ("work", "trees", "packages", "layers", "weights", "contents", "pickles", "signatures"):
        if (cache / folder).is_dir():
            yield from sorted((cache / folder).iterdir())


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
