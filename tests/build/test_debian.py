"""Debian as a source: whose archives are asked, and what becomes of a package."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dockyard.build.deb import merged_path, unpack_deb
from dockyard.build.debian import Apt
from dockyard.build.sources import find_sources, host_suite
from dockyard.errors import ImageError, LockError

DEB822 = """\
# a comment
Types: deb
URIs: http://mirror.test/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://vendor.test/repo
Suites: stable
Components: main

Types: deb-src
URIs: http://mirror.test/debian
Suites: bookworm
Components: main
"""


def apt_folder(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(DEB822)
    (tmp_path / "sources.list").write_text(
        "# nothing\ndeb http://security.test/debian-security bookworm-security main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://other.test/debian bookworm main non-free\n"
        "deb http://cloud.test/apt cloud-sdk-bookworm main\n"
    )
    return tmp_path


def test_only_the_release_itself_is_asked_not_what_else_is_configured(tmp_path: Path) -> None:
    sources = find_sources("", "bookworm", apt_folder(tmp_path))
    assert {(source.uri, source.suite) for source in sources} == {
        ("http://security.test/debian-security", "bookworm-security"),
        ("http://other.test/debian", "bookworm"),
        ("http://mirror.test/debian", "bookworm"),
        ("http://mirror.test/debian", "bookworm-updates"),
    }


def test_a_mirror_of_the_project_replaces_them(tmp_path: Path) -> None:
    (source,) = find_sources("http://own.test/debian/", "trixie", apt_folder(tmp_path))
    assert (source.uri, source.suite) == ("http://own.test/debian", "trixie")


def test_a_release_that_is_not_configured_is_told(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="'sid'") as caught:
        find_sources("", "sid", apt_folder(tmp_path))
    assert "mirror" in caught.value.remedy


def test_a_machine_that_is_no_debian_is_told_to_name_a_base(tmp_path: Path) -> None:
    with pytest.raises(LockError) as caught:
        host_suite(tmp_path / "os-release")
    assert "[build] base" in caught.value.remedy


def test_a_package_that_does_not_exist_is_named(tmp_path: Path) -> None:
    apt = Apt(tmp_path / "apt", "amd64", find_sources("", host_suite()))
    with pytest.raises(LockError) as caught:
        apt.resolve(["no-such-package-anywhere"], refresh=True)
    assert "no-such-package-anywhere" in caught.value.detail


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("./lib/x86_64-linux-gnu/libz.so.1", "usr/lib/x86_64-linux-gnu/libz.so.1"),
        ("./usr/lib/a", "usr/lib/a"),
        ("./bin/sh", "usr/bin/sh"),
        ("./lib/", ""),
        ("./", ""),
        ("./etc/.pwd", "etc/.pwd"),
    ],
)
def test_paths_land_in_a_merged_usr(name: str, path: str) -> None:
    assert merged_path(name) == path


@pytest.mark.parametrize("name", ["../etc/passwd", "./usr/../../x", "/etc/passwd"])
def test_paths_that_leave_the_root_are_refused(name: str) -> None:
    with pytest.raises(ImageError):
        merged_path(name)


def make_deb(tmp_path: Path, name: str = "hello") -> Path:
    tree = tmp_path / f"tree-{name}"
    for folder in ("DEBIAN", "lib/x", "usr/share/man/man1", f"usr/share/doc/{name}", "usr/bin"):
        (tree / folder).mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <n@example.org>\nDescription: test\n"
    )
    (tree / "DEBIAN" / "md5sums").write_text("0" * 32 + "  usr/bin/tool\n")
    (tree / "DEBIAN" / "postinst").write_text("#!/bin/sh\ntouch /tmp/the-script-ran\n")
    (tree / "DEBIAN" / "postinst").chmod(0o755)
    (tree / "lib/x/library").write_text("library")
    (tree / "usr/share/man/man1/page").write_text("page")
    (tree / f"usr/share/doc/{name}/copyright").write_text("licence")
    (tree / f"usr/share/doc/{name}/changelog").write_text("long")
    (tree / "usr/bin/tool").write_text("#!/bin/sh\n")
    (tree / "usr/bin/tool").chmod(0o4755)
    (tree / "usr/bin/link").symlink_to("/lib/x/library")
    file = tmp_path / f"{name}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(tree), str(file)], check=True, capture_output=True)
    return file


def test_a_package_is_unpacked_trimmed_and_registered(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    unpack_deb(make_deb(tmp_path), root)
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}
    assert files == {
        "usr/lib/x/library",
        "usr/share/doc/hello/copyright",
        "usr/bin/tool",
        "usr/bin/link",
        "var/lib/dpkg/status.d/hello",
        "var/lib/dpkg/status.d/hello.md5sums",
    }
    assert (root / "usr/bin/link").readlink() == Path("/usr/lib/x/library")
    assert (root / "usr/bin/tool").stat().st_mode & 0o7777 == 0o755
    assert not Path("/tmp/the-script-ran").exists()
    assert "Status: install ok installed" in (root / "var/lib/dpkg/status.d/hello").read_text()


def test_a_file_that_is_no_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.deb").write_bytes(b"<html>not found</html>")
    with pytest.raises(ImageError, match=r"bad\.deb"):
        unpack_deb(tmp_path / "bad.deb", tmp_path)


def test_a_package_that_writes_through_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "usr").mkdir(parents=True)
    outside.mkdir()
    (root / "usr/bin").symlink_to(outside)
    with pytest.raises(ImageError, match="outside the image"):
        unpack_deb(make_deb(tmp_path), root)
    assert list(outside.iterdir()) == []
