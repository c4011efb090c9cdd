"""The nouns: platform, descriptor, image configuration, image; and how layers become an image.

Everything is frozen and nothing here reads or writes files. The builder assembles images, layouts and registries
decode them. Source: OCI image specification 1.1; Docker's schema 2 decodes to the same nouns.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from dockyard.errors import ImageError, ImageNotFoundError
from dockyard.oci import media, wire
from dockyard.oci.digest import Digest, digest_of, parse_digest

EPOCH = "1970-01-01T00:00:00Z"
LAYERS_LIMIT = 500
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True)
class Platform:
    """What an image runs on, in Go's words: `linux/amd64`, `linux/arm64/v8`."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read `os/architecture` or `os/architecture/variant`; ImageError otherwise."""
        parts = text.split("/")
        if len(parts) not in {2, 3} or not all(part.isascii() and part.replace("-", "").isalnum() for part in parts):
            raise ImageError(f"{text[:100]!r} is not a platform", remedy="Write it like linux/amd64 or linux/arm64.")
        return cls(*parts)

    @classmethod
    def host(cls) -> Platform:
        """The platform of this machine."""
        machine = os.uname().machine
        return cls("linux", _ARCHITECTURES.get(machine, machine))

    def accepts(self, other: Platform) -> bool:
        """Whether an image for `other` is what was asked for by this; without a variant, any variant is."""
        same = (self.os, self.architecture) == (other.os, other.architecture)
        return same and (not self.variant or not other.variant or self.variant == other.variant)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True)
class Descriptor:
    """A reference to a blob: its media type, digest and size in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: Platform | None = None
    artifact_type: str = ""

    @classmethod
    def of_wire(cls, value: wire.DescriptorWire) -> Descriptor:
        """Check a decoded descriptor; ImageError when digest or size cannot be."""
        if not 0 <= value.size < 1 << 50:
            raise ImageError(f"{value.digest[:80]} claims a size of {value.size} bytes", remedy="Fetch it again.")
        told = value.platform
        return cls(
            media_type=value.media_type,
            digest=parse_digest(value.digest),
            size=value.size,
            annotations=dict(value.annotations or {}),
            platform=Platform(told.os, told.architecture, told.variant or "") if told else None,
            artifact_type=value.artifact_type or "",
        )

    def document(self) -> dict[str, Any]:
        """As it is written in JSON."""
        document: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        if self.platform:
            told = {"os": self.platform.os, "architecture": self.platform.architecture}
            document["platform"] = told | ({"variant": self.platform.variant} if self.platform.variant else {})
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        return document


@dataclass(frozen=True)
class History:
    """How one layer, or one empty step, came to be."""

    created: str = EPOCH
    created_by: str = ""
    comment: str = ""
    empty_layer: bool = False

    def document(self) -> dict[str, Any]:
        """As it is written in JSON."""
        named = {"created": self.created, "created_by": self.created_by, "comment": self.comment}
        document: dict[str, Any] = {key: value for key, value in named.items() if value}
        return document | ({"empty_layer": True} if self.empty_layer else {})


@dataclass(frozen=True)
class ImageConfig:
    """How to run an image, and the digests of its unpacked layers, lowest first.

    `environment` holds `NAME=value`; `exposed_ports` holds `8080/tcp`; `created` is RFC 3339. `raw` keeps the fields of
    a decoded configuration that have no name here, so that they survive `replace` and `encode`.
    """

    platform: Platform
    environment: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    exposed_ports: tuple[str, ...] = ()
    stop_signal: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    diff_ids: tuple[Digest, ...] = ()
    created: str = EPOCH
    history: tuple[History, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False, repr=False)

    def encode(self) -> bytes:
        """Canonical JSON: the same configuration gives the same bytes, so the same image ID, everywhere."""
        run = {
            "Env": list(self.environment),
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.command),
            "User": self.user,
            "WorkingDir": self.working_dir,
            "ExposedPorts": {port: {} for port in self.exposed_ports},
            "StopSignal": self.stop_signal,
            "Labels": dict(self.labels),
        }
        document = {
            **self.raw,
            "architecture": self.platform.architecture,
            "os": self.platform.os,
            "variant": self.platform.variant,
            "created": self.created,
            "config": _without_empty({**(self.raw.get("config") or {}), **run}),
            "history": [entry.document() for entry in self.history],
        }
        rootfs = {"type": "layers", "diff_ids": list(self.diff_ids)}
        return wire.encode({**_without_empty(document), "config": document["config"], "rootfs": rootfs})

    @classmethod
    def decode(cls, data: bytes, what: str = "the image configuration") -> ImageConfig:
        """Read a configuration, OCI's or Docker's; ImageError, beginning with `what`, when it cannot be one."""
        value = wire.decode(data, wire.ConfigWire, what)
        run = value.config or wire.RunWire()
        return cls(
            platform=Platform(value.os, value.architecture, value.variant or ""),
            environment=tuple(run.env or ()),
            entrypoint=tuple(run.entrypoint or ()),
            command=tuple(run.cmd or ()),
            user=run.user or "",
            working_dir=run.working_dir or "",
            exposed_ports=tuple(sorted(run.exposed_ports or ())),
            stop_signal=run.stop_signal or "",
            labels=dict(run.labels or {}),
            diff_ids=tuple(parse_digest(text) for text in value.rootfs.diff_ids or ()),
            created=value.created or "",
            history=tuple(
                History(entry.created or "", entry.created_by or "", entry.comment or "", entry.empty_layer)
                for entry in value.history or ()
            ),
            raw=wire.decode(data, dict[str, Any], what),
        )


def _without_empty(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value not in (None, "", [], {}, ())}


@dataclass(frozen=True)
class LayerBlob:
    """A layer in a blob store. `entries` and `unpacked` (bytes of file content) are 0 when not known."""

    descriptor: Descriptor
    diff_id: Digest
    entries: int = 0
    unpacked: int = 0


@dataclass(frozen=True)
class Image:
    """An image for one platform: its manifest, configuration and layers, lowest first."""

    manifest: Descriptor
    config_descriptor: Descriptor
    layers: tuple[Descriptor, ...]
    config: ImageConfig
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def decode(cls, manifest: Descriptor, manifest_bytes: bytes, config_bytes: bytes) -> Image:
        """Put an image together from its two documents, whose digests the caller has verified."""
        config_descriptor, layers, annotations = manifest_parts(manifest_bytes, manifest.digest)
        config = ImageConfig.decode(config_bytes, f"the configuration of image {manifest.digest}")
        if len(config.diff_ids) != len(layers):
            raise ImageError(
                f"image {manifest.digest} has {len(layers)} layers, its configuration names {len(config.diff_ids)}",
                remedy="Fetch or build the image again.",
            )
        named = replace(manifest, annotations={}, platform=config.platform)
        return cls(named, config_descriptor, layers, config, annotations)

    @property
    def digest(self) -> Digest:
        """The manifest's digest, by which registries know the image."""
        return self.manifest.digest

    @property
    def image_id(self) -> Digest:
        """The configuration's digest, which Docker calls the image ID."""
        return self.config_descriptor.digest

    @property
    def size(self) -> int:
        """Bytes in a registry: layers, configuration and manifest."""
        return sum(layer.size for layer in self.layers) + self.config_descriptor.size + self.manifest.size

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Everything that must be there for the image to be whole; the manifest comes last."""
        return (*self.layers, self.config_descriptor, self.manifest)

    @property
    def layer_blobs(self) -> tuple[LayerBlob, ...]:
        """The layers with their diff IDs, to build another image on."""
        return tuple(LayerBlob(layer, diff) for layer, diff in zip(self.layers, self.config.diff_ids, strict=True))


class ManifestParts(NamedTuple):
    """What a manifest names."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]


