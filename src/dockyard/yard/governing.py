"""Who is let in, the audit log, tokens and backups: what admins ask for. `service` offers it to the API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from dockyard.errors import ForbiddenError, UnauthenticatedError
from dockyard.spec.requests import TokenRequest
from dockyard.spec.status import AuditEntry, NewToken, Token
from dockyard.yard.audit import Entry, Outcome, Written
from dockyard.yard.auth import Credentials, Denied, TokenRecord, Tokens
from dockyard.yard.backing_up import Backups
from dockyard.yard.operations import Actor, Cause, Peer, Refusal
from dockyard.yard.parts import Parts
from dockyard.yard.repeated import Repeated


class Governing:
    """The operations about access, audit, tokens and backups."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = parts.store
        self._tokens = Tokens(parts.store)
        self._refusals = Repeated()
        self._backups = Backups(parts.home)

    async def authenticate(self, peer: Peer) -> Actor:
        """Who that is; UnauthenticatedError for a stranger, and for a token that does not hold."""
        caller = self._tokens.identify(Credentials(token=peer.token, uid=peer.uid))
        if isinstance(caller, Denied):
            raise UnauthenticatedError(
                f"the yard does not let you in: {caller.reason}",
                remedy="Ask an admin for a token (`dockyard token create`), and set DOCKYARD_TOKEN to it.",
            )
        return Actor(caller.name, caller.scope)

    async def refused(self, refusal: Refusal) -> None:
        """Note a call that was turned away; the same one over and over is noted once a minute, with how often."""
        who = refusal.actor.name if refusal.actor else f"unknown, from {refusal.peer.address}"
        action = f"{refusal.method} {refusal.path}"
        repeated = self._refusals.count((who, action, refusal.why), self._store.now())
        if repeated is None:
            return
        needed = f"scope {refusal.needed}" if refusal.needed else ""
        why = f"{refusal.why} ({repeated} times before, unnoted)" if repeated else refusal.why
        self._parts.audit.append(Entry(who, action, "", Outcome.REFUSED, why, needed))

    async def audit(self, since: int, limit: int) -> tuple[AuditEntry, ...]:
        """Entries from number `since` on, the oldest first; a negative `since` counts from the end."""
        log = self._parts.audit
        found = log.after(since - 1, limit=limit) if since >= 0 else log.newest(limit=min(limit, -since))
        return tuple(map(_told_entry, found))

    async def export_audit(self) -> AsyncIterator[bytes]:
        """The whole log with its checkpoint."""
        for piece in self._parts.audit.export():
            yield piece

    async def tokens(self) -> tuple[Token, ...]:
        """All tokens, without secrets."""
        return tuple(map(_told_token, self._tokens.all()))

    async def create_token(self, request: TokenRequest, cause: Cause) -> NewToken:
        """A new one; its secret is told only here. ForbiddenError for a scope above the caller's own."""
        entry = Entry(cause.actor.name, "token.create", request.name, why=cause.why, after={"scope": request.scope})
        with self._parts.audit.noting_refusals(entry):
            return self._created(request, cause, entry)

    def _created(self, request: TokenRequest, cause: Cause, entry: Entry) -> NewToken:
        if not cause.actor.scope.covers(request.scope):
            raise ForbiddenError(
                f"{cause.actor.name} has the scope {cause.actor.scope}, and cannot give {request.scope}",
                remedy="Ask somebody with that scope.",
            )
        expires = None if request.expires_s is None else self._store.now() + request.expires_s
        with self._store.together():
            record, secret = self._tokens.create(request.name, request.scope, by=cause.actor.name, expires=expires)
            self._parts.audit.append(replace(entry, after={"scope": record.scope, "expires": record.expires}))
        return NewToken(token=_told_token(record), secret=secret)

    async def revoke_token(self, name: str, cause: Cause) -> Token:
        """End a token."""
        entry = Entry(cause.actor.name, "token.revoke", name, why=cause.why)
        with self._parts.audit.noting_refusals(entry), self._store.together():
            record = self._tokens.revoke(name)
            self._parts.audit.append(replace(entry, target=record.name))
        return _told_token(record)

    async def backup(self, cause: Cause, *, images: bool) -> AsyncIterator[bytes]:
        """Everything that a restore needs, as one file's bytes."""
        self._parts.audit.append(Entry(cause.actor.name, "backup", why=cause.why))
        self._parts.audit.checkpoint()
        async with aclosing(self._backups.make(images=images)) as pieces:
            async for piece in pieces:
                yield piece


def _told_entry(written: Written) -> AuditEntry:
    entry = written.entry
    return AuditEntry(
        number=written.number,
        at=written.at,
        who=entry.who,
        action=entry.action,
        target=entry.target,
        outcome=entry.outcome,
        why=entry.why,
        rule=entry.rule,
        before=entry.before,
        after=entry.after,
        hash=written.hash,
    )


def _told_token(record: TokenRecord) -> Token:
    return Token(
        id=record.id,
        name=record.name,
        scope=record.scope,
        created=record.created,
        expires=record.expires,
        last_used=record.used,
        revoked=record.revoked,
        created_by=record.created_by,
    )
