"""The advisories that were imported on this machine: one SQLite file, only read here.

`importing` makes it anew each time and renames it in, so whoever has it open goes on with the old one, whole. Called by
`scan` and by the command line.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from dockyard.errors import AdvisoryError, DockyardError, StoreError
from dockyard.supply.advisories.records import Advisory, Affected, Source, Tracked
from dockyard.supply.advisories.schema import APPLICATION, FORMAT, SOURCE_COLUMNS, source_of

FILE_NAME = "advisories.db"
_IMPORT = "Import them: `dockyard advisories import FILE...`."
_PATIENCE = 5.0
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


class Advisories:
    """An open database. Get one by `opened`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        columns = ", ".join(SOURCE_COLUMNS)
        rows = connection.execute(f"SELECT {columns} FROM sources ORDER BY title")  # noqa: S608
        self.sources: tuple[Source, ...] = tuple(source_of(row) for row in rows)
        """What was imported, by title."""

    @property
    def covers(self) -> frozenset[str]:
        """The ecosystems of which all that was published is here: `PyPI`, `Debian:12`."""
        return frozenset(one for source in self.sources for one in source.covers)

    def about(self, ecosystem: str, package: str) -> list[tuple[Advisory, Affected]]:
        """The records on a package; for a release of Debian also those that name none."""
        rows = self._connection.execute(
            "SELECT advisories.record, affected.record FROM affected JOIN advisories ON number = advisory"
            " WHERE package = ? AND ecosystem IN (?, ?)",
            (package, ecosystem, ecosystem.partition(":")[0]),
        )
        unpack = msgspec.msgpack.decode
        return [(unpack(bare, type=Advisory), unpack(affected, type=Affected)) for bare, affected in rows]

    def tracked(self, ecosystem: str, package: str) -> list[Tracked]:
        """What Debian's tracker says of a source package in a release."""
        rows = self._connection.execute(
            "SELECT record FROM tracked WHERE package = ? AND ecosystem = ?", (package, ecosystem)
        )
        return [msgspec.msgpack.decode(record, type=Tracked) for (record,) in rows]


def is_there(folder: Path) -> bool:
    """Whether anything was imported."""
    return (folder / FILE_NAME).is_file()


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Advisories]:
    """The database in `folder`; AdvisoryError when nothing was imported, or when it is damaged."""
    path = folder / FILE_NAME
    if not is_there(folder):
        raise AdvisoryError(
            "no advisories were imported here, so no known problem can be looked up: that says nothing about the image",
            remedy=_IMPORT,
        )
    with database_errors(path), contextlib.closing(read_only(path)) as connection:
        check(connection, path)
        yield Advisories(connection)


def read_only(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing, not even beside the file."""
    return sqlite3.connect(address(path), uri=True, timeout=_PATIENCE)


def address(path: Path) -> str:
    """The file as SQLite is told of one that nobody changes."""
    return f"{path.absolute().as_uri()}?mode=ro&immutable=1"


def check(connection: sqlite3.Connection, path: Path) -> None:
    """AdvisoryError unless this is a database of this version."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if (application, version) != (APPLICATION, FORMAT):
        raise AdvisoryError(
            f"{path} was written by another version, or is no database of advisories",
            remedy=f"Import anew, in its place: delete it, then {_IMPORT[0].lower()}{_IMPORT[1:]}",
        )


@contextlib.contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Say in words what SQLite, or a record in it, complains of."""
    try:
        yield
    except DockyardError:
        raise
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _FULL:
            raise StoreError(
                f"{path} cannot be written: {error}", remedy="Free some space on its disk, then run the same again."
            ) from error
        raise _damaged(path, error) from error
    except msgspec.MsgspecError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> AdvisoryError:
    return AdvisoryError(f"the advisories in {path} are damaged: {error}", remedy=f"Delete the file. {_IMPORT}")
