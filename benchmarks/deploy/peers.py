"""What a deploy costs callers, side by side: Dockyard, `docker compose up`, and nginx with a reload by hand.

`python -m benchmarks.deploy.peers --deploys 5` prints one JSON object. Two versions of one image take turns, under one
constant load of small requests (`steady`), on one Docker Engine:

- Dockyard: `deploy`, rolling and blue-green, behind its gateway.
- compose: the recreate of `docker-compose up -d` with a new tag; SIGTERM and its grace, as the tool does it.
- nginx: as somebody careful does it by hand. The new container starts on another port and is waited for until it is
  ready; the upstream is rewritten, `nginx -s reload`; once nginx's old workers are gone, SIGTERM for the old container.

The engine that is started here has no bridge, so the peers' containers use the host's network, and listen on the port
themselves that they would publish: one layer less than usual, in their favour. Called by `benchmarks.run`.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.deploy.rollouts import BODY, NAME
from benchmarks.deploy.steady import Steady
from benchmarks.nginx import configuration
from dockyard.spec.deployment import Deployment, Strategy, StrategyKind
from dockyard.spec.home import Home
from tests.support.dockerd import docker_engine
from tests.support.load import free_port
from tests.support.projects import PREDICTOR, CommandLine, build_in, write_adder
from tests.support.yards import RunningYard, running_yard, until

RATE = 500.0
SETTLE_S = 2.0
GRACE_S = 10
DEADLINE_S = 120.0
IMAGES = ("adder:1", "adder:2")
LIMITS = {"mem_limit": "256m", "cpus": 1.0}
NGINX = """
  upstream model {{ server 127.0.0.1:{upstream}; keepalive 32; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
"""


class Tool(Protocol):
    """Something that serves an image at `port` and `path`, and can move to another image."""

    port: int
    path: str

    def deploy(self, image: str) -> None:
        """Serve this image from now on; return when the tool says that it is done."""


@dataclass
class Dockyard:
    """A deployment of two replicas behind the gateway."""

    yard: RunningYard
    kind: StrategyKind
    port: int
    path: str = f"/models/{NAME}/predict"

    def deploy(self, image: str) -> None:
        """A rollout to its receipt."""
        strategy = Strategy(kind=self.kind, rollback_window_s=2)
        receipt = self.yard.deploy(Deployment(name=NAME, image=image, replicas=2, strategy=strategy))
        assert receipt.succeeded, receipt


@dataclass
class Compose:
    """One service with one published port."""

    address: str
    folder: Path
    port: int = field(default_factory=free_port)
    path: str = "/predict"

    def deploy(self, image: str) -> None:
        """`docker-compose up -d`, which recreates the container."""
        service = {
            "image": image,
            "network_mode": "host",
            "environment": {"BERTH_PORT": str(self.port), "BERTH_HOST": "127.0.0.1"},
            "stop_grace_period": f"{GRACE_S}s",
            **LIMITS,
        }
        (self.folder / "docker-compose.yml").write_text(json.dumps({"version": "2.4", "services": {"adder": service}}))
        self._run("up", "--detach")

    def remove(self) -> None:
        """Everything of it."""
        self._run("down", "--timeout", "1")

    def _run(self, *words: str) -> None:
        environment = {**os.environ, "DOCKER_HOST": self.address, "COMPOSE_PROJECT_NAME": "peers"}
        command = ["docker-compose", *words]
        subprocess.run(command, cwd=self.folder, env=environment, check=True, capture_output=True, timeout=DEADLINE_S)


@dataclass
class Nginx:
    """nginx in front of one container at a time."""

    address: str
    folder: Path
    port: int = field(default_factory=free_port)
    path: str = "/predict"
    running: str = ""

    def deploy(self, image: str) -> None:
        """Start, wait, switch, let the old workers finish, stop the old container."""
        upstream, before = free_port(), self.running
        options = ["--network", "host", "--memory", LIMITS["mem_limit"], "--cpus", LIMITS["cpus"]]
        variables = ["-e", f"BERTH_PORT={upstream}", "-e", "BERTH_HOST=127.0.0.1"]
        self.running = self._docker("run", "--detach", *map(str, options), *variables, image)
        until(lambda: _is_ready(upstream), "the new container does not become ready", DEADLINE_S)
        main = f"worker_processes auto; error_log {self.folder}/error.log error;"
        http = NGINX.format(port=self.port, upstream=upstream)
        (self.folder / "nginx.conf").write_text(configuration(self.folder, main, http))
        if not before:
            self._nginx()
            return
        old = self._workers()
        self._nginx("-s", "reload")
        until(lambda: not old & self._workers(), "nginx's old workers do not end", DEADLINE_S)
        self._docker("stop", "--time", str(GRACE_S), before)
        self._docker("rm", before)

    def remove(self) -> None:
        """Everything of it."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self.folder / "nginx.pid").read_text()), signal.SIGTERM)
        if self.running:
            self._docker("rm", "--force", self.running)

    def _workers(self) -> set[int]:
        master = int((self.folder / "nginx.pid").read_text())
        return set(map(int, Path(f"/proc/{master}/task/{master}/children").read_text().split()))

    def _nginx(self, *words: str) -> None:
        command = ["nginx", "-e", "stderr", "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"), *words]
        subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S)

    def _docker(self, *words: str) -> str:
        command = ["docker", "-H", self.address, *words]
        told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=DEADLINE_S)
        return told.stdout.strip()


