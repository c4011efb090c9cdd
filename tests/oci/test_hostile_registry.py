"""Against a registry that fails, lies or sends us elsewhere."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dockyard.errors import RegistryError
from dockyard.oci.auth import Anonymous, Credentials
from dockyard.oci.layout import Layout
from dockyard.oci.registry import Patience, Reference, Registry, TransientError
from tests.oci.samples import sample_image

QUICK = Patience(attempts=3, pause=0.01, silence=2, deadline=20)
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Answer:
    def __init__(self, status=200, body=b"", length=None, **headers):
        self.status, self.body, self.length = status, body, len(body) if length is None else length
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Hostile:
    """A server whose answers a test decides on: `answer(method, path, headers)`."""

    def __init__(self):
        self.answer: Callable[..., Answer] = lambda *_: Answer(404)
        self.seen: list[tuple[str, str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self):
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.seen.append((self.command, self.path, self.headers.get("Authorization")))
                answer = outer.answer(self.command, self.path, self.headers)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(answer.length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)
                if answer.length != len(answer.body):
                    self.close_connection = True

            do_GET = do_HEAD = do_POST = do_PUT = _serve

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def hostile():
    server = Hostile()
    yield server
    server.close()


@pytest.fixture
def elsewhere():
    server = Hostile()
    yield server
    server.close()


@pytest.fixture
def served(layout):
    """An image, and the answers of an honest registry that has it."""
    image = sample_image(layout)

    def honest(method, path, headers):
        digest = path.rpartition("/")[2]
        if "/manifests/" in path:
            return Answer(200, layout.blobs.read(image.digest), Content_Type=MANIFEST)
        return Answer(200, layout.blobs.path(digest).read_bytes())

    return image, honest


class Ada:
    def find(self, registry):
        return Credentials("ada", "secret")


def pull(server, tmp_path, credentials=None, patience=QUICK):
    target = Layout.create(tmp_path / "target")
    try:
        return Registry(credentials or Anonymous(), patience).pull(
            Reference.parse(f"{server.host}/iris:1"), None, target
        )
    finally:
        assert list(target.blobs.partials.iterdir()) == []


def failing_first(honest, failures):
    remaining = list(failures)

    def answer(*request):
        return remaining.pop(0) if remaining else honest(*request)

    return answer


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_passing_trouble_is_waited_out(hostile, served, tmp_path, status):
    image, honest = served
    hostile.answer = failing_first(honest, [Answer(status), Answer(status, Retry_After="0")])
    assert pull(hostile, tmp_path) == image


def test_lasting_trouble_ends_in_an_error(hostile, tmp_path):
    problem = json.dumps({"errors": [{"code": "UNKNOWN", "message": "the disk\x1b[31m is\r\nfull"}]}).encode()
    hostile.answer = lambda *_: Answer(500, problem)
    with pytest.raises(RegistryError, match="answered 500 for manifests/1") as caught:
        pull(hostile, tmp_path)
    assert len(hostile.seen) == QUICK.attempts
    assert caught.value.detail == "UNKNOWN: the disk [31m is  full", "control characters are masked"


def test_a_long_wish_to_wait_beyond_the_deadline_ends_in_an_error(hostile, tmp_path):
    hostile.answer = lambda *_: Answer(429, Retry_After="100000")
    with pytest.raises(RegistryError, match="answered 429"):
        pull(hostile, tmp_path)
    assert len(hostile.seen) == 1


def test_a_connection_that_breaks_in_the_middle_is_tried_again(hostile, served, tmp_path):
    image, honest = served
    broken = []

    def answer(method, path, headers):
        whole = honest(method, path, headers)
        if path.endswith(image.layers[0].digest) and not broken:
            broken.append(path)
            return Answer(200, whole.body[:50], length=len(whole.body))
        return whole

    hostile.answer = answer
    assert pull(hostile, tmp_path) == image
    assert broken


def test_a_registry_that_is_not_there_is_named(tmp_path, elsewhere):
    elsewhere.close()
    with pytest.raises(TransientError, match=f"registry {elsewhere.host} cannot be reached"):
        pull(elsewhere, tmp_path)
    elsewhere.close = lambda: None


@pytest.mark.parametrize("part", ["config", "layer"])
@pytest.mark.parametrize("change", ["flipped", "longer", "shorter"])
def test_bytes_of_another_digest_are_refused_at_once(hostile, served, tmp_path, part, change):
    image, honest = served
    victim = image.image_id if part == "config" else image.layers[0].digest

    def answer(method, path, headers):
        whole = honest(method, path, headers)
        if path.endswith(victim):
            flipped = bytes([whole.body[0] ^ 1]) + whole.body[1:]
            return Answer(200, {"flipped": flipped, "longer": whole.body + b"x", "shorter": whole.body[:-1]}[change])
        return whole

    hostile.answer = answer
    with pytest.raises(RegistryError, match=r"served (blob|more than)"):
        pull(hostile, tmp_path)
    assert sum(path.endswith(victim) for _, path, _ in hostile.seen) == 1
    assert Layout.open(tmp_path / "target").images() == ()
    assert not Layout.open(tmp_path / "target").blobs.has(victim)


def test_another_manifest_than_the_digest_names_is_refused(hostile, served, tmp_path):
    _, honest = served
    hostile.answer = honest
    reference = Reference.parse(f"{hostile.host}/iris@sha256:{'0' * 64}")
    with pytest.raises(RegistryError, match="served a manifest with digest"):
        Registry(Anonymous(), QUICK).pull(reference, None, Layout.create(tmp_path / "target"))


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[]", b""])
def test_an_answer_that_is_no_manifest_is_refused(hostile, tmp_path, body):
    hostile.answer = lambda *_: Answer(200, body, Content_Type="text/html")
    with pytest.raises(RegistryError, match="which is no image"):
        pull(hostile, tmp_path)


def test_a_manifest_of_any_size_is_not_read(hostile, tmp_path):
    hostile.answer = lambda *_: Answer(200, b" " * (9 << 20), Content_Type=MANIFEST)
    with pytest.raises(RegistryError, match="more than 8 MiB"):
        pull(hostile, tmp_path)


def test_a_redirect_to_another_host_loses_the_authorization(hostile, elsewhere, served, tmp_path):
    image, honest = served
    basic = "Basic " + base64.b64encode(b"ada:secret").decode()

    def answer(method, path, headers):
        if headers.get("Authorization") != basic:
            return Answer(401, WWW_Authenticate='Basic realm="x"')
        if "/blobs/" in path:
            return Answer(307, Location=f"http://{elsewhere.host}{path}")
        return honest(method, path, headers)

    hostile.answer, elsewhere.answer = answer, honest
    assert pull(hostile, tmp_path, Ada()) == image
    assert elsewhere.seen
    assert {authorization for _, _, authorization in elsewhere.seen} == {None}


def test_another_host_that_asks_for_credentials_gets_none(hostile, elsewhere, served, tmp_path):
    _, honest = served

    def answer(method, path, headers):
        if "/blobs/" in path:
            return Answer(307, Location=f"http://{elsewhere.host}{path}")
        return honest(method, path, headers)

    hostile.answer = answer
    elsewhere.answer = lambda *_: Answer(401, WWW_Authenticate='Basic realm="give"')
    with pytest.raises(RegistryError, match="answered 401"):
        pull(hostile, tmp_path, Ada())
    assert {authorization for _, _, authorization in elsewhere.seen} == {None}


@pytest.mark.parametrize(
    "location", ["http://registry.example/x", "file:///etc/passwd", "ftp://127.0.0.1/x", "http://["]
)
def test_a_redirect_to_an_unsafe_place_is_refused(hostile, tmp_path, location):
    hostile.answer = lambda *_: Answer(302, Location=location)
    with pytest.raises(RegistryError, match="sends us to"):
        pull(hostile, tmp_path)


def test_redirects_in_a_circle_end(hostile, tmp_path):
    hostile.answer = lambda *_: Answer(302, Location="/v2/iris/manifests/1")
    with pytest.raises(RegistryError, match="redirects in a circle"):
        pull(hostile, tmp_path)


def token_service(honest, host, token='{"token":"abc"}', realm=None):
    def answer(method, path, headers):
        if path.startswith("/token"):
            return Answer(200, token.encode())
        if headers.get("Authorization") != "Bearer abc":
            challenge = f'Bearer realm="{realm or f"http://{host}/token"}",service="test",scope="ignored"'
            return Answer(401, WWW_Authenticate=challenge)
        return honest(method, path, headers)

    return answer


@pytest.mark.parametrize("credentials", [Anonymous(), Ada()])
def test_a_token_is_fetched_once_and_used(hostile, served, tmp_path, credentials):
    image, honest = served
    hostile.answer = token_service(honest, hostile.host)
    assert pull(hostile, tmp_path, credentials) == image
    asked = [(path, authorization) for _, path, authorization in hostile.seen if path.startswith("/token")]
    known = credentials.find("")
    assert asked == [("/token?service=test&scope=repository%3Airis%3Apull", known.basic() if known else None)]


def test_an_identity_token_is_exchanged(hostile, served, tmp_path):
    class Token:
        def find(self, registry):
            return Credentials("<token>", "refresh", "identity token")

    image, honest = served
    hostile.answer = token_service(honest, hostile.host, token='{"access_token":"abc"}')
    assert pull(hostile, tmp_path, Token()) == image
    assert ("POST", "/token", None) in hostile.seen


@pytest.mark.parametrize("realm", ["http://registry.example/token", "file:///etc/passwd", "token", " "])
def test_credentials_go_to_no_unsafe_token_service(hostile, served, tmp_path, realm):
    hostile.answer = token_service(served[1], hostile.host, realm=realm)
    with pytest.raises(RegistryError, match="sends us to"):
        pull(hostile, tmp_path, Ada())


@pytest.mark.parametrize("token", ["", "[]", '{"token":"a\\r\\nX: y"}', '{"token":"é"}'])
def test_a_token_that_is_none_is_refused(hostile, served, tmp_path, token):
    hostile.answer = token_service(served[1], hostile.host, token=token)
    with pytest.raises(RegistryError, match="token service"):
        pull(hostile, tmp_path)


def test_a_registry_that_rewrites_the_manifest_is_noticed(hostile, layout):
    def answer(method, path, headers):
        if method == "HEAD":
            return Answer(200)
        return Answer(201, Docker_Content_Digest="sha256:" + "0" * 64)

    hostile.answer = answer
    image = sample_image(layout)
    with pytest.raises(RegistryError, match="stored the image as"):
        Registry(Anonymous(), QUICK).push(image, layout, Reference.parse(f"{hostile.host}/iris:1"))


def test_an_upload_is_not_continued_in_an_unsafe_place(hostile, layout):
    def answer(method, path, headers):
        return Answer(404) if method == "HEAD" else Answer(202, Location="http://registry.example/upload")

    hostile.answer = answer
    image = sample_image(layout)
    with pytest.raises(RegistryError, match="sends us to"):
        Registry(Anonymous(), QUICK).push(image, layout, Reference.parse(f"{hostile.host}/iris:1"))


def test_a_registry_elsewhere_is_never_spoken_to_without_tls(monkeypatch, tmp_path):
    """The name resolves nowhere; what matters is that the address tried is an https one."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    reference = Reference.parse("registry.example/iris:1")
    with pytest.raises(RegistryError, match="cannot be reached") as caught:
        Registry(Anonymous(), QUICK).pull(reference, None, Layout.create(tmp_path / "target"))
    assert "HTTPSConnectionPool" in caught.value.detail or "proxy" in caught.value.detail.lower()


def test_a_transfer_has_a_deadline(hostile, served, tmp_path):
    hostile.answer = served[1]
    with pytest.raises(RegistryError, match="took more than 0 s"):
        pull(hostile, tmp_path, patience=Patience(deadline=0))
