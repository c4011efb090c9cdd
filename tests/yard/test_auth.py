"""Who is let in: deny by default, whatever is shown."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.errors import StoreError, UnknownInYardError, YardConflictError
from dockyard.spec.status import Scope
from dockyard.yard.auth import Caller, Credentials, Denied, TokenRecord, Tokens, authorize, hash_of, identify
from dockyard.yard.store import Store
from tests.support.disks import fill

OWN = 1000
SECRET = "dyt_" + "x" * 43
RECORD = TokenRecord("1", "ci", Scope.OPERATOR, 0.0, "ada", expires=100.0, hash=hash_of(SECRET))


@pytest.fixture
def tokens(store):
    return Tokens(store)


@pytest.mark.parametrize(
    ("credentials", "now", "told"),
    [
        (Credentials(), 1.0, "no token was sent"),
        (Credentials(uid=1001), 1.0, "user 1001 of this host needs a token"),
        (Credentials(token="dyt_wrong"), 1.0, "not one of this yard's"),
        (Credentials(token=SECRET[:-1]), 1.0, "not one of this yard's"),
        (Credentials(token=SECRET + " "), 1.0, "not one of this yard's"),
        (Credentials(token="\ud800"), 1.0, "not one of this yard's"),
        (Credentials(token=SECRET), 100.0, "the token ci has expired"),
        (Credentials(token="dyt_wrong", uid=0), 1.0, "not one of this yard's"),
    ],
)
def test_strangers_are_denied_with_the_reason(credentials, now, told):
    denied = identify(credentials, [RECORD], own=OWN, now=now)
    assert isinstance(denied, Denied)
    assert told in denied.reason
    assert not denied.known
    assert authorize(denied, Scope.VIEWER) == denied


def test_a_revoked_token_is_denied():
    denied = identify(Credentials(SECRET), [replace(RECORD, revoked=50.0)], own=OWN, now=60.0)
    assert denied == Denied("the token ci was revoked")


@pytest.mark.parametrize("uid", [0, OWN])
def test_root_and_the_yards_own_user_are_admins_on_the_unix_socket(uid):
    assert identify(Credentials(uid=uid), [], own=OWN, now=1.0) == Caller(f"uid {uid}", Scope.ADMIN)


def test_who_shows_a_token_gets_no_more_than_it_allows():
    assert identify(Credentials(SECRET, uid=0), [RECORD], own=OWN, now=1.0) == Caller("token ci", Scope.OPERATOR)


@pytest.mark.parametrize("has", Scope)
@pytest.mark.parametrize("needed", Scope)
def test_a_scope_covers_itself_and_those_below(has, needed):
    order = [Scope.VIEWER, Scope.OPERATOR, Scope.ADMIN]
    answer = authorize(Caller("x", has), needed)
    assert isinstance(answer, Caller) is (order.index(has) >= order.index(needed))
    if isinstance(answer, Denied):
        assert answer.known
        assert f"has the scope {has}, and this needs {needed}" in answer.reason


def test_what_declares_no_scope_nobody_may_do():
    assert isinstance(authorize(Caller("root", Scope.ADMIN), None), Denied)


@given(st.text(), st.none() | st.integers(1, 2**31), st.floats(0, 99))
def test_nobody_gets_in_by_guessing(token, uid, now):
    if token != SECRET and uid != OWN:
        assert isinstance(identify(Credentials(token, uid), [RECORD], own=OWN, now=now), Denied)


def test_a_token_is_told_once_and_only_its_hash_is_kept(tokens, path, store):
    record, secret = tokens.create("ci", Scope.OPERATOR, by="ada", expires=None)
    assert len(secret) >= 47
    assert secret not in repr(record)
    assert secret not in repr(Credentials(secret))
    store.close()
    kept = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert secret.encode() not in kept
    assert hash_of(secret) in kept


def test_a_token_works_until_it_expires_or_is_revoked(tokens, clock):
    record, secret = tokens.create("ci", Scope.VIEWER, by="ada", expires=clock.time + 60)
    assert tokens.identify(Credentials(secret)) == Caller("token ci", Scope.VIEWER)
    clock.time += 60
    assert tokens.identify(Credentials(secret)) == Denied("the token ci has expired")
    clock.time -= 30
    assert tokens.revoke(record.id).revoked == clock.time
    assert tokens.identify(Credentials(secret)) == Denied("the token ci was revoked")
    with pytest.raises(UnknownInYardError, match="no token 'ci'"):
        tokens.revoke("ci")


def test_a_name_is_taken_until_its_token_is_revoked(tokens):
    first, _ = tokens.create("ci", Scope.VIEWER, by="ada", expires=None)
    with pytest.raises(YardConflictError, match="token 'ci' already"):
        tokens.create("ci", Scope.ADMIN, by="ada", expires=None)
    tokens.revoke("ci")
    second, _ = tokens.create("ci", Scope.ADMIN, by="ada", expires=None)
    assert [one.id for one in tokens.all()] == [first.id, second.id]


def test_the_last_use_is_noted_to_the_minute(tokens, clock):
    _, secret = tokens.create("ci", Scope.VIEWER, by="ada", expires=None)
    assert tokens.all()[0].used is None
    began = clock.time
    for _ in range(5):
        tokens.identify(Credentials(secret))
        clock.time += 15
    assert tokens.all()[0].used == began + 60


def test_a_full_disk_locks_nobody_out_whose_token_holds_and_is_logged_once(small_disk, clock, caplog):
    store = Store.open(small_disk / "yard.db", clock=clock)
    tokens = Tokens(store)
    _, secret = tokens.create("ci", Scope.VIEWER, by="ada", expires=None)
    filler = fill(small_disk, 0)
    with pytest.raises(StoreError, match="full"):
        tokens.create("other", Scope.VIEWER, by="ada", expires=None)
    for _ in range(3):
        assert tokens.identify(Credentials(secret)) == Caller("token ci", Scope.VIEWER)
        assert tokens.identify(Credentials("dyt_wrong")) == Denied("the token is not one of this yard's")
        clock.time += 100
    assert [(one.levelname, "is full" in one.message) for one in caplog.records] == [("WARNING", True)]
    filler.unlink()
    tokens.identify(Credentials(secret))
    assert tokens.all()[0].used == clock.time
    fill(small_disk, 0)
    clock.time += 100
    tokens.identify(Credentials(secret))
    assert len(caplog.records) == 2, "full once more is news"
    store.close()


def test_this_process_user_needs_no_token_on_the_socket(tokens):
    assert tokens.identify(Credentials(uid=os.geteuid())) == Caller(f"uid {os.geteuid()}", Scope.ADMIN)


def test_tokens_are_there_after_a_restart(tokens, store, path, clock):
    _, secret = tokens.create("ci", Scope.VIEWER, by="ada", expires=None)
    store.close()
    again = Store.open(path, clock=clock)
    assert Tokens(again).identify(Credentials(secret)) == Caller("token ci", Scope.VIEWER)
    again.close()