def measure(deploys: int) -> dict[str, Any]:
    """So many deploys with each tool, under load, and each tool's failures over Dockyard's."""
    _check_programs()
    folder = Path(tempfile.mkdtemp(prefix="dyp-"))
    try:
        home = Home(folder)
        for image, mark in zip(IMAGES, ("", "\n# the second version\n"), strict=True):
            build_in(write_adder(folder / "project", predictor=PREDICTOR + mark), home, image)
        with docker_engine() as address:
            found = {
                **_dockyard(home, address, deploys),
                "docker compose up": _compose(home, address, deploys),
                "nginx reload": _nginx(home, address, deploys),
            }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"benchmark": "deploy/peers", "rate": RATE, "deploys": deploys, "tools": found, "ratios": _ratios(found)}


def _ratios(found: dict[str, Any]) -> dict[str, Any]:
    """Each peer's failed requests of a deploy over Dockyard's, whose none count as one in all deploys."""
    ours = [each for name, each in found.items() if name.startswith("Dockyard")]
    failed = max(sum(each["failed"] for each in ours), 1) / sum(len(each["failed_of_each"]) for each in ours)
    peers = {name: each["failed_a_deploy"] / failed for name, each in found.items() if not name.startswith("Dockyard")}
    return {"failed_a_deploy": peers, "dockyard_failed": sum(each["failed"] for each in ours)}


def _check_programs() -> None:
    missing = [name for name in ("docker-compose", "nginx", "docker") if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"peers needs {', '.join(missing)}; on Debian: apt-get install docker-compose nginx docker.io")


def _dockyard(home: Home, address: str, deploys: int) -> dict[str, Any]:
    with running_yard(home, {"DOCKER_HOST": address}, "--engine", "docker") as yard:
        return {f"Dockyard, {kind}": _deploys(Dockyard(yard, kind, yard.port), deploys) for kind in StrategyKind}


def _compose(home: Home, address: str, deploys: int) -> dict[str, Any]:
    with _peer(home, address) as (folder, stack):
        tool = Compose(address, folder)
        stack.callback(tool.remove)
        return _deploys(tool, deploys)


def _nginx(home: Home, address: str, deploys: int) -> dict[str, Any]:
    with _peer(home, address) as (folder, stack):
        tool = Nginx(address, folder)
        stack.callback(tool.remove)
        return _deploys(tool, deploys)


@contextmanager
def _peer(home: Home, address: str) -> Iterator[tuple[Path, ExitStack]]:
    """The engine has both images, and there is a folder for the tool's own files."""
    line = CommandLine(home, {"DOCKER_HOST": address})
    for image in IMAGES:
        done = line("load", image, "--engine", "docker")
        assert done.returncode == 0, done.stderr
    with tempfile.TemporaryDirectory(prefix="dyp-") as name, ExitStack() as stack:
        yield Path(name), stack


def _deploys(tool: Tool, deploys: int) -> dict[str, Any]:
    """One tool: deploy the first version, then the two by turns under load, with a rest after each."""
    tool.deploy(IMAGES[0])
    until(lambda: _answers(tool), "the first version does not answer", DEADLINE_S)
    seconds, failures, answered, failed, spans = [], Counter[str](), 0, [], []
    for number in range(deploys):
        with Steady(tool.port, tool.path, BODY, rate=RATE) as outcomes:
            time.sleep(SETTLE_S)
            begun = time.perf_counter()
            tool.deploy(IMAGES[(number + 1) % 2])
            seconds.append(time.perf_counter() - begun)
            time.sleep(SETTLE_S)
        answered += outcomes.answered
        failed.append(outcomes.failed)
        failures += outcomes.failures
        spans.append(max(outcomes.failed_at) - min(outcomes.failed_at) if outcomes.failed_at else 0.0)
    return {
        "requests": answered + sum(failed),
        "failed": sum(failed),
        "failed_a_deploy": sum(failed) / deploys,
        "failed_of_each": failed,
        "failures": dict(failures),
        "longest_failing_s": max(spans),
        "median_deploy_s": sorted(seconds)[len(seconds) // 2],
    }


def _is_ready(port: int) -> bool:
    return _status(port, "GET", "/v2/health/ready") == 200


def _answers(tool: Tool) -> bool:
    return _status(tool.port, "POST", tool.path, BODY) == 200


def _status(port: int, method: str, path: str, body: str | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def table(result: dict[str, Any]) -> str:
    """Markdown: failed requests of one deploy with each tool."""
    ratios = result["ratios"]["failed_a_deploy"]
    lines = [
        f"Failed requests of one deploy, of {result['rate']:g} a second; {result['deploys']} deploys with each.",
        "Ratios are to Dockyard's, where none counts as one in all its deploys.",
        "",
        "| tool | over Dockyard's | failed a deploy | failing for at most | a deploy takes | how |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, each in result["tools"].items():
        how = ", ".join(f"{count} {why}" for why, count in each["failures"].items()) or "-"
        ratio = f"{ratios[name]:,.0f} times" if name in ratios else "1"
        failed, longest, took = each["failed_a_deploy"], each["longest_failing_s"], each["median_deploy_s"]
        lines.append(f"| {name} | {ratio} | {failed:,.1f} | {longest:.2f} s | {took:.2f} s | {how} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deploys", type=int, default=5, help="with each tool; default: 5")
    result = measure(parser.parse_args().deploys)
    print(json.dumps(result, indent=1))
    print(table(result))


if __name__ == "__main__":
    main()
