"""The typed client against the real API: nouns arrive whole, errors as they were raised, nothing is glossed over."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dockyard import errors
from dockyard.client import Client, Patience, YardAddress
from dockyard.errors import (
    DockyardError,
    ForbiddenError,
    PolicyError,
    StoreError,
    UnauthenticatedError,
    UnknownInYardError,
    YardBusyError,
    YardConflictError,
    YardError,
    YardGoneError,
    YardNotFoundError,
    YardVersionError,
)
from dockyard.spec.deployment import Deployment
from dockyard.spec.failures import _STATUSES, error_of, failure_of
from dockyard.spec.requests import TokenRequest
from dockyard.spec.status import Event, Scope
from dockyard.yard import api_access
from dockyard.yard.api import serving
from dockyard.yard.api_listen import TcpListener, UnixListener, tcp_listener
from dockyard.yard.api_streams import Limits
from tests.support.memory_yard import NOW, MemoryYard, receipt, status, update

DEPLOYMENT = Deployment(name="iris", image=f"iris@sha256:{'ab' * 32}", replicas=2)


@pytest.fixture
def yard() -> MemoryYard:
    return MemoryYard(names={"iris": status()}, updates=[update("starting"), update("done", 1.0, receipt=receipt())])


@asynccontextmanager
async def client_of(yard: MemoryYard, folder: Path, patience: Patience | None = None) -> AsyncIterator[Client]:
    place = folder / "api.sock"
    async with (
        serving(yard, [UnixListener(place)], Limits(beat_s=0.05)),
        Client(YardAddress(f"unix://{place}"), patience) as client,
    ):
        yield client


async def test_nouns_arrive_as_the_yard_told_them(yard: MemoryYard, short_path: Path) -> None:
    async with client_of(yard, short_path) as client:
        assert await client.status("iris") == yard.names["iris"]
        assert await client.deployments() == (yard.names["iris"],)
        assert await client.history("iris") == yard.names["iris"].revisions
        assert await client.top() == await yard.top()
        assert await client.load_history("iris", since_s=7200, step_s=60) == await yard.load_history("iris", 7200, 60)
        assert yard.asked_of_history == (7200, 60)
        assert [one async for one in client.rollout("iris")] == yard.updates
        assert (await client.info()).scope is Scope.ADMIN
        assert await client.metrics() == await yard.metrics()


async def test_what_is_asked_arrives_as_it_was_said(yard: MemoryYard, short_path: Path) -> None:
    async with client_of(yard, short_path) as client:
        proposal = await client.deploy(DEPLOYMENT, why="new weights", dry_run=True)
        assert (proposal.dry_run, proposal.rollout) == (True, None)
        (kind, (deployment, cause, dry_run)), *_ = yard.asked
        assert (kind, deployment, cause.why, dry_run) == ("deploy", DEPLOYMENT, "new weights", True)
        for verb in ("restart", "promote", "abort", "delete"):
            await getattr(client, verb)("iris", why="because & so")
            assert (yard.asked[-1][0], yard.asked[-1][1][1].why) == (verb, "because & so")


async def test_tokens_audit_and_backup(yard: MemoryYard, short_path: Path) -> None:
    async with client_of(yard, short_path) as client:
        made = await client.create_token(TokenRequest(name="ci", scope=Scope.OPERATOR))
        assert made.secret == "dyt_secret"
        assert "dyt_secret" not in repr(made)
        assert (await client.revoke_token("ci")).revoked == NOW
        assert (await client.audit(-5, 7))[0].why == "-5 7"
        assert b"".join([part async for part in client.export_audit()]).endswith(b"the end\n")
        assert b"".join([part async for part in client.backup(images=False)]).endswith(b'{"images": false}')


async def test_a_backup_may_take_longer_to_prepare_than_a_yard_may_be_silent(
    yard: MemoryYard, short_path: Path
) -> None:
    yard.slow_s = 1.0
    async with client_of(yard, short_path, Patience(silence=0.3)) as client:
        assert len(b"".join([part async for part in client.backup()])) > 100_000


async def test_a_backup_that_is_never_prepared_is_given_up(yard: MemoryYard, short_path: Path) -> None:
    yard.slow_s = 1.0
    async with client_of(yard, short_path, Patience(preparing=0.3)) as client:
        with pytest.raises(YardGoneError, match=r"for 0\.3 s"):
            await anext(client.backup())


async def test_a_backup_that_fails_late_says_why(yard: MemoryYard, short_path: Path) -> None:
    yard.slow_s, yard.failing = 0.5, StoreError("the disk is full", remedy="Free some space.")
    async with client_of(yard, short_path) as client:
        with pytest.raises(StoreError, match="the disk is full"):
            await anext(client.backup())


async def test_a_file_that_stops_coming_is_given_up(short_path: Path) -> None:
    over = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nDockyard-Api: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        over.set()

    server = await asyncio.start_unix_server(silent, short_path / "api.sock")
    address = YardAddress(f"unix://{short_path / 'api.sock'}")
    async with server:
        async with Client(address, Patience(silence=0.2)) as client, aclosing(client.backup()) as parts:
            assert await anext(parts) == b"x"
            with pytest.raises(YardGoneError, match=r"for 0\.2 s"):
                await anext(parts)
        await asyncio.wait_for(over.wait(), 5)


@pytest.mark.parametrize("kind", [kind for kind, _ in _STATUSES], ids=lambda kind: kind.__name__)
def test_an_error_survives_the_way_through_the_api(kind: type[DockyardError]) -> None:
    words = {"remedy": "b", "detail": "c"} | ({"rule": "signed"} if kind is PolicyError else {})
    error = kind("a", **words)
    again = error_of(*failure_of(error))
    assert (type(again), again.what, again.remedy, again.detail) == (kind, "a", "b", "c")
    assert getattr(again, "rule", "") == words.get("rule", "")


def test_every_error_has_a_status() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DockyardError)]
    for kind in kinds:
        status_code, _ = failure_of(kind("a", rule="r") if kind is PolicyError else kind("a"))
        assert 400 <= status_code < 600


async def test_two_deploys_at_once_are_told_which_one_runs(yard: MemoryYard, short_path: Path) -> None:
    yard.failing = YardConflictError("rollout 3 to revision 5 is under way", remedy="Wait, or abort it.")
    async with client_of(yard, short_path) as client:
        with pytest.raises(YardConflictError, match="rollout 3") as caught:
            await client.deploy(DEPLOYMENT)
    assert caught.value.remedy == "Wait, or abort it."


async def test_unknown_names_are_told(yard: MemoryYard, short_path: Path) -> None:
    async with client_of(yard, short_path) as client:
        with pytest.raises(UnknownInYardError, match="'rose'"):
            await client.status("rose")
        with pytest.raises(UnknownInYardError, match="'rose'"):
            async for _ in client.logs("rose"):
                pass
        with pytest.raises(UnknownInYardError, match="revision 9"):
            await client.rollback("iris", 9)


async def test_an_error_in_the_middle_of_a_follow_is_raised(yard: MemoryYard, short_path: Path) -> None:
    yard.breaking = YardBusyError("the engine is gone", remedy="Start it.")
    async with client_of(yard, short_path) as client:
        with pytest.raises(YardBusyError, match="engine is gone"):
            async for _ in client.events(follow=True):
                pass


async def test_a_file_that_breaks_off_is_told(yard: MemoryYard, short_path: Path) -> None:
    yard.breaking = YardBusyError("x")
    async with client_of(yard, short_path) as client:
        with pytest.raises(YardGoneError):
            async for _ in client.backup():
                pass


async def test_a_yard_that_goes_in_the_middle_of_a_follow_is_told(yard: MemoryYard, short_path: Path) -> None:
    yard.endless, yard.event_list = True, [Event(number=1, at=NOW, kind="k", what="w")]
    place = short_path / "api.sock"
    async with Client(YardAddress(f"unix://{place}")) as client, aclosing(client.events(follow=True)) as events:
        async with serving(yard, [UnixListener(place)], Limits(beat_s=0.05)):
            assert (await anext(events)).number == 1
        with pytest.raises(YardGoneError) as caught:
            await anext(events)
    assert "dockyard status" in caught.value.remedy


async def test_a_yard_that_falls_silent_is_given_up(short_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nDockyard-Api: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
        await reader.read()
        writer.close()

    place = short_path / "api.sock"
    server = await asyncio.start_unix_server(silent, place)
    async with server, Client(YardAddress(f"unix://{place}"), Patience(silence=0.2)) as client:
        with pytest.raises(YardGoneError, match=r"for 0\.2 s"):
            async for _ in client.events(follow=True):
                pass
    await asyncio.sleep(0.05)  # the stand-in hears that its caller has gone


async def test_heartbeats_keep_a_quiet_follow_alive(yard: MemoryYard, short_path: Path) -> None:
    yard.endless = True
    async with (
        client_of(yard, short_path, Patience(silence=0.3)) as client,
        aclosing(client.events(follow=True)) as all_,
    ):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await anext(all_)


async def test_without_a_yard_one_is_told_how_to_start_one(short_path: Path) -> None:
    (short_path / "dead").touch()
    for url in (f"unix://{short_path}/none", f"unix://{short_path}/dead", "http://127.0.0.1:9"):
        async with Client(YardAddress(url)) as client:
            with pytest.raises(YardNotFoundError, match="no yard answers") as caught:
                await client.info()
            assert "dockyard up" in caught.value.remedy


async def test_what_answers_and_is_no_yard_is_told(short_path: Path) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_unix_server(other, short_path / "s")
    async with server, Client(YardAddress(f"unix://{short_path}/s")) as client:
        with pytest.raises(YardNotFoundError, match="is no yard"):
            await client.info()


@pytest.mark.parametrize(("said", "mend"), [("99", "Upgrade Dockyard here"), ("0", "on the yard's host")])
async def test_a_yard_of_another_version_is_told(
    yard: MemoryYard, short_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, mend: str
) -> None:
    monkeypatch.setitem(api_access.HEADERS, "Dockyard-Api", said)
    async with client_of(yard, short_path) as client:
        with pytest.raises(YardVersionError) as caught:
            await client.deployments()
    assert mend in caught.value.remedy


def test_an_address_comes_from_the_environment(tmp_path: Path) -> None:
    own = YardAddress.of({"DOCKYARD_HOME": str(tmp_path)})
    assert own.url == f"unix://{tmp_path}/yard/api.sock"
    token = tmp_path / "token"
    token.write_text("dyt_x\n")
    token.chmod(0o600)
    away = YardAddress.of({"DOCKYARD_YARD": "https://h:1", "DOCKYARD_TOKEN_FILE": str(token), "DOCKYARD_CA": "/ca"})
    assert (away.url, away.token, away.ca, away.base) == ("https://h:1", "dyt_x", Path("/ca"), "https://h:1")
    assert "dyt_x" not in repr(away)
    token.chmod(0o640)
    with pytest.raises(YardError, match="read by others"):
        YardAddress.of({"DOCKYARD_TOKEN_FILE": str(token)})


@pytest.mark.parametrize("url", ["http://192.0.2.1:1", "http://example.org", "ftp://x", "yard", "https://"])
def test_a_token_is_never_sent_in_the_clear(url: str) -> None:
    with pytest.raises(YardError, match="no address of a yard"):
        Client(YardAddress(url))


@dataclass(frozen=True)
class Certificate:
    """Files of a certificate that signed itself for 127.0.0.1."""

    certificate: Path
    key: Path


@pytest.fixture
def own_ca(tmp_path: Path) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "yard")])
    today = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = Certificate(tmp_path / "tls.pem", tmp_path / "tls.key")
    files.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


async def test_over_tls_with_a_private_ca_and_a_token(yard: MemoryYard, own_ca: Certificate) -> None:
    listener = tcp_listener("127.0.0.1:0", own_ca.certificate, own_ca.key)
    async with serving(yard, [listener]) as (url,):
        assert url.startswith("https://127.0.0.1:")
        async with Client(YardAddress(url, "token-operator", own_ca.certificate)) as client:
            assert (await client.info()).you == "token operator"
            with pytest.raises(ForbiddenError, match="admin"):
                await client.tokens()
        async with Client(YardAddress(url, "expired", own_ca.certificate)) as client:
            with pytest.raises(UnauthenticatedError, match="expired"):
                await client.info()
        async with Client(YardAddress(url, "token-operator")) as client:
            with pytest.raises(UnauthenticatedError, match="not trusted") as caught:
                await client.info()
            assert "DOCKYARD_CA" in caught.value.remedy


async def test_old_versions_of_tls_are_refused(yard: MemoryYard, own_ca: Certificate) -> None:
    async with serving(yard, [tcp_listener("127.0.0.1:0", own_ca.certificate, own_ca.key)]) as (url,):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]), ssl=context)


async def test_a_key_that_does_not_fit_is_told(yard: MemoryYard, own_ca: Certificate, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_text("no certificate")
    with pytest.raises(YardError, match="cannot be used for TLS"):
        async with serving(yard, [TcpListener("127.0.0.1", 0, other, own_ca.key)]):
            pass
    with pytest.raises(YardError, match="no certificate that can be read"):
        async with Client(YardAddress("https://127.0.0.1:1", ca=other)):
            pass
