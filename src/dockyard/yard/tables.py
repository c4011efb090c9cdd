"""What every table of the yard's store works with: the database, the yard's time, transactions; and small notes.

`deployment_table`, `rollout_table` and `replica_table` build on it, and `Store` is all of them in one.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from dockyard.yard.clock import Clock
from dockyard.yard.database import Database
from dockyard.yard.events import EventLog


class Tables:
    """The open database and the clock that everything in it is dated by."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.now = clock
        """The yard's time, which never jumps back; what the planner should be given."""
        self.events = EventLog(database, clock)

    def together(self) -> AbstractContextManager[None]:
        """Make the body's changes one transaction. Nothing may be awaited in it."""
        return self.database.transaction()

    # Notes

    def note(self, name: str, default: str = "") -> str:
        """A small fact under a name, such as the version of the gateway's last accepted snapshot."""
        row = self.database.one("SELECT value FROM notes WHERE name = ?", (name,))
        return default if row is None else str(row[0])

    def set_note(self, name: str, value: str) -> None:
        """Remember a small fact."""
        self.database.execute(
            "INSERT INTO notes (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, value),
        )
