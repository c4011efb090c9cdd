"""Leaves out of installed wheels what a server never reads: tests, sources in C, debug information.

On by default, off with `[build] trim = false`; `[build] leave_out` names more. Nothing is left out that a module of the
same distribution may read: test folders that one imports stay, and sources stay where one names files of that kind (it
may compile them). RECORD tells the truth afterwards. The same wheel always loses the same. Called by `dependencies`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dockyard.build.elf_debug import without_debug
from dockyard.build.record import mend, replace

_SOURCES = (".a", ".c", ".cc", ".cpp", ".cxx", ".h", ".hh", ".hpp", ".hxx", ".inl", ".pxd", ".pxi", ".pyx")
_NAMES_SOURCES = re.compile(rb"\.(?:a|c|cc|cpp|cxx|h|hh|hpp|hxx|inl|pxd|pxi|pyx)[\"'>\s]")
_TESTS = re.compile(
    rb"(?:\bfrom|\bimport|import_module\(\s*[\"'])\s*(?P<inner>[.\w]*\btests)\b"
    rb"|\bfrom\s+(?P<outer>[.\w]+)\s+import\b[^\n#]*\btests\b"
)


@dataclass(frozen=True)
class Trimming:
    """What is left out: the usual, or nothing; and globs of more files, relative to where wheels are installed."""

    usual: bool = True
    more: tuple[str, ...] = ()

    @property
    def left_out(self) -> tuple[str, ...]:
        """In words, for `dockyard plan`."""
        usual = ("tests", "sources in C", "debug information") if self.usual else ()
        return (*usual, *self.more)


def trim(folder: Path, files: Collection[str], trimming: Trimming) -> None:
    """Leave out of one distribution's `files` below `folder` what `trimming` says, and mend its RECORD.

    Files are replaced, never written to: they may be links into uv's cache.
    """
    own = sorted(path for path in files if ".dist-info/" not in path)
    gone = {path for path in own if any(fnmatch.fnmatchcase(path, pattern) for pattern in trimming.more)}
    changed: dict[str, bytes] = {}
    if trimming.usual:
        gone |= set(_unread(folder, own))
        changed = dict(_blanked(folder, sorted({*own} - gone)))
    for path in gone:
        (folder / path).unlink()
    for path, content in changed.items():
        replace(folder / path, content)
    for record in (path for path in files if path.endswith(".dist-info/RECORD")):
        if gone or changed:
            mend(folder / record, gone, changed)


def _unread(folder: Path, files: Sequence[str]) -> Iterator[str]:
    """Tests that nothing else imports, and sources where no module speaks of any."""
    tests = [path for path in files if "tests" in PurePosixPath(path).parts[:-1]]
    left = set(tests)
    modules = {path: (folder / path).read_bytes() for path in files if path.endswith(".py") and path not in left}
    needed = {name for path, text in modules.items() for name in _imported_tests(path, text)}
    yield from (path for path in tests if not any(path.startswith(f"{name}/") for name in needed))
    if not any(_NAMES_SOURCES.search(text) for text in modules.values()):
        yield from (path for path in files if path.endswith(_SOURCES) and path not in left)


def _imported_tests(path: str, text: bytes) -> Iterator[str]:
    """The folders of tests that a module imports from."""
    for match in _TESTS.finditer(text):
        outer = (match["outer"] or b"").decode("utf-8", "replace")
        name = (match["inner"] or b"").decode("utf-8", "replace") or f"{outer}{'' if outer.endswith('.') else '.'}tests"
        inner = name.lstrip(".")
        dots, parents = len(name) - len(inner), PurePosixPath(path).parents
        place = parents[min(dots, len(parents)) - 1] if dots else PurePosixPath()
        yield (place / inner.replace(".", "/")).as_posix()


def _blanked(folder: Path, files: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Each shared library that has debug information, without it."""
    for path in files:
        if ".so" in PurePosixPath(path).name and not (folder / path).is_symlink():
            content = without_debug((folder / path).read_bytes())
            if content is not None:
                yield path, content
