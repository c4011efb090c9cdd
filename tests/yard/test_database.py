"""The file under the store: locked, damaged, newer, full, killed. Nothing that was written is lost."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dockyard.errors import StoreDamagedError, StoreError, StoreLockedError, StoreTooNewError
from dockyard.yard.database import Database, reading
from dockyard.yard.records import Origin
from dockyard.yard.schema import MIGRATIONS
from dockyard.yard.store import Store
from tests.yard.conftest import ADA, revision

WRITER = """
import sys
from pathlib import Path
from dockyard.yard.audit import AuditLog, Entry
from dockyard.yard.records import Origin
from dockyard.yard.store import Store
from tests.yard.conftest import revision

folder = Path(sys.argv[1])
store = Store.open(folder / "yard.db")
log = AuditLog.open(store, folder)
while True:
    with store.together():
        made = store.add_revision(revision(), Origin("loop"))
        log.append(Entry("loop", "deploy", "iris", after={"revision": made.number}))
    print(made.number, flush=True)
"""


def test_the_file_is_for_its_owner_alone(path, store):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_what_is_committed_is_synced_and_written_ahead(store):
    assert store.database.one("PRAGMA journal_mode")[0] == "wal"
    with store.together():
        assert store.database.one("PRAGMA synchronous")[0] == 2
    assert store.database.one("PRAGMA foreign_keys")[0] == 1


def test_a_second_yard_is_refused(path, store):
    with pytest.raises(StoreLockedError, match="another yard has"):
        Store.open(path, patience=0.05)


def test_a_second_yard_may_follow_the_first(path, store):
    store.close()
    Store.open(path).close()


def test_a_database_that_somebody_holds_is_told_after_the_deadline_and_nothing_changes(path, clock):
    store = Store.open(path, clock=clock, patience=0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreLockedError, match="locked by another process") as caught:
        store.add_revision(revision(), ADA)
    assert "fuser" in caught.value.remedy
    other.execute("ROLLBACK")
    other.close()
    assert store.add_revision(revision(), ADA).number == 1
    store.close()


def test_reading_goes_on_beside_the_writer(path, store):
    store.add_revision(revision(), ADA)
    with reading(path) as connection:
        assert connection.execute("SELECT count(*) FROM revisions").fetchone()[0] == 1
        store.add_revision(revision(), ADA)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM events")


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6])
def test_a_damaged_file_is_refused_and_left_as_it_is(path, clock, place):
    store = Store.open(path, clock=clock)
    with store.together():
        for number in range(200):
            store.add_revision(revision(f"d{number}"), ADA)
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(int(size * place))
        file.write(os.urandom(size // 4))
    damaged = path.read_bytes()
    with pytest.raises(StoreDamagedError, match="damaged") as caught:
        Store.open(path)
    assert "dockyard restore" in caught.value.remedy
    assert path.read_bytes() == damaged


def test_a_file_that_is_no_database_is_refused(path):
    path.parent.mkdir()
    path.write_text("this is not a database, and it is long enough for one" * 100)
    with pytest.raises(StoreDamagedError):
        Store.open(path)


def test_a_store_of_a_newer_dockyard_is_refused_and_left_as_it_is(path, store):
    store.close()
    other = sqlite3.connect(path)
    other.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    other.close()
    with pytest.raises(StoreTooNewError, match=f"schema {len(MIGRATIONS) + 1}"):
        Store.open(path)
    assert not list(path.parent.glob("*.schema-*"))


def test_a_migration_keeps_a_copy_of_what_was_there(path):
    Database.open(path, migrations=["CREATE TABLE a (x); INSERT INTO a VALUES (1);"]).close()
    newer = ["never run again", "ALTER TABLE a RENAME TO b;", "CREATE TABLE c (y);"]
    database = Database.open(path, migrations=newer)
    assert database.one("SELECT x FROM b")[0] == 1
    assert database.one("PRAGMA user_version")[0] == 3
    database.close()
    kept = path.with_name("yard.db.schema-1")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    with reading(kept) as connection:
        assert connection.execute("SELECT x FROM a").fetchone()[0] == 1


def test_a_migration_that_fails_changes_nothing(path):
    Database.open(path, migrations=["CREATE TABLE a (x);"]).close()
    with pytest.raises(StoreError, match="schema was brought to 2"):
        Database.open(path, migrations=["", "CREATE TABLE b (x); INSERT INTO nowhere VALUES (1);"])
    database = Database.open(path, migrations=[""])
    assert database.one("SELECT count(*) FROM sqlite_master WHERE name = 'b'")[0] == 0
    database.close()


def test_a_fresh_store_says_so(path, store):
    assert store.fresh
    store.close()
    again = Store.open(path)
    assert not again.fresh
    again.close()


def test_a_place_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        Store.open(tmp_path / "file" / "yard.db")


def test_a_writer_killed_at_any_moment_leaves_everything_that_it_had_told(tmp_path):
    for patience in (0.05, 0.15, 0.3):
        told = _killed_after(tmp_path, patience)
        store = Store.open(tmp_path / "yard.db", patience=5.0)
        newest = store.revisions("iris", limit=1)[0].number
        entries = store.database.one("SELECT count(*) FROM audit_entries")[0]
        store.close()
        assert newest >= told
        assert entries == newest + 1  # each revision's, and the key's


def _killed_after(folder: Path, seconds: float) -> int:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        lines = [first, *process.stdout]
    return int([line for line in lines if line.endswith("\n")][-1])


def test_a_full_disk_is_told_and_loses_nothing(small_disk, clock):
    path = small_disk / "yard.db"
    store = Store.open(path, clock=clock)

    def fill():
        while True:
            store.add_revision(revision(environment={"PADDING": os.urandom(2000).hex()}), Origin("ada"))

    with pytest.raises(StoreError, match="is full, the change was not made") as caught:
        fill()
    assert "df -h" in caught.value.remedy
    written = store.revisions("iris", limit=1)[0].number
    assert len(store.revisions("iris", limit=10_000)) == written
    store.close()
    again = Store.open(path, clock=clock)
    assert len(again.revisions("iris", limit=10_000)) == written
    again.close()


def test_a_disk_that_is_full_from_the_beginning_is_told(small_disk):
    size = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
    (small_disk / "filler").write_bytes(b"x" * size)
    with pytest.raises(StoreError, match="full"):
        Store.open(small_disk / "yard.db")
