"""`dockyard restore --from-engine` takes this home's replicas from every engine, or changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.gateway.snapshot import Endpoint, Service, Snapshot, TcpAddress
from dockyard.spec.home import Home
from dockyard.yard.adopt import UNREAD
from dockyard.yard.store import FILE_NAME, Store
from tests.support.projects import CommandLine
from tests.support.replicas import put_replica
from tests.yard.conftest import ADA, revision

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the runc engine works for root only")
OLD = b"the damaged state"


@pytest.fixture
def line(tmp_path: Path) -> CommandLine:
    """A home on whose yard.db nothing can be read; Docker is where nobody is."""
    home = Home(tmp_path / "home")
    home.yard.mkdir(parents=True)
    (home.yard / FILE_NAME).write_bytes(OLD)
    return CommandLine(home, {"DOCKER_HOST": f"unix://{tmp_path}/nowhere.sock"})


@pytest.fixture
def before(tmp_path: Path) -> Iterator[Store]:
    """The state that was lost."""
    store = Store.open(tmp_path / "before" / "yard" / FILE_NAME)
    store.add_revision(revision(), ADA)
    store.add_revision(revision("wine"), ADA)
    yield store
    store.close()


def files(home: Home) -> set[str]:
    return {each.name for each in home.yard.iterdir()} - {"lock", f"{FILE_NAME}.lock"}


def test_while_docker_does_not_answer_nothing_changes(line: CommandLine, before: Store) -> None:
    put_replica(line.home, before, "iris-1-a", sockets=line.home)
    refused = line("restore", "--from-engine")
    assert refused.returncode == 1
    assert "Docker may have replicas of this yard (DOCKER_HOST is unix://" in refused.stderr
    assert "--without-docker" in refused.stderr
    assert files(line.home) == {FILE_NAME}
    assert (line.home.yard / FILE_NAME).read_bytes() == OLD


def test_who_says_so_goes_on_without_docker_and_the_state_remembers_that(line: CommandLine, before: Store) -> None:
    put_replica(line.home, before, "iris-1-a", sockets=line.home)
    (line.home.yard / f"{FILE_NAME}.schema-1").write_text("from before an upgrade")
    (line.home.yard / f"{FILE_NAME}-wal").write_bytes(b"wal")
    done = line("restore", "--from-engine", "--without-docker")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "known again: iris\n"
    aside = sorted(name for name in files(line.home) if ".lost-" in name)
    assert aside[0].startswith(f"{FILE_NAME}.lost-")
    assert f"{aside[0]}-wal" in aside, "SQLite finds the one beside the other"
    assert (line.home.yard / aside[0]).read_bytes() == OLD
    assert files(line.home) - {*aside} == {FILE_NAME, f"{FILE_NAME}.schema-1"}
    store = Store.open(line.home.yard / FILE_NAME)
    assert (store.yard, store.note(UNREAD)) == (before.yard, "docker")
    assert [each.id for each in store.replicas()] == ["iris-1-a"]
    store.close()


def test_replicas_of_other_homes_are_left_alone_and_counted(line: CommandLine, before: Store, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    store = Store.open(other.yard / FILE_NAME)
    store.add_revision(revision("theirs"), ADA)
    put_replica(line.home, store, "theirs-1-a", sockets=other, deployment="theirs")
    put_replica(line.home, before, "iris-1-a", sockets=line.home)
    put_replica(line.home, before, "iris-1-b", sockets=other)
    done = line("restore", "--from-engine", "--without-docker")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "known again: iris\n"
    assert "left alone: 2 replicas of yards with other homes" in done.stderr
    store.close()


def test_a_foreign_server_is_of_the_home_whose_gateway_asks_it(line: CommandLine, before: Store) -> None:
    put_replica(line.home, before, "iris-1-a", sockets=line.home)
    put_replica(line.home, before, "wine-1-a", sockets=None, deployment="wine")
    put_replica(line.home, before, "wine-1-b", sockets=None, deployment="wine")
    at = Endpoint("wine-1-a", TcpAddress("127.0.0.1", 9))
    folder = line.home.yard / "gateway"
    folder.mkdir()
    routed = Snapshot(services=(Service(name="wine", weights={1: 100}, endpoints={1: (at,)}),))
    (folder / "snapshot.json").write_bytes(routed.to_json())
    done = line("restore", "--from-engine", "--without-docker")
    assert done.stdout == "known again: iris, wine\n", done.stderr
    assert "left alone: 1 replicas" in done.stderr


def test_without_a_replica_of_this_home_there_is_nothing_to_make_a_state_of(
    line: CommandLine, before: Store, tmp_path: Path
) -> None:
    put_replica(line.home, before, "iris-1-a", sockets=Home(tmp_path / "other"))
    refused = line("restore", "--from-engine", "--without-docker")
    assert refused.returncode == 1
    assert "no engine has a replica whose home is" in refused.stderr
    assert (files(line.home), (line.home.yard / FILE_NAME).read_bytes()) == ({FILE_NAME}, OLD)


def test_containers_of_several_yards_in_one_home_change_nothing(
    line: CommandLine, before: Store, tmp_path: Path
) -> None:
    store = Store.open(tmp_path / "third" / "yard" / FILE_NAME)
    store.add_revision(revision("theirs"), ADA)
    put_replica(line.home, store, "theirs-1-a", sockets=line.home, deployment="theirs")
    put_replica(line.home, before, "iris-1-a", sockets=line.home)
    refused = line("restore", "--from-engine", "--without-docker")
    assert refused.returncode == 1
    assert "containers of several yards run here" in refused.stderr
    assert (files(line.home), (line.home.yard / FILE_NAME).read_bytes()) == ({FILE_NAME}, OLD)
    store.close()


def test_without_docker_is_said_of_engines_alone(line: CommandLine) -> None:
    assert line("restore", "x.tar", "--without-docker").returncode == 2
