from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from dockyard.errors import ImageError, ImageNotFoundError, StoreError
from dockyard.oci.copying import copy_image
from dockyard.oci.digest import digest_of
from dockyard.oci.files import exclusive
from dockyard.oci.image import Platform, assemble
from dockyard.oci.layer import Entry, write_layer
from dockyard.oci.layout import REF_NAME, Layout
from tests.oci.samples import AMD64, CONFIG, sample_image

ARM64 = Platform("linux", "arm64")


def run(*arguments, cwd=None):
    return subprocess.run(arguments, cwd=cwd, check=True, capture_output=True, timeout=120).stdout


def test_an_image_is_found_by_name_digest_and_image_id(layout):
    image = sample_image(layout, "iris:latest")
    for name in ("iris:latest", "iris", image.digest, image.image_id):
        assert layout.resolve(name) == image


def test_a_name_moves_to_the_new_image(layout):
    old, new = sample_image(layout, "iris:1"), sample_image(layout, "iris:1", code=b"new")
    assert old != new
    assert layout.resolve("iris:1") == new
    assert [named.name for named in layout.images()] == ["iris:1"]


def test_an_unknown_name_tells_what_comes_close(layout):
    sample_image(layout, "iris:1")
    with pytest.raises(ImageNotFoundError) as caught:
        layout.resolve("irsi:1")
    assert caught.value.remedy == "Did you mean iris:1?"


def test_another_platform_than_the_image_s_is_not_found(layout):
    sample_image(layout, "iris:1")
    with pytest.raises(ImageNotFoundError, match="linux/amd64"):
        layout.resolve("iris:1", ARM64)


def name_both(layout, second):
    with layout.at_once():
        sample_image(layout, "iris:2", code=b"new")
        second()


