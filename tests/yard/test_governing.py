"""What admins change about access is in the audit log, and so is what they are refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dockyard.errors import DockyardError, ForbiddenError, UnknownInYardError, YardConflictError
from dockyard.spec.requests import TokenRequest
from dockyard.spec.status import Scope
from dockyard.yard.audit import Entry, Outcome
from dockyard.yard.governing import Governing
from dockyard.yard.operations import Actor, Cause
from dockyard.yard.store import Store
from tests.yard.told import ToldEngine, ToldGateway, parts_of

ROOT = Cause(Actor("root", Scope.ADMIN), "for the CI")
GRACE = Cause(Actor("grace", Scope.OPERATOR), "for the CI")
CI = TokenRequest(name="ci", scope=Scope.OPERATOR)


@pytest.fixture
def governing(store: Store, tmp_path: Path) -> Governing:
    return Governing(parts_of(store, tmp_path, ToldGateway(), ToldEngine()))


def newest(governing: Governing) -> Entry:
    return governing._parts.audit.newest(limit=1)[0].entry


def test_a_token_that_is_made_or_ended_is_noted_without_its_secret(governing: Governing) -> None:
    made = asyncio.run(governing.create_token(CI, ROOT))
    entry = newest(governing)
    assert (entry.who, entry.action, entry.target, entry.why) == ("root", "token.create", "ci", "for the CI")
    assert entry.after["scope"] == "operator"
    assert made.secret not in str(entry)
    asyncio.run(governing.revoke_token(made.token.id, ROOT))
    assert newest(governing) == Entry("root", "token.revoke", "ci", why="for the CI")


@pytest.mark.parametrize(
    ("request_", "cause", "kind"),
    [
        (TokenRequest(name="mine", scope=Scope.ADMIN), GRACE, ForbiddenError),
        (CI, ROOT, YardConflictError),
    ],
)
def test_a_token_that_is_refused_is_noted(
    governing: Governing, request_: TokenRequest, cause: Cause, kind: type[DockyardError]
) -> None:
    asyncio.run(governing.create_token(CI, ROOT))
    with pytest.raises(kind) as caught:
        asyncio.run(governing.create_token(request_, cause))
    entry = newest(governing)
    assert (entry.who, entry.action, entry.outcome) == (cause.actor.name, "token.create", Outcome.REFUSED)
    assert (entry.rule, entry.after) == (caught.value.what, {"scope": str(request_.scope)})


def test_ending_a_token_that_is_not_there_is_noted_as_refused(governing: Governing) -> None:
    with pytest.raises(UnknownInYardError):
        asyncio.run(governing.revoke_token("nobody", ROOT))
    assert (newest(governing).action, newest(governing).outcome) == ("token.revoke", Outcome.REFUSED)
