"""Which request reaches which deployment and revision, under which path, and what callers are told otherwise."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import grpc
import pytest

from dockyard.gateway.envoy import EnvoyGateway
from dockyard.gateway.snapshot import Endpoint, Service, Snapshot, TcpAddress, UnixAddress
from tests.berth.support import predictor, serving
from tests.gateway.support import Replica, ask, raw, replicas, service, snapshot

FORMS = [
    "/v2/models/{}",
    "/v2/models/{}/infer",
    "/v2/models/{}/versions/1/infer",
    "/v1/models/{}",
    "/v1/models/{}:predict",
    "/v1/models/{}/versions/1:predict",
    "/predictions/{}",
    "/predictions/{}/1.0",
]
STRIPPED = [("/models/iris/predict?a=1", "/predict?a=1"), ("/models/iris/", "/"), ("/models/iris", "/")]


async def _path(gateway: EnvoyGateway, path: str, **headers: str) -> str:
    answer = await ask(gateway.address, path, **headers)
    assert answer.status == 200, answer
    return str(answer.json["path"])


@pytest.mark.parametrize("model", ["", "iris", "clf v2/x"])
async def test_every_protocols_path_reaches_the_deployment_with_the_models_own_name(
    gateway: EnvoyGateway, short_path: Path, model: str
) -> None:
    async with replicas(short_path, "a") as made:
        await gateway.apply(snapshot(service("iris", *made, model=model), service("other")))
        inside = {"": "iris", "clf v2/x": "clf%20v2%2Fx"}.get(model, model)
        for form in FORMS:
            assert await _path(gateway, form.format("iris")) == form.format(inside)
        for asked, seen in STRIPPED:
            assert await _path(gateway, asked) == seen


async def test_a_host_of_the_deployment_gets_every_path_as_it_is(gateway: EnvoyGateway, short_path: Path) -> None:
    hosts = ("iris.example.com", "*.iris.example.com")
    async with replicas(short_path, "a") as made:
        await gateway.apply(snapshot(service("iris", *made, hosts=hosts)))
        for host in ("iris.localhost", "IRIS.localhost:8080", "iris.example.com", "eu.iris.example.com:1"):
            assert await _path(gateway, "/any/thing?x=/v2/models/iris", host=host) == "/any/thing?x=/v2/models/iris"
            assert await _path(gateway, "/healthz", host=host) == "/healthz"


async def test_the_name_in_a_path_is_renamed_under_a_host_too(gateway: EnvoyGateway, short_path: Path) -> None:
    async with replicas(short_path, "a") as made:
        await gateway.apply(snapshot(service("iris", *made, model="clf")))
        assert await _path(gateway, "/v2/models/iris/infer", host="iris.localhost") == "/v2/models/clf/infer"
        assert await _path(gateway, "/v2/models/clf/infer", host="iris.localhost") == "/v2/models/clf/infer"


@pytest.mark.parametrize(
    "path", ["/", "/v2/models/iris2/infer", "/v2/models/iri", "/v1/models/irisx:predict", "/models/irisx/predict"]
)
async def test_an_unknown_model_is_404_in_json_that_says_what_to_do(
    gateway: EnvoyGateway, short_path: Path, path: str
) -> None:
    async with replicas(short_path, "a") as made:
        await gateway.apply(snapshot(service("iris", *made)))
        answer = await ask(gateway.address, path, x_request_id="mine-1")
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/json"
    assert "dockyard status" in answer.json["error"]
    assert answer.json["request_id"] == answer.headers["x-request-id"] == "mine-1"


async def test_without_a_ready_endpoint_it_is_503_in_json_and_says_when_to_come_back(gateway: EnvoyGateway) -> None:
    nowhere = Service(name="new", weights={}, endpoints={})
    await gateway.apply(snapshot(service("iris"), nowhere))
    for name in ("iris", "new"):
        answer = await ask(gateway.address, f"/v2/models/{name}/infer", "POST", b"{}")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "dockyard status" in answer.json["error"]


async def test_an_endpoint_that_nobody_listens_on_is_503_in_json(gateway: EnvoyGateway, short_path: Path) -> None:
    gone = Replica("gone", short_path / "gone.sock")
    await gateway.apply(snapshot(service("iris", gone)))
    answer = await ask(gateway.address, "/v2/models/iris/infer", "POST", b"{}")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert "deployment iris could be reached" in answer.json["error"]


async def test_the_preview_is_reached_by_header_and_host_and_nobody_else_gets_it(
    gateway: EnvoyGateway, short_path: Path
) -> None:
    async with replicas(short_path, "old", "new") as (old, new):
        endpoints = {1: (old.endpoint,), 2: (new.endpoint,)}
        iris = Service(name="iris", weights={1: 1}, endpoints=endpoints, preview=2)
        await gateway.apply(snapshot(iris))
        path = "/v2/models/iris/infer"
        answers = [
            await ask(gateway.address, path, x_dockyard_preview="iris"),
            await ask(gateway.address, "/x", host="preview.iris.localhost"),
            await ask(gateway.address, "/x", host="iris.localhost", x_dockyard_preview="iris"),
            await ask(gateway.address, "/models/iris/x", x_dockyard_preview="iris"),
        ]
        live = [await ask(gateway.address, path), await ask(gateway.address, "/x", host="iris.localhost")]
    assert [answer.headers["x-dockyard-revision"] for answer in answers] == ["2"] * 4
    assert [answer.headers["x-dockyard-revision"] for answer in live] == ["1"] * 2


async def test_who_asks_for_a_preview_that_is_not_there_never_gets_the_live_one(
    gateway: EnvoyGateway, short_path: Path
) -> None:
    async with replicas(short_path, "a") as made:
        await gateway.apply(snapshot(service("iris", *made)))
        answers = [
            await ask(gateway.address, "/v2/models/iris/infer", x_dockyard_preview="iris"),
            await ask(gateway.address, "/v2/models/iris/infer", host="preview.iris.localhost"),
            await ask(gateway.address, "/x", host="iris.localhost", x_dockyard_preview="iris"),
        ]
    assert [answer.status for answer in answers] == [404] * 3
    assert made[0].seen == []


async def test_weights_share_the_traffic_between_revisions(gateway: EnvoyGateway, short_path: Path) -> None:
    async with replicas(short_path, "old", "new") as (old, new):
        endpoints = {1: (old.endpoint,), 2: (new.endpoint,)}
        await gateway.apply(snapshot(Service(name="iris", weights={1: 3, 2: 1}, endpoints=endpoints)))
        for _ in range(200):
            assert (await ask(gateway.address, "/predictions/iris")).status == 200
    assert 20 < len(new.seen) < 90, len(new.seen)  # 50 expected; outside by chance once in ten million


async def test_a_pool_of_revisions_says_which_of_them_answered_and_keeps_the_preview_out(
    gateway: EnvoyGateway, short_path: Path
) -> None:
    async with replicas(short_path, "old", "new", "hidden") as (old, new, hidden):
        endpoints = {1: (old.endpoint,), 2: (new.endpoint,), 3: (hidden.endpoint,)}
        iris = Service(name="iris", weights={1: 1, 2: 1, 3: 0}, endpoints=endpoints, preview=3, pooled=True)
        await gateway.apply(snapshot(iris))
        answers = [await ask(gateway.address, "/predictions/iris") for _ in range(60)]
        preview = await ask(gateway.address, "/predictions/iris", x_dockyard_preview="iris")
    revisions = {"old": "1", "new": "2"}
    assert {answer.json["replica"] for answer in answers} == set(revisions)
    for answer in answers:
        assert answer.headers["x-dockyard-revision"] == revisions[answer.json["replica"]]
    assert (preview.json["replica"], preview.headers["x-dockyard-revision"]) == ("hidden", "3")


async def test_the_request_id_of_the_caller_is_kept_and_one_is_made_where_none_came(
    gateway: EnvoyGateway, short_path: Path
) -> None:
    async with replicas(short_path, "a") as made:
        await gateway.apply(snapshot(service("iris", *made)))
        kept = await ask(gateway.address, "/predictions/iris", x_request_id="abc")
        new = await ask(gateway.address, "/predictions/iris")
    assert kept.headers["x-request-id"] == kept.json["headers"]["x-request-id"] == "abc"
    assert new.headers["x-request-id"] == new.json["headers"]["x-request-id"]
    assert len(new.headers["x-request-id"]) == 36


async def test_answers_do_not_tell_which_software_serves(gateway: EnvoyGateway, short_path: Path) -> None:
    async with replicas(short_path, "a") as made:
        await gateway.apply(snapshot(service("iris", *made), service("none")))
        for path in ("/predictions/iris", "/healthz", "/nothing", "/predictions/none"):
            answer = await ask(gateway.address, path)
            assert not [name for name in answer.headers if name == "server" or "envoy" in name], answer


async def test_the_gateway_itself_is_healthy(gateway: EnvoyGateway) -> None:
    answer = await ask(gateway.address, "/healthz")
    assert (answer.status, answer.body) == (200, b"ok")


async def test_a_server_on_tcp_that_speaks_only_http_1_is_asked_so(gateway: EnvoyGateway, short_path: Path) -> None:
    async with replicas(short_path, "a") as made:
        server = await asyncio.start_server(made[0]._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        endpoint = Endpoint("tcp", TcpAddress("127.0.0.1", port))
        await gateway.apply(snapshot(Service(name="iris", weights={1: 1}, endpoints={1: (endpoint,)}, http2=False)))
        assert await _path(gateway, "/models/iris/x") == "/x"
        answer = await raw(gateway.address, _h2_get("/models/iris/y"))
        server.close()
    assert made[0].seen == ["GET /x HTTP/1.1", "GET /y HTTP/1.1"]
    assert b"tcp" not in answer[:9]


async def test_berth_answers_http_and_grpc_through_the_gateway(gateway: EnvoyGateway) -> None:
    with serving(**predictor("Echo", MODEL_NAME="clf")) as berth:
        endpoint = Endpoint("berth", UnixAddress(berth.socket_path))
        iris = Service(name="iris", weights={1: 1}, endpoints={1: (endpoint,)}, model="clf")
        await gateway.apply(Snapshot(services=(iris, service("other"))))
        ready = await ask(gateway.address, "/v2/models/iris/ready")
        assert (ready.status, ready.json["name"]) == (200, "clf")
        place = gateway.address.removeprefix("http://")
        assert await _ready(place, [("model-name", "iris")]) == b"\x08\x01"
        assert await _ready(place, [], ("grpc.default_authority", "iris.localhost")) == b"\x08\x01"
        for name in (b"iris", b"clf"):  # the deployment's name, which paths have too, and the model's own
            assert await _ready(place, [("model-name", "iris")], model=name) == b"\x08\x01"
        with pytest.raises(grpc.aio.AioRpcError, match="no model 'rose'; this server has 'clf'"):
            await _ready(place, [("model-name", "iris")], model=b"rose")
        with pytest.raises(grpc.aio.AioRpcError) as nowhere:
            await _ready(place, [("model-name", "nothing")])
        with pytest.raises(grpc.aio.AioRpcError) as nobody:
            await _ready(place, [("model-name", "other")])
    assert nowhere.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert nobody.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "dockyard status" in json.loads(str(nobody.value.details()))["error"]


async def _ready(
    place: str, metadata: list[tuple[str, str]], *options: tuple[str, str], model: bytes = b"clf"
) -> bytes:
    """`ModelReady` of a model, as bytes: field 1, text."""
    async with grpc.aio.insecure_channel(place, options=options) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelReady")
        return bytes(await call(b"\x0a" + bytes([len(model)]) + model, metadata=metadata, timeout=10))


def _h2_get(path: str) -> bytes:
    """A GET as HTTP/2 without a TLS: preface, settings, one frame of headers in plain literals."""
    fields = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "a")]
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields
    )
    settings_frame = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    headers_frame = len(block).to_bytes(3, "big") + b"\x01\x05\x00\x00\x00\x01" + block
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings_frame + headers_frame
