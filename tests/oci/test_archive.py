from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile

import pytest

from dockyard.errors import ImageError, StoreError
from dockyard.oci.archive import archive_chunks, read_archive, write_archive
from dockyard.oci.bundle import read_bundle
from dockyard.oci.digest import digest_of
from dockyard.oci.layout import Layout
from tests.oci.samples import member, sample_image, tar_of


def run(*arguments):
    return subprocess.run(arguments, check=True, capture_output=True, timeout=120).stdout


def names_in(path):
    with tarfile.open(path) as archive:
        return archive.getnames()


def blob_name(digest):
    return "blobs/sha256/" + digest.removeprefix("sha256:")


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
def test_skopeo_accepts_the_archive_in_both_its_forms(layout, tmp_path, transport):
    image = sample_image(layout)
    write_archive(image, layout, "iris:1", tmp_path / "iris.tar")
    told = json.loads(run("skopeo", "inspect", f"{transport}:{tmp_path / 'iris.tar'}:iris:1"))
    assert told["Architecture"] == "amd64"
    run("skopeo", "--insecure-policy", "copy", f"{transport}:{tmp_path / 'iris.tar'}", f"oci:{tmp_path / 'out'}:iris")
    found = Layout.open(tmp_path / "out").resolve("iris")
    assert found.config.diff_ids == image.config.diff_ids
    assert found.config.environment == image.config.environment


def test_the_same_image_gives_the_same_archive(layout, tmp_path):
    image = sample_image(layout)
    write_archive(image, layout, "iris:1", tmp_path / "one.tar")
    stream = io.BytesIO()
    write_archive(image, layout, "iris:1", stream)
    other = Layout.create(tmp_path / "elsewhere")
    write_archive(sample_image(other), other, "iris:1", tmp_path / "two.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes() == stream.getvalue()


def test_an_archive_comes_back_as_the_same_image(layout, tmp_path):
    image = sample_image(layout)
    write_archive(image, layout, "models/iris", tmp_path / "iris.tar")
    (tmp_path / "iris.tar.gz").write_bytes(gzip.compress((tmp_path / "iris.tar").read_bytes()))
    for name in ("iris.tar", "iris.tar.gz"):
        other = Layout.create(tmp_path / f"other-{name}")
        assert read_archive(tmp_path / name, other) == [image]
        assert other.resolve("models/iris:latest") == image


def test_a_thin_archive_lacks_the_lowest_layers_that_the_reader_has(layout, tmp_path):
    image = sample_image(layout)
    base, code = image.layer_blobs
    write_archive(image, layout, "iris:1", tmp_path / "thin.tar", omit_layers=frozenset({base.diff_id}))
    assert blob_name(base.descriptor.digest) not in names_in(tmp_path / "thin.tar")
    assert blob_name(code.descriptor.digest) in names_in(tmp_path / "thin.tar")


def test_a_layer_above_one_that_the_reader_lacks_is_never_left_out(layout, tmp_path):
    image = sample_image(layout)
    write_archive(image, layout, "iris:1", tmp_path / "t.tar", omit_layers=frozenset({image.config.diff_ids[1]}))
    assert all(blob_name(layer.digest) in names_in(tmp_path / "t.tar") for layer in image.layers)


def test_a_thin_archive_completes_a_layout_that_has_the_rest_and_no_other(layout, tmp_path):
    old = sample_image(layout)
    new = sample_image(layout, "iris:2", code=b"print('two')\n")
    write_archive(new, layout, "iris:2", tmp_path / "thin.tar", omit_layers=frozenset(old.config.diff_ids))
    empty = Layout.create(tmp_path / "empty")
    with pytest.raises(ImageError, match="is not whole"):
        read_archive(tmp_path / "thin.tar", empty)
    assert empty.images() == ()
    write_archive(old, layout, "iris:1", tmp_path / "full.tar")
    read_archive(tmp_path / "full.tar", empty)
    assert read_archive(tmp_path / "thin.tar", empty) == [new]


def test_a_damaged_blob_leaves_no_archive(layout, tmp_path):
    image = sample_image(layout)
    layout.blobs.path(image.layers[0].digest).write_bytes(b"damaged")
    with pytest.raises(ImageError, match="is damaged"):
        write_archive(image, layout, "iris:1", tmp_path / "out" / "iris.tar")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_leaves_no_archive(layout, small_disk):
    image = sample_image(layout)
    (small_disk / "ballast").write_bytes(bytes(1020 << 10))
    with pytest.raises(StoreError, match="is full"):
        write_archive(image, layout, "iris:1", small_disk / "iris.tar")
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_a_name_that_no_engine_accepts_is_refused(layout):
    image = sample_image(layout)
    with pytest.raises(ImageError, match="cannot be the name of an image"):
        list(archive_chunks(image, layout, "Iris:1"))


def docker_archive(image, layout, *, layers=None, config=None):
    """As Docker 20.10 saves: layers in folders, one of them a link to the other."""
    config = config if config is not None else layout.blobs.read(image.image_id)
    base = layout.blobs.read(image.layers[0].digest)
    manifest = [{"Config": "c.json", "RepoTags": ["iris:saved"], "Layers": layers or ["a/layer.tar", "b/layer.tar"]}]
    return tar_of(
        [
            member("a/", tarfile.DIRTYPE),
            member("a/VERSION", data=b"1.0"),
            member("a/layer.tar", data=base),
            member("b/layer.tar", tarfile.SYMTYPE, linkname="../a/layer.tar"),
            member("c.json", data=config),
            member("manifest.json", data=json.dumps(manifest).encode()),
        ]
    )


def config_with(image, layout, diff_ids):
    document = json.loads(layout.blobs.read(image.image_id))
    document["rootfs"]["diff_ids"] = diff_ids
    return json.dumps(document).encode()


def test_an_archive_of_docker_s_older_kind_is_read(layout, tmp_path):
    image = sample_image(layout)
    base = image.config.diff_ids[0]
    config = config_with(image, layout, [base, base])
    (tmp_path / "saved.tar").write_bytes(docker_archive(image, layout, config=config))
    other = Layout.create(tmp_path / "other")
    [found] = read_archive(tmp_path / "saved.tar", other)
    assert found.image_id == digest_of(config)
    assert other.resolve("iris:saved") == found
    assert [layer.digest for layer in found.layers] == [base, base]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layers": ["a/layer.tar", "c/layer.tar"]}, "is missing"),
        ({"layers": ["a/layer.tar"]}, "has 1 layers, its configuration names 2"),
        ({"config": b"{}"}, "cannot be read"),
        ({}, "is damaged"),
    ],
)
def test_an_archive_of_docker_s_that_does_not_fit_together_is_refused(layout, tmp_path, change, says):
    image = sample_image(layout)
    (tmp_path / "saved.tar").write_bytes(docker_archive(image, layout, **change))
    with pytest.raises(ImageError, match=says):
        read_archive(tmp_path / "saved.tar", Layout.create(tmp_path / "other"))


