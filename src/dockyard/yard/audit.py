"""The audit log: who did what to which deployment, what was before and after, why, and what came of it.

Append-only, and provably so: entries are leaves of a Merkle tree whose root is signed with the yard's own key. They lie
in the store's file, so that `with store.together()` makes a change and its entry one transaction: neither is ever there
without the other. `service` adds entries, the API lists and exports them; `supply.audit_verifier` checks an export.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from sqlite3 import Row
from typing import Any

import msgspec
import rfc8785

from dockyard.errors import AuditError, DockyardError
from dockyard.oci.digest import digest_of
from dockyard.oci.files import replace_file
from dockyard.supply import ledger
from dockyard.supply.audit_verifier import DoesNotHoldError, Report, check, keys_in
from dockyard.supply.keys import LogKey, LogPublicKey
from dockyard.supply.note import Checkpoint, sign_checkpoint
from dockyard.yard.store import Store

PRIVATE_KEY = "audit.key"
PUBLIC_KEY = "audit.pub"
CHECKPOINTS_KEPT = 1000
_TEXT_LIMIT = 4096
_VALUE_LIMIT = 128 << 10
_SAFE_INTEGER = 2**53 - 1
_PAGE = 500


class Outcome(StrEnum):
    """What came of it."""

    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True)
class Entry:
    """What to write down. `rule`: what refused it. `before` and `after`: anything that JSON can say; no secrets."""

    who: str
    action: str
    target: str = ""
    outcome: Outcome = Outcome.DONE
    why: str = ""
    rule: str = ""
    before: Any = field(default=None, hash=False)
    after: Any = field(default=None, hash=False)


@dataclass(frozen=True)
class Written:
    """An entry in the log. `at`: seconds since 1970; `hash`: of its leaf, in hexadecimal digits."""

    number: int
    at: float
    entry: Entry
    hash: str


class AuditLog:
    """Adds, lists, proves and exports entries."""

    def __init__(self, store: Store, key: LogKey, public: Sequence[LogPublicKey]) -> None:
        self._store = store
        self._database = store.database
        self._key = key
        self.keys = tuple(public)
        """All keys that have signed this log, the newest last."""
        self.heard: Callable[[], None] = lambda: None
        """Called at each entry that is added, to count them."""

    @classmethod
    def open(cls, store: Store, folder: Path) -> AuditLog:
        """The log of this store, whose key is in `folder`, made there if it is not; its public half beside it.

        A key that is not the one before is an entry of the log. SigningKeyError when the key cannot be used.
        """
        name = f"dockyard-yard/{store.yard}"
        private, public = folder / PRIVATE_KEY, folder / PUBLIC_KEY
        key = LogKey.read(private, name) if private.exists() else LogKey.generate(name)
        texts = keys_in(public.read_text(encoding="utf-8")) if public.exists() else []
        known = [LogPublicKey.decode(text, str(public)) for text in texts]
        if not private.exists():
            key.write(private)
        if key.public not in known:
            known.append(key.public)
            replace_file(public, "".join(f"{one.encode()}\n" for one in known).encode(), folder)
        log = cls(store, key, known)
        if store.note("audit.key") != key.public.encode():
            with store.together():
                before = store.note("audit.key") or None
                log.append(Entry("yard", "audit.key", before=before, after=key.public.encode()))
                store.set_note("audit.key", key.public.encode())
        return log

    @property
    def origin(self) -> str:
        """The log's name, which is in every checkpoint and in the key."""
        return self._key.public.name

    @property
    def size(self) -> int:
        """How many entries there are."""
        row = self._database.one("SELECT coalesce(max(number) + 1, 0) FROM audit_entries")
        assert row is not None
        return int(row[0])

    @contextmanager
    def noting_refusals(self, asked: Entry) -> Iterator[None]:
        """If the body raises DockyardError, add the entry as refused by a rule of the policy, or else in words."""
        try:
            yield
        except DockyardError as error:
            rule = getattr(error, "rule", "") or error.what
            self.append(replace(asked, outcome=Outcome.REFUSED, rule=rule))
            raise

    def append(self, entry: Entry) -> Written:
        """Add an entry. Texts over 4 KB are cut; a value over 128 KB is replaced by its digest."""
        at = self._store.now()
        with self._database.transaction():
            number = self.size
            leaf = _leaf(number, at, entry)
            hashed = ledger.leaf_hash(leaf)
            nodes = list(ledger.completed(number, hashed, self._node))
            self._database.insert("audit_entries", number=number, leaf=leaf)
            self._database.execute_many("INSERT INTO audit_nodes (level, place, hash) VALUES (?, ?, ?)", nodes)
        self.heard()
        return _written(leaf)

    def after(self, number: int = -1, *, limit: int = 100) -> tuple[Written, ...]:
        """The next entries after that number, the oldest first."""
        rows = self._rows(number + 1, limit)
        return tuple(_written(row["leaf"]) for row in rows)

    def newest(self, *, limit: int = 100) -> tuple[Written, ...]:
        """The newest entries, the oldest of them first."""
        return self.after(self.size - limit - 1, limit=limit)

    def checkpoint(self) -> str:
        """How long the log is and what its root is, signed, now. Kept elsewhere, it proves later what was here."""
        with self._database.transaction():
            size = self.size
            row = self._database.one("SELECT note FROM audit_checkpoints WHERE size = ?", (size,))
            if row is not None:
                return str(row["note"])
            note = sign_checkpoint(Checkpoint(self.origin, size, self.root(size)), self._key)
            self._database.insert("audit_checkpoints", size=size, time=self._store.now(), note=note)
            self._database.execute(
                "DELETE FROM audit_checkpoints WHERE size NOT IN "
                "(SELECT size FROM audit_checkpoints ORDER BY size DESC LIMIT ?)",
                (CHECKPOINTS_KEPT,),
            )
            return note

    def checkpoints(self) -> tuple[str, ...]:
        """Those signed here so far, the oldest first; the newest thousand are kept."""
        rows = self._database.all("SELECT note FROM audit_checkpoints ORDER BY size")
        return tuple(str(row["note"]) for row in rows)

    def root(self, size: int) -> bytes:
        """The root of the first `size` entries."""
        return ledger.root(size, self._node)

    def inclusion(self, number: int, size: int) -> tuple[bytes, ...]:
        """Proof that entry `number` is among the first `size`; `ledger.includes` checks it."""
        return ledger.inclusion(number, size, self._node)

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Proof that the first `new` entries begin with the first `old`; `ledger.extends` checks it."""
        return ledger.consistency(old, new, self._node)

    def export(self) -> Iterator[bytes]:
        """The log as of now, line by line, with a new checkpoint at its end: what the verifier reads."""
        note, size = self.checkpoint(), self.size
        for begin in range(0, size, _PAGE):
            for row in self._rows(begin, min(_PAGE, size - begin)):
                yield bytes(row["leaf"]) + b"\n"
        yield b"\n"
        yield from note.encode().splitlines(keepends=True)

    def verify(self, kept: Sequence[str] = ()) -> Report:
        """Read every entry again and hold it against all checkpoints signed here, and against those that were kept.

        AuditError says what does not hold.
        """
        keys = [key.encode() for key in self.keys]
        try:
            return check(self.export(), keys, (*self.checkpoints(), *kept))
        except DoesNotHoldError as error:
            raise AuditError(
                f"the audit log does not hold: {error}",
                remedy="Keep the file as evidence, and go on from the last backup whose log holds.",
            ) from error

    def _rows(self, begin: int, limit: int) -> list[Row]:
        return self._database.all(
            "SELECT leaf FROM audit_entries WHERE number >= ? ORDER BY number LIMIT ?", (begin, limit)
        )

    def _node(self, level: int, place: int) -> bytes:
        row = self._database.one("SELECT hash FROM audit_nodes WHERE level = ? AND place = ?", (level, place))
        if row is None:
            raise AuditError(
                f"the audit log lacks hash {place} of level {level}",
                remedy="Keep the file as evidence, and go on from the last backup whose log holds.",
            )
        return bytes(row["hash"])


def _leaf(number: int, at: float, entry: Entry) -> bytes:
    """The entry's bytes, which never change again: RFC 8785 JSON."""
    texts = {name: _clean(value[:_TEXT_LIMIT]) for name, value in asdict(entry).items() if isinstance(value, str)}
    time = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    values = {"before": _value(entry.before), "after": _value(entry.after)}
    return rfc8785.dumps({"number": number, "at": time, **texts, **values})


def _value(value: Any) -> Any:
    """Anything as what canonical JSON can say."""
    plain = _plain(msgspec.to_builtins(value, str_keys=True, enc_hook=str))
    encoded = rfc8785.dumps(plain)
    if len(encoded) > _VALUE_LIMIT:
        return {"digest": digest_of(encoded), "bytes": len(encoded)}
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_clean(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _SAFE_INTEGER:
        return str(value)
    return value


def _clean(text: str) -> str:
    """Text that UTF-8 can say; half characters become question marks."""
    return text.encode("utf-8", "replace").decode()


def _written(leaf: bytes) -> Written:
    told = msgspec.json.decode(leaf, type=dict[str, Any])
    number, at = told.pop("number"), datetime.fromisoformat(told.pop("at")).timestamp()
    entry = Entry(**{**told, "outcome": Outcome(told["outcome"])})
    return Written(number, at, entry, ledger.leaf_hash(leaf).hex())
