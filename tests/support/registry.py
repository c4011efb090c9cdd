"""A real registry (Debian's docker-registry) on a loopback port, for tests that push and pull."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAM = shutil.which("docker-registry")
_START_DEADLINE = 20.0


@dataclass(frozen=True)
class RunningRegistry:
    """`host` is `127.0.0.1:port`; `storage` is where it keeps its blobs."""

    host: str
    storage: Path


@contextlib.contextmanager
def running_registry(
    folder: Path, *, htpasswd: str = "", certificate: Path | None = None, clients: Path | None = None
) -> Iterator[RunningRegistry]:
    """Start a registry that keeps its data in `folder`; with `htpasswd` lines it asks for basic authentication.

    With a `certificate` (its key beside it, ending in .key) it speaks TLS, and lets in whom the authority `clients` has
    certified. Its host is then 0.0.0.0: that is this machine, and not loopback by its spelling.
    """
    assert PROGRAM, "docker-registry is not installed"
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    tls = {"tls": {"certificate": str(certificate), "key": str(certificate.with_suffix(".key"))}} if certificate else {}
    if clients:
        tls["tls"]["clientcas"] = [str(clients)]  # type: ignore[assignment]
    config: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}", **tls},
    }
    if htpasswd:
        (folder / "htpasswd").write_text(htpasswd)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    # JSON is YAML, and needs no library.
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([PROGRAM, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        _wait_until_it_answers(port, process, folder / "log")
        yield RunningRegistry(f"{'0.0.0.0' if certificate else '127.0.0.1'}:{port}", folder / "data")
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and make it."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def _wait_until_it_answers(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_DEADLINE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with opener.open(f"http://127.0.0.1:{port}/v2/", timeout=2):
                return
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"docker-registry did not start:\n{log.read_text()}")
