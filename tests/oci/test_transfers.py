"""Transfers that break off go on where they stopped, and what a registry has elsewhere is not sent again."""

from __future__ import annotations

import os

import pytest

from dockyard.oci.auth import Anonymous
from dockyard.oci.image import ImageConfig, assemble
from dockyard.oci.integrity import check_image
from dockyard.oci.layer import Entry, write_layer
from dockyard.oci.layout import Layout
from dockyard.oci.registry import Patience, Reference, Registry
from dockyard.oci.transfers import PIECE, PIECES_FROM
from tests.oci.samples import AMD64, sample_image
from tests.support.cutting_proxy import cutting_proxy
from tests.support.resuming_registry import resuming_registry

MIB = 1 << 20


def client():
    return Registry(Anonymous(), Patience(attempts=6, pause=0.05, silence=10, deadline=120))


def large_image(layout, size):
    """One uncompressed layer of random bytes."""
    layer = write_layer([Entry("app/weights.bin", 0o644, source=os.urandom(size))], "none", layout.blobs)
    made = assemble(ImageConfig(AMD64), [layer])
    layout.blobs.write(made.config)
    layout.blobs.write(made.manifest)
    layout.add(made.image, "large:1")
    return made.image


def test_a_download_that_breaks_off_goes_on_where_it_stopped(registry, layout, tmp_path):
    image = large_image(layout, 24 * MIB)
    client().push(image, layout, Reference.parse(f"{registry.host}/large:1"))
    other = Layout.create(tmp_path / "other")
    with cutting_proxy(registry.host, "down", [9 * MIB, 9 * MIB]) as proxy:
        client().pull(Reference.parse(f"{proxy.host}/large:1"), AMD64, other)
    assert proxy.cut == 2
    assert other.resolve(f"{proxy.host}/large:1") == image
    check_image(other, image)
    assert proxy.moved["down"] < 36 * MIB  # 24, and what was on its way when it was cut; 42 if it had begun anew


@pytest.mark.slow
def test_an_upload_that_breaks_off_goes_on_in_the_middle_of_a_piece(layout):
    size = PIECES_FROM + 12 * MIB
    image = large_image(layout, size)
    with resuming_registry() as registry:
        with cutting_proxy(registry.host, "up", [40 * MIB, 20 * MIB]) as proxy:
            client().push(image, layout, Reference.parse(f"{proxy.host}/large:1"))
        assert proxy.cut == 2
        assert registry.blobs[image.layers[0].digest] == layout.blobs.path(image.layers[0].digest).read_bytes()
    assert proxy.moved["up"] < size + PIECE // 2
    assert any(int(piece.partition("-")[0]) % PIECE for piece in registry.pieces)


@pytest.mark.slow
def test_a_registry_that_forgets_broken_uploads_gets_them_again(registry, layout, tmp_path):
    image = large_image(layout, PIECES_FROM + 2 * MIB)
    with cutting_proxy(registry.host, "up", [40 * MIB]) as proxy:
        client().push(image, layout, Reference.parse(f"{proxy.host}/large:1"))
    assert proxy.cut == 1
    other = Layout.create(tmp_path / "other")
    client().pull(Reference.parse(f"{registry.host}/large:1"), AMD64, other)
    check_image(other, image)


def test_a_layer_that_another_repository_has_is_mounted(registry, layout):
    image = large_image(layout, 4 * MIB)
    client().push(image, layout, Reference.parse(f"{registry.host}/team/first:1"))
    with cutting_proxy(registry.host, "up", []) as proxy:
        layout.origins.keep(proxy.host, "team/first", [image.layers[0].digest])
        sent = client().push(image, layout, Reference.parse(f"{proxy.host}/team/second:1"))
    assert image.layers[0] not in sent
    assert proxy.moved["up"] < MIB


def test_a_note_that_is_wrong_costs_an_upload_and_nothing_else(registry, layout):
    image = large_image(layout, 2 * MIB)
    layout.origins.keep(registry.host, "team/nowhere", [image.layers[0].digest])
    sent = client().push(image, layout, Reference.parse(f"{registry.host}/team/here:1"))
    assert image.layers[0] in sent


def test_small_images_need_no_pieces(registry, layout, tmp_path):
    image = sample_image(layout)
    with cutting_proxy(registry.host, "up", [2000]) as proxy:
        client().push(image, layout, Reference.parse(f"{proxy.host}/iris:1"))
    other = Layout.create(tmp_path / "other")
    assert client().pull(Reference.parse(f"{registry.host}/iris:1"), AMD64, other) == image
