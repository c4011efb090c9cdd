"""The file of the built-in time series: an SQLite database that may be lost.

`series` writes chunks of packed points into it and reads them back. Nothing else depends on it, so it never fails its
caller: what the disk refuses is dropped and counted, and a damaged file is moved aside and begun anew. Its size is
bounded; when the bound is reached, the oldest goes.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from dockyard.yard.points import Subject

Tell = Callable[[str, str], None]
"""Where an event goes: its kind, and a text for people."""

MAX_BYTES = 256 << 20
PATIENCE = 2.0
DAMAGED = "series-damaged"
_PAGE = 4096
_VERSION = 1
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE subject (
  id INTEGER PRIMARY KEY, deployment TEXT NOT NULL, revision INTEGER NOT NULL, replica TEXT NOT NULL,
  seen INTEGER NOT NULL, UNIQUE (deployment, revision, replica)
);
CREATE TABLE chunk (
  span INTEGER NOT NULL, at INTEGER NOT NULL, subject INTEGER NOT NULL, data BLOB NOT NULL,
  PRIMARY KEY (span, at, subject)
) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
COMMIT;
"""
# Time comes first in the key, so that a minute's chunks are written side by side. A reader says each minute, then.
_READ = """
WITH RECURSIVE minute(at) AS (SELECT :first UNION ALL SELECT at + 60 FROM minute WHERE at + 60 <= :last)
SELECT chunk.at, chunk.data FROM minute CROSS JOIN chunk
ON chunk.span = :span AND chunk.at = minute.at AND chunk.subject =
  (SELECT id FROM subject WHERE deployment = :deployment AND revision = :revision AND replica = :replica)
"""
_ENDS = "SELECT (SELECT min(at) FROM chunk WHERE span = ?), (SELECT max(at) FROM chunk WHERE span = ?)"
_SUBJECT = """
INSERT INTO subject (deployment, revision, replica, seen) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET seen = excluded.seen RETURNING id
"""

_T = TypeVar("_T")


class SeriesFile:
    """The database at `path`, opened when it is first needed. Safe to call from several threads."""

    def __init__(self, path: Path, tell: Tell, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._tell = tell
        self._pages = max(max_bytes // _PAGE, 16)
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self.dropped = 0
        """Chunks that could not be written."""

    def write(self, at: int, chunks: Mapping[int, Mapping[Subject, bytes]], kept: Mapping[int, int]) -> None:
        """Keep the chunks of the minute `at` by span, and only those of the last `kept` seconds of each span."""

        def put(connection: sqlite3.Connection) -> bool:
            for span, seconds in kept.items():
                connection.execute("DELETE FROM chunk WHERE span = ? AND at < ?", (span, at - seconds))
                connection.execute("DELETE FROM chunk WHERE span = ? AND at > ?", (span, at))
            connection.execute("DELETE FROM subject WHERE seen < ?", (at - max(kept.values()),))
            self._make_room(connection, kept)
            for span, blobs in chunks.items():
                for subject, data in blobs.items():
                    (number,) = connection.execute(_SUBJECT, (*subject, at)).fetchone()
                    connection.execute("INSERT OR REPLACE INTO chunk VALUES (?, ?, ?, ?)", (span, at, number, data))
            return True

        if not self._attempt(put, False, writes=True):
            self.dropped += sum(map(len, chunks.values()))

    def read(self, span: int, subject: Subject, first: int, last: int) -> list[tuple[int, bytes]]:
        """A subject's chunks of the minutes `first` to `last`, multiples of 60; none when they cannot be read."""
        words = {**subject._asdict(), "span": span, "first": first, "last": last}
        return self._attempt(lambda connection: connection.execute(_READ, words).fetchall(), [])

    @property
    def bytes(self) -> int:
        """What it takes on the disk now."""
        return sum(path.stat().st_size for path in self._files() if path.exists())

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._disconnect()

    def _attempt(self, action: Callable[[sqlite3.Connection], _T], otherwise: _T, *, writes: bool = False) -> _T:
        """Do it in one transaction; once more if the file had to be begun anew."""
        with self._lock:
            for _ in range(2):
                try:
                    connection = self._connect()
                    with _transaction(connection) if writes else contextlib.nullcontext():
                        return action(connection)
                except sqlite3.Error as error:
                    if not self._begun_anew(error):
                        return otherwise
                except OSError:
                    return otherwise
            return otherwise

    def _make_room(self, connection: sqlite3.Connection, spans: Iterable[int]) -> None:
        """Let the oldest tenth go when only a tenth of the bound is left."""
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        if pages - free < self._pages * 0.9:
            return
        for span in spans:
            first, last = connection.execute(_ENDS, (span, span)).fetchone()
            if first is not None:
                ends = (span, first + max(60, (last - first) // 10))
                connection.execute("DELETE FROM chunk WHERE span = ? AND at < ?", ends)

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._connection = sqlite3.connect(
                self._path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
            try:
                self._configure(self._connection)
            except sqlite3.Error:
                self._disconnect()
                raise
        return self._connection

    def _configure(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA page_size = {_PAGE}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA journal_size_limit = 4194304")
        connection.execute(f"PRAGMA max_page_count = {self._pages}")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == _VERSION:
            return
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
            raise _another(version)
        connection.executescript(_SCHEMA)

    def _begun_anew(self, error: sqlite3.Error) -> bool:
        """Move a damaged file aside, in place of one that was moved there before; whether that was done."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            return False
        self._disconnect()
        aside = self._path.with_name(f"{self._path.name}.damaged")
        try:
            self._path.replace(aside)
            for path in self._files()[1:]:
                path.unlink(missing_ok=True)
        except OSError:
            return False
        text = f"the time series in {self._path} could not be read ({error}); it was moved to {aside} and begun anew"
        self._tell(DAMAGED, text)
        return True

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _files(self) -> list[Path]:
        return [self._path, *(self._path.with_name(self._path.name + end) for end in ("-wal", "-shm"))]


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled back by itself
            connection.execute("ROLLBACK")
        raise


def _another(version: int) -> sqlite3.DatabaseError:
    """The error for a database of another schema: as good as damaged."""
    error = sqlite3.DatabaseError(f"its schema is {version}, not {_VERSION}")
    error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
    return error