def test_names_given_at_once_come_together_or_not_at_all(layout):
    with layout.at_once():
        new = sample_image(layout, "iris:1")
        layout.add(new, "iris:latest")
        assert not layout.images()
    assert [named.name for named in layout.images()] == ["iris:1", "iris:latest"]
    with pytest.raises(ZeroDivisionError):
        name_both(layout, lambda: 1 // 0)
    layout.blobs.path(new.config_descriptor.digest).unlink()
    with pytest.raises(ImageError, match="not whole"):
        name_both(layout, lambda: layout.add(new, "iris:3"))
    sample_image(layout, "rose:1", code=b"another")
    assert {entry.annotations[REF_NAME] for entry in layout.entries()} == {"iris:1", "iris:latest", "rose:1"}


def test_entries_of_others_stay_as_they_are_written(layout):
    """Another program's spelling and fields survive what is added beside them, here and by another process."""
    sample_image(layout, "iris:1")
    index = layout.path / "index.json"
    document = json.loads(index.read_bytes())
    foreign = {"urls": ["https://example.org/x"], "size": 2, "digest": digest_of(b"{}"), "mediaType": "text/x-other"}
    index.write_text(json.dumps({**document, "manifests": [foreign, *document["manifests"]]}, indent=2))
    sample_image(layout, "rose:1", code=b"another")
    sample_image(Layout.open(layout.path), "lily:1", code=b"more")
    assert json.loads(index.read_bytes())["manifests"][0] == foreign
    assert [entry.annotations.get(REF_NAME) for entry in layout.entries()] == [None, "iris:1", "rose:1", "lily:1"]
    index.write_text(json.dumps({**document, "layers": []}))
    with pytest.raises(ImageError, match="manifest and an index at once"):
        layout.entries()
    with pytest.raises(ImageError, match="manifest and an index at once"):
        layout.remove("iris:1")


def test_documents_written_together_are_all_there(layout):
    documents = [b"one", b"two", b"one", b"{}"]
    assert layout.blobs.write_all(documents) == [digest_of(data) for data in documents]
    assert [layout.blobs.read(digest_of(data)) for data in documents] == documents
    assert not list(layout.blobs.partials.iterdir())


def test_a_removed_name_is_gone_and_its_space_can_be_freed(layout):
    kept = sample_image(layout, "kept:1")
    removed = sample_image(layout, "gone:1", code=b"other")
    layout.remove("gone:1")
    with pytest.raises(ImageNotFoundError):
        layout.remove("gone:1")
    assert layout.sweep() == 0, "what is young may belong to a build that is running"
    assert layout.sweep(age=0) > 0
    assert not layout.blobs.has(removed.digest)
    assert layout.resolve("kept:1") == kept
    assert set(layout.blobs) == {blob.digest for blob in kept.blobs}


def test_an_image_without_all_its_blobs_cannot_be_added(layout):
    image = sample_image(layout)
    layout.blobs.path(image.layers[1].digest).unlink()
    with pytest.raises(ImageError, match="is not whole"):
        layout.add(image, "iris:2")


def test_a_folder_that_is_no_layout_is_refused(tmp_path):
    with pytest.raises(StoreError, match="is not an OCI layout"):
        Layout.open(tmp_path)


def test_creating_twice_keeps_what_is_there(layout):
    image = sample_image(layout)
    assert Layout.create(layout.path).resolve("iris:1") == image


@pytest.mark.parametrize("which", ["layer", "config", "manifest"])
def test_one_flipped_bit_is_noticed(layout, tmp_path, which):
    image = sample_image(layout)
    digest = {"layer": image.layers[1].digest, "config": image.image_id, "manifest": image.digest}[which]
    path = layout.blobs.path(digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageError, match=f"blob {digest} is damaged"):
        layout.blobs.read(digest)
    other = Layout.create(tmp_path / "other")
    with pytest.raises(ImageError, match=f"blob {digest} is damaged"):
        copy_image(image, layout, other, "iris:1")
    assert other.images() == ()
    assert not other.blobs.has(digest)


def test_writing_a_damaged_blob_again_heals_it(layout):
    image = sample_image(layout)
    for blob in image.blobs:
        layout.blobs.path(blob.digest).write_bytes(b"damaged")
    assert sample_image(layout) == layout.resolve("iris:1") == image
    for blob in image.blobs:
        layout.blobs.read(blob.digest)


def test_a_copied_image_is_the_same_and_whole(layout, tmp_path):
    image = sample_image(layout)
    other = Layout.create(tmp_path / "other")
    copy_image(image, layout, other, "iris:copy")
    assert other.resolve("iris:copy") == image
    assert set(other.blobs) == set(layout.blobs)


def test_an_adopted_file_is_moved_in(layout, tmp_path):
    (tmp_path / "blob").write_bytes(b"content")
    digest = layout.blobs.adopt(tmp_path / "blob")
    assert digest == digest_of(b"content")
    assert layout.blobs.read(digest) == b"content"
    assert not (tmp_path / "blob").exists()


def test_a_file_of_another_disk_is_adopted_too(layout, small_disk):
    (small_disk / "blob").write_bytes(b"content")
    assert layout.blobs.read(layout.blobs.adopt(small_disk / "blob")) == b"content"
    assert not (small_disk / "blob").exists()


def test_a_writer_that_is_not_committed_leaves_nothing(layout):
    with layout.blobs.writer() as writer:
        writer.write(b"half")
    with layout.blobs.writer() as writer:
        writer.write(b"half")
        with pytest.raises(ImageError, match="expected was"):
            writer.commit(digest_of(b"whole"))
    assert list(layout.blobs) == []
    assert list(layout.blobs.partials.iterdir()) == []


KILLED = """
import sys
from pathlib import Path
from dockyard.oci.layer import Entry, write_layer
from dockyard.oci.layout import REF_NAME, Layout
layout = Layout.open(Path(sys.argv[1]))
write_layer([Entry("weights.bin", 0o644, source=Path(sys.argv[2]))], "none", layout.blobs)
"""


def test_a_build_killed_in_the_middle_leaves_a_store_that_works(layout, tmp_path):
    image = sample_image(layout)
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(8 << 30)
    process = subprocess.Popen([sys.executable, "-c", KILLED, layout.path, tmp_path / "weights.bin"])
    try:
        deadline = time.monotonic() + 30
        while not any(path.stat().st_size > 8 << 20 for path in layout.blobs.partials.iterdir()):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.005)
        Layout.open(layout.path)
        assert len(list(layout.blobs.partials.iterdir())) == 1, "a writer that lives keeps its file"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    before = set(layout.blobs)
    again = Layout.open(layout.path)
    assert list(again.blobs.partials.iterdir()) == []
    assert set(again.blobs) == before
    assert again.resolve("iris:1") == image
    write_layer([Entry("a", 0o644, source=b"a")], "gzip", again.blobs)


ADDING = """
import sys
from pathlib import Path
from dockyard.oci.layout import REF_NAME, Layout
layout = Layout.create(Path(sys.argv[1]))
image = layout.resolve("iris:1")
for number in range(15):
    layout.add(image, f"{sys.argv[2]}:{number}")
"""


def test_processes_that_add_at_once_lose_nothing(layout):
    sample_image(layout)
    names = ["one", "two", "three"]
    processes = [subprocess.Popen([sys.executable, "-c", ADDING, layout.path, name]) for name in names]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    expected = {"iris:1", *(f"{name}:{number}" for name in names for number in range(15))}
    assert {named.name for named in layout.images()} == expected


def test_a_lock_that_stays_taken_ends_in_an_error(tmp_path):
    with (
        exclusive(tmp_path / "lock"),
        pytest.raises(StoreError, match="held by another process"),
        exclusive(tmp_path / "lock", patience=0.05),
    ):
        pass


