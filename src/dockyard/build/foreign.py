"""Any OCI image as the base: from a layout (`oci:FOLDER[:NAME]`), an archive (`archive:FILE`) or a registry.

The image is copied into the store and pinned by digest in the lock; its layers become the lowest of the new image,
byte for byte. It is unpacked here for its Python and its libraries, with the same care as anything from outside.
Called by `builder`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dockyard.build.base import Base, find_interpreter
from dockyard.build.bytecode import Interpreter
from dockyard.build.debian import Apt, DebianPackage
from dockyard.build.debian_base import packages_layer
from dockyard.build.elf import ElfFacts, read_facts
from dockyard.build.files import scratch_folder, settle
from dockyard.build.layers import BuiltLayer
from dockyard.build.lock import Lock, now
from dockyard.build.request import Request
from dockyard.build.sources import Source, find_sources
from dockyard.build.target import host_architecture
from dockyard.build.workshop import Workshop
from dockyard.errors import ImageError, ImageNotFoundError, LockError, ProjectError
from dockyard.oci.archive import read_archive
from dockyard.oci.copying import copy_image
from dockyard.oci.digest import hex_of
from dockyard.oci.image import Image, Platform
from dockyard.oci.layout import Layout
from dockyard.oci.merge import merge_layers
from dockyard.oci.registry import Reference, Registry
from dockyard.oci.unpack import unpack_layer


@dataclass(frozen=True)
class ForeignBase:
    """The base that [build] base of the project names."""

    workshop: Workshop
    request: Request

    def draft(self) -> Lock:
        """See `BaseSource.draft`."""
        image = self._find()
        own = self._own_interpreter(image)
        return Lock(self.request.digest, now(), own.version, _glibc(own), base_image=str(image.digest))

    def system(self, lock: Lock, names: Sequence[str]) -> tuple[DebianPackage, ...]:
        """See `BaseSource.system`; LockError when the base is not made of Debian packages."""
        have = _installed_packages(self.make(lock).root)
        if not have or not self._suite(lock):
            raise LockError(
                f"the base {self.request.base} is not made of Debian packages, so none can be added to it",
                detail=f"  wanted: {', '.join(names)}",
                remedy="Put them into the base image itself, or leave out [build] base to get Debian's.",
            )
        apt = Apt.of(self.workshop.cache, self.workshop.architecture, self._sources(lock))
        return tuple(package for package in apt.resolve(names, refresh=True) if package.name not in have)

    def interpreter(self, lock: Lock) -> Interpreter:
        """See `BaseSource.interpreter`."""
        return self._compiler(self._pinned(lock))

    def _compiler(self, image: Image) -> Interpreter:
        """The image's Python, or that of the same image for this machine's architecture."""
        own, here = self._own_interpreter(image), host_architecture()
        if self.workshop.architecture == here:
            return own
        native = ForeignBase(replace(self.workshop, architecture=here), self.request)
        compiler = native._own_interpreter(native._find())
        if compiler.version != own.version:
            raise ImageError(
                f"the base {self.request.base} has Python {own.version} for {self.workshop.platform} and"
                f" {compiler.version} for {native.workshop.platform}",
                remedy="Take a base that has the same Python for both, or build on a machine of that architecture.",
            )
        return compiler

    def _own_interpreter(self, image: Image) -> Interpreter:
        return find_interpreter(self._tree(image), image.config.platform.architecture)

    def make(self, lock: Lock) -> Base:
        """See `BaseSource.make`; ImageError if what the name means now is not what the lock pins."""
        return self._unpacked(self._pinned(lock))

    def _pinned(self, lock: Lock) -> Image:
        try:
            image = self.workshop.layout.resolve(lock.base_image)
        except ImageNotFoundError:
            image = self._find()
        if image.digest != lock.base_image:
            raise ImageError(
                f"the base {self.request.base} is now {image.digest}, and dockyard.lock pins {lock.base_image}",
                remedy="Run `dockyard build --upgrade` to take the new one, or bring the old one back.",
            )
        return image

    def system_layer(self, lock: Lock) -> BuiltLayer:
        """See `BaseSource.system_layer`."""
        return packages_layer(lock.system, self._sources(lock), self.workshop)

    def _suite(self, lock: Lock) -> str:
        return self.request.suite or _suite_of(self.make(lock).root)

    def _sources(self, lock: Lock) -> tuple[Source, ...]:
        return find_sources(self.workshop.project.project.build.mirror, self._suite(lock))

    def _find(self) -> Image:
        """Bring the image into the store, under a name of its own so that it is kept."""
        text, project, layout = self.request.base, self.workshop.project.path, self.workshop.layout
        platform = Platform("linux", self.workshop.architecture)
        kind, _, rest = text.partition(":")
        if kind == "oci":
            image, source = _from_layout(project, rest, platform)
            copy_image(image, source, layout, _store_name(image))
            return image
        if kind == "archive":
            if not (project / rest).is_file():
                raise ProjectError(f"the base {text!r} does not exist", remedy="Correct [build] base in dockyard.toml.")
            image = read_archive(project / rest, layout)[0]
        else:
            with self.workshop.progress.task(f"Pulling the base {text}"):
                image = Registry().pull(Reference.parse(text), platform, layout)
        layout.add(image, _store_name(image))
        return image

    def _tree(self, image: Image) -> Path:
        """The image's tree, unpacked once."""
        root = self.workshop.trees / hex_of(image.digest)
        if not root.is_dir():
            with self.workshop.progress.task("Unpacking the base"), scratch_folder(self.workshop.trees) as work:
                settle(_unpack(image, self.workshop.layout, work), root)
        root.touch()  # see upkeep.py
        return root

    def _unpacked(self, image: Image) -> Base:
        """The image as a base."""
        root, own, compiler = self._tree(image), self._own_interpreter(image), self._compiler(image)
        facts = read_facts(root, "", everything=False)
        layers = tuple(
            BuiltLayer("base", blob, facts if number == 0 else ElfFacts(), reused=True)
            for number, blob in enumerate(image.layer_blobs)
        )
        python = "/" + own.program.relative_to(root).as_posix()
        return Base(layers, root, compiler, python, image.config.environment)


