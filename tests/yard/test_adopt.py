"""A yard that starts removes what only it can have made, and never what belongs to a yard in another home."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.engines.runc.engine import RuncEngine
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from dockyard.yard.adopt import UNREAD, Adopted, adopt, replicas_on
from dockyard.yard.belonging import Own
from dockyard.yard.fleet import Fleet
from dockyard.yard.host import Host
from dockyard.yard.state import Phase
from dockyard.yard.store import FILE_NAME, Store
from tests.support.replicas import names_on, put_replica
from tests.yard.conftest import ADA, revision

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the runc engine works for root only")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def yard(home: Home) -> Iterator[Store]:
    store = Store.open(home.yard / FILE_NAME)
    store.add_revision(revision(), ADA)
    yield store
    store.close()


async def adopted(home: Home, store: Store) -> Adopted:
    engine = RuncEngine(home.runc, Path(shutil.which("runc") or "/usr/sbin/runc"))
    host = Host({"runc": engine}, "runc", Layout.create(home.images), home.containers, 1 << 30)
    return await adopt(engine, store, Fleet(host, store, lambda: None), home.containers)


async def test_what_no_record_knows_is_removed(home: Home, yard: Store) -> None:
    put_replica(home, yard, "iris-1-a", sockets=home)
    assert await adopted(home, yard) == Adopted((), (), ("iris-1-a",))
    assert names_on(home) == set()


async def test_replicas_of_a_yard_of_the_same_id_in_another_home_are_not_touched(
    home: Home, yard: Store, tmp_path: Path
) -> None:
    for name in ("iris-1-a", "iris-1-b"):
        put_replica(home, yard, name, sockets=Home(tmp_path / "other"))
    put_replica(home, yard, "iris-1-c", sockets=None)
    yard.add_replica("iris-1-a", "iris", 1, engine="runc", folder=home.containers / "iris-1-a")
    assert await adopted(home, yard) == Adopted((), ("iris-1-a",), ())
    assert names_on(home) == {"iris-1-a", "iris-1-b", "iris-1-c"}


async def test_a_foreign_server_is_the_yards_that_knows_it(home: Home, yard: Store) -> None:
    put_replica(home, yard, "iris-1-a", sockets=None)
    yard.add_replica("iris-1-a", "iris", 1, engine="runc", folder=home.containers / "iris-1-a")
    engine = RuncEngine(home.runc, Path(shutil.which("runc") or "/usr/sbin/runc"))
    assert set(await replicas_on(engine, Own.of(yard, home.containers))) == {"iris-1-a"}
    assert await adopted(home, yard) == Adopted((), ("iris-1-a",), ())
    assert "ended" in str(yard.events.after(0)), "and not that it was gone"


async def test_a_home_that_is_reached_through_a_link_is_the_same_home(home: Home, yard: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home.root)
    put_replica(home, yard, "iris-1-a", sockets=Home(tmp_path / "link"))
    assert await adopted(home, yard) == Adopted((), (), ("iris-1-a",))


async def test_what_an_engine_has_that_was_not_read_when_the_state_was_made_anew_is_left_alone_and_told(
    home: Home, yard: Store
) -> None:
    yard.set_note(UNREAD, "runc")
    for name in ("iris-1-a", "iris-1-b"):
        put_replica(home, yard, name, sockets=home)
    yard.add_replica("iris-1-a", "iris", 1, engine="runc", folder=home.containers / "iris-1-a")
    assert await adopted(home, yard) == Adopted((), ("iris-1-a",), ())
    assert yard.replica("iris-1-a").phase is Phase.CRASHED
    assert names_on(home) == {"iris-1-a", "iris-1-b"}
    (told,) = (each for each in yard.events.after(0) if each.kind == "yard.unknown-replicas")
    assert "1 replicas are left alone (iris-1-b)" in told.text


async def test_replicas_of_a_state_that_was_lost_are_told_and_left_alone(
    home: Home, yard: Store, tmp_path: Path
) -> None:
    lost = Store.open(tmp_path / "lost" / FILE_NAME)
    lost.add_revision(revision(), ADA)
    put_replica(home, lost, "iris-1-a", sockets=home)
    put_replica(home, lost, "iris-1-b", sockets=Home(tmp_path / "other"))
    lost.close()
    assert await adopted(home, yard) == Adopted((), (), ())
    assert names_on(home) == {"iris-1-a", "iris-1-b"}
    (told,) = (each for each in yard.events.after(0) if each.kind == "yard.unknown-replicas")
    assert "1 replicas of a state that was lost are left alone (iris-1-a)" in told.text
