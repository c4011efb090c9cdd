"""The yard's API over real sockets: who is let in on which route, what is refused, and answers that go on."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from dockyard.errors import (
    ImageNotFoundError,
    PolicyError,
    StoreError,
    UnknownInYardError,
    YardConflictError,
    YardError,
)
from dockyard.spec.requests import API_VERSION, VERSION_HEADER
from dockyard.spec.status import Event, Scope
from dockyard.yard.api import make_app, serving
from dockyard.yard.api_listen import TcpListener, UnixListener, tcp_listener
from dockyard.yard.api_routes import ROUTES, Route
from dockyard.yard.api_streams import Limits, Streams
from tests.support.memory_yard import NOW, MemoryYard, receipt, status, update

QUICK = Limits(body_s=0.3, read_s=0.3, change_s=0.3, beat_s=0.05, write_s=0.5, idle_s=0.3)
DIGEST = f"sha256:{'ab' * 32}"
OFFER = {"image": "iris:1", "media_type": "a", "manifest": {"digest": DIGEST, "size": 5}}
DEPLOYMENT = {"name": "iris", "image": f"iris@sha256:{'ab' * 32}"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/deployments": {"deployment": DEPLOYMENT},
    "/v1/deployments/{name}/scale": {"replicas": 2},
    "/v1/tokens": {"name": "ci", "scope": "viewer"},
    "/v1/images/wanted": OFFER,
    "/v1/images": OFFER,
}


@pytest.fixture
def yard() -> MemoryYard:
    return MemoryYard(names={"iris": status()}, updates=[update("starting"), update("done", 1.0, receipt=receipt())])


@asynccontextmanager
async def served(yard: MemoryYard, folder: Path, limits: Limits = QUICK) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with the API on a unix socket."""
    async with (
        serving(yard, [UnixListener(folder / "api.sock")], limits),
        aiohttp.ClientSession("http://yard", connector=aiohttp.UnixConnector(str(folder / "api.sock"))) as session,
    ):
        yield session


def path_of(route: Route) -> str:
    return route.path.replace("{name}", "iris").replace("{token}", "ci").replace("{digest}", DIGEST)


async def call(session: aiohttp.ClientSession, route: Route, token: str = "") -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = BODIES.get(route.path, {}) if route.method == "POST" else None
    query = {"size": "5"} if route.method == "PUT" else {}
    async with session.request(route.method, path_of(route), json=body, params=query, headers=headers) as answer:
        assert answer.headers[VERSION_HEADER] == str(API_VERSION)
        return answer.status, await answer.read()


def names(route: Route) -> str:
    return f"{route.method} {route.path}"


@pytest.mark.parametrize("route", ROUTES, ids=names)
@pytest.mark.parametrize("token", ["", "wrong", "expired"])
async def test_a_stranger_is_refused_on_every_route_and_that_is_noted(
    yard: MemoryYard, short_path: Path, route: Route, token: str
) -> None:
    yard.unix_scope = None
    async with served(yard, short_path) as session:
        code, body = await call(session, route, token)
    assert code == 401
    assert json.loads(body)["error"]["remedy"]
    assert yard.asked == []
    assert [(one.actor, one.status, one.path) for one in yard.refusals] == [(None, 401, path_of(route))]
    assert "wrong" not in repr(yard.refusals)


@pytest.mark.parametrize("route", [one for one in ROUTES if one.scope is not Scope.VIEWER], ids=names)
async def test_too_small_a_scope_is_refused_on_every_route_and_that_is_noted(
    yard: MemoryYard, short_path: Path, route: Route
) -> None:
    below = [scope for scope in Scope if not scope.covers(route.scope)]
    async with served(yard, short_path) as session:
        for scope in below:
            code, body = await call(session, route, f"token-{scope}")
            assert code == 403
            assert str(route.scope) in json.loads(body)["error"]["what"]
    assert yard.asked == []
    assert [one.needed for one in yard.refusals] == [route.scope] * len(below)


