"""Imports files of advisories: into a new database, in one transaction, that then takes the old one's place.

So there is always one whole database, or none, and who reads the old one is not disturbed. A file is told by its
content: a zip of OSV records of one ecosystem, a single OSV record, or the JSON of Debian's security tracker. Called by
`cli.advisories`.
"""

from __future__ import annotations

import contextlib
import mmap
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from dockyard import __version__
from dockyard.errors import AdvisoryError
from dockyard.oci.digest import digest_of_file, hex_of
from dockyard.oci.files import PartialFile, exclusive, remove_stale, store_errors, sync_folder
from dockyard.oci.meter import Limits
from dockyard.supply.advisories import schema
from dockyard.supply.advisories.archives import FILE_LIMIT, LIMITS, json_files
from dockyard.supply.advisories.database import FILE_NAME, address, check, database_errors, read_only
from dockyard.supply.advisories.osv import read_record
from dockyard.supply.advisories.records import Advisory, Source, Tracked
from dockyard.supply.advisories.tracker import read_tracker

TRACKER_LIMIT = 2 << 30  # bytes
_PREFIX = "new-"
_REMEDY = (
    "Import the archive that the OSV project publishes for one ecosystem (PyPI, Debian), a single OSV record, or the "
    "JSON of Debian's security tracker."
)


def import_files(
    files: Sequence[Path], folder: Path, *, keep: bool = True, limits: Limits = LIMITS
) -> tuple[Source, ...]:
    """Import `files` into the database in `folder`, and return what they were.

    What was imported before stays, unless `keep` is False, or a file of the same title takes its place. When any file
    cannot be read, AdvisoryError, and the database stays as it was.
    """
    database = folder / FILE_NAME
    with store_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / "lock"), database_errors(database):
        remove_stale(folder, _PREFIX)
        with PartialFile(folder, _PREFIX) as partial:
            sources = _fill(partial.path, files, database if keep and database.is_file() else None, limits)
            partial.commit(database)
        sync_folder(folder)
    return sources


def _fill(path: Path, files: Sequence[Path], old: Path | None, limits: Limits) -> tuple[Source, ...]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, uri=True)) as connection:
        # No journal: the file has its name only when it is whole.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        if old is not None:
            _attach(connection, old)
        connection.execute("BEGIN")
        schema.configure(connection)
        sources: list[Source] = []
        for number, file in enumerate(files, start=1):
            source = _import(connection, number, file, limits)
            if any(one.title == source.title for one in sources):
                raise AdvisoryError(
                    f"two of these files are {source.title}; {file} is the second", remedy="Name the newer one alone."
                )
            schema.add_source(connection, number, source)
            sources.append(source)
        if old is not None:
            _take_over(connection)
        schema.index(connection)
        connection.execute("COMMIT")
    return tuple(sources)


def _attach(connection: sqlite3.Connection, old: Path) -> None:
    with contextlib.closing(read_only(old)) as before:
        check(before, old)
    connection.execute("ATTACH ? AS old", (address(old),))


def _take_over(connection: sqlite3.Connection) -> None:
    """Copy what no new source takes the place of; its numbers go on after the new ones."""
    (sources,) = connection.execute("SELECT max(number) FROM main.sources").fetchone()
    (records,) = connection.execute("SELECT coalesce(max(number), 0) FROM main.advisories").fetchone()
    for statement in schema.TAKE_OVER.split(";\n"):
        connection.execute(statement, {"sources": sources, "records": records})


def _import(connection: sqlite3.Connection, number: int, file: Path, limits: Limits) -> Source:
    try:
        sha256 = hex_of(digest_of_file(file))
        with file.open("rb") as stream:
            start = stream.read(4)
        read = _Read()
        if start.startswith(b"PK"):
            title = _archive(connection, number, json_files(file, limits), file, read)
        else:
            title = _json(connection, number, file, read)
    except OSError as error:
        raise AdvisoryError(f"{file} cannot be read: {error.strerror or error}", remedy="Check the path.") from error
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    importer = f"dockyard {__version__}"
    return Source(title, file.name, sha256, moment, importer, read.newest, read.records, tuple(sorted(read.covers)))


@dataclass
class _Read:
    """What has been read of a file so far."""

    records: int = 0
    newest: str = ""
    covers: set[str] = field(default_factory=set)

    def count(self, advisory: Advisory) -> None:
        """One more record."""
        self.records += 1
        self.newest = max(self.newest, advisory.modified)


def _archive(
    connection: sqlite3.Connection, number: int, found: Iterator[tuple[str, bytes]], file: Path, read: _Read
) -> str:
    """Add an archive's records. It covers the ecosystem that every one of them speaks of."""
    families: set[str] | None = None
    named: set[str] = set()
    for name, data in found:
        advisory = read_record(data, f"{name!r} in {file}")
        if advisory is None:
            continue
        schema.add_advisory(connection, number, advisory)
        read.count(advisory)
        ecosystems = {one.ecosystem for one in advisory.affected}
        named |= ecosystems
        own = {one.partition(":")[0] for one in ecosystems}
        families = own if families is None else families & own
    if not families:
        raise AdvisoryError(f"{file} is not the archive of one ecosystem that is known here", remedy=_REMEDY)
    read.covers = {one for one in named if one.partition(":")[0] in families}
    return f"OSV {' and '.join(sorted(families))}"


def _json(connection: sqlite3.Connection, number: int, file: Path, read: _Read) -> str:
    size = file.stat().st_size
    if not 0 < size <= TRACKER_LIMIT:
        raise AdvisoryError(f"{file} has {size:,} bytes, so it is no file of advisories", remedy=_REMEDY)
    with file.open("rb") as stream:
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    if not _is_record(data, file):
        schema.add_tracked(connection, number, _counted(read_tracker(data, str(file)), read))
        if not read.covers:
            raise AdvisoryError(f"{file} says nothing of any release of Debian that is known here", remedy=_REMEDY)
        return "Debian security tracker"
    if size > FILE_LIMIT:
        raise AdvisoryError(f"{file} has {size:,} bytes, too many for one record", remedy=_REMEDY)
    advisory = read_record(bytes(data), str(file))
    if advisory is None:
        raise AdvisoryError(f"{file} is withdrawn, or about neither Python nor Debian packages", remedy="Leave it out.")
    schema.add_advisory(connection, number, advisory)
    read.count(advisory)
    return f"OSV record {advisory.id}"


def _counted(told: Iterator[Tracked], read: _Read) -> Iterator[Tracked]:
    for one in told:
        read.records += 1
        read.covers.add(one.ecosystem)
        yield one


class _Probe(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw(b"")


def _is_record(data: mmap.mmap, file: Path) -> bool:
    """Whether a JSON object is an OSV record: it has an id, which is text."""
    try:
        return bytes(msgspec.json.decode(data, type=_Probe).id).startswith(b'"')
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AdvisoryError(f"{file} is neither a zip nor a JSON object: {error}", remedy=_REMEDY) from error