def manifest_parts(data: bytes, digest: Digest) -> ManifestParts:
    """Read the manifest of a runnable image; ImageError when it is something else, such as an attestation."""
    manifest = wire.decode_manifest(data, f"manifest {digest}")
    if manifest.config.media_type not in media.CONFIGS:
        raise ImageError(
            f"{digest} is no image to run, but {manifest.artifact_type or manifest.config.media_type!r}",
            remedy="Name the image itself, not what is attached to it.",
        )
    if len(manifest.layers) > LAYERS_LIMIT:
        raise ImageError(f"image {digest} has more than {LAYERS_LIMIT} layers", remedy="Choose another base.")
    layers = tuple(Descriptor.of_wire(layer) for layer in manifest.layers)
    return ManifestParts(Descriptor.of_wire(manifest.config), layers, dict(manifest.annotations or {}))


class Assembled(NamedTuple):
    """An image and the two documents that must be stored for it."""

    image: Image
    manifest: bytes
    config: bytes


def assemble(
    config: ImageConfig, layers: Sequence[LayerBlob], annotations: Mapping[str, str] | None = None
) -> Assembled:
    """Make an OCI image of layers, lowest first. Pure: the caller stores both documents and adds the image.

    `config` comes without diff IDs. Layers of a Docker base get OCI's media types; their bytes stay as they are.
    """
    complete = replace(config, diff_ids=tuple(layer.diff_id for layer in layers))
    config_bytes = complete.encode()
    config_descriptor = Descriptor(media.OCI_CONFIG, digest_of(config_bytes), len(config_bytes))
    descriptors = tuple(
        replace(layer.descriptor, media_type=media.oci_layer_type(layer.descriptor.media_type), platform=None)
        for layer in layers
    )
    manifest_bytes = encode_manifest(config_descriptor, descriptors, annotations)
    manifest = Descriptor(
        media.OCI_MANIFEST, digest_of(manifest_bytes), len(manifest_bytes), platform=complete.platform
    )
    image = Image(manifest, config_descriptor, descriptors, complete, dict(annotations or {}))
    return Assembled(image, manifest_bytes, config_bytes)


def encode_manifest(
    config: Descriptor,
    layers: Sequence[Descriptor],
    annotations: Mapping[str, str] | None,
    artifact_type: str = "",
    subject: Descriptor | None = None,
) -> bytes:
    """An OCI image manifest, in canonical JSON; that of an artifact has a type and a subject."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": config.document(),
        "layers": [layer.document() for layer in layers],
    }
    if artifact_type:
        document["artifactType"] = artifact_type
    if subject:
        document["subject"] = subject.document()
    return wire.encode(document | ({"annotations": dict(annotations)} if annotations else {}))


def choose_platform(candidates: Sequence[Descriptor], platform: Platform | None, what: str) -> Descriptor:
    """The one manifest of several that fits; without a wish the only one, or this machine's.

    ImageNotFoundError, naming the platforms there are, when none fits.
    """
    images = [candidate for candidate in candidates if not _is_attachment(candidate)]
    if platform is None and len(images) == 1:
        return images[0]
    wanted = platform or Platform.host()
    for candidate in images:
        if candidate.platform and wanted.accepts(candidate.platform):
            return candidate
    found = ", ".join(sorted({str(candidate.platform) for candidate in images if candidate.platform})) or "none"
    raise ImageNotFoundError(f"{what} has no image for {wanted}", remedy=f"Platforms that it has: {found}.")


def _is_attachment(candidate: Descriptor) -> bool:
    unknown = candidate.platform is not None and candidate.platform.os == "unknown"
    return unknown or bool(candidate.artifact_type)