def test_a_full_disk_keeps_the_old_index(small_disk):
    layout = Layout.create(small_disk / "store")
    image = sample_image(layout)
    with pytest.raises(OSError, match="No space"):
        (small_disk / "ballast").write_bytes(bytes(2 << 20))
    with pytest.raises(StoreError, match="is full"):
        add_many(layout, image)
    assert layout.resolve("iris:1") == image


def add_many(layout, image):
    for number in range(20_000):
        layout.add(image, f"iris:{number + 2}")


def test_skopeo_and_umoci_accept_the_layout(layout, tmp_path):
    image = sample_image(layout, "iris:1")
    told = json.loads(run("skopeo", "inspect", f"oci:{layout.path}:iris:1"))
    assert told["Digest"] == image.digest
    assert told["Layers"] == [layer.digest for layer in image.layers]
    run("umoci", "unpack", "--rootless", "--image", f"{layout.path}:iris:1", tmp_path / "bundle")
    root = tmp_path / "bundle" / "rootfs"
    assert (root / "app" / "main").read_text() == "print('iris')\n"
    assert (root / "app" / "again.py").stat().st_ino == (root / "app" / "main.py").stat().st_ino
    process = json.loads((tmp_path / "bundle" / "config.json").read_text())["process"]
    assert process["args"] == ["/usr/bin/python3", "-m", "berth", "serve"]
    assert process["cwd"] == "/app"


def test_umoci_reads_all_members_of_a_large_gzip_layer(layout, tmp_path):
    big = b"".join(str(number).encode() for number in range(1_500_000))
    made = assemble(CONFIG, [write_layer([Entry("big", 0o644, source=big)], "gzip", layout.blobs)])
    layout.blobs.write(made.config)
    layout.blobs.write(made.manifest)
    layout.add(made.image, "big:1")
    run("umoci", "unpack", "--rootless", "--image", f"{layout.path}:big:1", tmp_path / "bundle")
    assert (tmp_path / "bundle" / "rootfs" / "big").read_bytes() == big


def test_skopeo_accepts_zstd(layout, tmp_path):
    image = sample_image(layout, "iris:1", codec="zstd")
    run("skopeo", "--insecure-policy", "copy", f"oci:{layout.path}:iris:1", f"dir:{tmp_path / 'out'}")
    copied = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert [layer["digest"] for layer in copied["layers"]] == [layer.digest for layer in image.layers]


def test_a_layout_of_skopeo_is_read(layout, tmp_path):
    image = sample_image(layout)
    run("skopeo", "--insecure-policy", "copy", f"oci:{layout.path}:iris:1", f"oci:{tmp_path / 'theirs'}:other")
    theirs = Layout.open(tmp_path / "theirs")
    found = theirs.resolve("other")
    assert found.config.diff_ids == image.config.diff_ids
    assert theirs.resolve("other", AMD64) == found


def test_docker_s_media_types_are_read(layout, tmp_path):
    image = sample_image(layout)
    source, target = f"oci:{layout.path}:iris:1", f"dir:{tmp_path / 'docker'}"
    run("skopeo", "--insecure-policy", "copy", "--format", "v2s2", source, target)
    folder = tmp_path / "docker"
    theirs = Layout.create(tmp_path / "theirs")
    for path in folder.iterdir():
        theirs.blobs.write(path.read_bytes())
    manifest = (folder / "manifest.json").read_bytes()
    many = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
        "manifests": [
            {
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "digest": digest_of(manifest),
                "size": len(manifest),
                "platform": {"os": "linux", "architecture": "amd64"},
            }
        ],
    }
    put_index(theirs, json.dumps(many).encode(), "iris:many")
    found = theirs.resolve("iris:many", AMD64)
    assert found.config.diff_ids == image.config.diff_ids
    assert found.config.entrypoint == image.config.entrypoint


def put_index(layout, data, name):
    digest = layout.blobs.write(data)
    entry = {
        "mediaType": json.loads(data)["mediaType"],
        "digest": digest,
        "size": len(data),
        "annotations": {"org.opencontainers.image.ref.name": name},
    }
    index = json.loads((layout.path / "index.json").read_text())
    index["manifests"].append(entry)
    (layout.path / "index.json").write_text(json.dumps(index))


def test_an_index_inside_the_index_gives_the_platform_asked_for(layout):
    amd, arm = sample_image(layout, "a:1"), sample_image(layout, "b:1", platform=ARM64)
    attached = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest_of(b"attestation"),
        "size": 11,
        "platform": {"os": "unknown", "architecture": "unknown"},
    }
    entries = [replace(image.manifest, platform=image.config.platform).document() for image in (amd, arm)]
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [attached, *entries],
    }
    put_index(layout, json.dumps(index).encode(), "both:1")
    assert layout.resolve("both:1", ARM64) == arm
    assert layout.resolve("both:1", AMD64) == amd
    layout.remove("a:1")
    layout.remove("b:1")
    assert [named.image for named in layout.images()] == [amd, arm]
    layout.sweep(age=0)
    assert layout.resolve("both:1", ARM64) == arm
