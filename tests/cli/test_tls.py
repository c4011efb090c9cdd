"""Registries with certificates of their own, and behind a proxy: a real registry with TLS, a real forward proxy."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from tests.oci.samples import sample_image
from tests.support.projects import CommandLine
from tests.support.registry import RunningRegistry, end, running_registry

PROXIES = ("https_proxy", "http_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *(name.upper() for name in PROXIES), "DOCKYARD_CA", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)


@dataclass(frozen=True)
class Authority:
    """A certificate authority of a test; `file` is its certificate."""

    file: Path
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls, folder: Path) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        folder.mkdir()
        (folder / "ca.crt").write_bytes(_certificate("An Authority", key, "An Authority", key, authority=True))
        return cls(folder / "ca.crt", key)

    def certify(self, file: Path, name: str) -> Path:
        """A certificate for `name` and 0.0.0.0, its key beside it."""
        key = ec.generate_private_key(ec.SECP256R1())
        file.write_bytes(_certificate(name, key, "An Authority", self.key, authority=False))
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        file.with_suffix(".key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
        return file


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, by: str, signer: ec.EllipticCurvePrivateKey, *, authority: bool
) -> bytes:
    subject, issuer = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, one)]) for one in (name, by))
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("0.0.0.0"))]), critical=False)
    )
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.new(tmp_path / "authority")


@pytest.fixture
def registry(tmp_path: Path, authority: Authority) -> Iterator[RunningRegistry]:
    certificate = authority.certify(tmp_path / "registry.pem", "registry")
    with running_registry(tmp_path / "registry", certificate=certificate) as running:
        yield running


def line_with(tmp_path: Path, **environment: str) -> CommandLine:
    """A home with an image."""
    line = CommandLine(Home(tmp_path / "home"), {"HOME": str(tmp_path / "user"), **environment})
    sample_image(Layout.create(line.home.images), "iris:1")
    return line


def moved(line: CommandLine, registry: RunningRegistry) -> subprocess.CompletedProcess[str]:
    """A push, and a pull of what it pushed."""
    there = f"{registry.host}/team/iris:1"
    pushed = line("push", "iris:1", there)
    return pushed if pushed.returncode else line("pull", there, "-t", "again:1")


def test_a_registry_of_an_unknown_authority_is_refused(tmp_path: Path, registry: RunningRegistry) -> None:
    done = moved(line_with(tmp_path), registry)
    assert done.returncode == 1
    assert "certificate" in done.stderr.lower()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("variable", ["DOCKYARD_CA", "SSL_CERT_FILE"])
def test_an_authority_is_named_by_the_environment(
    tmp_path: Path, registry: RunningRegistry, authority: Authority, variable: str
) -> None:
    done = moved(line_with(tmp_path, **{variable: str(authority.file)}), registry)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("tool", ["docker", "containers"])
def test_an_authority_of_one_registry_lies_where_docker_and_podman_look(
    tmp_path: Path, registry: RunningRegistry, authority: Authority, tool: str
) -> None:
    folder = tmp_path / "user/.config" / tool / "certs.d"
    shutil.copytree(authority.file.parent, folder / "another.example:443")
    assert moved(line_with(tmp_path), registry).returncode == 1
    shutil.copytree(authority.file.parent, folder / registry.host)
    done = moved(line_with(tmp_path), registry)
    assert done.returncode == 0, done.stderr


def test_a_registry_that_wants_to_know_us_gets_our_certificate(tmp_path: Path, authority: Authority) -> None:
    certificate = authority.certify(tmp_path / "registry.pem", "registry")
    with running_registry(tmp_path / "closed", certificate=certificate, clients=authority.file) as registry:
        folder = tmp_path / "user/.config/docker/certs.d" / registry.host
        shutil.copytree(authority.file.parent, folder)
        assert moved(line_with(tmp_path), registry).returncode == 1
        authority.certify(folder / "client.cert", "ada")
        done = moved(line_with(tmp_path), registry)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="Docker's own folder is root's")
def test_dockers_own_folder_has_the_authority_and_our_certificate(tmp_path: Path, authority: Authority) -> None:
    """/etc/docker/certs.d/HOST:PORT with ca.crt, client.cert and client.key, as Docker's documentation has it."""
    certificate = authority.certify(tmp_path / "registry.pem", "registry")
    with running_registry(tmp_path / "closed", certificate=certificate, clients=authority.file) as registry:
        with system_certificates(registry.host) as folder:
            shutil.copy(authority.file, folder / "ca.crt")
            unknown = moved(line_with(tmp_path), registry)
            authority.certify(folder / "client.cert", "ada")
            done = moved(line_with(tmp_path), registry)
        after = moved(line_with(tmp_path), registry)
    assert unknown.returncode == 1
    assert "Traceback" not in unknown.stderr
    assert done.returncode == 0, done.stderr
    assert after.returncode == 1


