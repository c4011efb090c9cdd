"""Where rows come from: JSON lines, CSV, a folder of files, or a tar of files that comes through a pipe.

A source yields one `Record` after the other and holds no more than one chunk of its input in memory. A record that is
too large or cannot be read is one with a `problem`: its row fails, the next one is read. batch.py opens a source,
inputs.py turns records into calls. All of it may block, so score.py reads in a thread of its own.
"""

from __future__ import annotations

import csv
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from berth.errors import InputError
from berth.scoring.lines import STDIN, Input, Lines

FORMATS = ("jsonl", "csv", "folder", "tar")
_TABLES = {".csv": ",", ".tsv": "\t"}


class Record(NamedTuple):
    """One row as it was read: `content` is a line, the cells of a CSV row, or a file's bytes.

    `position` is how far the input has been read at its end: bytes, or files of a folder. `size` is in bytes.
    """

    number: int
    content: Any
    size: int
    position: int
    file: str = ""
    problem: str = ""


class Source(Protocol):
    """An input of rows. `header` are the names of a CSV's columns."""

    header: tuple[str, ...]

    @property
    def total(self) -> int | None:
        """The last position, where that is known."""

    @property
    def ready(self) -> bool:
        """Whether the next record is here without waiting for a pipe."""

    def __iter__(self) -> Iterator[Record]:
        """Itself."""

    def __next__(self) -> Record:
        """The next record; StopIteration at the end, or soon after `stop`."""

    def skip(self, count: int) -> int:
        """Leave out the next so many records; their numbers count. The position after them."""

    def stop(self) -> None:
        """End a wait for more input; may be called from any thread."""

    def close(self) -> None:
        """Let go of the input."""


class JsonLines:
    """One JSON object a line. Blank lines are no rows."""

    header: tuple[str, ...] = ()

    def __init__(self, source: Input, limit: int) -> None:
        self.total = source.size
        self._source = source
        self._lines = Lines(source, limit)
        self._limit = limit
        self._number = 0
        self.stop = source.stop
        self.close = source.close

    @property
    def ready(self) -> bool:
        """See `Source.ready`."""
        return self._lines.ready

    def skip(self, count: int) -> int:
        """See `Source.skip`."""
        return _drop(self, count)

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        for line in self._lines:
            if line.data.strip() or line.too_long:
                self._number += 1
                problem = _too_large("the line", self._limit) if line.too_long else ""
                return Record(self._number, line.data, len(line.data), line.end, problem=problem)
        raise StopIteration


class Table:
    """CSV with a header, as spreadsheets write it: UTF-8, quotes doubled, line ends within quotes."""

    def __init__(self, source: Input, limit: int, delimiter: str) -> None:
        self.total = source.size
        self._source = source
        self._lines = Lines(source, limit)
        self._taken = _Text(self._lines, limit)
        self._number = 0
        self.stop = source.stop
        self.close = source.close
        csv.field_size_limit(limit)
        self._reader = csv.reader(self._taken, delimiter=delimiter, strict=True)
        self.header = self._header()

    @property
    def ready(self) -> bool:
        """See `Source.ready`. A row over several lines may wait for the last of them."""
        return self._lines.ready

    def skip(self, count: int) -> int:
        """See `Source.skip`."""
        return _drop(self, count)

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        while True:
            cells, problem = self._row()
            if cells or problem:
                self._number += 1
                taken = self._taken
                return Record(self._number, cells, taken.size, taken.end, problem=problem or self._misfit(cells))

    def _row(self) -> tuple[list[str], str]:
        self._taken.size = 0
        try:
            return next(self._reader), ""
        except csv.Error as error:
            return [], f"line {self._taken.number} is not CSV: {error}"
        except (UnicodeDecodeError, _TooLongError) as error:
            return [], f"line {self._taken.number}: {error}"

    def _misfit(self, cells: list[str]) -> str:
        if len(cells) == len(self.header):
            return ""
        return f"line {self._taken.number} has {len(cells)} cells, and the header {len(self.header)}"

    def _header(self) -> tuple[str, ...]:
        try:
            cells, problem = self._row()
        except StopIteration:
            raise InputError("the CSV is empty: its first line must name the inputs") from None
        names = tuple(name.strip() for name in cells)
        if not problem and not all(names):
            problem = "a column has no name"
        if not problem and len(set(names)) < len(names):
            problem = f"two columns have the name {max(names, key=names.count)!r}"
        if problem:
            raise InputError(f"the CSV's header cannot be used: {problem}")
        return names


class _TooLongError(Exception):
    """A line beyond the limit."""


