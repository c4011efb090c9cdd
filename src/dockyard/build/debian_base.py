"""The default base: a small Debian with Python, put together from packages, and Debian packages on top of any base.

Packages are unpacked, trimmed, and finished the way their maintainer scripts would have; nothing of them is executed
but Python's compiler. Called by `builder` through `BaseSource`; `foreign` shares `packages_layer`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from dockyard.build.base import Base, find_interpreter
from dockyard.build.bytecode import Interpreter, compile_library, compile_own
from dockyard.build.deb import unpack_deb
from dockyard.build.debian import Apt, DebianPackage
from dockyard.build.elf import read_facts
from dockyard.build.files import scratch_folder, settle
from dockyard.build.layers import BuiltLayer, Content, layer_key
from dockyard.build.lock import Lock, now, read_lock
from dockyard.build.modules import modules_of_system
from dockyard.build.request import BASE_PACKAGES, Request
from dockyard.build.sources import Source, find_sources, host_suite
from dockyard.build.target import host_architecture
from dockyard.build.workshop import Workshop
from dockyard.errors import LockError
from dockyard.oci.layer import Codec, Entry, entries_of

_RECIPE = 2
_SYSTEM_RECIPE = 3
_USERS = (
    "root:x:0:0:root:/root:/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/tmp:/sbin/nologin\n"
    "berth:x:65532:0:berth:/tmp:/sbin/nologin\n"
)
_GROUPS = "root:x:0:\nnogroup:x:65534:\n"


@dataclass(frozen=True)
class Versions:
    """What a list of Debian packages says about the base before it exists: Python and glibc."""

    python: str
    glibc: tuple[int, int]


def versions_of(packages: Sequence[DebianPackage]) -> Versions:
    """Read the versions of Python and glibc off the resolved packages."""
    python = next((match[1] for one in packages if (match := re.fullmatch(r"python(3\.\d+)-minimal", one.name))), "")
    libc = next((one.version for one in packages if one.name == "libc6"), "")
    glibc = re.match(r"(\d+)\.(\d+)", libc)
    if not python or glibc is None:
        raise LockError(
            "the Debian release has no Python 3 or no glibc in the packages that were resolved",
            remedy='Name another release, such as [build] suite = "bookworm".',
        )
    return Versions(python, (int(glibc[1]), int(glibc[2])))


@dataclass(frozen=True)
class DebianBase:
    """The base made of Debian packages, for what `request` asks."""

    workshop: Workshop
    request: Request

    def draft(self) -> Lock:
        """See `BaseSource.draft`."""
        packages = self._apt().resolve(BASE_PACKAGES, refresh=True)
        versions = versions_of(packages)
        return Lock(self.request.digest, now(), versions.python, versions.glibc, base=packages)

    def system(self, lock: Lock, names: Sequence[str]) -> tuple[DebianPackage, ...]:
        """See `BaseSource.system`."""
        have = {package.name for package in lock.base}
        everything = self._apt().resolve((*BASE_PACKAGES, *names), refresh=False)
        return tuple(package for package in everything if package.name not in have)

    def interpreter(self, lock: Lock) -> Interpreter:
        """See `BaseSource.interpreter`."""
        here = host_architecture()
        if self.workshop.architecture == here:
            return find_interpreter(self._tree(lock), here)
        native = DebianBase(replace(self.workshop, architecture=here), self.request)
        return native.interpreter(self._native_lock(native, lock))

    def _native_lock(self, native: DebianBase, lock: Lock) -> Lock:
        """A lock of this machine's architecture with the Python of `lock`; LockError when there is none."""
        recorded = read_lock(self.workshop.project.path, native.workshop.platform)
        wanted = _python_package(lock)
        if recorded is not None and _python_package(recorded) == wanted:
            return recorded
        found = native.draft()
        if _python_package(found) != wanted:
            raise LockError(
                f"dockyard.lock has Python {wanted} for {self.workshop.platform}, and bytecode for it would be compiled"
                f" by Python {_python_package(found)}",
                remedy="Run `dockyard build --upgrade` to lock the same for all platforms.",
            )
        return found

    def _tree(self, lock: Lock, compiler: Interpreter | None = None) -> Path:
        """The base, unpacked once; its own Python compiles what compiling needs, unless another is given."""
        root, architecture = self._root(lock), self.workshop.architecture

        def finish(work: Path) -> None:
            _finish(work)
            compile_own(compiler or find_interpreter(work, architecture), work)

        if not root.is_dir():
            _unpack(lock.base, self._sources(), root, self.workshop, finish)
        root.touch()  # see upkeep.py
        return root

    def make(self, lock: Lock) -> Base:
        """See `BaseSource.make`."""
        workshop, interpreter = self.workshop, self.interpreter(lock)
        root = self._tree(lock, interpreter)
        key = packages_key("debian", lock.base, workshop.codec)

        def content() -> Content:
            bytecode = _bytecode(interpreter, root, workshop, packages_key("bytecode", lock.base, "none"))
            facts = read_facts(root, "", everything=False)
            return Content(_entries(root, bytecode), facts)

        with workshop.progress.task("Packing the base"):
            layer = workshop.layers.layer("Debian and Python", key, workshop.codec, content)
        return Base((layer,), root, interpreter, "/usr/bin/python3")

    def _root(self, lock: Lock) -> Path:
        return self.workshop.trees / packages_key("debian", lock.base, "none")

    def system_layer(self, lock: Lock) -> BuiltLayer:
        """See `BaseSource.system_layer`."""
        return packages_layer(lock.system, self._sources(), self.workshop)

    def _apt(self) -> Apt:
        return Apt.of(self.workshop.cache, self.workshop.architecture, self._sources())

    def _sources(self) -> tuple[Source, ...]:
        suite = self.request.suite or host_suite()
        return find_sources(self.workshop.project.project.build.mirror, suite)


