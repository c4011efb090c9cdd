from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dockyard.errors import ImageError, StoreError
from dockyard.oci.digest import digest_of
from dockyard.oci.layer import Entry, entries_of, write_layer
from dockyard.oci.layout import Blobs, Layout
from dockyard.oci.unpack import unpack_layer


def tar_in(blobs, layer):
    data = blobs.read(layer.descriptor.digest)
    if layer.descriptor.media_type.endswith("gzip"):
        data = gzip.decompress(data)
    if layer.descriptor.media_type.endswith("zstd"):
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    assert digest_of(data) == layer.diff_id
    return tarfile.open(fileobj=io.BytesIO(data))


@pytest.mark.parametrize("codec", ["gzip", "zstd", "none"])
def test_every_codec_holds_the_same_tar(layout, codec):
    entries = [Entry("app/b.py", 0o644, source=b"b"), Entry("app/a.py", 0o755, source=b"a" * 1000)]
    layer = write_layer(entries, codec, layout.blobs)
    assert layer.diff_id == write_layer(entries, "none", layout.blobs).diff_id
    assert (layer.entries, layer.unpacked) == (3, 1001)
    with tar_in(layout.blobs, layer) as tar:
        assert tar.getnames() == ["app", "app/a.py", "app/b.py"]
        assert [info.mode for info in tar] == [0o755, 0o755, 0o644]
        assert {(info.uid, info.gid, info.uname, info.gname, info.mtime) for info in tar} == {(0, 0, "", "", 0)}


def test_the_epoch_is_the_time_of_every_entry(layout):
    with tar_in(layout.blobs, write_layer([Entry("a", 0o644, source=b"")], "gzip", layout.blobs, epoch=7)) as tar:
        assert [info.mtime for info in tar] == [7]


def test_set_uid_bits_are_dropped_and_the_sticky_bit_stays(layout):
    entries = [Entry("su", 0o6755, source=b""), Entry("tmp", 0o1777, "folder")]
    with tar_in(layout.blobs, write_layer(entries, "none", layout.blobs)) as tar:
        assert [info.mode for info in tar] == [0o755, 0o1777]


def test_hard_links_come_after_what_they_point_to(layout):
    entries = [Entry("a", 0o644, "hardlink", target="z"), Entry("z", 0o644, source=b"z")]
    with tar_in(layout.blobs, write_layer(entries, "none", layout.blobs)) as tar:
        assert tar.getnames() == ["z", "a"]


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([Entry("a", 0o644, source=b"1"), Entry("a", 0o644, source=b"2")], "comes twice"),
        ([Entry("a", 0o644, source=b""), Entry("a/b", 0o644, source=b"")], "which is no folder"),
        ([Entry("a", 0o777, "link", target="x"), Entry("a/b", 0o644, source=b"")], "which is no folder"),
        ([Entry("../a", 0o644, source=b"")], "cannot be a path"),
        ([Entry("/a", 0o644, source=b"")], "cannot be a path"),
        ([Entry("a//b", 0o644, source=b"")], "cannot be a path"),
        ([Entry("./a", 0o644, source=b"")], "cannot be a path"),
        ([Entry("", 0o644, source=b"")], "cannot be a path"),
        ([Entry("a\0", 0o644, source=b"")], "cannot be a path"),
        ([Entry("app/.wh.main.py", 0o644, source=b"")], "would delete files"),
        ([Entry("a", 0o644)], "without a source"),
        ([Entry("a", 0o777, "link")], "without a target"),
        ([Entry("a", 0o644, "hardlink", target="b")], "no file of the same layer"),
        ([Entry("\udcff", 0o644, source=b"")], "not UTF-8"),
        ([Entry("a", 0o644, source=Path("/dev/null"))], "not a regular file"),
    ],
)
def test_entries_that_cannot_be_are_refused_and_leave_nothing(layout, entries, says):
    with pytest.raises(ImageError, match=says):
        write_layer(entries, "gzip", layout.blobs)
    assert list(layout.blobs) == []
    assert list(layout.blobs.partials.iterdir()) == []


def test_a_source_that_is_gone_is_named(layout, tmp_path):
    with pytest.raises(StoreError, match=r"gone\.bin cannot be used: No such file"):
        write_layer([Entry("a", 0o644, source=tmp_path / "gone.bin")], "gzip", layout.blobs)


