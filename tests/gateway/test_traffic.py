"""What happens to requests while things change, break or are too much: nothing is lost, nothing is asked twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dockyard.errors import GatewayError
from dockyard.gateway.base import UPSTREAM_IDLE_S
from dockyard.gateway.envoy import EnvoyGateway
from dockyard.gateway.listener import ACCESS_LOG, ACCESS_LOG_FIELDS
from dockyard.gateway.snapshot import Endpoint, Service, UnixAddress
from dockyard.spec.status import AccessLine
from dockyard.yard.readings import of_gateway
from dockyard.yard.sampler import gateway_figures
from tests.gateway.support import Answer, Replica, ask, load, raw, replicas, running, service, settings, snapshot, until

PATH = "/v2/models/iris/infer"


async def test_switching_weights_under_load_fails_no_request(gateway: EnvoyGateway, short_path: Path) -> None:
    async with replicas(short_path, "old", "new") as (old, new):
        endpoints = {1: (old.endpoint,), 2: (new.endpoint,)}
        both = Service(name="iris", weights={1: 1}, endpoints=endpoints)
        await gateway.apply(snapshot(both))
        async with load(gateway.address, PATH) as seen:
            for turn in range(40):
                await gateway.apply(snapshot(msgspec.structs.replace(both, weights={1 + turn % 2: 1})))
                await asyncio.sleep(0.02)
    assert seen.failed == 0, seen
    assert min(len(old.seen), len(new.seen)) > 50


async def test_replacing_every_replica_under_load_fails_no_request(gateway: EnvoyGateway, short_path: Path) -> None:
    """Each turn a new revision with a new replica; the old one drains, is stopped when it is idle, and forgotten."""
    names = [f"r{number}" for number in range(12)]
    async with replicas(short_path, *names) as made:
        await gateway.apply(snapshot(Service(name="iris", weights={0: 1}, endpoints={0: (made[0].endpoint,)})))
        async with load(gateway.address, PATH) as seen:
            for number, (old, new) in enumerate(pairwise(made)):
                endpoints = {number: (old.drained,), number + 1: (new.endpoint,)}
                await gateway.apply(snapshot(Service(name="iris", weights={number + 1: 1}, endpoints=endpoints)))
                assert await gateway.drained([old.name], 10) == {}
                await old.stop()
                kept = {number + 1: (new.endpoint,)}
                await gateway.apply(snapshot(Service(name="iris", weights={number + 1: 1}, endpoints=kept)))
    assert seen.failed == 0, seen
    assert all(each.seen for each in made)


async def test_a_pool_of_revisions_gives_each_request_to_whoever_has_the_fewest(
    gateway: EnvoyGateway, short_path: Path
) -> None:
    """One replica of the old revision is stuck; dealt by chance, half of the requests would wait behind it."""
    async with replicas(short_path, "old", "new") as (old, new):
        await gateway.apply(snapshot(_pool(old, new)))
        first = await _one_waits_at_each(gateway, old, new)
        new.go.set()
        await until(lambda: sum(each.done() for each in first) == 1, "the other is at the stuck one")
        answers = [await ask(gateway.address, PATH) for _ in range(30)]
        assert {answer.json["replica"] for answer in answers} == {"new"}
        old.go.set()
        assert [(await each).status for each in first] == [200] * 2


def _pool(old: Replica, new: Replica) -> Service:
    """Two revisions of one replica each that serve as one."""
    endpoints = {1: (old.endpoint,), 2: (new.endpoint,)}
    return Service(name="iris", weights={1: 1, 2: 1}, endpoints=endpoints, pooled=True)


async def _one_waits_at_each(gateway: EnvoyGateway, *both: Replica) -> list[asyncio.Task[Answer]]:
    """Requests that are in flight, as many as there are replicas: whoever has one does not get the next."""
    waiting = []
    for replica in both:
        replica.go.clear()
    for number in range(1, 1 + len(both)):
        waiting.append(asyncio.create_task(ask(gateway.address, PATH)))
        await until(lambda number=number: sum(len(each.seen) for each in both) == number, "the request arrived")
    assert [len(each.seen) for each in both] == [1] * len(both)
    return waiting


async def test_what_a_pool_served_is_counted_apart_and_the_log_knows_which_revision_it_was(
    gateway: EnvoyGateway, short_path: Path
) -> None:
    async with replicas(short_path, "old", "new") as (old, new):
        both = _pool(old, new)
        await gateway.apply(snapshot(both))
        for _ in range(20):
            assert (await ask(gateway.address, PATH)).status == 200
        await gateway.apply(snapshot(msgspec.structs.replace(both, weights={2: 1})))
        for _ in range(3):
            assert (await ask(gateway.address, PATH)).json["replica"] == "new"
        found = of_gateway(gateway_figures(await gateway.metrics()))
        lines = await _log(short_path, 23)
    assert {name.label: reading.requests for name, reading in found.items() if reading.requests} == {"pool": 20, "2": 3}
    logged = Counter((line["revision"], line["replica"]) for line in lines)
    assert logged == {("1", "old"): len(old.seen), ("2", "new"): len(new.seen)}


async def test_requests_in_flight_through_a_pool_are_counted_until_they_end(
    gateway: EnvoyGateway, short_path: Path
) -> None:
    """One in each of the two replicas while the new revision takes over, and then the old one goes."""
    async with replicas(short_path, "old", "new") as (old, new):
        both = _pool(old, new)
        await gateway.apply(snapshot(both))
        waiting = await _one_waits_at_each(gateway, old, new)
        drained = {1: (old.drained,), 2: (new.endpoint,)}
        await gateway.apply(snapshot(msgspec.structs.replace(both, weights={2: 1}, endpoints=drained)))
        waiting.append(asyncio.create_task(ask(gateway.address, PATH)))
        await until(lambda: len(new.seen) == 2, "a request of the new revision's own")
        counts = await gateway.counts()
        assert (counts["old"].in_flight, counts["new"].in_flight) == (1, 2)
        assert await gateway.drained(["old"], 0.2) == {"old": 1}
        old.go.set()
        assert await gateway.drained(["old"], 10) == {}
        alone = msgspec.structs.replace(both, weights={2: 1}, endpoints={2: (new.endpoint,)})
        await gateway.apply(snapshot(alone))
        await asyncio.sleep(0.3)  # what Envoy would break off when the old revision goes, it has broken off by then
        assert (await gateway.counts())["new"].in_flight == 2
        new.go.set()
        assert [(await each).status for each in waiting] == [200] * 3


async def test_a_rollout_through_a_pool_under_load_fails_no_request(gateway: EnvoyGateway, short_path: Path) -> None:
    """Two replicas of each revision, replaced one by one as a rolling rollout does, three times."""
    made_of = [f"r{number}{letter}" for number in range(4) for letter in "ab"]
    async with replicas(short_path, *made_of) as made:
        pairs = list(zip(made[::2], made[1::2], strict=True))

        async def turn(weights: dict[int, int], endpoints: dict[int, tuple[Endpoint, ...]]) -> None:
            await gateway.apply(snapshot(Service(name="iris", weights=weights, endpoints=endpoints, pooled=True)))
            await asyncio.sleep(0.05)

        await turn({0: 1}, {0: (pairs[0][0].endpoint, pairs[0][1].endpoint)})
        async with load(gateway.address, PATH) as seen:
            for number, ((a, b), (c, d)) in enumerate(pairwise(pairs)):
                await turn({number: 1, number + 1: 1}, {number: (a.drained, b.endpoint), number + 1: (c.endpoint,)})
                await turn({number + 1: 1}, {number: (a.drained, b.drained), number + 1: (c.endpoint, d.endpoint)})
                assert await gateway.drained([a.name, b.name], 10) == {}
                await a.stop()
                await b.stop()
                await turn({number + 1: 1}, {number + 1: (c.endpoint, d.endpoint)})
    assert seen.failed == 0, seen
    assert all(each.seen for each in made)


async def test_a_draining_replica_gets_nothing_new_and_its_requests_are_counted_until_they_end(
    gateway: EnvoyGateway, short_path: Path
) -> None:
    async with replicas(short_path, "a", "b") as (a, b):
        await gateway.apply(snapshot(service("iris", a)))
        a.go.clear()
        waiting = [asyncio.create_task(ask(gateway.address, PATH)) for _ in range(3)]
        await until(lambda: len(a.seen) == 3, "the requests arrived")
        a.draining = True
        await gateway.apply(snapshot(service("iris", a, b)))
        assert (await ask(gateway.address, PATH)).json["replica"] == "b"
        assert (await gateway.counts())["a"].in_flight == 3
        assert await gateway.drained(["a"], 0.2) == {"a": 3}
        a.go.set()
        assert [(await each).status for each in waiting] == [200] * 3
        assert await gateway.drained(["a", "unknown"], 5) == {}
        assert (await gateway.counts())["a"].total == 3
        await gateway.apply(snapshot(service("iris", b)))
        assert set(await gateway.counts()) == {"b"}


async def test_requests_wait_at_the_socket_of_a_replica_that_has_not_started(
    gateway: EnvoyGateway, short_path: Path
) -> None:
    async with replicas(short_path, "a") as (a,):
        a.go.clear()
        await gateway.apply(snapshot(service("iris", a)))
        asked = asyncio.create_task(ask(gateway.address, PATH))
        await asyncio.sleep(0.3)
        assert not asked.done()
        a.go.set()
        assert (await asked).status == 200


async def test_a_request_goes_to_the_replica_with_the_fewest(gateway: EnvoyGateway, short_path: Path) -> None:
    async with replicas(short_path, "a", "b", "c") as made:
        await gateway.apply(snapshot(service("iris", *made)))
        for each in made:
            each.go.clear()
        asked = []
        for number in range(6):
            asked.append(asyncio.create_task(ask(gateway.address, PATH)))
            await until(lambda: sum(len(each.seen) for each in made) == number + 1, "it arrived")  # noqa: B023
        assert [len(each.seen) for each in made] == [2, 2, 2]
        for each in made:
            each.go.set()
        await asyncio.gather(*asked)


async def test_a_request_that_reached_nobody_is_tried_elsewhere(gateway: EnvoyGateway, short_path: Path) -> None:
    async with replicas(short_path, "a") as (a,):
        gone = Replica("gone", short_path / "gone.sock")
        await gateway.apply(snapshot(service("iris", gone, a)))
        answers = [await ask(gateway.address, PATH, "POST", b"{}") for _ in range(8)]
    assert [answer.status for answer in answers] == [200] * 8


@pytest.mark.parametrize("wish", [{}, {"x_envoy_retry_on": "5xx,reset", "x_envoy_max_retries": "3"}])
async def test_a_request_that_was_sent_is_never_sent_twice_whatever_its_caller_says(
    gateway: EnvoyGateway, short_path: Path, wish: dict[str, str]
) -> None:
    async with replicas(short_path, "a", "b") as made:
        await gateway.apply(snapshot(service("iris", *made)))
        for each in made:
            each.status = 0
        answer = await ask(gateway.address, PATH, "POST", b"{}", **wish)
    assert answer.status == 502
    assert "may have run" in answer.json["error"]
    assert sum(len(each.seen) for each in made) == 1


async def test_a_replica_that_breaks_connections_is_left_out_but_never_the_last_one(
    gateway: EnvoyGateway, short_path: Path
) -> None:
    async with replicas(short_path, "good", "bad") as (good, bad):
        bad.status = 0
        await gateway.apply(snapshot(service("iris", good, bad)))
        async with asyncio.timeout(10):
            while not (await gateway.counts())["bad"].ejected:
                await ask(gateway.address, PATH)
        assert not (await gateway.counts())["good"].ejected
        await gateway.apply(snapshot(service("iris", good), service("alone", bad)))
        for _ in range(150):
            assert (await ask(gateway.address, "/predictions/alone")).status == 502
        assert not (await gateway.counts())["bad"].ejected


async def test_a_replica_that_answers_503_is_not_left_out(gateway: EnvoyGateway, short_path: Path) -> None:
    """That is how a full queue is told; its load would only go to the others."""
    async with replicas(short_path, "a", "b") as (a, b):
        a.status = b.status = 503
        await gateway.apply(snapshot(service("iris", a, b)))
        answers = [await ask(gateway.address, PATH) for _ in range(40)]
        assert {answer.status for answer in answers} == {503}
        assert answers[0].json["replica"] in {"a", "b"}
        assert not any(each.ejected for each in (await gateway.counts()).values())


async def test_a_slow_model_is_cut_off_at_its_own_timeout_and_not_before(
    gateway: EnvoyGateway, short_path: Path
) -> None:
    async with replicas(short_path, "a", "b") as (a, b):
        a.go.clear()
        b.go.clear()
        await gateway.apply(snapshot(service("quick", a, timeout_s=0.3), service("slow", b)))
        slow = asyncio.create_task(ask(gateway.address, "/predictions/slow"))
        late = await ask(gateway.address, "/predictions/quick")
        assert (late.status, late.json["error"].split(" (")[0]) == (
            504,
            "deployment quick did not answer within its timeout",
        )
        b.go.set()
        assert (await slow).status == 200


async def test_unused_connections_to_replicas_are_closed_after_the_idle_time(
    gateway: EnvoyGateway, short_path: Path
) -> None:
    async with replicas(short_path, "a") as (a,):
        await gateway.apply(snapshot(service("iris", a)))
        await ask(gateway.address, PATH)
        assert await _connections(gateway) == 1
        began = time.monotonic()
        while await _connections(gateway):
            assert time.monotonic() - began < 2 * UPSTREAM_IDLE_S
            await asyncio.sleep(0.1)
        assert time.monotonic() - began > UPSTREAM_IDLE_S / 2


async def _connections(gateway: EnvoyGateway) -> int:
    lines = (await gateway.metrics()).splitlines()
    found = [
        line for line in lines if line.startswith("envoy_cluster_upstream_cx_active") and 'deployment="iris"' in line
    ]
    return int(found[0].split()[-1])


async def test_metrics_carry_deployment_and_revision(gateway: EnvoyGateway, short_path: Path) -> None:
    async with replicas(short_path, "a") as (a,):
        await gateway.apply(snapshot(service("my-iris-2", a)))
        await ask(gateway.address, "/predictions/my-iris-2")
        async with asyncio.timeout(10):
            while "envoy_cluster_upstream_rq_time_bucket" not in (text := await gateway.metrics()):
                await asyncio.sleep(0.1)  # histograms are summed up once a second
    labels = 'deployment="my-iris-2",revision="1"'
    found = [
        line for line in text.splitlines() if line.startswith("envoy_cluster_upstream_rq_total") and labels in line
    ]
    assert [line.split()[-1] for line in found] == ["1"]
    assert re.search(f'envoy_cluster_upstream_rq_time_bucket{{[^}}]*{labels},le="\\+Inf"}} 1', text)


@pytest.mark.parametrize("bytes_", [70_000, 200_000])
async def test_too_large_a_header_is_refused_and_the_gateway_lives(
    gateway: EnvoyGateway, short_path: Path, bytes_: int
) -> None:
    async with replicas(short_path, "a") as (a,):
        await gateway.apply(snapshot(service("iris", a)))
        request = f"GET {PATH} HTTP/1.1\r\nhost: a\r\nx-large: {'a' * bytes_}\r\n\r\n"
        answer = await raw(gateway.address, request.encode())
        assert answer.startswith(b"HTTP/1.1 431")
        many = "".join(f"x-{number}: 1\r\n" for number in range(101))
        answer = await raw(gateway.address, f"GET {PATH} HTTP/1.1\r\nhost: a\r\n{many}\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 431")
        assert (await ask(gateway.address, PATH)).status == 200
        assert len(a.seen) == 1


async def test_a_header_that_does_not_end_is_cut_off(short_path: Path) -> None:
    async with running(settings(short_path, header_timeout_s=0.5)) as gateway:
        answer = await raw(gateway.address, b"GET /healthz HTTP/1.1\r\nhost: a\r\nx-slow: 1")
    assert answer.startswith(b"HTTP/1.1 408")


async def test_more_requests_than_the_limit_are_refused_with_503(short_path: Path) -> None:
    limits = {"revision_connections": 2, "revision_requests": 3}
    async with running(settings(short_path, **limits)) as gateway, replicas(short_path, "a") as (a,):
        a.go.clear()
        await gateway.apply(snapshot(service("iris", a)))
        asked = [asyncio.create_task(ask(gateway.address, PATH)) for _ in range(8)]
        await until(lambda: sum(each.done() for each in asked) >= 4, "some were refused")
        refused = [each.result() for each in asked if each.done()]
        assert {(each.status, each.headers["retry-after"]) for each in refused} == {(503, "1")}
        assert "too many requests" in refused[0].json["error"]
        a.go.set()
        assert sum(each.status == 200 for each in await asyncio.gather(*asked)) >= 2


async def test_connections_beyond_the_limit_are_refused(short_path: Path) -> None:
    async with running(settings(short_path, connections=3)) as gateway, contextlib.AsyncExitStack() as stack:
        port = int(gateway.address.rpartition(":")[2])
        for _ in range(3):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
        await asyncio.sleep(0.5)
        assert await raw(gateway.address, b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n") == b""


async def test_the_access_log_tells_who_answered_and_how(gateway: EnvoyGateway, short_path: Path) -> None:
    async with replicas(short_path, "a") as (a,):
        await gateway.apply(snapshot(service("iris", a)))
        await ask(gateway.address, "/models/iris/predict?x=1", "POST", b"secret", x_request_id="q1", user_agent="me")
        await ask(gateway.address, "/nothing", x_request_id="q2")
        entries = await _log(short_path, 2)
    first, second = entries
    assert first.keys() == set(ACCESS_LOG_FIELDS)
    told = {key: first[key] for key in ("request_id", "deployment", "revision", "replica", "method", "path", "status")}
    assert told == {
        "request_id": "q1",
        "deployment": "iris",
        "revision": "1",
        "replica": "a",
        "method": "POST",
        "path": "/models/iris/predict?x=1",
        "status": 200,
    }
    assert (first["bytes_in"], first["agent"], first["flags"], first["attempts"]) == (6, "me", "-", 1)
    assert 0 < first["replica_us"] < first["duration_us"]
    assert (second["status"], second["deployment"], second["replica"]) == (404, None, None)
    assert "secret" not in json.dumps(entries)


async def test_what_callers_write_cannot_forge_a_line_of_the_log(gateway: EnvoyGateway, short_path: Path) -> None:
    hostile = (
        b'GET /x%0d%0a{"status":200}"\\ HTTP/1.1\r\nhost: a"b\r\nuser-agent: \x1b[31m"}\t\xff\xfe\r\n'
        b"x-request-id: one\r\nconnection: close\r\n\r\n"
    )
    await raw(gateway.address, hostile)
    await raw(gateway.address, b"GET /\x1b[2J HTTP/1.1\r\nhost: a\r\nx-request-id: two\r\nconnection: close\r\n\r\n")
    await ask(gateway.address, "/fine", x_request_id="three")
    await _log(short_path, 1, of="three")
    data = (short_path / "gateway" / ACCESS_LOG).read_bytes()
    assert b"\x1b" not in data
    entries = [json.loads(line) for line in data.decode().splitlines()]
    assert all(entry.keys() == set(ACCESS_LOG_FIELDS) for entry in entries)


async def _log(folder: Path, count: int, of: str = "") -> list[dict[str, Any]]:
    path = folder / "gateway" / ACCESS_LOG

    def entries() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in path.read_text().splitlines()]
        return [entry for entry in found if not of or entry["request_id"] == of]

    await until(lambda: len(entries()) >= count, "the log is written")
    return entries()


async def test_an_address_with_a_long_path_is_refused_before_anything_is_sent(gateway: EnvoyGateway) -> None:
    far = Endpoint("far", UnixAddress("/" + "x" * 120))
    before = gateway.accepted
    with pytest.raises(GatewayError, match="contradicts itself"):
        await gateway.apply(snapshot(Service(name="iris", weights={1: 1}, endpoints={1: (far,)})))
    assert gateway.accepted is before


def test_the_yard_tells_every_field_of_the_access_log() -> None:
    assert set(AccessLine.__struct_fields__) == set(ACCESS_LOG_FIELDS)


def test_the_reference_names_every_field_of_the_access_log() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "gateway.md").read_text()
    table = page.partition("## Access log")[2].partition("## Metrics")[0]
    first_cells = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", first_cells)) == set(ACCESS_LOG_FIELDS)
