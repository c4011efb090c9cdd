"""Folders that a build works in: gone at its end, also after Ctrl-C, and swept up after a killed process.

Called by `wheels`, `base` and `code`. Single files are written by `oci.files`.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_OWNED = re.compile(r"^work-(\d+)-")
_USED: set[Path] = set()


@contextmanager
def scratch_folder(parent: Path, later: Callable[[Callable[[], object]], object] = lambda do: do()) -> Iterator[Path]:
    """A new folder below `parent`, removed at the end together with those that dead processes left there.

    The removal is given to `later`, which need not do it at once.
    """
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    _USED.add(parent)
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=f"work-{os.getpid()}-")).resolve()
    try:
        yield folder
    finally:
        later(lambda: shutil.rmtree(folder, ignore_errors=True))


def settle(folder: Path, place: Path) -> None:
    """Move a finished `folder` to `place`; if another process was faster, its work stays and this one's is dropped."""
    place.parent.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    try:
        folder.rename(place)
    except OSError:
        if not place.is_dir():
            raise
        shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove the scratch folders that dead processes left in `parent`, if it is there."""
    for path in parent.glob("work-*"):
        match = _OWNED.match(path.name)
        if match and not Path("/proc", match[1]).exists():
            shutil.rmtree(path, ignore_errors=True)


@atexit.register
def _sweep_own() -> None:
    """Ctrl-C can fall into the removal itself: what is left then is removed when the process ends."""
    for parent in _USED:
        for path in parent.glob(f"work-{os.getpid()}-*"):
            shutil.rmtree(path, ignore_errors=True)