@pytest.mark.parametrize("route", ROUTES, ids=names)
async def test_the_scope_that_a_route_needs_is_enough(yard: MemoryYard, short_path: Path, route: Route) -> None:
    async with served(yard, short_path) as session:
        code, body = await call(session, route, f"token-{route.scope}")
    assert code == 200, body
    assert yard.refusals == []


async def test_a_route_that_declares_no_scope_is_refused_to_everybody(yard: MemoryYard, short_path: Path) -> None:
    async def forgotten(request: web.Request) -> web.Response:
        return web.Response(text="secret")

    app = make_app(yard, Streams(QUICK), QUICK)
    app.router.add_get("/v1/forgotten", forgotten)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(short_path / "s")).start()
    async with aiohttp.ClientSession("http://yard", connector=aiohttp.UnixConnector(str(short_path / "s"))) as session:
        answer = await session.get("/v1/forgotten")
        assert (answer.status, "secret" in await answer.text()) == (403, False)
    await runner.cleanup()
    assert yard.refusals[0].needed is None


@pytest.mark.parametrize("query", ["since_s=9", "since_s=86401", "step_s=-1", "since_s=6h", "step=60"])
async def test_the_load_over_time_is_asked_for_within_what_is_kept(
    yard: MemoryYard, short_path: Path, query: str
) -> None:
    async with served(yard, short_path) as session:
        refused = await session.get(f"/v1/deployments/iris/load?{query}")
        assert (refused.status, query.partition("=")[0] in (await refused.json())["error"]["what"]) == (400, True)
        assert (await session.get("/v1/deployments/rose/load")).status == 404
        told = await (await session.get("/v1/deployments/iris/load")).json()
    assert yard.asked_of_history == (3600, 0)
    assert [step["p99_ms"] for step in told["steps"]] == [None, 4.25, None]


async def test_strangers_do_not_learn_which_routes_there_are(yard: MemoryYard, short_path: Path) -> None:
    yard.unix_scope = None
    async with served(yard, short_path) as session:
        assert (await session.get("/v1/nowhere")).status == 401
        yard.unix_scope = Scope.VIEWER
        answer = await session.get("/v1/nowhere")
        assert (answer.status, (await answer.json())["error"]["what"]) == (404, "the yard has no route /v1/nowhere")
        assert (await session.put("/v1/deployments")).status == 405


async def test_the_kernel_says_who_calls_on_the_unix_socket(yard: MemoryYard, short_path: Path) -> None:
    async with served(yard, short_path) as session:
        told = await (await session.get("/v1/yard")).json()
    assert told["you"] == f"uid {os.getuid()}"
    assert stat.S_IMODE((short_path).stat().st_mode) == 0o700


async def test_only_its_owner_can_use_the_socket_and_it_is_gone_afterwards(yard: MemoryYard, short_path: Path) -> None:
    place = short_path / "api.sock"
    async with served(yard, short_path):
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert not place.exists()


async def test_a_socket_that_a_killed_yard_left_is_taken_over_and_a_living_one_is_not(
    yard: MemoryYard, short_path: Path
) -> None:
    listener = UnixListener(short_path / "api.sock")
    async with serving(yard, [listener]):
        with pytest.raises(YardConflictError, match="answers at"):
            async with serving(yard, [listener]):
                pass
        left = short_path / "left"
        os.link(listener.path, left)
    left.rename(listener.path)
    async with serving(yard, [listener]) as addresses:
        assert addresses == (f"unix://{listener.path}",)


async def test_what_is_no_socket_is_left_alone(yard: MemoryYard, short_path: Path) -> None:
    (short_path / "api.sock").write_text("mine")
    with pytest.raises(YardError, match="no socket"):
        async with serving(yard, [UnixListener(short_path / "api.sock")]):
            pass
    assert (short_path / "api.sock").read_text() == "mine"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnknownInYardError("a", remedy="b", detail="c"), 404),
        (YardConflictError("rollout 3 is under way", remedy="b"), 409),
        (PolicyError("a", rule="signed", remedy="b"), 422),
        (ImageNotFoundError("a", remedy="b"), 422),
        (StoreError("the disk is full", remedy="b"), 503),
        (YardError("a"), 500),
    ],
)
async def test_errors_of_the_service_arrive_with_their_status_and_words(
    yard: MemoryYard, short_path: Path, error: YardError, code: int
) -> None:
    yard.failing = error
    async with served(yard, short_path) as session:
        answer = await session.post("/v1/deployments", json={"deployment": DEPLOYMENT})
        told = (await answer.json())["error"]
    assert (answer.status, told["what"], told["remedy"], told["detail"]) == (
        code,
        error.what,
        error.remedy,
        error.detail,
    )
    assert told["rule"] == getattr(error, "rule", "")


