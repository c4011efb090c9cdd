"""A yard in another home, reached over TLS with a token: `dockyard deploy` sends what it lacks of an image."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from dockyard.build.builder import Built
from dockyard.cli.sending import offer_of
from dockyard.client import Client, YardAddress
from dockyard.errors import ForbiddenError, ImageError
from dockyard.oci.digest import Digest, digest_of
from dockyard.oci.layout import REF_NAME, Layout
from dockyard.oci.parcel import Parcel
from dockyard.spec.home import Home
from dockyard.spec.requests import BlobOffer
from tests.support.certificates import loopback_certificate
from tests.support.disks import small_disk
from tests.support.load import free_port
from tests.support.projects import PREDICTOR, CommandLine, build_in, write_adder
from tests.support.yards import RunningYard, running_yard, until

pytestmark = pytest.mark.slow

BODY = {"left": 1.0, "right": 2.0}
NOWHERE = {"DOCKER_HOST": "unix:///nowhere"}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Elsewhere:
    """A yard, and what another machine needs to speak to it."""

    yard: RunningYard
    url: str
    certificate: Path
    home: Home

    def token(self, scope: str) -> str:
        """A new token of this scope."""
        made = self.yard.line("token", "create", f"{scope}-{free_port()}", "--scope", scope, "--json")
        assert made.returncode == 0, made.stderr
        return str(json.loads(made.stdout)["secret"])

    def line(self, scope: str = "operator") -> CommandLine:
        """The command line of the other machine."""
        environment = {"DOCKYARD_YARD": self.url, "DOCKYARD_CA": str(self.certificate)}
        return CommandLine(self.home, {**environment, "DOCKYARD_TOKEN": self.token(scope)})

    def client(self, use: Callable[[Client], Awaitable[_T]], scope: str = "operator") -> _T:
        """Do something with a client on the other machine."""

        async def asked() -> _T:
            async with Client(YardAddress(self.url, self.token(scope), self.certificate)) as client:
                return await use(client)

        return asyncio.run(asyncio.wait_for(asked(), 60))

    @property
    def store(self) -> Layout:
        """The yard's image store."""
        return Layout.open(self.yard.home.images)

    def refused(self) -> list[str]:
        """Why blobs and images were refused, as the audit log says."""
        entries = self.yard.client(lambda client: client.audit(-20))
        return [each.why for each in entries if (each.action, each.outcome) == ("image.receive", "refused")]