def test_a_blob_under_another_digest_is_refused(layout, tmp_path):
    name = "blobs/sha256/" + hashlib.sha256(b"other").hexdigest()
    (tmp_path / "bad.tar").write_bytes(tar_of([member(name, data=b"content")]))
    with pytest.raises(ImageError, match="expected was"):
        read_archive(tmp_path / "bad.tar", layout)
    assert list(layout.blobs) == []


@pytest.mark.parametrize("data", [b"", b"no tar at all", gzip.compress(b"neither", mtime=0)])
def test_a_file_that_is_no_archive_is_refused(layout, tmp_path, data):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ImageError):
        read_archive(tmp_path / "file", layout)


@pytest.mark.parametrize(
    "hostile",
    [
        member("../outside", data=b"x"),
        member("/etc/outside", data=b"x"),
        member("index.json", tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("index.json", tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("manifest.json", tarfile.SYMTYPE, linkname="../secret"),
        member("blobs/sha256/" + "a" * 64, tarfile.LNKTYPE, linkname="/etc/passwd"),
    ],
    ids=["by dots", "absolute", "device", "link", "link by dots", "hard link"],
)
@pytest.mark.parametrize("read", [read_archive, read_bundle])
def test_hostile_members_of_archives_and_bundles_reach_nothing(tmp_path, read, hostile):
    room = tmp_path / "room"
    layout = Layout.create(room / "layout")
    (room / "secret").write_text("untouched")
    (tmp_path / "bad.tar").write_bytes(tar_of([hostile]))
    with pytest.raises(ImageError):
        read(tmp_path / "bad.tar", layout)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tar", "room"]
    assert (room / "secret").read_text() == "untouched"
    assert (list(layout.blobs), layout.images()) == ([], ())


def test_an_archive_that_is_a_bomb_is_defused(layout, tmp_path):
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(tar_of([member("zeros", data=bytes(100 << 20))]), 9))
    with pytest.raises(ImageError, match="more than 200 bytes for each byte of it"):
        read_archive(tmp_path / "bomb.tar.gz", layout)
    assert list(layout.blobs) == []


def test_an_archive_that_is_not_there_is_named(layout, tmp_path):
    with pytest.raises(StoreError, match="No such file"):
        read_archive(tmp_path / "missing.tar", layout)
