"""Unpacks Debian packages into a folder, without dpkg and without running their scripts.

A package is an `ar` archive (deb(5)) with a control and a data tar. Files go to their place in a merged `/usr`; manual
pages, documentation and locales stay out, licences (`copyright`) stay in; the control file is kept under
`/var/lib/dpkg/status.d` where scanners look for it. Called by `base`.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import zstandard

from dockyard.errors import ImageError

_MERGED = {"bin", "sbin", "lib", "lib32", "lib64", "libx32"}
_TRIMMED = re.compile(
    r"^(usr/share/(man|info|locale|lintian|bug|doc-base|linda|menu|pixmaps|bash-completion|gcc|gdb|readline)/"
    r"|usr/share/doc/(?!.*/copyright$)"
    r"|usr/share/zoneinfo/(right|posix)/"
    r"|usr/lib/[^/]+/gconv/|usr/lib/valgrind/"
    r"|usr/lib/python3[^/]*/(test|idlelib|lib2to3|pydoc_data|ensurepip|turtledemo|tkinter)/"
    r"|(boot|dev|proc|sys|run|media|mnt|srv|home)/"
    r"|etc/(cron|init\.d|logrotate|apt|dpkg|update-motd)[^/]*/)"
)


def unpack_deb(file: Path, root: Path) -> None:
    """Unpack the package `file` into `root`; ImageError if it is not a sound package."""
    data = control = False
    with file.open("rb") as stream:
        for name, member in _members(stream):
            if name.startswith("data.tar"):
                _unpack_data(name, member, root)
                data = True
            elif name.startswith("control.tar"):
                _keep_control(name, member, root)
                control = True
    if not (data and control):
        raise ImageError(f"{file.name} is not a Debian package", remedy="Delete it and build again.")


def _members(stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of an ar archive's members."""
    if stream.read(8) != b"!<arch>\n":
        raise ImageError(f"{Path(stream.name).name} is not an ar archive", remedy="Delete it and build again.")
    while len(header := stream.read(60)) == 60:
        size = int(header[48:58])
        yield header[:16].decode("ascii").rstrip(" /"), stream.read(size)
        stream.seek(size % 2, io.SEEK_CUR)


def _open_tar(name: str, member: bytes) -> tarfile.TarFile:
    if name.endswith(".zst"):
        member = zstandard.ZstdDecompressor().decompressobj().decompress(member)
    return tarfile.open(fileobj=io.BytesIO(member), mode="r:*")


def _unpack_data(name: str, member: bytes, root: Path) -> None:
    hard_links: list[tuple[str, str]] = []
    with _open_tar(name, member) as tar:
        for entry in tar:
            path = merged_path(entry.name)
            if not path or _TRIMMED.match(f"{path}/" if entry.isdir() else path):
                continue
            if entry.isdir():
                _parents(root, root / path / "x")
            elif entry.islnk():
                hard_links.append((path, merged_path(entry.linkname)))
            else:
                _write(tar, entry, root, root / path)
    for path, origin in hard_links:
        _parents(root, root / path)
        (root / path).unlink(missing_ok=True)
        (root / path).hardlink_to(root / origin)


def _write(tar: tarfile.TarFile, entry: tarfile.TarInfo, root: Path, path: Path) -> None:
    _parents(root, path)
    if entry.issym():
        path.unlink(missing_ok=True)
        path.symlink_to(merged_link(entry.linkname))
    elif entry.isfile():
        path.unlink(missing_ok=True)
        content = tar.extractfile(entry)
        assert content is not None
        path.write_bytes(content.read())
        path.chmod(0o755 if entry.mode & 0o111 else 0o644)


def merged_path(name: str) -> str:
    """A member's path relative to the root, where /bin, /lib and their kind are folders of /usr."""
    parts = PurePosixPath(name.removeprefix("./")).parts
    if ".." in parts or name.startswith("/"):
        raise ImageError(f"a Debian package has the unsafe path {name!r}")
    if not parts:
        return ""
    if parts[0] in _MERGED:
        return "" if len(parts) == 1 else "/".join(("usr", *parts))
    return "/".join(parts)


def merged_link(target: str) -> str:
    """Where a symbolic link of a package points once /usr is merged; relative ones stay as they are."""
    return f"/{merged_path(target[1:])}" if target.startswith("/") and len(target) > 1 else target


def _parents(root: Path, path: Path) -> None:
    """Make the folders above `path`, refusing to walk out of `root` through a link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.parent.resolve().is_relative_to(root):
        raise ImageError(f"a Debian package writes outside the image through a link: {path.relative_to(root)}")


def _keep_control(name: str, member: bytes, root: Path) -> None:
    with _open_tar(name, member) as tar:
        files = {entry.name.removeprefix("./"): tar.extractfile(entry) for entry in tar if entry.isfile()}
        control = cast(io.BufferedReader, files["control"]).read()
        sums = files.get("md5sums")
        package = re.search(rb"^Package: (\S+)$", control, re.MULTILINE)
        assert package is not None
        folder = root / "var/lib/dpkg/status.d"
        folder.mkdir(parents=True, exist_ok=True)
        status = re.sub(rb"^(Package: \S+\n)", rb"\1Status: install ok installed\n", control, count=1)
        (folder / package[1].decode()).write_bytes(status)
        if sums is not None:
            (folder / f"{package[1].decode()}.md5sums").write_bytes(sums.read())