@pytest.fixture
def elsewhere(home: Home, adder: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    """A yard on runc whose store is empty; the adder is in the other home."""
    folder = tmp_path_factory.mktemp("ye")
    certificate, key = loopback_certificate(folder)
    port = free_port()
    options = ("--listen", f"127.0.0.1:{port}", "--tls-cert", str(certificate), "--tls-key", str(key))
    with running_yard(Home(folder / "h"), NOWHERE, *options) as yard:
        yield Elsewhere(yard, f"https://127.0.0.1:{port}", certificate, home)
    shutil.rmtree(folder, ignore_errors=True)


async def bytes_of(data: bytes) -> AsyncIterator[bytes]:
    yield data


def parcel(elsewhere: Elsewhere, adder: Built) -> Parcel:
    return Parcel.of(Layout.open(elsewhere.home.images), adder.image.digest)


def test_an_image_is_sent_once_and_then_only_what_changed(elsewhere: Elsewhere, adder: Built, tmp_path: Path) -> None:
    remote = elsewhere.line()
    first = remote("deploy", "adder:1", "--why", "from afar")
    assert first.returncode == 0, first.stderr
    assert f"sending adder:1 to {elsewhere.url}" in first.stderr
    assert elsewhere.yard.ask("/models/adder/predict", BODY, 30) == (200, 3.5)
    again = remote("deploy", "adder:1", "-e", "ROUND=2")
    assert (again.returncode, "sending" in again.stderr) == (0, False), again.stderr
    changed = write_adder(tmp_path / "adder", predictor=PREDICTOR.replace("0.5", "1.5"))
    (changed / "goldens" / "one.json").unlink()
    build_in(changed, elsewhere.home, "adder:2")
    updated = remote("deploy", "adder:2", "--name", "adder")
    assert updated.returncode == 0, updated.stderr
    sent = next(line for line in updated.stderr.splitlines() if line.startswith("sending"))
    lacking, _, whole = sent.partition(" blobs")[0].rpartition(" of ")
    assert int(lacking.rpartition(" ")[2]) < int(whole)
    assert elsewhere.yard.ask("/models/adder/predict", BODY, 30) == (200, 4.5)
    entries = elsewhere.yard.client(lambda client: client.audit(-30))
    received = [each for each in entries if each.action == "image.receive"]
    assert [(each.target, each.why) for each in received] == [("adder:1", "from afar"), ("adder:2", "")]
    assert all(each.who.startswith("token operator") for each in received)
    assert "adder:1" not in {named.name for named in elsewhere.store.images()}


def test_a_rollback_to_a_revision_whose_image_is_gone_says_so(elsewhere: Elsewhere) -> None:
    remote = elsewhere.line()
    for number in (1, 2):
        assert remote("deploy", "adder:1", "-e", f"ROUND={number}").returncode == 0
    image = elsewhere.yard.status("adder").image
    names = [entry.annotations[REF_NAME] for entry in elsewhere.store.entries() if REF_NAME in entry.annotations]
    assert names
    for name in names:
        elsewhere.store.remove(name)
    elsewhere.store.sweep(age=0)
    gone = remote("rollback", "adder", "1")
    assert gone.returncode == 1
    told = " ".join(gone.stderr.split())
    assert f"the image of revision 1 of adder is not kept any more: {image}" in told, gone.stderr
    again = remote("deploy", "adder:1", "-e", "ROUND=3")
    assert (again.returncode, "sending" in again.stderr) == (0, True), again.stderr


def test_the_yard_of_this_home_is_sent_nothing(home: Home, adder: Built) -> None:
    with running_yard(home, NOWHERE) as yard:
        deployed = yard.line("deploy", "adder:1")
        assert (deployed.returncode, "sending" in deployed.stderr) == (0, False), deployed.stderr
        assert not [each for each in yard.client(lambda client: client.audit(-30)) if each.action == "image.receive"]


def test_signatures_go_along_so_that_a_policy_can_hold(elsewhere: Elsewhere) -> None:
    own, theirs = CommandLine(elsewhere.home), elsewhere.yard.home
    theirs.policy.write_text("[signed]\nrequired = true\n")
    remote = elsewhere.line()
    try:
        assert own("keygen", "--unencrypted").returncode == 0
        trusted = theirs.keys / "trusted"
        trusted.mkdir(parents=True)
        for key in elsewhere.home.keys.glob("*.pub"):
            shutil.copy(key, trusted)
        refused = remote("deploy", "adder:1")
        assert (refused.returncode, "rule `signed`" in refused.stderr) == (1, True), refused.stderr
        assert own("sign", "adder:1").returncode == 0
        deployed = remote("deploy", "adder:1")
        assert deployed.returncode == 0, deployed.stderr
    finally:
        shutil.rmtree(elsewhere.home.keys, ignore_errors=True)


def test_a_viewer_sends_nothing(elsewhere: Elsewhere, adder: Built) -> None:
    denied = elsewhere.line("viewer")("deploy", "adder:1")
    assert (denied.returncode, "operator" in denied.stderr) == (1, True)
    data = b"anything"
    blob = BlobOffer(digest=digest_of(data), size=len(data))
    with pytest.raises(ForbiddenError):
        elsewhere.client(lambda client: client.send_blob(blob, bytes_of(data)), "viewer")
    assert list(elsewhere.store.blobs) == []


def test_a_connection_that_breaks_in_the_middle_leaves_nothing(elsewhere: Elsewhere) -> None:
    data = b"a" * (8 << 20)
    digest = Digest("sha256:" + hashlib.sha256(data).hexdigest())
    context = ssl.create_default_context(cafile=str(elsewhere.certificate))
    port = int(elsewhere.url.rpartition(":")[2])
    head = (
        f"PUT /v1/images/blobs/{digest}?size={len(data)} HTTP/1.1\r\nHost: yard\r\n"
        f"Authorization: Bearer {elsewhere.token('operator')}\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    partials = elsewhere.store.blobs.partials
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(head.encode() + data[: 4 << 20])
        until(lambda: any(partials.iterdir()), "nothing arrives")
    until(lambda: not any(partials.iterdir()), "half a blob is left")
    assert list(elsewhere.store.blobs) == []
    blob = BlobOffer(digest=digest, size=len(data))
    assert elsewhere.client(lambda client: client.send_blob(blob, bytes_of(data))).size == len(data)
    assert list(elsewhere.store.blobs) == [digest]


@pytest.mark.parametrize(
    ("sent", "size", "told"),
    [(b"other", 5, "have digest"), (b"hell", 5, "4 bytes came"), (b"hello!", 5, "more than the 5 bytes")],
)
def test_what_is_not_what_was_announced_is_refused(elsewhere: Elsewhere, sent: bytes, size: int, told: str) -> None:
    blob = BlobOffer(digest=digest_of(b"hello"), size=size)
    with pytest.raises(ImageError, match=told):
        elsewhere.client(lambda client: client.send_blob(blob, bytes_of(sent)))
    assert list(elsewhere.store.blobs) == []
    assert [told in why for why in elsewhere.refused()] == [True]


def test_an_image_gets_no_name_before_it_is_whole(elsewhere: Elsewhere, adder: Built) -> None:
    offer = offer_of(parcel(elsewhere, adder), "adder:1")
    with pytest.raises(ImageError, match="has not arrived"):
        elsewhere.client(lambda client: client.send_image(offer))
    assert elsewhere.store.entries() == []


def test_more_than_an_image_may_have_is_refused_before_a_byte_is_sent(elsewhere: Elsewhere, adder: Built) -> None:
    offer = offer_of(parcel(elsewhere, adder), "adder:1")
    huge = tuple(BlobOffer(digest=digest_of(bytes([number])), size=200 << 30) for number in range(2))
    with pytest.raises(ImageError, match="a yard takes at most"):
        elsewhere.client(lambda client: client.image_wanted(msgspec.structs.replace(offer, blobs=huge)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_what_does_not_fit_on_the_disk_is_refused_before_a_byte_is_sent(elsewhere: Elsewhere) -> None:
    place = elsewhere.yard.home.images
    with small_disk(place, "66m"):
        Layout.create(place)
        refused = elsewhere.line()("deploy", "adder:1")
        assert refused.returncode == 1
        told = " ".join(refused.stderr.split())
        assert f"the disk that holds {place} on the yard's host has" in told, refused.stderr
        assert "dockyard gc" in told
        assert list(Layout.open(place).blobs) == []