def test_a_folder_is_walked_without_following_links(tmp_path, layout):
    source = tmp_path / "source"
    (source / "bin").mkdir(parents=True)
    (source / "bin" / "run").write_text("x")
    (source / "bin" / "run").chmod(0o700)
    (source / "data").write_text("y")
    (source / "data").chmod(0o600)
    (source / "etc").symlink_to("/etc")
    (source / "__pycache__").mkdir()
    entries = list(entries_of(source, "opt/x", skip=frozenset({"__pycache__"})))
    assert [(entry.path, entry.kind, oct(entry.mode)) for entry in entries] == [
        ("opt/x", "folder", "0o755"),
        ("opt/x/bin", "folder", "0o755"),
        ("opt/x/bin/run", "file", "0o755"),
        ("opt/x/data", "file", "0o644"),
        ("opt/x/etc", "link", "0o777"),
    ]
    with tar_in(layout.blobs, write_layer(entries, "gzip", layout.blobs)) as tar:
        assert tar.getmember("opt/x/etc").linkname == "/etc"


def test_a_socket_in_a_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="neither file, folder nor link"):
        list(entries_of(tmp_path))


BUILD = """
import json, os, sys
from pathlib import Path
os.umask(int(sys.argv[3], 8))
from dockyard.oci.layer import entries_of, write_layer
from dockyard.oci.layout import Layout
source, store = Path(sys.argv[1]), Path(sys.argv[2])
(source / "deep" / "er").mkdir(parents=True)
for name in sys.argv[5].split(","):
    (source / "deep" / name).write_bytes(name.encode() * 9)
(source / "big.bin").write_bytes(bytes(range(256)) * 50_000)
(source / "link").symlink_to("deep/a")
os.utime(source / "big.bin", (int(sys.argv[4]), int(sys.argv[4])))
blobs = Layout.create(store).blobs
threads = int(sys.argv[6])
layers = [write_layer(entries_of(source, "app"), codec, blobs, threads=threads) for codec in ("gzip", "zstd", "none")]
print(json.dumps([[layer.descriptor.digest, layer.diff_id] for layer in layers]))
"""


def test_the_digest_depends_on_nothing_but_paths_modes_and_content(tmp_path):
    def build(folder, umask, mtime, names, threads, seed):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC{seed}", "LC_ALL": "C"}
        arguments = [str(tmp_path / folder), str(tmp_path / f"{folder}-store"), umask, mtime, names, threads]
        done = subprocess.run(
            [sys.executable, "-c", BUILD, *arguments], env=environment, capture_output=True, check=True, timeout=60
        )
        return json.loads(done.stdout)

    first = build("one", "022", "1000000000", "a,b,c", "1", "1")
    assert first == build("another-name", "077", "5", "c,b,a", "2", "2")
    assert first == build("third", "000", "1700000000", "b,a,c", "7", "3")


def test_gzip_is_the_same_bytes_as_ever(layout):
    """A new version of a compressor that changes digests must not come in unnoticed."""
    source = b"".join(str(number).encode() for number in range(900_000))
    layer = write_layer([Entry("numbers", 0o644, source=source)], "gzip", layout.blobs)
    assert layer.diff_id == "sha256:42d1d20f189a24cd33198b621cc16bbd81369b3371945de8354f18de59c4cf04"
    assert layer.descriptor.digest == "sha256:124e15b002f99e4bc2c9af0379e24971c4fa50732d484e82686036ad78c4cce9"


def test_a_large_file_is_never_held_in_memory(tmp_path, layout):
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(300 << 20)
    tracemalloc.start()
    try:
        layer = write_layer([Entry("weights.bin", 0o644, source=tmp_path / "weights.bin")], "gzip", layout.blobs)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert layer.unpacked == 300 << 20
    assert peak < 120 << 20


def test_a_full_disk_says_so_and_leaves_nothing_half_done(small_disk):
    layout = Layout.create(small_disk / "store")
    with pytest.raises(StoreError, match=r"the disk that holds .* is full") as caught:
        write_layer([Entry("a", 0o644, source=os.urandom(3 << 20))], "none", layout.blobs)
    assert "Free some space" in caught.value.remedy
    assert list(layout.blobs) == []
    assert list(layout.blobs.partials.iterdir()) == []
    write_layer([Entry("a", 0o644, source=b"small")], "none", layout.blobs)


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=60).filter(
    lambda name: name not in {".", ".."} and not name.startswith(".wh.") and len(name.encode()) < 200
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary(max_size=2000), max_size=6),
    codec=st.sampled_from(["gzip", "zstd", "none"]),
)
def test_what_is_packed_comes_out_again(tmp_path_factory, files, codec):
    paths = set(files)
    files = {path: data for path, data in files.items() if not any(other.startswith(path + "/") for other in paths)}
    folder = tmp_path_factory.mktemp("roundtrip")
    blobs = Blobs(folder / "store")
    layer = write_layer([Entry(path, 0o644, source=data) for path, data in files.items()], codec, blobs)
    with blobs.open(layer.descriptor.digest) as stream:
        unpack_layer(stream, layer.descriptor.media_type, folder / "out", diff_id=layer.diff_id)
    found = {
        str(path.relative_to(folder / "out")): path.read_bytes()
        for path in (folder / "out").rglob("*")
        if path.is_file()
    }
    assert found == files
