"""The yard's tables, as numbered migrations: entry n makes schema n + 1 out of schema n. And two queries over them.

`database.py` applies them, each in a transaction of its own, and keeps the number in `PRAGMA user_version`. A migration
that was released never changes; a new one is appended. Times are seconds since 1970, UTC; order never depends on them.
"""

from __future__ import annotations

_FIRST = """
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL);

CREATE TABLE deployments (
    name TEXT PRIMARY KEY,
    wanted INTEGER NOT NULL CHECK (wanted >= 0),
    active INTEGER,
    created REAL NOT NULL,
    deleted REAL,
    forgotten REAL CHECK (forgotten IS NULL OR deleted IS NOT NULL),
    FOREIGN KEY (name, active) REFERENCES revisions (deployment, number) DEFERRABLE INITIALLY DEFERRED
);

CREATE TABLE revisions (
    deployment TEXT NOT NULL REFERENCES deployments (name),
    number INTEGER NOT NULL CHECK (number >= 1),
    settings TEXT NOT NULL,
    image_digest TEXT NOT NULL,
    image_name TEXT NOT NULL,
    memory INTEGER NOT NULL CHECK (memory >= 0),
    who TEXT NOT NULL,
    why TEXT NOT NULL,
    created REAL NOT NULL,
    state TEXT NOT NULL,
    state_since REAL NOT NULL,
    state_why TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (deployment, number)
) WITHOUT ROWID;
CREATE INDEX revisions_by_state ON revisions (state);

CREATE TRIGGER revisions_never_change
BEFORE UPDATE OF deployment, number, settings, image_digest, image_name, memory, who, why, created ON revisions
BEGIN SELECT RAISE(ABORT, 'a revision never changes'); END;
CREATE TRIGGER revisions_are_never_removed BEFORE DELETE ON revisions
BEGIN SELECT RAISE(ABORT, 'a revision is never removed'); END;

CREATE TABLE replicas (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    deployment TEXT NOT NULL,
    revision INTEGER NOT NULL,
    engine TEXT NOT NULL,
    folder TEXT NOT NULL,
    container TEXT NOT NULL,
    phase TEXT NOT NULL,
    since REAL NOT NULL,
    created REAL NOT NULL,
    crashes INTEGER NOT NULL CHECK (crashes >= 0),
    FOREIGN KEY (deployment, revision) REFERENCES revisions (deployment, number)
);
CREATE INDEX replicas_of ON replicas (deployment, revision);

CREATE TABLE rollouts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    deployment TEXT NOT NULL REFERENCES deployments (name),
    source INTEGER,
    target INTEGER NOT NULL,
    who TEXT NOT NULL,
    why TEXT NOT NULL,
    phase TEXT NOT NULL,
    phase_why TEXT NOT NULL DEFAULT '',
    since REAL NOT NULL,
    progress REAL NOT NULL,
    promoted INTEGER NOT NULL DEFAULT 0 CHECK (promoted IN (0, 1)),
    aborted TEXT NOT NULL DEFAULT '',
    holding INTEGER NOT NULL DEFAULT 0 CHECK (holding IN (0, 1)),
    started REAL NOT NULL,
    ended REAL,
    receipt TEXT,
    FOREIGN KEY (deployment, source) REFERENCES revisions (deployment, number),
    FOREIGN KEY (deployment, target) REFERENCES revisions (deployment, number)
);
CREATE INDEX rollouts_of ON rollouts (deployment, id);
CREATE UNIQUE INDEX one_rollout_at_a_time ON rollouts (deployment) WHERE ended IS NULL;

CREATE TABLE events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    deployment TEXT NOT NULL,
    replica TEXT NOT NULL,
    kind TEXT NOT NULL,
    text TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX events_of ON events (deployment, sequence);

CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    scope TEXT NOT NULL,
    created REAL NOT NULL,
    created_by TEXT NOT NULL,
    expires REAL,
    used REAL,
    revoked REAL
);
CREATE UNIQUE INDEX names_of_tokens ON tokens (name) WHERE revoked IS NULL;

CREATE TABLE audit_entries (number INTEGER PRIMARY KEY CHECK (number >= 0), leaf BLOB NOT NULL);
CREATE TABLE audit_nodes (
    level INTEGER NOT NULL,
    place INTEGER NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, place)
) WITHOUT ROWID;
CREATE TABLE audit_checkpoints (size INTEGER PRIMARY KEY, time REAL NOT NULL, note TEXT NOT NULL);
CREATE TRIGGER audit_entries_never_change BEFORE UPDATE ON audit_entries
BEGIN SELECT RAISE(ABORT, 'an audit entry never changes'); END;
CREATE TRIGGER audit_entries_are_never_removed BEFORE DELETE ON audit_entries
BEGIN SELECT RAISE(ABORT, 'an audit entry is never removed'); END;
"""

_PRUNING = """
DROP TRIGGER revisions_are_never_removed;
CREATE TRIGGER revisions_in_use_are_never_removed BEFORE DELETE ON revisions
WHEN old.state IN ('pending', 'active', 'kept')
BEGIN SELECT RAISE(ABORT, 'a revision in use is never removed'); END;
"""

_REASONS = """
ALTER TABLE events ADD COLUMN revision INTEGER;
ALTER TABLE events ADD COLUMN reason TEXT NOT NULL DEFAULT '';
"""

MIGRATIONS: tuple[str, ...] = (_FIRST, _PRUNING, _REASONS)

NEWEST_TIME = """
SELECT max(
    (SELECT coalesce(max(time), 0) FROM (SELECT time FROM events ORDER BY sequence DESC LIMIT 1)),
    (SELECT coalesce(max(since), 0) FROM replicas),
    (SELECT coalesce(max(state_since), 0) FROM revisions),
    (SELECT coalesce(max(max(since, progress)), 0) FROM rollouts)
)
"""
"""The latest time that was written down, or 0."""

RELEVANT_REVISIONS = """
SELECT * FROM revisions AS r
WHERE state IN ('pending', 'active', 'kept')
   OR EXISTS (SELECT 1 FROM replicas AS p WHERE p.deployment = r.deployment AND p.revision = r.number)
   OR EXISTS (
       SELECT 1 FROM rollouts AS o
       WHERE o.deployment = r.deployment AND o.ended IS NULL AND r.number IN (o.source, o.target))
"""
"""Those that matter for planning; see `records.DeploymentSnapshot`."""