def packages_layer(packages: Sequence[DebianPackage], sources: Sequence[Source], workshop: Workshop) -> BuiltLayer:
    """A layer of Debian packages to lie on a base."""
    key = system_key(packages, workshop.codec)

    def content() -> Content:
        tree = workshop.trees / packages_key("system", packages, "none")
        if not tree.is_dir():
            _unpack(packages, sources, tree, workshop, lambda _: None)
        return Content(entries_of(tree, ""), read_facts(tree, "", everything=False), modules_of_system(tree))

    return workshop.layers.layer("Debian packages", key, workshop.codec, content)


def system_key(packages: Sequence[DebianPackage], codec: Codec) -> str:
    """The key of a layer of Debian packages on top of a base."""
    return layer_key("system", codec, recipe=_SYSTEM_RECIPE, packages=[one.sha256 for one in packages])


def packages_key(kind: str, packages: Sequence[DebianPackage], codec: Codec) -> str:
    """The key of a layer of these packages, or, with the codec "none", of the tree that it is packed from."""
    return layer_key(kind, codec, recipe=_RECIPE, packages=[one.sha256 for one in packages])


def _unpack(
    packages: Sequence[DebianPackage],
    sources: Sequence[Source],
    place: Path,
    workshop: Workshop,
    finish: Callable[[Path], None],
) -> None:
    """Unpack `packages` to `place`, whole or not at all; `finish` makes what it is for out of the tree."""
    progress = workshop.progress
    files = _files(packages, sources, workshop)
    with scratch_folder(workshop.trees) as work:
        total = sum(package.size for package in packages)
        with progress.task("Unpacking Debian packages", total) as task, ThreadPoolExecutor(2) as pool:
            done = pool.map(lambda package: unpack_deb(files[package], work), packages)
            for package, _ in zip(packages, done, strict=True):
                task.advance(package.size)
        finish(work)
        settle(work, place)


def _files(
    packages: Sequence[DebianPackage], sources: Sequence[Source], workshop: Workshop
) -> dict[DebianPackage, Path]:
    """Every package's file, in the cache or fetched into it."""
    folder = workshop.packages
    folder.mkdir(parents=True, exist_ok=True)
    files = {package: folder / f"{package.sha256}.deb" for package in packages}
    if missing := {package: file for package, file in files.items() if not _is_whole(package, file)}:
        importlib.import_module("dockyard.build.fetching").fetch(missing, sources, workshop.progress)
    return files


def _python_package(lock: Lock) -> str:
    """The version of the Debian package that is the lock's Python."""
    return next((package.version for package in lock.base if package.name == f"python{lock.python}-minimal"), "")


def _is_whole(package: DebianPackage, file: Path) -> bool:
    return file.is_file() and file.stat().st_size == package.size


def _finish(root: Path) -> None:
    """Do in the tree what maintainer scripts would have done, as far as a model server needs it."""
    for name in ("bin", "sbin", "lib"):
        (root / name).symlink_to(f"usr/{name}")
    if (root / "usr/lib64").is_dir():
        (root / "lib64").symlink_to("usr/lib64")
    for name in ("app", "opt", "run/berth", "tmp", "proc", "sys", "dev", "root", "usr/bin", "etc"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "etc/passwd").write_text(_USERS)
    (root / "etc/group").write_text(_GROUPS)
    (root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    certificates = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_text("".join(file.read_text().rstrip() + "\n" for file in certificates))


def _bytecode(interpreter: Interpreter, root: Path, workshop: Workshop, key: str) -> Path:
    """The standard library's bytecode, as a tree of its own: `root` is in use already."""
    place = workshop.trees / key
    if not place.is_dir():
        with workshop.progress.task("Compiling the standard library"), scratch_folder(workshop.trees) as work:
            compile_library(interpreter, root, work)
            settle(work, place)
    return place


def _entries(root: Path, bytecode: Path) -> Iterator[Entry]:
    """The entries of both trees; /tmp is open to all, as anywhere."""
    for entry in entries_of(root, ""):
        yield Entry(entry.path, 0o1777, "folder", None) if entry.path == "tmp" else entry
    yield from (entry for entry in entries_of(bytecode, "") if entry.kind != "folder")
