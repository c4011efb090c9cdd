"""What happened, for people to read: the newest 10,000 events of a yard. `Store.events`; `service` and `act` add to it.

Events tell, the audit log proves: an event may be lost when the power fails, and goes when it is old.
"""

from __future__ import annotations

from collections.abc import Callable
from sqlite3 import Row

from dockyard.yard.clock import Clock
from dockyard.yard.database import Database
from dockyard.yard.records import Event

KEPT = 10_000
_TEXT_LIMIT = 2_000
_DETAIL_LIMIT = 20_000


class EventLog:
    """Adds and lists events."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.heard: Callable[[str], None] = lambda kind: None
        """Called with the kind of each event that is added, to count them."""

    def add(
        self,
        kind: str,
        text: str,
        *,
        deployment: str = "",
        revision: int | None = None,
        replica: str = "",
        reason: str = "",
        detail: str = "",
    ) -> Event:
        """Note that something happened; very long texts are cut, and the oldest event gives way."""
        now, text, detail = self._clock(), text[:_TEXT_LIMIT], detail[-_DETAIL_LIMIT:]
        with self._database.transaction(lasting=False):
            sequence = self._database.insert(
                "events",
                time=now,
                deployment=deployment,
                revision=revision,
                replica=replica,
                kind=kind,
                reason=reason,
                text=text,
                detail=detail,
            )
            self._database.execute("DELETE FROM events WHERE sequence <= ?", (sequence - KEPT,))
        self.heard(kind)
        return Event(sequence, now, kind, text, deployment, replica, detail, revision, reason)

    def after(self, sequence: int = 0, *, deployment: str | None = None, limit: int = 1000) -> tuple[Event, ...]:
        """The next events after a sequence number, oldest first; of one deployment if asked. For following."""
        rows = self._database.all(
            "SELECT * FROM events WHERE sequence > ? AND deployment = ifnull(?, deployment) ORDER BY sequence LIMIT ?",
            (sequence, deployment, limit),
        )
        return tuple(map(_event_of, rows))

    def newest(self, *, deployment: str | None = None, limit: int = 100) -> tuple[Event, ...]:
        """The newest events, oldest first."""
        rows = self._database.all(
            "SELECT * FROM events WHERE deployment = ifnull(?, deployment) ORDER BY sequence DESC LIMIT ?",
            (deployment, limit),
        )
        return tuple(map(_event_of, reversed(rows)))


def _event_of(row: Row) -> Event:
    return Event(
        sequence=row["sequence"],
        time=row["time"],
        kind=row["kind"],
        text=row["text"],
        deployment=row["deployment"],
        replica=row["replica"],
        detail=row["detail"],
        revision=row["revision"],
        reason=row["reason"],
    )
