"""A yard that starts on a state with nothing in it looks whether another one was lost."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from dockyard.engines.base import Container
from dockyard.engines.runc.engine import RuncEngine
from dockyard.errors import EngineError, YardError
from dockyard.gateway.base import Gateway
from dockyard.gateway.snapshot import Endpoint, Service, Snapshot, UnixAddress
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from dockyard.yard.host import Host
from dockyard.yard.judging import PolicyPlace
from dockyard.yard.pruning import Retention
from dockyard.yard.run import opened
from dockyard.yard.store import FILE_NAME, Store
from tests.support.replicas import put_replica
from tests.yard.conftest import ADA, revision

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the runc engine works for root only")


class PastTheCheckError(Exception):
    """The yard went on to its gateway, so nothing that was lost was found."""


async def no_gateway() -> Gateway:
    raise PastTheCheckError


class Hanging(RuncEngine):
    """An engine that answers no more."""

    async def list(self) -> tuple[Container, ...]:
        raise EngineError("it hangs", remedy="Wait.")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


async def start(home: Home, kind: type[RuncEngine] = RuncEngine) -> None:
    program = Path(shutil.which("runc") or "/usr/sbin/runc")
    host = Host({"runc": kind(home.runc, program)}, "runc", Layout.create(home.images), home.containers, 1 << 30)
    policy, retention = PolicyPlace(home.policy), Retention()
    async with opened(
        host, home, gateway=no_gateway, listeners=(), policy=policy, trusted=lambda: (), retention=retention,
        host_stops=lambda: False,
    ):  # fmt: skip
        pass


@pytest.fixture
def lost(tmp_path: Path, home: Home) -> Home:
    """A home whose state is gone, and on whose engine a replica of it still is."""
    store = Store.open(tmp_path / "before" / FILE_NAME)
    store.add_revision(revision(), ADA)
    put_replica(home, store, "iris-1-a", sockets=home)
    store.close()
    return home


async def test_a_new_state_beside_replicas_of_a_lost_one_is_refused_and_leaves_all_older_files(lost: Home) -> None:
    lost.yard.mkdir(parents=True)
    older = [f"{FILE_NAME}.schema-1", f"{FILE_NAME}.lost-20260101T000000", f"{FILE_NAME}-of-yesterday"]
    for name in older:
        (lost.yard / name).write_text("history")
    with pytest.raises(YardError, match="is lost, and 1 of its replicas"):
        await start(lost)
    assert [name for name in older if not (lost.yard / name).exists()] == []
    assert not (lost.yard / FILE_NAME).exists()
    with pytest.raises(YardError, match="is lost"):
        await start(lost)


async def test_a_new_yard_starts_beside_replicas_of_other_homes(tmp_path: Path, home: Home) -> None:
    store = Store.open(tmp_path / "other" / "yard" / FILE_NAME)
    store.add_revision(revision(), ADA)
    put_replica(home, store, "iris-1-a", sockets=Home(tmp_path / "other"))
    store.close()
    with pytest.raises(PastTheCheckError):
        await start(home)
    assert (home.yard / FILE_NAME).exists()


async def test_an_engine_that_does_not_tell_what_it_has_leaves_no_state_that_the_next_start_takes_for_good(
    lost: Home,
) -> None:
    with pytest.raises(EngineError, match="hangs"):
        await start(lost, Hanging)
    with pytest.raises(YardError, match="is lost"):
        await start(lost)


async def test_a_state_that_nothing_was_deployed_on_is_checked_at_each_start(tmp_path: Path, lost: Home) -> None:
    containers = (lost.runc / "containers").rename(tmp_path / "away")  # its engine does not answer yet
    with pytest.raises(PastTheCheckError):
        await start(lost)
    containers.rename(lost.runc / "containers")
    with pytest.raises(YardError, match="is lost, and 1 of its replicas"):
        await start(lost)
    assert (lost.yard / FILE_NAME).exists(), "tokens may be in it"


async def test_replicas_that_answer_the_gateway_are_told_while_their_engine_is_away(home: Home) -> None:
    folder = home.yard / "gateway"
    folder.mkdir(parents=True)
    (home.containers / "iris-1-a").mkdir(parents=True)
    path = home.containers / "iris-1-a" / "http.sock"
    at = Endpoint("iris-1-a", UnixAddress(str(path)))
    routed = Snapshot(services=(Service(name="iris", weights={1: 100}, endpoints={1: (at,)}),))
    (folder / "snapshot.json").write_bytes(routed.to_json())
    with socket.socket(socket.AF_UNIX) as replica:
        replica.bind(str(path))
        replica.listen(0)
        for _ in range(2):
            with pytest.raises(YardError, match="is lost, and 1 of its replicas"):
                await start(home)
    with pytest.raises(PastTheCheckError):
        await start(home)
