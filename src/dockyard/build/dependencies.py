"""The layers of Python dependencies: wheels installed, trimmed, compiled, looked through for the preflight.

Large distributions get layers of their own, each a function of its wheel and the base: with another set of wheels they
are found again, and nothing of them is packed, sent or loaded anew. Called by `builder`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dockyard.build.bytecode import Interpreter
from dockyard.build.elf import read_facts
from dockyard.build.files import scratch_folder
from dockyard.build.installed import Part, divide, owned_files
from dockyard.build.layers import BuiltLayer, Content, layer_key
from dockyard.build.modules import modules_among
from dockyard.build.target import Target
from dockyard.build.trim import Trimming, trim
from dockyard.build.wheel_bytecode import WheelCompiler
from dockyard.build.wheels import Wheel, install_wheels, normalized
from dockyard.build.workshop import Workshop
from dockyard.oci.layer import Entry, entries_of

INSIDE = "/opt/dependencies"
_RECIPE = 4


@dataclass(frozen=True)
class DependencyBuilder:
    """Makes layers out of wheels."""

    workshop: Workshop

    def layers(
        self, wheels: Sequence[Wheel], target: Target, base_key: str, interpreter: Callable[[], Interpreter]
    ) -> tuple[BuiltLayer, ...]:
        """The layers for `wheels`: the large distributions by name, all others together last.

        The base may still be in the making: `base_key` stands for it, `interpreter` waits for its Python.
        """
        if found := self.find(wheels, target, base_key):
            return found
        progress, scratch = self.workshop.progress, self.workshop.scratch
        with scratch_folder(scratch) as folder:
            with progress.task("Fetching and installing wheels"):
                install_wheels(wheels, target, folder, scratch)
            owned = owned_files(folder)
            keys = {part: self._part_key(part, wheels, target, base_key) for part in divide(folder, owned)}
            missing = [part for part, key in keys.items() if self.workshop.layers.find(key) is None]
            with progress.task("Trimming and compiling wheels"):
                self._trim(folder, owned, missing)
                compiler = WheelCompiler(self.workshop, folder, INSIDE, wheels, base_key)
                compiler.compile(interpreter(), owned, missing)
            with progress.task("Packing wheels"):
                layers = tuple(self._packed(folder, part, key) for part, key in keys.items())
        key = self._key(wheels, target, base_key)
        for number, layer in enumerate((*layers, layers[-1])):
            self.workshop.layers.keep(f"{key}-{number}" if number < len(layers) else f"{key}-end", layer)
        return layers

    def find(self, wheels: Sequence[Wheel], target: Target, base_key: str) -> tuple[BuiltLayer, ...]:
        """The layers for `wheels`, if all of them have been made before."""
        key = self._key(wheels, target, base_key)
        layers: list[BuiltLayer] = []
        while found := self.workshop.layers.find(f"{key}-{len(layers)}"):
            layers.append(found)
        return tuple(layers) if layers and self.workshop.layers.find(f"{key}-end") else ()

    @property
    def trimming(self) -> Trimming:
        """What is left out of wheels."""
        build = self.workshop.project.project.build
        return Trimming(build.trim, build.leave_out)

    def _key(self, wheels: Sequence[Wheel], target: Target, base_key: str, **more: str) -> str:
        return layer_key(
            "wheels",
            self.workshop.codec,
            recipe=_RECIPE,
            wheels=[wheel.line() for wheel in wheels],
            platform=target.wheel_platform,
            python=target.python,
            compiler=base_key,
            trimming=[self.trimming.usual, *self.trimming.more],
            **more,
        )

    def _part_key(self, part: Part, wheels: Sequence[Wheel], target: Target, base_key: str) -> str:
        """A large distribution's layer depends on its own wheel, and on which of its files are its alone."""
        own = [wheel for wheel in wheels if not part.name or normalized(wheel.name) == part.name]
        files = hashlib.sha256("\n".join(sorted(part.files)).encode()).hexdigest()
        return self._key(own, target, base_key, part=part.name, files=files)

    def _trim(self, folder: Path, owned: Mapping[str, Collection[str]], parts: Sequence[Part]) -> None:
        for files in owned.values():
            if any(part.holds(path) for part in parts for path in files):
                trim(folder, files, self.trimming)

    def _packed(self, folder: Path, part: Part, key: str) -> BuiltLayer:
        def content() -> Content:
            names = [name for name in part.files if (folder / name).is_symlink() or (folder / name).exists()]
            return Content(list(_entries(folder, part)), read_facts(folder, INSIDE, names), modules_among(names))

        title = f"Python: {part.name}" if part.name else "Python dependencies"
        return self.workshop.layers.layer(title, key, self.workshop.codec, content)


def _entries(folder: Path, part: Part) -> Iterator[Entry]:
    """The files of one part. Folders follow from their files."""
    for entry in entries_of(folder, INSIDE.lstrip("/")):
        path = PurePosixPath(entry.path).relative_to(INSIDE.lstrip("/")).as_posix()
        if entry.kind != "folder" and part.holds(path):
            yield entry
