"""Where blobs have been seen: which repository of a registry has them, so that a push can mount instead of send.

A note for each blob and registry beside the store, written after a pull or a push. A note that is wrong or lost costs
one upload. `transfers.py` asks; `registry.py` writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from dockyard.errors import StoreError
from dockyard.oci.digest import Digest, hex_of
from dockyard.oci.files import replace_file

SMALLEST = 1 << 20  # bytes; below it a mount saves nothing
_NOTE_LIMIT = 512


class Origins:
    """The notes below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, registry: str, digest: Digest, *, but: str) -> str:
        """A repository of the registry that has a blob, other than `but`; empty when none is known."""
        try:
            with self._note(registry, digest).open("rb") as file:
                repository = file.read(_NOTE_LIMIT).decode("ascii")
        except (OSError, UnicodeDecodeError):
            return ""
        return repository if repository != but else ""

    def keep(self, registry: str, repository: str, digests: Iterable[Digest]) -> None:
        """Note that a repository has these blobs."""
        for digest in digests:
            note = self._note(registry, digest)
            try:
                replace_file(note, repository.encode("ascii"), note.parent)
            except StoreError:
                return  # only a hint

    def _note(self, registry: str, digest: Digest) -> Path:
        return self._folder / quote(registry, safe="") / hex_of(digest)