def _store_name(image: Image) -> str:
    return f"dockyard.base:{hex_of(image.digest)[:12]}"


def _glibc(interpreter: Interpreter) -> tuple[int, int]:
    """The version of the base's C library, which it carries as text."""
    files = (path for folder in interpreter.libraries for path in sorted(folder.glob("libc[.-]*so*")))
    own = (path for path in files if path.is_file() and not path.is_symlink())  # a link may lead to this machine's
    matches = (re.search(rb"release version (\d+)\.(\d+)", path.read_bytes()) for path in own)
    match = next(filter(None, matches), None)
    if match is None:
        raise ImageError(
            "the base image's C library does not tell its version",
            remedy="Take a base made from Debian, Ubuntu, Fedora or their like, for this machine's processor.",
        )
    return int(match[1]), int(match[2])


def _installed_packages(root: Path) -> frozenset[str]:
    """The Debian packages that an unpacked base has, by name."""
    status = root / "var/lib/dpkg/status"
    texts = [status.read_text(errors="replace")] if status.is_file() else []
    texts += [file.read_text(errors="replace") for file in sorted((root / "var/lib/dpkg/status.d").glob("*"))]
    return frozenset(name for text in texts for name in re.findall(r"^Package: (\S+)$", text, re.MULTILINE))


def _suite_of(root: Path) -> str:
    """The Debian release of an unpacked base, or empty."""
    release = root / "etc/os-release"
    text = release.read_text(errors="replace") if release.is_file() else ""
    match = re.search(r"^VERSION_CODENAME=\"?([a-z]+)\"?$", text, re.MULTILINE)
    return match[1] if match else ""


def _from_layout(project: Path, rest: str, platform: Platform) -> tuple[Image, Layout]:
    folder, _, name = rest.partition(":")
    layout = Layout.open(project / folder)
    if name:
        return layout.resolve(name, platform), layout
    images = layout.images()
    fitting = [named.image for named in images if platform.accepts(named.image.config.platform)]
    if len(fitting) != 1:
        names = ", ".join(sorted(named.name for named in images)) or "none"
        raise ProjectError(
            f"the layout {folder!r} has {len(fitting)} images for {platform}",
            remedy=f"Name one: oci:{folder}:NAME. It has: {names}.",
        )
    return fitting[0], layout


def _unpack(image: Image, layout: Layout, work: Path) -> Path:
    """One tree of all layers of `image`, below `work`."""
    layers = []
    for number, blob in enumerate(image.layer_blobs):
        with layout.blobs.open(blob.descriptor.digest) as stream:
            folder = work / f"layer-{number}"
            layers.append(unpack_layer(stream, blob.descriptor.media_type, folder, diff_id=blob.diff_id))
    merge_layers(layers, work / "root")
    return work / "root"
