"""One SQLite file, opened for good: locked, checked, migrated, and its errors in plain words.

`Store` and the audit log keep their tables in it, so that a change and its audit entry are one transaction. One process
writes; it holds the lock file as long as it lives. Calls are synchronous and short, and meant for the thread of the
event loop: nothing awaits inside a transaction. Reading beside it (`reading`) disturbs no writer: the journal is a WAL.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dockyard.errors import StoreDamagedError, StoreError, StoreLockedError, StoreTooNewError
from dockyard.oci.files import exclusive, store_errors, sync_folder
from dockyard.yard.schema import MIGRATIONS

Parameters = Sequence[Any] | Mapping[str, Any]
PATIENCE = 5.0
RESTORE = "Stop the yard and run `dockyard restore` with the last backup, or `dockyard restore --from-engine`."
_FULL_CODES = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
_KEEP_WAL_BYTES = 16 << 20


class Database:
    """An open database. A method of its own for each thing SQLite can be asked; every error is a StoreError."""

    def __init__(self, path: Path, connection: sqlite3.Connection, held: contextlib.ExitStack, *, fresh: bool) -> None:
        self.path = path
        self.fresh = fresh
        """Whether this call made it: nothing was there before."""
        self._connection = connection
        self._held = held
        self._depth = 0

    @classmethod
    def open(cls, path: Path, *, patience: float = PATIENCE, migrations: Sequence[str] = MIGRATIONS) -> Database:
        """Open or make the database at `path`, waiting at most `patience` seconds for whoever holds it.

        StoreLockedError, StoreDamagedError, StoreTooNewError, or StoreError when the disk refuses.
        """
        with contextlib.ExitStack() as stack:
            _hold(path, patience, stack)
            fresh = path.stat().st_size == 0
            with translated(path):
                connection = stack.enter_context(contextlib.closing(_connect(path, patience)))
                _configure(connection)
                _check(connection, path)
                _migrate(connection, path, migrations)
            return cls(path, connection, stack.pop_all(), fresh=fresh)

    def all(self, sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        """Every row of a query."""
        with translated(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    def one(self, sql: str, parameters: Parameters = ()) -> sqlite3.Row | None:
        """The first row of a query, if there is one."""
        with translated(self.path):
            row: sqlite3.Row | None = self._connection.execute(sql, parameters).fetchone()
            return row

    def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Change something; how many rows were changed. By itself or within `transaction`."""
        with translated(self.path), self.transaction():
            return self._connection.execute(sql, parameters).rowcount

    def insert(self, table: str, **values: object) -> int:
        """Add a row; its number."""
        marks = ", ".join("?" for _ in values)
        sql = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})"  # noqa: S608  names from our own code
        with translated(self.path), self.transaction():
            number = self._connection.execute(sql, tuple(values.values())).lastrowid
            assert number is not None
            return number

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Change something once for each of `rows`."""
        with translated(self.path), self.transaction():
            self._connection.executemany(sql, rows)

    @contextlib.contextmanager
    def transaction(self, *, lasting: bool = True) -> Iterator[None]:
        """All changes of the body, or none. Within another one, part of that.

        What is committed is on the disk when this returns; unless `lasting` is False, then a power cut (not a crash of
        this process) may lose it.
        """
        if self._depth:
            yield
            return
        with translated(self.path):
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if lasting else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            finally:
                self._depth -= 1

    def _roll_back(self) -> None:
        """SQLite has rolled back by itself after some errors, such as a full disk."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def copy(self, target: Path) -> None:
        """A whole, compact copy in a new file, as of now."""
        copy(self._connection, self.path, target)

    def close(self) -> None:
        """Let go of file and lock."""
        self._held.close()


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that are the database at `path`, itself first; not its copies, nor the lock."""
    return tuple(path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm"))


@contextlib.contextmanager
def reading(path: Path, *, patience: float = PATIENCE) -> Iterator[sqlite3.Connection]:
    """A connection that only reads, beside the yard or without it; for backups and for what must not touch anything."""
    with translated(path), contextlib.closing(_connect(path, patience, "?mode=ro")) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        yield connection


def copy(connection: sqlite3.Connection, path: Path, target: Path) -> None:
    """Write a whole, compact copy of an open database to `target`, which must not exist."""
    with translated(path):
        connection.execute("VACUUM INTO ?", (str(target),))
    with store_errors(target):
        descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, 0o600)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn an error of SQLite about the database at `path` into a StoreError with its remedy."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explained(error, path) from error


def _explained(error: sqlite3.Error, path: Path) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreLockedError(
            f"{path} is locked by another process for longer than the deadline",
            remedy=f"Find it with `fuser {path}` and let it finish; the change was not made.",
        )
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return StoreDamagedError(f"{path} is damaged: {error}", remedy=RESTORE)
    if code in _FULL_CODES and (code == sqlite3.SQLITE_FULL or _is_full(path)):
        return StoreError(
            f"the disk that holds {path} is full, the change was not made",
            remedy="Free some space there (`df -h` shows how much is left), then try again.",
        )
    return StoreError(f"{path} cannot be used: {error}", remedy="Check that its disk is healthy and writable.")


def _is_full(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.statvfs(path.parent).f_bavail == 0
    return False


def _hold(path: Path, patience: float, stack: contextlib.ExitStack) -> None:
    """Take the lock that says who writes, until the stack ends; make the file, for its owner's eyes alone."""
    with store_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = path.with_name(path.name + ".lock")
    try:
        stack.enter_context(exclusive(lock, patience))
    except StoreLockedError as error:
        raise StoreLockedError(
            f"another yard has {path} open",
            remedy=f"Only one can run on it: stop that one (`fuser {lock}` finds it), or choose another DOCKYARD_HOME.",
        ) from error
    with store_errors(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _connect(path: Path, patience: float, mode: str = "?mode=rwc") -> sqlite3.Connection:
    connection = sqlite3.connect(
        path.absolute().as_uri() + mode, uri=True, timeout=patience, isolation_level=None, cached_statements=256
    )
    connection.row_factory = sqlite3.Row
    return connection


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute(f"PRAGMA journal_size_limit = {_KEEP_WAL_BYTES}")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        raise StoreDamagedError(f"{path} is damaged", detail="\n".join(found), remedy=RESTORE)


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    """Bring the schema up to date, keeping a copy of what was there before."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise StoreTooNewError(
            f"{path} has schema {version}, and this Dockyard knows none after {len(migrations)}",
            remedy="Use the newer Dockyard that wrote it, or restore the backup made before its upgrade.",
        )
    if 0 < version < len(migrations):
        _keep_copy(connection, path, version)
    for number, script in enumerate(migrations[version:], start=version + 1):
        _apply(connection, path, number, script)


def _keep_copy(connection: sqlite3.Connection, path: Path, version: int) -> None:
    kept = path.with_name(f"{path.name}.schema-{version}")
    partial = path.with_name(f".{kept.name}.partial")
    with store_errors(partial):
        partial.unlink(missing_ok=True)
    copy(connection, path, partial)
    with store_errors(kept):
        partial.rename(kept)
    sync_folder(kept.parent)


def _apply(connection: sqlite3.Connection, path: Path, number: int, script: str) -> None:
    try:
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\n;PRAGMA user_version = {number};\nCOMMIT;")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        explained = _explained(error, path)
        explained.what = f"{explained.what} (while its schema was brought to {number})"
        raise explained from error