async def test_a_mistake_of_the_yard_tells_a_number_and_nothing_else(yard: MemoryYard, short_path: Path) -> None:
    yard.failing = RuntimeError("/secret/path")
    async with served(yard, short_path) as session:
        answer = await session.get("/v1/deployments")
        text = await answer.text()
    assert answer.status == 500
    assert "/secret/path" not in text


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/v1/deployments", {"deployment": {**DEPLOYMENT, "replica": 1}}, "unknown key `deployment.replica`"),
        ("/v1/deployments", {"deployment": {**DEPLOYMENT, "strategy": {"surge": 1}}}, "`deployment.strategy.surge`"),
        ("/v1/deployments", {"deployment": DEPLOYMENT, "forse": True}, "unknown key `forse`"),
        ("/v1/deployments", {"deployment": {**DEPLOYMENT, "name": "Up"}}, "`deployment.name`"),
        ("/v1/deployments", {"deployment": {**DEPLOYMENT, "secrets": {"a": "b"}}}, "secrets.a is 'b'"),
        ("/v1/deployments/iris/scale", {"replicas": -1}, "`replicas`"),
        ("/v1/deployments/iris/scale", {}, "`replicas` is missing"),
        ("/v1/deployments/iris/restart", {"now": 1}, "unknown key `now`"),
        ("/v1/deployments/Iris!/restart", {}, "is not a deployment's name"),
        ("/v1/tokens", {"name": "a", "scope": "root"}, "`scope`"),
    ],
)
async def test_what_is_wrong_with_a_body_is_told_with_its_path(
    yard: MemoryYard, short_path: Path, path: str, body: Any, told: str
) -> None:
    async with served(yard, short_path) as session:
        answer = await session.post(path, json=body)
        assert answer.status == 400
        assert told in (await answer.json())["error"]["what"]
    assert yard.asked == []


async def test_a_near_miss_is_suggested(yard: MemoryYard, short_path: Path) -> None:
    async with served(yard, short_path) as session:
        answer = await session.post("/v1/deployments", json={"deployment": {**DEPLOYMENT, "replicsa": 1}})
        assert (await answer.json())["error"]["remedy"] == "Did you mean `replicas`?"
        answer = await session.get("/v1/events?folow=true")
        assert (await answer.json())["error"]["remedy"] == "Did you mean `follow`?"


async def test_a_body_that_is_no_json_is_told(yard: MemoryYard, short_path: Path) -> None:
    async with served(yard, short_path) as session:
        answer = await session.post("/v1/deployments", data=b"{")
        assert (answer.status, "not JSON" in await answer.text()) == (400, True)


