"""Artifacts: what is attached to an image without changing it, such as a signature, an SBOM or a test's result.

An artifact is a manifest whose `subject` is the image; the image does not know of it. `dockyard.supply` makes them,
layouts and registries keep them next to their subject. Pure: nothing here reads or writes files.
Source: OCI image specification 1.1 (manifest.md, "Guidelines for Artifact Usage").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from dockyard.errors import ImageError
from dockyard.oci import media, wire
from dockyard.oci.digest import Digest, digest_of, hex_of
from dockyard.oci.image import LAYERS_LIMIT, Descriptor, encode_manifest

_SUBJECT_TAG = re.compile(r"sha256-[0-9a-f]{64}(\.|$)", re.ASCII)


@dataclass(frozen=True)
class Artifact:
    """One artifact: its manifest (with type and annotations, as a list of referrers shows it), subject and payloads."""

    manifest: Descriptor
    subject: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @classmethod
    def decode(cls, manifest: Descriptor, data: bytes) -> Artifact:
        """Read the manifest of an artifact, whose digest the caller has verified; ImageError when it has no subject."""
        what = f"artifact {manifest.digest}"
        told = wire.decode_manifest(data, what)
        if told.subject is None:
            raise ImageError(f"{what} is attached to nothing", remedy="Name something that refers to an image.")
        if len(told.layers) > LAYERS_LIMIT:
            raise ImageError(f"{what} has more than {LAYERS_LIMIT} layers", remedy="Do not use it.")
        config = Descriptor.of_wire(told.config)
        described = replace(
            manifest,
            platform=None,
            artifact_type=told.artifact_type or config.media_type,
            annotations=dict(told.annotations or {}),
        )
        layers = tuple(Descriptor.of_wire(layer) for layer in told.layers)
        return cls(described, Descriptor.of_wire(told.subject), config, layers)

    @property
    def digest(self) -> Digest:
        """The manifest's digest."""
        return self.manifest.digest

    @property
    def type(self) -> str:
        """What kind of artifact it is."""
        return self.manifest.artifact_type

    @property
    def annotations(self) -> Mapping[str, str]:
        """Those of its manifest."""
        return self.manifest.annotations

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Everything that must be there for it to be whole, without its subject; the manifest comes last."""
        return (self.config, *self.layers, self.manifest)

    @property
    def tag(self) -> str:
        """A tag of its own in a registry, so that no garbage collection takes it for forgotten.

        That of a cosign signature is where cosign and its like look for it.
        """
        if self.type == media.COSIGN_SIGNATURE:
            return f"{subject_tag(self.subject.digest)}.sig"
        return f"{subject_tag(self.subject.digest)}.{hex_of(self.digest)[:16]}"


@dataclass(frozen=True)
class Payload:
    """One document that an artifact carries."""

    media_type: str
    data: bytes
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def descriptor(self) -> Descriptor:
        """As the manifest names it."""
        return Descriptor(self.media_type, digest_of(self.data), len(self.data), self.annotations)


EMPTY_CONFIG = Payload(media.OCI_EMPTY, b"{}")


class Attachment(NamedTuple):
    """An artifact, and the documents that must be stored for it; the manifest comes last."""

    artifact: Artifact
    documents: tuple[bytes, ...]


def attach(
    subject: Descriptor,
    kind: str,
    payloads: Sequence[Payload],
    annotations: Mapping[str, str] | None = None,
    config: Payload = EMPTY_CONFIG,
) -> Attachment:
    """An artifact of this kind (a media type) about `subject`. The same arguments give the same bytes."""
    plain = Descriptor(subject.media_type, subject.digest, subject.size)
    layers = tuple(payload.descriptor for payload in payloads)
    data = encode_manifest(config.descriptor, layers, annotations, kind, plain)
    manifest = Descriptor(media.OCI_MANIFEST, digest_of(data), len(data), dict(annotations or {}), artifact_type=kind)
    artifact = Artifact(manifest, plain, config.descriptor, layers)
    return Attachment(artifact, (config.data, *(payload.data for payload in payloads), data))


def subject_tag(subject: Digest) -> str:
    """The tag under which a registry without the referrers API keeps the list of what refers to an image."""
    return f"sha256-{hex_of(subject)}"


def is_subject_tag(tag: str) -> bool:
    """Whether a tag is such a list, or belongs to something attached to an image."""
    return _SUBJECT_TAG.match(tag) is not None
