"""The JSON documents of images as they travel, checked while they are decoded.

`image.py` and `layout.py` turn these into nouns; nobody else reads them. A document that is an index and a manifest at
once is refused, because two readers would see two images (CVE-2021-41190). Unknown fields are left alone, as the
specification asks. Source: OCI image specification 1.1 (descriptor.md, manifest.md, image-index.md, config.md).
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from dockyard.errors import ImageError
from dockyard.oci.media import DOCUMENT_LIMIT

_T = TypeVar("_T")
_Index = TypeVar("_Index", "IndexWire", "RawIndexWire")


class PlatformWire(msgspec.Struct, frozen=True):
    """A platform in a descriptor."""

    os: str = ""
    architecture: str = ""
    variant: str | None = None


class DescriptorWire(msgspec.Struct, frozen=True, rename="camel"):
    """A reference to content: its type, digest and size in bytes."""

    digest: str
    size: int
    media_type: str = ""
    annotations: dict[str, str] | None = None
    platform: PlatformWire | None = None
    artifact_type: str | None = None


class IndexWire(msgspec.Struct, frozen=True, rename="camel"):
    """An image index, or Docker's manifest list."""

    schema_version: int
    manifests: list[DescriptorWire] | None
    config: Raw | UnsetType = UNSET
    layers: Raw | UnsetType = UNSET


class RawIndexWire(msgspec.Struct, frozen=True, rename="camel"):
    """The same with each entry as it is written."""

    schema_version: int
    manifests: list[Raw] | None
    config: Raw | UnsetType = UNSET
    layers: Raw | UnsetType = UNSET


class ManifestWire(msgspec.Struct, frozen=True, rename="camel"):
    """An image manifest, OCI's or Docker's schema 2."""

    schema_version: int
    config: DescriptorWire
    layers: list[DescriptorWire]
    media_type: str | None = None
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None
    subject: DescriptorWire | None = None
    manifests: Raw | UnsetType = UNSET


class TagsWire(msgspec.Struct, frozen=True):
    """A registry's list of tags."""

    tags: list[str] | None = None


class RunWire(msgspec.Struct, frozen=True, rename="pascal"):
    """The part of a configuration that says how to run the image."""

    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    user: str | None = None
    working_dir: str | None = None
    exposed_ports: dict[str, Any] | None = None
    stop_signal: str | None = None
    labels: dict[str, str] | None = None


class RootfsWire(msgspec.Struct, frozen=True):
    """The digests of the unpacked layers, lowest first."""

    diff_ids: list[str] | None = None
    type: str = "layers"


class HistoryWire(msgspec.Struct, frozen=True):
    """How one layer came to be."""

    created: str | None = None
    created_by: str | None = None
    comment: str | None = None
    empty_layer: bool = False


class ConfigWire(msgspec.Struct, frozen=True):
    """An image configuration."""

    architecture: str
    os: str
    rootfs: RootfsWire
    variant: str | None = None
    created: str | None = None
    config: RunWire | None = None
    history: list[HistoryWire] | None = None


class ArchiveImageWire(msgspec.Struct, frozen=True, rename="pascal"):
    """One image of a docker-archive's manifest.json."""

    config: str
    layers: list[str]
    repo_tags: list[str] | None = None


def decode(data: bytes, kind: type[_T], what: str) -> _T:
    """Read a document; ImageError, saying where in it, when it is too large or not what it should be."""
    if len(data) > DOCUMENT_LIMIT:
        raise ImageError(f"{what} is larger than {DOCUMENT_LIMIT >> 20} MiB", remedy="Fetch or build the image again.")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ImageError(f"{what} cannot be read: {error}", remedy="Fetch or build the image again.") from error


def decode_index(data: bytes, what: str) -> IndexWire:
    """Read an image index or manifest list."""
    return _one_faced(decode(data, IndexWire, what), what)


def decode_raw_index(data: bytes, what: str) -> RawIndexWire:
    """The same with each entry as it is written."""
    return _one_faced(decode(data, RawIndexWire, what), what)


def _one_faced(index: _Index, what: str) -> _Index:
    if index.config is not UNSET or index.layers is not UNSET:
        raise _ambiguous(what)
    return index


def decode_manifest(data: bytes, what: str) -> ManifestWire:
    """Read an image manifest."""
    manifest = decode(data, ManifestWire, what)
    if manifest.manifests is not UNSET:
        raise _ambiguous(what)
    return manifest


def _ambiguous(what: str) -> ImageError:
    return ImageError(
        f"{what} is a manifest and an index at once", remedy="Do not use this image: it shows two faces to two readers."
    )


def encode(document: object) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8."""
    return msgspec.json.encode(document, order="sorted")
