"""Small images, and tars that nobody honest would write."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable
from dataclasses import replace

from dockyard.oci.digest import Digest, digest_of
from dockyard.oci.image import Image, ImageConfig, Platform, assemble
from dockyard.oci.layer import Codec, Entry, write_layer
from dockyard.oci.layout import Layout

AMD64 = Platform("linux", "amd64")
GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
PLAIN_LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = ImageConfig(
    AMD64,
    environment=("PATH=/usr/bin", "PORT=8080"),
    entrypoint=("/usr/bin/python3", "-m", "berth"),
    command=("serve",),
    user="65532:0",
    working_dir="/app",
    exposed_ports=("8080/tcp",),
    stop_signal="SIGTERM",
    labels={"dev.dockyard.model.name": "iris"},
)


def sample_image(
    layout: Layout,
    name: str = "iris:1",
    *,
    code: bytes = b"print('iris')\n",
    codec: Codec = "gzip",
    platform: Platform = AMD64,
) -> Image:
    """A base layer that all samples share and a layer of code, stored under a name."""
    base = write_layer([Entry("usr/bin/python3", 0o755, source=b"#!/bin/sh\n" * 500)], "none", layout.blobs)
    upper = write_layer(
        [
            Entry("app/main.py", 0o644, source=code),
            Entry("app/main", 0o777, "link", target="main.py"),
            Entry("app/again.py", 0o644, "hardlink", target="app/main.py"),
            Entry("app/" + "long" * 40 + "é.txt", 0o600, source=b"x"),
        ],
        codec,
        layout.blobs,
    )
    made = assemble(replace(CONFIG, platform=platform), [base, upper], {"org.opencontainers.image.version": "1"})
    layout.blobs.write(made.config)
    layout.blobs.write(made.manifest)
    layout.add(made.image, name)
    return made.image


def member(
    name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: object
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(data), 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar_of(members: Iterable[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def compressed(tar: bytes) -> tuple[io.BytesIO, Digest]:
    """A gzip stream of a tar, and its diff ID."""
    return io.BytesIO(gzip.compress(tar, 6)), digest_of(tar)