async def test_a_body_that_is_too_large_is_not_read_to_its_end(yard: MemoryYard, short_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(10_000):
            sent.append(1)
            yield b" " * 65536

    sent: list[int] = []
    async with served(yard, short_path) as session:
        try:
            answer = await session.post("/v1/deployments", data=endless())
            assert (answer.status, (await answer.json())["error"]["what"]) == (413, "the request is too large")
        except aiohttp.ClientConnectionError:
            pass  # it was hung up on before it had read the answer
        assert len(sent) < 5_000
        assert (await session.get("/v1/yard")).status == 200
    assert yard.asked == []


async def test_a_caller_who_sends_a_body_slowly_is_given_up(yard: MemoryYard, short_path: Path) -> None:
    async with served(yard, short_path):
        reader, writer = await asyncio.open_unix_connection(str(short_path / "api.sock"))
        writer.write(b"POST /v1/deployments HTTP/1.1\r\nHost: yard\r\nContent-Length: 100\r\n\r\n{")
        head = await asyncio.wait_for(reader.readline(), 5)
        assert b" 408 " in head
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert yard.asked == []


@pytest.mark.parametrize("sent", [b"", b"GET /v1/yard HTTP/1.1\r\nHost: y", b"\r\n"])
async def test_a_caller_who_says_nothing_whole_is_hung_up_on(yard: MemoryYard, short_path: Path, sent: bytes) -> None:
    async with served(yard, short_path):
        reader, writer = await asyncio.open_unix_connection(str(short_path / "api.sock"))
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_no_more_callers_than_the_limit_are_connected_and_the_next_is_let_in_again(
    yard: MemoryYard, short_path: Path
) -> None:
    async with served(yard, short_path, Limits(connections=2)):
        held = [await asyncio.open_unix_connection(str(short_path / "api.sock")) for _ in range(2)]
        await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_unix_connection(str(short_path / "api.sock"))
        assert await asyncio.wait_for(reader.read(), 5) == b""
        for _, each in (*held, (reader, writer)):
            each.close()
        await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_unix_connection(str(short_path / "api.sock"))
        writer.write(b"GET /v1/yard HTTP/1.1\r\nHost: yard\r\n\r\n")
        assert b" 200 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()


async def test_a_yard_that_is_too_slow_says_so(yard: MemoryYard, short_path: Path) -> None:
    yard.slow_s = 10
    async with served(yard, short_path) as session:
        answer = await session.get("/v1/deployments")
        assert (answer.status, "within 0.3 s" in await answer.text()) == (503, True)


async def test_another_version_of_the_api_is_told_which_side_is_older(yard: MemoryYard, short_path: Path) -> None:
    async with served(yard, short_path) as session:
        newer = await session.get("/v1/yard", headers={VERSION_HEADER: "99"})
        older = await session.get("/v1/yard", headers={VERSION_HEADER: "0"})
        assert (newer.status, "on the yard's host" in await newer.text()) == (400, True)
        assert (older.status, "where you call from" in await older.text()) == (400, True)


async def lines(answer: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    return [json.loads(line) async for line in answer.content]


async def test_a_rollout_is_told_line_by_line_with_an_end(yard: MemoryYard, short_path: Path) -> None:
    async with served(yard, short_path) as session:
        told = await lines(await session.get("/v1/deployments/iris/rollout"))
    assert [list(each) for each in told] == [["item"], ["item"], ["end"]]
    assert told[1]["item"]["receipt"]["dropped"] == 0


async def test_while_nothing_happens_a_follower_hears_heartbeats(yard: MemoryYard, short_path: Path) -> None:
    yard.endless, yard.event_list = True, [Event(number=1, at=NOW, kind="k", what="w")]
    async with served(yard, short_path) as session:
        answer = await session.get("/v1/events?follow=true")
        assert json.loads(await answer.content.readline())["item"]["number"] == 1
        for _ in range(2):
            assert list(json.loads(await asyncio.wait_for(answer.content.readline(), 5))) == ["beat"]
        answer.close()


async def test_a_follower_who_is_gone_is_noticed(yard: MemoryYard, short_path: Path) -> None:
    yard.endless = True
    async with served(yard, short_path) as session:
        answer = await session.get("/v1/events?follow=true")
        await answer.content.readline()
        answer.close()
        async with asyncio.timeout(5):
            while not yard.closed_streams:
                await asyncio.sleep(0.02)


async def test_a_follower_who_takes_nothing_is_dropped(yard: MemoryYard, short_path: Path) -> None:
    yard.endless = True
    yard.event_list = [Event(number=n, at=NOW, kind="k", what="w" * 50_000) for n in range(1, 200)]
    async with served(yard, short_path):
        _, writer = await asyncio.open_unix_connection(str(short_path / "api.sock"))
        writer.transport.pause_reading()
        writer.write(b"GET /v1/events?follow=true HTTP/1.1\r\nHost: yard\r\n\r\n")
        async with asyncio.timeout(10):
            while not yard.closed_streams:
                await asyncio.sleep(0.05)
        writer.close()


async def test_an_error_before_the_first_line_has_its_status_and_one_after_it_is_a_line(
    yard: MemoryYard, short_path: Path
) -> None:
    async with served(yard, short_path) as session:
        assert (await session.get("/v1/deployments/other/logs")).status == 404
        yard.breaking = StoreError("the disk is full", remedy="Free some.")
        told = await lines(await session.get("/v1/deployments/iris/logs?follow=true"))
    assert list(told[-1]) == ["error"]
    assert told[-1]["error"]["what"] == "the disk is full"


async def test_a_file_that_fails_in_the_middle_is_not_taken_for_whole(yard: MemoryYard, short_path: Path) -> None:
    yard.breaking = StoreError("the disk is full")
    async with served(yard, short_path) as session:
        for method, path in (("GET", "/v1/audit/export"), ("POST", "/v1/backup")):
            with pytest.raises(aiohttp.ClientError):
                await (await session.request(method, path)).read()


async def test_only_so_many_follow_at_a_time(yard: MemoryYard, short_path: Path) -> None:
    yard.endless = True
    async with served(yard, short_path, Limits(streams=1, beat_s=0.05)) as session:
        first = await session.get("/v1/events?follow=true")
        second = await session.get("/v1/events?follow=true")
        assert (first.status, second.status) == (200, 503)
        first.close()
        async with asyncio.timeout(5):
            while (again := await session.get("/v1/events?follow=true")).status != 200:
                await asyncio.sleep(0.05)
        again.close()


async def test_a_yard_that_stops_does_not_wait_for_its_followers(yard: MemoryYard, short_path: Path) -> None:
    yard.endless = True
    place = short_path / "api.sock"
    async with aiohttp.ClientSession("http://yard", connector=aiohttp.UnixConnector(str(place))) as session:
        async with asyncio.timeout(4):
            async with serving(yard, [UnixListener(place)], QUICK):
                answer = await session.get("/v1/events?follow=true")
                await answer.content.readline()
        with pytest.raises(aiohttp.ClientError):
            await answer.read()


async def test_metrics_are_prometheus_text(yard: MemoryYard, short_path: Path) -> None:
    async with served(yard, short_path) as session:
        answer = await session.get("/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert b"yard_up 1" in await answer.read()


@pytest.mark.parametrize(
    ("listen", "told"),
    [("nonsense", "HOST:PORT"), ("127.0.0.1:99999", "HOST:PORT"), ("127.0.0.1:0", "needs a certificate")],
)
def test_an_address_to_listen_on_that_is_wrong_is_told(listen: str, told: str) -> None:
    with pytest.raises(YardError, match=told):
        tcp_listener(listen)


def test_plain_tcp_is_for_loopback_only() -> None:
    assert tcp_listener("127.0.0.1:0", unsafe_plain=True) == TcpListener("127.0.0.1", 0, unsafe_plain=True)
    for host in ("0.0.0.0:1", "192.0.2.1:1", "example.org:1"):
        with pytest.raises(YardError, match="in the clear"):
            tcp_listener(host, unsafe_plain=True)


async def test_plain_tcp_elsewhere_is_refused_even_if_a_listener_says_so(yard: MemoryYard) -> None:
    with pytest.raises(YardError, match="without TLS"):
        async with serving(yard, [TcpListener("0.0.0.0", 0, unsafe_plain=True)]):
            pass


async def test_on_tcp_a_token_is_needed(yard: MemoryYard) -> None:
    async with (
        serving(yard, [TcpListener("127.0.0.1", 0, unsafe_plain=True)]) as (address,),
        aiohttp.ClientSession(address) as session,
    ):
        assert (await session.get("/v1/yard")).status == 401
        answer = await session.get("/v1/yard", headers={"Authorization": "Bearer token-viewer"})
        assert (await answer.json())["you"] == "token viewer"
