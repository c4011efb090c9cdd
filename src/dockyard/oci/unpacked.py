"""The noun for a layer that lies unpacked in a folder; `unpack.py` makes it, `merge.py` and the engines take it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class UnpackedLayer:
    """A layer's files, and what it deletes of the layers below it.

    `whiteouts` are paths to remove; `opaque` are folders whose lower content is hidden ("" is the root). `bytes`
    counts the content of files.
    """

    folder: Path
    whiteouts: tuple[str, ...] = ()
    opaque: tuple[str, ...] = ()
    entries: int = 0
    bytes: int = 0
