from __future__ import annotations

import gzip
import io
import os
import random
import stat
import tarfile
import tracemalloc
import zlib

import pytest

from dockyard.errors import ImageError, StoreError
from dockyard.oci.digest import digest_of
from dockyard.oci.tar import TarReader
from dockyard.oci.unpack import Limits, UnpackedLayer, merge_layers, unpack_layer
from tests.oci.samples import GZIP_LAYER, PLAIN_LAYER, compressed, member, tar_of

LINK, HARD, FOLDER = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


def unpack(members, folder, limits=None):
    stream, diff_id = compressed(tar_of(members))
    return unpack_layer(stream, GZIP_LAYER, folder, limits, diff_id=diff_id)


def test_files_folders_and_links_come_out_as_they_went_in(tmp_path):
    layer = unpack(
        [
            member("./", FOLDER),
            member("./etc", FOLDER, mode=0o700),
            member("./etc/conf", data=b"x = 1", mode=0o640, mtime=7),
            member("./etc/link", LINK, linkname="../../../../etc/passwd"),
            member("./etc/hard", HARD, linkname="./etc/conf"),
            member("./bin/deep/tool", data=b"#!", mode=0o6755),
            member("./tmp/", FOLDER, mode=0o1777),
            member("./etc/conf2", data=b"old"),
            member("./etc/conf2", data=b"new"),
        ],
        tmp_path / "out",
    )
    out = tmp_path / "out"
    assert (out / "etc/conf").read_bytes() == b"x = 1"
    assert stat.S_IMODE((out / "etc/conf").stat().st_mode) == 0o640
    assert (out / "etc/conf").stat().st_mtime == 7
    assert str((out / "etc/link").readlink()) == "../../../../etc/passwd"
    assert (out / "etc/hard").stat().st_ino == (out / "etc/conf").stat().st_ino
    assert stat.S_IMODE((out / "bin/deep/tool").stat().st_mode) == 0o755, "set-uid bits are dropped"
    assert stat.S_IMODE((out / "tmp").stat().st_mode) == 0o1777
    assert (out / "etc/conf2").read_bytes() == b"new"
    assert (layer.entries, layer.bytes) == (9, 13)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_names_in_any_script_are_read(tmp_path, form):
    name = "a/" + "long" * 50 + "/" + "é" * 60
    stream, diff_id = compressed(tar_of([member(name, data=b"1"), member("l", LINK, linkname=name)], form))
    unpack_layer(stream, GZIP_LAYER, tmp_path / "out", diff_id=diff_id)
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "out" / "l").read_bytes() == b"1"


