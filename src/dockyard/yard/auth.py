"""Who calls, and what they may do: tokens, users of this host, and one pure decision that denies by default.

A token is 256 random bits, told once. Only its SHA-256 is kept: slow hashes protect secrets that people choose and that
can be guessed; nobody guesses 256 bits, and a slow one would cost time on every call. `Tokens` keeps them in the store,
`identify` and `authorize` decide; the service answers the API's `authenticate` with these.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from sqlite3 import Row

from dockyard.errors import StoreError, UnknownInYardError, YardConflictError
from dockyard.spec.status import Scope
from dockyard.yard.store import Store

PREFIX = "dyt_"
"""So that scanners of leaked secrets, and people, see what it is."""
_BYTES = 32
_USED_EVERY = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenRecord:
    """A token without its secret. `used`: when last, to the minute."""

    id: str
    name: str
    scope: Scope
    created: float
    created_by: str
    expires: float | None = None
    used: float | None = None
    revoked: float | None = None
    hash: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Credentials:
    """What a caller shows: a token, or the user that the kernel vouches for on a unix socket."""

    token: str = field(default="", repr=False)
    uid: int | None = None


@dataclass(frozen=True)
class Caller:
    """A caller who is known, as the audit log names them, and what they may do."""

    name: str
    scope: Scope


@dataclass(frozen=True)
class Denied:
    """Why not. `known`: it is clear who calls, and they may not; otherwise nobody knows who calls."""

    reason: str
    known: bool = False


def identify(credentials: Credentials, tokens: Sequence[TokenRecord], *, own: int, now: float) -> Caller | Denied:
    """Who calls. `own` is the yard's own user: on the unix socket it and root are admins, everybody else needs a token.

    A token that was shown decides alone, so nobody gets more by a socket than the token they chose to show allows.
    """
    if credentials.token:
        return _by_token(credentials.token, tokens, now)
    if credentials.uid is None:
        return Denied("no token was sent")
    if credentials.uid in {0, own}:
        return Caller(f"uid {credentials.uid}", Scope.ADMIN)
    return Denied(f"user {credentials.uid} of this host needs a token")


def authorize(caller: Caller | Denied, needed: Scope | None) -> Caller | Denied:
    """Whether that caller may do what needs this scope; what declares no scope nobody may do."""
    if isinstance(caller, Denied):
        return caller
    if needed is None:
        return Denied("nobody may do this: it declares no scope", known=True)
    if not caller.scope.covers(needed):
        return Denied(f"{caller.name} has the scope {caller.scope}, and this needs {needed}", known=True)
    return caller


def _by_token(secret: str, tokens: Sequence[TokenRecord], now: float) -> Caller | Denied:
    shown = hash_of(secret)
    found = [record for record in tokens if hmac.compare_digest(record.hash, shown)]
    if not found:
        return Denied("the token is not one of this yard's")
    record = found[0]
    if record.revoked is not None:
        return Denied(f"the token {record.name} was revoked")
    if record.expires is not None and now >= record.expires:
        return Denied(f"the token {record.name} has expired")
    return Caller(f"token {record.name}", record.scope)


def hash_of(secret: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


class Tokens:
    """The tokens of a yard."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._database = store.database
        self._told = False
        """Whether the log says that uses cannot be noted."""

    def create(self, name: str, scope: Scope, *, by: str, expires: float | None) -> tuple[TokenRecord, str]:
        """A new token and its secret, which is told here and never again; YardConflictError when the name is taken."""
        secret = PREFIX + secrets.token_urlsafe(_BYTES)
        with self._database.transaction():
            if self._database.one("SELECT 1 FROM tokens WHERE name = ? AND revoked IS NULL", (name,)):
                raise YardConflictError(
                    f"there is a token {name[:100]!r} already", remedy="Choose another name, or revoke that one first."
                )
            self._database.insert(
                "tokens",
                id=os.urandom(6).hex(),
                name=name,
                hash=hash_of(secret),
                scope=scope,
                created=self._store.now(),
                created_by=by,
                expires=expires,
            )
            return self._living(name), secret

    def all(self) -> tuple[TokenRecord, ...]:
        """All tokens, revoked and expired ones too, the oldest first."""
        return tuple(map(_token_of, self._database.all("SELECT * FROM tokens ORDER BY rowid")))

    def revoke(self, name: str) -> TokenRecord:
        """End a token, by its name or id; UnknownInYardError when there is none that still holds."""
        with self._database.transaction():
            record = self._living(name)
            self._database.execute("UPDATE tokens SET revoked = ? WHERE id = ?", (self._store.now(), record.id))
        row = self._database.one("SELECT * FROM tokens WHERE id = ?", (record.id,))
        assert row is not None
        return _token_of(row)

    def identify(self, credentials: Credentials) -> Caller | Denied:
        """Who calls, by the tokens of this yard. That a token was used is noted, if the disk takes it."""
        rows = [] if not credentials.token else self._shown(credentials.token)
        caller = identify(credentials, rows, own=os.geteuid(), now=self._store.now())
        if rows and isinstance(caller, Caller):
            self._note_use(rows[0])
        return caller

    def _shown(self, secret: str) -> list[TokenRecord]:
        """The token with this secret. It is looked up by its hash: how long that takes says nothing of the secret."""
        return [_token_of(row) for row in self._database.all("SELECT * FROM tokens WHERE hash = ?", (hash_of(secret),))]

    def _note_use(self, record: TokenRecord) -> None:
        now = self._store.now()
        if record.used is not None and now - record.used < _USED_EVERY:
            return
        try:
            with self._database.transaction(lasting=False):
                self._database.execute("UPDATE tokens SET used = ? WHERE id = ?", (now, record.id))
            self._told = False
        except StoreError as error:  # nobody is locked out for it: a token is most needed when the disk is full
            if not self._told:
                _log.warning("when tokens were used last cannot be noted: %s", error)
            self._told = True

    def _living(self, name: str) -> TokenRecord:
        row = self._database.one(
            "SELECT * FROM tokens WHERE revoked IS NULL AND (name = ? OR id = ?) ORDER BY name = ? DESC",
            (name, name, name),
        )
        if row is None:
            raise UnknownInYardError(f"there is no token {name[:100]!r}", remedy="`dockyard token list` shows all.")
        return _token_of(row)


def _token_of(row: Row) -> TokenRecord:
    return TokenRecord(
        id=row["id"],
        name=row["name"],
        scope=Scope(row["scope"]),
        created=row["created"],
        created_by=row["created_by"],
        expires=row["expires"],
        used=row["used"],
        revoked=row["revoked"],
        hash=bytes(row["hash"]),
    )
