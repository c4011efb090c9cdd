"""The layers of Python dependencies: wheels installed, compiled, looked through for the preflight.

Heavy distributions get layers of their own, so that an upgrade of a small one does not move the large. Called by
`builder`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dockyard.build.bytecode import Interpreter
from dockyard.build.elf import ElfFacts, read_facts
from dockyard.build.files import scratch_folder
from dockyard.build.layers import BuiltLayer, Content, layer_key
from dockyard.build.modules import modules_in
from dockyard.build.target import Target
from dockyard.build.wheel_bytecode import WheelCompiler
from dockyard.build.wheels import Wheel, install_wheels
from dockyard.build.workshop import Workshop
from dockyard.oci.layer import Entry, entries_of

INSIDE = "/opt/dependencies"
_HEAVY = 100_000_000
_RECIPE = 3


@dataclass(frozen=True)
class DependencyBuilder:
    """Makes layers out of wheels."""

    workshop: Workshop

    def layers(
        self, wheels: Sequence[Wheel], target: Target, base_key: str, interpreter: Callable[[], Interpreter]
    ) -> tuple[BuiltLayer, ...]:
        """The layers for `wheels`, heaviest first, all others together last.

        The base may still be in the making: `base_key` stands for it, `interpreter` waits for its Python.
        """
        if found := self.find(wheels, target, base_key):
            return found
        key = self._key(wheels, target, base_key)
        progress, scratch = self.workshop.progress, self.workshop.scratch
        with scratch_folder(scratch) as folder:
            with progress.task("Fetching and installing wheels"):
                install_wheels(wheels, target, folder, scratch)
            facts = read_facts(folder, INSIDE)
            compiler = interpreter()
            with progress.task("Compiling wheels"):
                WheelCompiler(self.workshop, folder, INSIDE, wheels, base_key).compile(compiler)
            with progress.task("Packing wheels"):
                return self._write(key, folder, facts)

    def find(self, wheels: Sequence[Wheel], target: Target, base_key: str) -> tuple[BuiltLayer, ...]:
        """The layers for `wheels`, if all of them have been made before."""
        key = self._key(wheels, target, base_key)
        layers: list[BuiltLayer] = []
        while found := self.workshop.layers.find(f"{key}-{len(layers)}"):
            layers.append(found)
        return tuple(layers) if layers and self.workshop.layers.find(f"{key}-end") else ()

    def _key(self, wheels: Sequence[Wheel], target: Target, base_key: str) -> str:
        return layer_key(
            "wheels",
            self.workshop.codec,
            recipe=_RECIPE,
            wheels=[wheel.line() for wheel in wheels],
            platform=target.wheel_platform,
            python=target.python,
            compiler=base_key,
        )

    def _write(self, key: str, folder: Path, facts: ElfFacts) -> tuple[BuiltLayer, ...]:
        heavy = _heavy_files(folder)
        owner = {path: name for name, paths in heavy.items() for path in paths}
        modules = modules_in(folder)
        layers: list[BuiltLayer] = []
        for name in (*sorted(heavy), ""):
            entries = _entries(folder, {path for path, own in owner.items() if own == name} if name else None, owner)
            part = self.workshop.layers.layer(
                f"Python: {name}" if name else "Python dependencies",
                f"{key}-{len(layers)}",
                self.workshop.codec,
                lambda entries=entries, name=name: (  # type: ignore[misc]
                    Content(entries, ElfFacts()) if name else Content(entries, facts, modules)
                ),
            )
            layers.append(part)
        self.workshop.layers.keep(f"{key}-end", layers[-1])
        return tuple(layers)


def _entries(folder: Path, chosen: set[str] | None, owner: dict[str, str]) -> Iterator[Entry]:
    """The chosen files; with None, everything that no heavy distribution owns. Folders follow from their files."""
    for entry in entries_of(folder, INSIDE.lstrip("/")):
        path = PurePosixPath(entry.path).relative_to(INSIDE.lstrip("/")).as_posix()
        if entry.kind != "folder" and (path in chosen if chosen is not None else path not in owner):
            yield entry


def _heavy_files(folder: Path) -> dict[str, set[str]]:
    """Files of each distribution that has 100 MB or more, by its name (bytecode stays with the others)."""
    heavy = {}
    for record in sorted(folder.glob("*.dist-info/RECORD")):
        with record.open(encoding="utf-8", newline="") as stream:
            paths = {row[0] for row in csv.reader(stream) if row and (folder / row[0]).is_file()}
        if sum((folder / path).stat().st_size for path in paths) >= _HEAVY:
            heavy[record.parent.name.removesuffix(".dist-info").split("-")[0].lower()] = paths
    return heavy