@contextlib.contextmanager
def system_certificates(host: str) -> Iterator[Path]:
    """Docker's folder for one registry; what was not there before goes again."""
    folder = Path("/etc/docker/certs.d") / host
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        for one in made[1:]:
            with contextlib.suppress(OSError):  # somebody else keeps something there by now
                one.rmdir()


def test_certificates_that_are_none_are_named(tmp_path: Path, registry: RunningRegistry) -> None:
    (tmp_path / "junk.crt").write_text("no certificate")
    for file in (tmp_path / "junk.crt", tmp_path / "missing.crt"):
        done = moved(line_with(tmp_path, DOCKYARD_CA=str(file)), registry)
        assert done.returncode == 1
        assert str(file) in done.stderr
        assert "PEM" in done.stderr


@contextlib.contextmanager
def forward_proxy(folder: Path, *words: str) -> Iterator[tuple[str, Path]]:
    """proxy.py on a free port: its `host:port`, and its log."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = folder / "proxy.log"
    command = [sys.executable, "-m", "proxy", "--hostname", "127.0.0.1", "--port", str(port), "--num-workers", "1"]
    command += ["--num-acceptors", "1", "--log-file", str(log), *words]
    with (folder / "proxy.out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder)
    try:
        _wait_for(port, process)
        yield f"127.0.0.1:{port}", log
    finally:
        end(process)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError("the proxy did not start")


def log_of(log: Path, word: str) -> bool:
    """Whether the proxy has told of something; it writes when a connection has ended."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if log.exists() and word in log.read_text():
            return True
        time.sleep(0.05)
    return False


def test_a_registry_is_reached_through_the_proxy_of_the_environment(
    tmp_path: Path, registry: RunningRegistry, authority: Authority
) -> None:
    with forward_proxy(tmp_path) as (proxy, log):
        line = line_with(tmp_path, DOCKYARD_CA=str(authority.file), HTTPS_PROXY=f"http://{proxy}")
        done = moved(line, registry)
        assert done.returncode == 0, done.stderr
        assert log_of(log, f"CONNECT {registry.host}")


def test_no_proxy_names_registries_that_are_reached_directly(
    tmp_path: Path, registry: RunningRegistry, authority: Authority
) -> None:
    """The proxy is one that nothing listens for."""
    dead = {"DOCKYARD_CA": str(authority.file), "HTTPS_PROXY": "http://127.0.0.1:1"}
    assert moved(line_with(tmp_path, **dead), registry).returncode == 1
    done = moved(line_with(tmp_path, **dead, NO_PROXY="0.0.0.0"), registry)
    assert done.returncode == 0, done.stderr


def test_a_proxy_that_asks_who_we_are_is_told_and_the_password_is_shown_to_nobody(
    tmp_path: Path, registry: RunningRegistry, authority: Authority
) -> None:
    with forward_proxy(tmp_path, "--basic-auth", "ada:hunter2") as (proxy, _):
        trusted = {"DOCKYARD_CA": str(authority.file)}
        done = moved(line_with(tmp_path, **trusted, HTTPS_PROXY=f"http://ada:hunter2@{proxy}"), registry)
        assert done.returncode == 0, done.stderr
        refused = moved(line_with(tmp_path, **trusted, HTTPS_PROXY=f"http://ada:hunter3@{proxy}"), registry)
    assert refused.returncode == 1
    assert "hunter3" not in refused.stderr
    assert "proxy" in refused.stderr
