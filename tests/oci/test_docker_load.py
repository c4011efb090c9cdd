"""Archives against a real Docker Engine (20.10 in CI)."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile

import pytest

from dockyard.oci.archive import read_archive, write_archive
from dockyard.oci.image import assemble
from dockyard.oci.layer import Entry, write_layer
from dockyard.oci.layout import Layout
from tests.oci.samples import CONFIG

NAMES = ("dockyard-test-archive:1", "dockyard-test-archive:2")


@pytest.fixture
def docker(dockerd):
    def run(*arguments, check=True):
        return subprocess.run(
            ["docker", "-H", dockerd, *arguments], check=check, capture_output=True, timeout=120
        ).stdout

    yield run
    for name in NAMES:
        run("rmi", "--force", name, check=False)


def image_of(layout, name, code):
    """An image with a gzip layer of three members and a small one."""
    big = b"".join(str(number).encode() for number in range(1_500_000))
    layers = [
        write_layer([Entry("big", 0o644, source=big)], "gzip", layout.blobs),
        write_layer([Entry("weights", 0o644, source=os.urandom(1000))], "none", layout.blobs),
        write_layer([Entry("app/main.py", 0o644, source=code)], "gzip", layout.blobs),
    ]
    made = assemble(CONFIG, layers)
    layout.blobs.write(made.config)
    layout.blobs.write(made.manifest)
    layout.add(made.image, name)
    return made.image, layers, big


def test_docker_loads_an_archive_and_of_the_next_only_what_it_lacks(docker, layout, tmp_path):
    first, layers, big = image_of(layout, NAMES[0], b"one")
    write_archive(first, layout, NAMES[0], tmp_path / "full.tar")
    docker("load", "-i", str(tmp_path / "full.tar"))
    assert docker("image", "inspect", "-f", "{{.Id}}", NAMES[0]).decode().strip() == first.image_id

    code = write_layer([Entry("app/main.py", 0o644, source=b"two")], "gzip", layout.blobs)
    made = assemble(CONFIG, [*layers[:2], code])
    layout.blobs.write(made.config)
    layout.blobs.write(made.manifest)
    layout.add(made.image, NAMES[1])
    write_archive(made.image, layout, NAMES[1], tmp_path / "thin.tar", omit_layers=frozenset(first.config.diff_ids))
    assert (tmp_path / "thin.tar").stat().st_size < 20_000
    docker("load", "-i", str(tmp_path / "thin.tar"))
    assert docker("image", "inspect", "-f", "{{.Id}}", NAMES[1]).decode().strip() == made.image.image_id

    container = docker("create", NAMES[1]).decode().strip()
    try:
        with tarfile.open(fileobj=io.BytesIO(docker("cp", f"{container}:/big", "-"))) as copied:
            assert copied.extractfile("big").read() == big, "all members of the gzip layer were read"
    finally:
        docker("rm", container)


def test_what_docker_saves_is_read_back(docker, layout, tmp_path):
    image, _, _ = image_of(layout, NAMES[0], b"one")
    write_archive(image, layout, NAMES[0], tmp_path / "full.tar")
    docker("load", "-i", str(tmp_path / "full.tar"))
    docker("save", "-o", str(tmp_path / "saved.tar"), NAMES[0])
    other = Layout.create(tmp_path / "other")
    [found] = read_archive(tmp_path / "saved.tar", other)
    assert found.image_id == image.image_id
    assert other.resolve(NAMES[0]) == found
