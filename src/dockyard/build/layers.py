"""Builds each layer at most once: a layer is found again by what went into it.

A key digests everything a layer depends on; behind it stands the blob (in the image store) and the preflight's facts
about it. Called by `base`, `dependencies`, `weights` and `code`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from dockyard.build.elf import ElfFacts
from dockyard.oci.files import replace_note
from dockyard.oci.layer import Codec, Entry, LayerBlob, codec_version, write_layer
from dockyard.oci.layout import Blobs

# Changes when the same inputs would give other bytes: a new tar form, a new codec setting.
_FORMAT = 1


@dataclass(frozen=True)
class BuiltLayer:
    """A layer with its title for people, what the preflight must know of it, and whether it was there before.

    `modules` are the top-level Python modules that it brings.
    """

    title: str
    blob: LayerBlob
    facts: ElfFacts
    reused: bool = False
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Content:
    """What a layer is to hold, what its ELF files need and give, and the Python modules that it brings.

    `check` is called when everything was read, and refuses it if it has changed meanwhile.
    """

    entries: Iterable[Entry]
    facts: ElfFacts
    modules: tuple[str, ...] = ()
    check: Callable[[], None] = lambda: None


def reused(layers: Sequence[BuiltLayer]) -> tuple[BuiltLayer, ...]:
    """The same layers for a build that makes none of them."""
    return tuple(replace(layer, reused=True) for layer in layers)


def layer_key(kind: str, codec: Codec, **inputs: Any) -> str:
    """The key of a layer of `kind`, packed with `codec`, made from `inputs` (plain values)."""
    text = json.dumps({"kind": kind, "format": _FORMAT, "codec": codec_version(codec), **inputs}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class LayerCache:
    """Layers by key. `folder` keeps small records; the bytes are blobs of the image store."""

    def __init__(self, folder: Path, blobs: Blobs) -> None:
        self._folder = folder
        self.blobs = blobs

    def find(self, key: str) -> BuiltLayer | None:
        """The layer made before under `key`, if its bytes are still in the store."""
        try:
            record = msgspec.json.decode((self._folder / f"{key}.json").read_bytes(), type=BuiltLayer)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return replace(record, reused=True) if self.blobs.has(record.blob.descriptor.digest) else None

    def keep(self, key: str, layer: BuiltLayer) -> BuiltLayer:
        """Record a layer whose blob has been written."""
        replace_note(self._folder / f"{key}.json", msgspec.json.encode(layer))
        return layer

    def layer(self, title: str, key: str, codec: Codec, make: Callable[[], Content]) -> BuiltLayer:
        """The layer of `key`: found, or made from what `make` returns."""
        if found := self.find(key):
            return replace(found, title=title)
        content = make()
        blob = write_layer(content.entries, codec, self.blobs)
        content.check()
        return self.keep(key, BuiltLayer(title, blob, content.facts, modules=content.modules))