HOSTILE = {
    "dots": [member("../outside", data=b"x")],
    "dots in the middle": [member("a/../../outside", data=b"x")],
    "absolute": [member("/outside", data=b"x")],
    "absolute in pax": [member("a", data=b"x", pax_headers={"path": "/outside"})],
    "dots in pax": [member("a", data=b"x", pax_headers={"path": "../outside"})],
    "file through a link": [member("a", LINK, linkname=".."), member("a/outside", data=b"x")],
    "folder over a link": [member("a", LINK, linkname=".."), member("a", FOLDER), member("a/outside", data=b"x")],
    "deep file through a link": [member("a/b", LINK, linkname="../.."), member("a/b/c/outside", data=b"x")],
    "hard link through a link": [member("a", LINK, linkname=".."), member("b", HARD, linkname="a/secret")],
    "hard link by dots": [member("b", HARD, linkname="../secret")],
    "hard link to an absolute path": [member("b", HARD, linkname="/etc/passwd")],
    "hard link to itself": [member("b", data=b"x"), member("b", HARD, linkname="b")],
    "hard link to nothing": [member("b", HARD, linkname="c")],
    "hard link to a folder": [member("c", FOLDER), member("b", HARD, linkname="c")],
    "link without a target": [member("b", LINK, linkname="")],
    "character device": [member("null", tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "block device": [member("disk", tarfile.BLKTYPE, devmajor=8, devminor=0)],
    "pipe": [member("pipe", tarfile.FIFOTYPE)],
    "file over a folder": [member("a", FOLDER), member("a", data=b"x")],
    "folder over a file": [member("a", data=b"x"), member("a", FOLDER)],
    "file below a file": [member("a", data=b"x"), member("a/b", data=b"x")],
    "whiteout of the parent": [member(".wh...")],
    "whiteout of the folder itself": [member("a/.wh..")],
    "whiteout of nothing": [member("a/.wh.")],
    "whiteout by dots": [member("../.wh.secret")],
    "whiteout in the middle": [member(".wh.a/b", data=b"x")],
    "too deep": [member("a/" * 500 + "b", data=b"x")],
    "too long": [member("a" * 300, data=b"x")],
    "no name": [member("", data=b"x")],
    "sparse file": [member("a", data=b"x", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.realsize": "9" * 15})],
    "sparse file of old": [member("a", tarfile.GNUTYPE_SPARSE, data=b"x")],
    "unknown kind": [member("a", b"Z", data=b"x")],
    "size that is none": [member("a", data=b"x", pax_headers={"size": "-1"})],
    "huge extended header": [member("a", data=b"x", pax_headers={"comment": "c" * (2 << 20)})],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_layer_is_refused_and_reaches_nothing(tmp_path, members):
    room = tmp_path / "room"
    room.mkdir()
    (tmp_path / "secret").write_text("untouched")
    (room / "secret").write_text("untouched")
    with pytest.raises(ImageError, match="unsafe"):
        unpack(members, room / "out")
    assert sorted(path.name for path in room.iterdir()) == ["secret"], "neither folder nor leftovers"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["room", "secret"]
    assert (room / "secret").read_text() == "untouched"
    assert (room / "secret").stat().st_nlink == 1


def test_too_many_entries_are_refused(tmp_path):
    with pytest.raises(ImageError, match="more than the 100 entries allowed"):
        unpack([member(f"f{number}") for number in range(101)], tmp_path / "out", Limits(entries=100))
    assert list(tmp_path.iterdir()) == []


class Million(io.RawIOBase):
    """A plain tar of a million empty files of one name, as many at a time as are asked for."""

    HEADER = tarfile.TarInfo("f").tobuf()

    def __init__(self):
        self.made = 0

    def readable(self):
        return True

    def readinto(self, buffer):
        count = min(len(buffer) // len(self.HEADER), 1_000_000 - self.made)
        self.made += count
        buffer[: count * len(self.HEADER)] = self.HEADER * count
        return count * len(self.HEADER)


def test_a_million_entries_are_refused_at_the_limit():
    source = Million()
    reader = TarReader(io.BufferedReader(source, 1 << 16), "layer x", Limits().entries)
    with pytest.raises(ImageError, match="more than the 500000 entries allowed"):
        for _ in reader:
            pass
    assert source.made < 501_000


def test_too_many_bytes_are_refused(tmp_path):
    with pytest.raises(ImageError, match="more than 100000 bytes"):
        unpack([member("f", data=os.urandom(200_000))], tmp_path / "out", Limits(bytes=100_000))
    assert list(tmp_path.iterdir()) == []


class Bomb(io.RawIOBase):
    """A gzip stream of a tar with one file of 512 GiB of zeros, made as it is read."""

    def __init__(self):
        self._packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        info = tarfile.TarInfo("zeros")
        info.size = 512 << 30
        self._ready = self._packer.compress(info.tobuf())
        self._zeros = bytes(1 << 20)
        self.given = 0

    def read(self, size=-1):
        while len(self._ready) < size:
            self._ready += self._packer.compress(self._zeros)
        data, self._ready = self._ready[:size], self._ready[size:]
        self.given += len(data)
        return data


def test_a_bomb_of_a_thousand_to_one_is_defused_early(tmp_path):
    bomb = Bomb()
    with pytest.raises(ImageError, match="more than 200 bytes for each byte of it"):
        unpack_layer(bomb, GZIP_LAYER, tmp_path / "out", diff_id=digest_of(b""))
    assert bomb.given < 2 << 20
    assert list(tmp_path.iterdir()) == []


def test_unpacking_keeps_memory_flat(tmp_path):
    stream, diff_id = compressed(tar_of([member("big", data=random.Random(1).randbytes(1 << 20) * 40)]))
    tracemalloc.start()
    try:
        unpack_layer(stream, GZIP_LAYER, tmp_path / "out", diff_id=diff_id)
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


def test_another_diff_id_than_the_image_names_is_refused(tmp_path):
    stream, _ = compressed(tar_of([member("a", data=b"x")]))
    with pytest.raises(ImageError, match="is not what its image names"):
        unpack_layer(stream, GZIP_LAYER, tmp_path / "out", diff_id=digest_of(b"other"))
    assert list(tmp_path.iterdir()) == []


def test_bytes_after_the_end_of_the_tar_count_for_the_diff_id(tmp_path):
    tar = tar_of([member("a", data=b"x")])
    with pytest.raises(ImageError, match="is not what its image names"):
        unpack_layer(io.BytesIO(tar + b"more"), PLAIN_LAYER, tmp_path / "out", diff_id=digest_of(tar))


@pytest.mark.parametrize("cut", [0, 5, 20, 700, -1, -9])
def test_a_truncated_layer_is_refused(tmp_path, cut):
    tar = tar_of([member("a", data=random.Random(1).randbytes(3000))])
    whole = gzip.compress(tar)
    with pytest.raises(ImageError, match="is damaged"):
        unpack_layer(io.BytesIO(whole[:cut]), GZIP_LAYER, tmp_path / "out", diff_id=digest_of(tar))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [300, 600, 1100])
def test_a_truncated_plain_layer_is_refused(tmp_path, cut):
    tar = tar_of([member("a", data=b"x" * 3000)])
    with pytest.raises(ImageError, match="layer"):
        unpack_layer(io.BytesIO(tar[:cut]), PLAIN_LAYER, tmp_path / "out", diff_id=digest_of(tar))


def test_random_bytes_are_refused_and_nothing_else_happens(tmp_path):
    dice = random.Random(7)
    tar = bytearray(tar_of([member("a/b", data=b"x" * 700), member("l", LINK, linkname="a/b"), member("a/.wh.c")]))
    for _ in range(300):
        damaged = bytearray(tar)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(3000)] = dice.randrange(256)
        if damaged != tar:
            with pytest.raises(ImageError):
                unpack_layer(io.BytesIO(damaged), PLAIN_LAYER, tmp_path / "out", diff_id=digest_of(tar))
    assert list(tmp_path.iterdir()) == []


def test_a_media_type_that_is_no_layer_is_refused(tmp_path):
    with pytest.raises(ImageError, match="cannot be read"):
        unpack_layer(io.BytesIO(), "text/plain", tmp_path / "out", diff_id=digest_of(b""))


def test_a_folder_that_holds_something_is_not_touched(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(StoreError, match="is there already"):
        unpack([member("a", data=b"x")], tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "mine"


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    stale = tmp_path / ".out.partial-1-abc"
    (stale / "deep").mkdir(parents=True)
    unpack([member("a", data=b"x")], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_full_disk_says_so_and_leaves_nothing(small_disk):
    with pytest.raises(StoreError, match="is full"):
        unpack([member("big", data=os.urandom(3 << 20))], small_disk / "out")
    assert list(small_disk.iterdir()) == []


def tree(folder):
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = "/" if path.is_dir() else path.read_text()
    return found


def test_whiteouts_are_reported_and_honoured_when_layers_are_merged(tmp_path):
    lower = unpack(
        [
            member("etc/old", data=b"old"),
            member("etc/kept", data=b"kept"),
            member("var/a/1", data=b"1"),
            member("var/a/2", data=b"2"),
            member("gone/deep/x", data=b"x"),
            member("swap", LINK, linkname="/etc"),
            member("turn/x", data=b"x"),
        ],
        tmp_path / "lower",
    )
    upper = unpack(
        [
            member("etc/.wh.old"),
            member("etc/new", data=b"new"),
            member("var/a/.wh..wh..opq"),
            member("var/a/3", data=b"3"),
            member(".wh.gone"),
            member(".wh.never-there"),
            member("no/such/.wh.folder"),
            member(".wh..wh.plnk"),
            member("swap/inside", data=b"a folder now"),
            member("turn", LINK, linkname="etc"),
        ],
        tmp_path / "upper",
    )
    assert upper.whiteouts == ("etc/old", "gone", "never-there", "no/such/folder")
    assert upper.opaque == ("var/a",)
    merge_layers([lower, upper], tmp_path / "root")
    assert tree(tmp_path / "root") == {
        "etc": "/",
        "etc/kept": "kept",
        "etc/new": "new",
        "swap": "/",
        "swap/inside": "a folder now",
        "turn": "-> etc",
        "var": "/",
        "var/a": "/",
        "var/a/3": "3",
    }
    assert (tmp_path / "root/etc/kept").stat().st_ino == (tmp_path / "lower/etc/kept").stat().st_ino
    assert (tmp_path / "lower/etc/old").read_text() == "old", "layers stay as they are"


def test_whiteouts_follow_no_link_of_a_lower_layer(tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("alive")
    lower = unpack([member("way", LINK, linkname=str(tmp_path / "victim"))], tmp_path / "lower")
    upper = unpack([member("way/.wh.file"), member("way/.wh..wh..opq")], tmp_path / "upper")
    merge_layers([lower, upper], tmp_path / "root")
    assert (tmp_path / "victim" / "file").read_text() == "alive"


def test_layers_on_another_disk_are_copied(tmp_path, small_disk):
    lower = unpack([member("a/b", data=b"b", mode=0o600), member("l", LINK, linkname="a/b")], tmp_path / "lower")
    merge_layers([lower], small_disk / "root")
    assert tree(small_disk / "root") == {"a": "/", "a/b": "b", "l": "-> a/b"}
    assert stat.S_IMODE((small_disk / "root/a/b").stat().st_mode) == 0o600


def test_a_merge_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(StoreError):
        merge_layers([UnpackedLayer(tmp_path / "missing")], tmp_path / "root")
    assert list(tmp_path.iterdir()) == []
