"""index.json of a layout: the list of what it holds. Called by `layout`, which says when it may change.

A store of a busy user lists thousands of entries, and each build reads the list twice and writes it once. So what was
read is kept as long as the file's bytes are the same, and an entry that stays is written as it was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from dockyard.oci import media, wire
from dockyard.oci.files import replace_file, store_errors
from dockyard.oci.image import Descriptor

REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True)
class Entry:
    """One entry, with all its fields as they are written, also those that have no name here."""

    raw: msgspec.Raw
    told: wire.DescriptorWire

    @classmethod
    def of(cls, descriptor: Descriptor) -> Entry:
        """An entry that is to be listed."""
        return _entry(wire.encode(descriptor.document()), "an entry")

    @cached_property
    def descriptor(self) -> Descriptor:
        """What it lists; ImageError when its digest or size cannot be."""
        return Descriptor.of_wire(self.told)

    @property
    def digest(self) -> str:
        """The digest of what it lists."""
        return self.told.digest

    @cached_property
    def key(self) -> str:
        """Entries with equal keys have names that mean the same image; empty without a name."""
        return key_of((self.told.annotations or {}).get(REF_NAME, ""))


def key_of(name: str) -> str:
    """Names that mean the same image have the same key."""
    return name if not name or ":" in name.rpartition("/")[2] else f"{name}:latest"


class Listing:
    """The index of the layout at `root`; `partials` is where files are written before they get their names."""

    def __init__(self, root: Path, partials: Path) -> None:
        self.path = root / "index.json"
        self._partials = partials
        self._known: tuple[bytes, tuple[Entry, ...]] | None = None

    def read(self) -> tuple[Entry, ...]:
        """What it lists now; ImageError when it cannot be read as an index."""
        with store_errors(self.path):
            data = self.path.read_bytes()
        known = self._known
        if known is None or known[0] != data:
            what = str(self.path)
            index = wire.decode_raw_index(data, what)
            known = self._known = (data, tuple(_entry(bytes(raw), what) for raw in index.manifests or ()))
        return known[1]

    def write(self, entries: Sequence[Entry]) -> None:
        """Have it list these, durably."""
        listed = [entry.raw for entry in entries]
        data = wire.encode({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": listed})
        replace_file(self.path, data, self._partials)
        self._known = (data, tuple(entries))


def _entry(raw: bytes, what: str) -> Entry:
    return Entry(msgspec.Raw(raw), wire.decode(raw, wire.DescriptorWire, what))
