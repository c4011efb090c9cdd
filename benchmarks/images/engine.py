"""What the comparison asks of a Docker Engine, over its API: build, push, take away again.

The engine's own API instead of the `docker` command, because the command builds with BuildKit only when a plugin
(buildx) is installed, and the engine has BuildKit without it. Source: Docker Engine API 1.41.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import socket
import subprocess
import tarfile
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

DEADLINE_S = 600.0
_API = "/v1.41"
_FIRST_WITH_BUILDKIT = (1, 39)  # whether or not it is what `docker build` uses when it is not told
_COMMAND = "/usr/bin/docker"  # Debian's, of the same version as its engine
_NO_CREDENTIALS = "e30="  # {}


class EngineError(Exception):
    """What the engine refused, in its words."""


@dataclass(frozen=True)
class Engine:
    """A Docker Engine at `address` (`unix:///...`).

    `classic`: asked for the builder that the `docker` command of its version uses unless it is told otherwise.
    """

    address: str
    classic: bool = False

    def version(self) -> str:
        """Its version and its builder."""
        version = json.loads(self._ask("GET", "/version"))["Version"]
        return f"Docker Engine {version}, {'BuildKit' if self.buildkit else 'classic builder'}"

    @property
    def buildkit(self) -> bool:
        """Whether it builds with BuildKit."""
        if self.classic:
            return False
        major, _, minor = str(json.loads(self._ask("GET", "/version"))["ApiVersion"]).partition(".")
        return (int(major), int(minor)) >= _FIRST_WITH_BUILDKIT

    def build(self, context: Path, name: str, *, cache: bool = True, dockerfile: str = "Dockerfile") -> str:
        """Build the Dockerfile in a folder, with the network of this machine; the image's ID."""
        asked = {"t": name, "networkmode": "host", "version": "2" if self.buildkit else "1", "nocache": str(not cache)}
        asked["dockerfile"] = dockerfile
        body = self._ask("POST", "/build", asked, packed(context), {"Content-Type": "application/x-tar"})
        told = _events(body)
        ids = [aux["ID"] for event in told if isinstance(aux := event.get("aux"), dict) and "ID" in aux]
        if not ids:
            raise EngineError(f"the engine built {name} and did not tell its ID: {told[-3:]}")
        return str(ids[-1])

    def build_by_command(self, context: Path, name: str) -> str:
        """The same by the `docker` command of the engine's own version, which needs no plugin; the image's ID."""
        command = [_COMMAND, "-H", self.address, "build", "--quiet", "--network", "host", "-t", name, str(context)]
        environment = {**os.environ, "DOCKER_BUILDKIT": "1" if self.buildkit else "0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        if done.returncode:
            raise EngineError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return done.stdout.strip()

    def load_tree(self, tar: Path, name: str) -> None:
        """Make an image of one layer out of a tar of a root file system."""
        repository, _, tag = name.partition(":")
        with tar.open("rb") as file:
            body = self._ask("POST", "/images/create", {"fromSrc": "-", "repo": repository, "tag": tag}, file)
        _events(body)

    def push(self, name: str, host: str, repository: str) -> None:
        """Push an image to a registry under a name of its own there."""
        there = f"{host}/{repository}"
        self._ask("POST", f"/images/{name}/tag", {"repo": there, "tag": "1"})
        try:
            headers = {"X-Registry-Auth": _NO_CREDENTIALS}
            body = self._ask("POST", f"/images/{there}/push", {"tag": "1"}, headers=headers)
            _events(body)
        finally:
            self.remove(f"{there}:1")

    def remove(self, name: str) -> None:
        """Remove an image, if it is there."""
        try:
            self._ask("DELETE", f"/images/{name}", {"force": "1"})
        except EngineError as error:
            if "No such image" not in str(error):
                raise

    def prune(self) -> None:
        """Forget everything that builds left: layers that no image has, and cache mounts."""
        self._ask("POST", "/images/prune", {"filters": json.dumps({"dangling": ["true"]})})
        self._ask("POST", "/build/prune", {"all": "1"})

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] = {},
        body: bytes | io.BufferedReader | None = None,
        headers: Mapping[str, str] = {},
    ) -> bytes:
        connection = _Connection(self.address.removeprefix("unix://"))
        try:
            target = f"{_API}{path}?{urllib.parse.urlencode(query)}"
            connection.request(method, target, body, dict(headers), encode_chunked=not isinstance(body, bytes))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise EngineError(f"{method} {path}: {answer.status} {content.decode(errors='replace').strip()}")
        return content


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(self._path)


def packed(folder: Path) -> bytes:
    """A build's context: the folder as a tar. In GNU's form: the engine takes one in pax for a Dockerfile."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(folder, ".")
    return buffer.getvalue()


def _events(body: bytes) -> list[dict[str, object]]:
    """The engine's progress, one JSON object a line; EngineError when one of them is an error."""
    told: list[dict[str, object]] = [json.loads(line) for line in body.splitlines() if line.strip()]
    for event in told:
        if "error" in event:
            raise EngineError(f"{event['error']}\n{_log(told)}")
    return told


def _log(told: Iterable[Mapping[str, object]]) -> str:
    return "".join(str(event.get("stream", "")) for event in told)[-2000:]
