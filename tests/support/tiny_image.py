"""A small real image for engine tests: Debian's static busybox, a static program that plays berth, a note.

Three layers, so that a change of the last one shows what a second load moves. The fixtures `tiny_program` and
`tiny_image` in conftest.py call it; the program's modes are listed at the end of tiny.c.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dockyard.oci.image import Image, ImageConfig, LayerBlob, Platform, assemble
from dockyard.oci.layer import Entry, write_layer
from dockyard.oci.layout import Layout

SOURCE = Path(__file__).with_name("tiny.c")
CONFIG = ImageConfig(
    platform=Platform.host(),
    environment=("BAKED=in the image",),
    entrypoint=("/bin/tiny",),
    command=("serve",),
    user="65532:0",
    stop_signal="SIGTERM",
    labels={"dev.dockyard.model.name": "tiny"},
)
ELSEWHERE = Platform("linux", "s390x")
"""What this machine is not."""


def compile_tiny(folder: Path) -> Path:
    """Build the static program; a C compiler is part of every developer's machine."""
    program = folder / "tiny"
    subprocess.run(["cc", "-static", "-O1", "-Wall", "-Werror", "-o", program, SOURCE], check=True)
    return program


def busybox() -> Path:
    """The static busybox of the machine."""
    found = shutil.which("busybox", path="/bin:/usr/bin:/usr/local/bin")
    assert found, "busybox-static is not installed: run `make test`, which installs it"
    return Path(found)


def base_layers(layout: Layout, program: Path) -> tuple[LayerBlob, ...]:
    """The two layers below the note: busybox and the program."""
    tools = [Entry("bin/busybox", 0o755, "file", busybox()), Entry("bin/sh", 0o777, "link", target="busybox")]
    return (
        write_layer(tools, "gzip", layout.blobs),
        write_layer([Entry("bin/tiny", 0o755, "file", program)], "none", layout.blobs),
    )


def make_image(
    layout: Layout, layers: Sequence[LayerBlob], name: str, note: str = "", config: ImageConfig = CONFIG
) -> Image:
    """Add an image named `name` to a layout: these layers, and one with a note."""
    top = write_layer([Entry("app/note.txt", 0o644, "file", note.encode())], "gzip", layout.blobs)
    made = assemble(config, [*layers, top])
    layout.blobs.write(made.config)
    layout.blobs.write(made.manifest)
    layout.add(made.image, name)
    return made.image
