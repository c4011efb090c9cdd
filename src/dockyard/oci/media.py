"""Media types of images, in OCI's words and in Docker's, and what a layer's media type says of its compression.

Bases come from registries and archives in both families; what we write is OCI's. Sources: OCI image specification 1.1
(media-types.md), Docker image manifest version 2, schema 2.
"""

from __future__ import annotations

from typing import Literal

from dockyard.errors import ImageError

Codec = Literal["gzip", "zstd", "none"]

# Manifests, configurations and indexes are read whole; a larger one is refused. Bytes.
DOCUMENT_LIMIT = 8 << 20

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
COSIGN_SIGNATURE = "application/vnd.dev.cosign.artifact.sig.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})

LAYER_OF_CODEC: dict[Codec, str] = {
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "none": "application/vnd.oci.image.layer.v1.tar",
}
_CODEC_OF_LAYER: dict[str, Codec] = {
    **{media_type: codec for codec, media_type in LAYER_OF_CODEC.items()},
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "none",
}


def codec_of(media_type: str) -> Codec:
    """How a layer of this media type is compressed; ImageError when it is not a layer that we can read."""
    try:
        return _CODEC_OF_LAYER[media_type]
    except KeyError:
        raise ImageError(
            f"a layer of type {media_type[:100]!r} cannot be read",
            remedy="Choose a base whose layers are tar archives, plain or compressed with gzip or zstd.",
        ) from None


def oci_layer_type(media_type: str) -> str:
    """OCI's name for the type of a layer; the bytes are the same."""
    return LAYER_OF_CODEC[codec_of(media_type)]
