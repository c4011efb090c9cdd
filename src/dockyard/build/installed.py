"""What was installed into a folder, by distribution: whose file is whose, and how it divides into layers.

Called by `dependencies` and `wheel_bytecode`. Source: PyPA's recording of installed projects (RECORD).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dockyard.build.record import listed
from dockyard.build.wheels import normalized

# A distribution of this many bytes has a layer of its own, so that it stays where it is when another one changes.
_LARGE = 8_000_000
_MOST = 10


@dataclass(frozen=True)
class Part:
    """The files of one layer, relative to the folder: those of one distribution, or (name "") of all others."""

    name: str
    files: frozenset[str]

    def holds(self, path: str) -> bool:
        """Whether a file is of this part; bytecode goes with its source."""
        return path in self.files or (path.endswith(".pyc") and _source_of(path) in self.files)


def owned_files(folder: Path) -> Mapping[str, frozenset[str]]:
    """The files of each distribution, by its normalized name; without those that several claim, and the missing."""
    records = {_name(record): listed(record) for record in sorted(folder.glob("*.dist-info/RECORD"))}
    claims = Counter(path for listed in records.values() for path in listed)
    return {
        name: frozenset(path for path in listed if claims[path] == 1 and (folder / path).is_file())
        for name, listed in records.items()
    }


def divide(folder: Path, owned: Mapping[str, Set[str]]) -> tuple[Part, ...]:
    """The large distributions by name, at most ten of them, and last what is left."""
    sizes = {name: sum((folder / path).stat().st_size for path in paths) for name, paths in owned.items()}
    ranked = sorted((name for name in sizes if sizes[name] >= _LARGE), key=lambda name: (-sizes[name], name))
    parts = [Part(name, frozenset(owned[name])) for name in sorted(ranked[:_MOST])]
    taken = {path for part in parts for path in part.files}
    everything = (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    rest = frozenset(path.relative_to(folder).as_posix() for path in everything) - taken
    return (*parts, Part("", rest))


def _source_of(path: str) -> str:
    """The source of a file in `__pycache__` (PEP 3147); some other path when it is none."""
    file = PurePosixPath(path)
    return (file.parent.parent / f"{file.name.rsplit('.', 2)[0]}.py").as_posix()


def _name(record: Path) -> str:
    return normalized(record.parent.name.removesuffix(".dist-info").split("-")[0])
