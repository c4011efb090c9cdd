"""The tables of the advisories' database, and how records get into them. Called by `importing` and `database`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from dockyard.supply.advisories.records import Advisory, Affected, Source, Tracked

FORMAT = 1
APPLICATION = 0x446B4164  # "DkAd"
SOURCE_COLUMNS = ("title", "file", "sha256", "imported", "importer", "newest", "records", "covers")
TABLES = """\
CREATE TABLE sources (
    number INTEGER PRIMARY KEY, title TEXT NOT NULL UNIQUE, file TEXT NOT NULL, sha256 TEXT NOT NULL,
    imported TEXT NOT NULL, importer TEXT NOT NULL, newest TEXT NOT NULL, records INTEGER NOT NULL, covers TEXT NOT NULL
) STRICT;
CREATE TABLE advisories (
    number INTEGER PRIMARY KEY, source INTEGER NOT NULL, record BLOB NOT NULL
) STRICT;
CREATE TABLE affected (
    ecosystem TEXT NOT NULL, package TEXT NOT NULL, advisory INTEGER NOT NULL, record BLOB NOT NULL
) STRICT;
CREATE TABLE tracked (
    ecosystem TEXT NOT NULL, package TEXT NOT NULL, source INTEGER NOT NULL, record BLOB NOT NULL
) STRICT;
"""
INDEXES = """\
CREATE INDEX affected_by_package ON affected (package, ecosystem);
CREATE INDEX tracked_by_package ON tracked (package, ecosystem);
"""
# From a database `old` that is attached: the sources that have no newer one in `main`, with all that they brought.
TAKE_OVER = """\
CREATE TEMP VIEW kept AS SELECT * FROM old.sources WHERE title NOT IN (SELECT title FROM main.sources);
INSERT INTO tracked SELECT ecosystem, package, source + :sources, record
    FROM old.tracked WHERE source IN (SELECT number FROM kept);
INSERT INTO affected SELECT ecosystem, package, advisory + :records, one.record
    FROM old.affected one JOIN old.advisories ON number = advisory WHERE source IN (SELECT number FROM kept);
INSERT INTO main.advisories SELECT number + :records, source + :sources, record
    FROM old.advisories WHERE source IN (SELECT number FROM kept);
INSERT INTO main.sources
    SELECT number + :sources, title, file, sha256, imported, importer, newest, records, covers FROM kept;
"""


def configure(connection: sqlite3.Connection) -> None:
    """Empty tables in a new file."""
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    for statement in TABLES.split(";\n"):
        connection.execute(statement)


def index(connection: sqlite3.Connection) -> None:
    """Make packages quick to find, once everything is in."""
    for statement in INDEXES.split(";\n"):
        connection.execute(statement)


def add_source(connection: sqlite3.Connection, number: int, source: Source) -> None:
    """Note a file, once it has been read to its end; `number` is what its records have been added with."""
    row = (number, *(getattr(source, name) for name in SOURCE_COLUMNS[:-1]), " ".join(source.covers))
    connection.execute(f"INSERT INTO sources VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608


def source_of(row: Sequence[Any]) -> Source:
    """The source of a row of SOURCE_COLUMNS."""
    title, file, sha256, imported, importer, newest, records, covers = row
    return Source(title, file, sha256, imported, importer, newest, records, tuple(covers.split()))


def add_advisory(connection: sqlite3.Connection, source: int, advisory: Advisory) -> None:
    """Add a record, and where to look for it."""
    bare = _packed(replace(advisory, affected=()))
    cursor = connection.execute("INSERT INTO advisories (source, record) VALUES (?, ?)", (source, bare))
    connection.executemany(
        "INSERT INTO affected VALUES (?, ?, ?, ?)",
        [(one.ecosystem, one.package, cursor.lastrowid, _packed(one)) for one in advisory.affected],
    )


def add_tracked(connection: sqlite3.Connection, source: int, told: Iterable[Tracked]) -> None:
    """Add what the tracker says."""
    connection.executemany(
        "INSERT INTO tracked VALUES (?, ?, ?, ?)",
        ((one.ecosystem, one.package, source, _packed(one)) for one in told),
    )


def _packed(record: Advisory | Affected | Tracked) -> bytes:
    return msgspec.msgpack.encode(record)