class _Text:
    """Lines as the csv module wants them. It goes on after an error, which a generator would not."""

    def __init__(self, lines: Lines, limit: int) -> None:
        self._lines = lines
        self._limit = limit
        self.number = 0
        self.end = 0
        self.size = 0

    def __iter__(self) -> _Text:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        self.end = line.end
        self.size += len(line.data)
        if line.too_long or self.size > self._limit:
            raise _TooLongError(_too_large("the row", self._limit))
        return line.data.decode() + "\n"


class Folder:
    """Every file of a folder and the folders in it, by path; hidden ones are left out."""

    header: tuple[str, ...] = ()
    ready = True

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._files = files_of(path)
        self.total = len(self._files)
        self._next = 0
        self._stopped = False

    def skip(self, count: int) -> int:
        """See `Source.skip`."""
        self._next = min(self._next + count, self.total)
        return self._next

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        if self._next == self.total or self._stopped:
            raise StopIteration
        name = self._files[self._next]
        self._next += 1
        data, problem = self._read(self._path / name)
        return Record(self._next, data, len(data), self._next, name, problem)

    def _read(self, path: Path) -> tuple[bytes, str]:
        try:
            with path.open("rb") as file:
                data = file.read(self._limit + 1)
        except OSError as error:
            return b"", f"the file cannot be read: {error.strerror}"
        return (b"", _too_large("the file", self._limit)) if len(data) > self._limit else (data, "")

    def stop(self) -> None:
        """See `Source.stop`."""
        self._stopped = True

    def close(self) -> None:
        """See `Source.close`."""


class Tar:
    """The files of a tar archive, as they come; what `dockyard batch` makes of a folder."""

    header: tuple[str, ...] = ()
    ready = False
    total = None

    def __init__(self, source: Input, limit: int) -> None:
        self._source = source
        self._limit = limit
        self._number = 0
        self.stop = source.stop
        self.close = source.close
        self._archive: tarfile.TarFile | None = None

    def skip(self, count: int) -> int:
        """See `Source.skip`."""
        return _drop(self, count)

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        try:
            member = self._member()
            data, problem = b"", _too_large("the file", self._limit)
            if member.size <= self._limit:
                content = self._opened().extractfile(member)
                data, problem = (content.read() if content else b""), ""
        except tarfile.TarError as error:
            if self._source.stopped:
                raise StopIteration from error
            raise InputError(f"the input is no tar archive, or a broken one: {error}") from error
        self._number += 1
        return Record(self._number, data, len(data), self._number, member.name, problem)

    def _opened(self) -> tarfile.TarFile:
        if self._archive is None:
            self._archive = tarfile.open(fileobj=self._source, mode="r|")  # type: ignore[call-overload]  # noqa: SIM115
        return self._archive

    def _member(self) -> tarfile.TarInfo:
        archive = self._opened()
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # it would keep them all
            if member.isfile():
                return member
        raise StopIteration


def files_of(folder: Path) -> list[str]:
    """The files below a folder as sorted relative paths, without hidden ones."""
    return sorted(_walk(folder, ""))


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    waiting = [(folder, prefix)]
    while waiting:
        place, before = waiting.pop()
        try:
            entries = list(os.scandir(place))
        except OSError as error:
            raise InputError(f"{place} cannot be read: {error.strerror}") from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append((Path(entry.path), f"{before}{entry.name}/"))
            elif entry.is_file():
                yield before + entry.name


def format_of(path: str, wanted: str = "") -> str:
    """The format asked for, or the one that a path suggests; InputError where the two cannot be."""
    if path == STDIN:
        if wanted == "folder":
            raise InputError("standard input is no folder; send a tar of it, with --format tar")
    elif not Path(path).exists():
        raise InputError(f"{path} does not exist")
    elif Path(path).is_dir():
        if wanted not in ("", "folder"):
            raise InputError(f"{path} is a folder, which cannot be read as {wanted}")
        return "folder"
    elif wanted == "folder":
        raise InputError(f"{path} is no folder")
    return wanted or ("csv" if Path(path).suffix.lower() in _TABLES else "jsonl")


def delimiter_of(path: str, wanted: str = "") -> str:
    """What parts the cells of a CSV: what was asked for, else a tab for `.tsv`, else a comma."""
    return wanted or _TABLES.get(Path(path).suffix.lower(), ",")


def open_source(path: str, kind: str, delimiter: str, limit: int) -> Source:
    """Open an input whose rows have at most `limit` bytes; InputError when it cannot be read."""
    if kind == "folder":
        return Folder(Path(path), limit)
    source = Input(path)
    if kind == "tar":
        return Tar(source, limit)
    return Table(source, limit, delimiter) if kind == "csv" else JsonLines(source, limit)


def _drop(source: Source, count: int) -> int:
    position = 0
    for _ in range(count):
        record = next(source, None)
        if record is None:
            break
        position = record.position
    return position


def _too_large(what: str, limit: int) -> str:
    return f"{what} has more than {limit} bytes (BERTH_MAX_BODY_BYTES)"
