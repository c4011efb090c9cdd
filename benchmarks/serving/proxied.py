"""What a proxy in front of berth costs berth: the same requests as a client sends them, and as Envoy passes them on.

A proxy gives each request an id of its own, so no two requests have the same first lines. wrk sends both kinds in
turns, to one berth on one core, and the processor time of a request tells what the difference is. No proxy runs: its
own cost is what `benchmarks.deploy.gateway` measures. `python -m benchmarks.serving.proxied` prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.serving import tiny

SERVERS_CORE, CLIENTS_CORE = 0, 1
_PROXIED = """
wrk.headers["content-type"] = "application/json"
wrk.headers["user-agent"] = "curl/8"
wrk.headers["accept"] = "*/*"
wrk.headers["x-forwarded-for"] = "192.0.2.2"
wrk.headers["x-forwarded-proto"] = "http"
wrk.headers["x-envoy-external-address"] = "192.0.2.2"
wrk.headers["x-envoy-expected-rq-timeout-ms"] = "300000"
local number = 0
request = function()
  number = number + 1
  wrk.headers["x-request-id"] = string.format("27638ecf-5c85-4c90-ba4e-%%012x", number)
  %s
  return wrk.format()
end
"""
_TRACED = 'wrk.headers["traceparent"] = string.format("00-0af7651916cd43dd8448eb21%08x-b7ad6b7169203331-01", number)'
KINDS = {"direct": "", "proxied": _PROXIED % "", "proxied_in_a_trace": _PROXIED % _TRACED}


def measure(*, runs: int = 3, seconds: int = 3, connections: int = 64, log_level: str = "info") -> dict[str, object]:
    """Every run; the medians, and what each kind costs more than the direct one, in microseconds of processor time."""
    found: dict[str, list[tiny.Run]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scripts = {kind: folder / f"{kind}.lua" for kind in KINDS}
        for kind, script in scripts.items():
            script.write_text(tiny.LUA + KINDS[kind])
        with tiny.served(tiny.train(folder), SERVERS_CORE, log_level) as server:
            tiny.drive(server, CLIENTS_CORE, 1, connections, scripts["direct"])  # warm
            for _ in range(runs):
                for kind, script in scripts.items():
                    found[kind].append(tiny.drive(server, CLIENTS_CORE, seconds, connections, script))
    cost = {kind: statistics.median(1e6 / run.requests_per_cpu_second for run in found[kind]) for kind in KINDS}
    return {
        "benchmark": "serving/proxied",
        "connections": connections,
        "runs": {kind: [asdict(run) for run in found[kind]] for kind in KINDS},
        "median_requests_per_second": {
            kind: statistics.median(run.requests_per_second for run in found[kind]) for kind in KINDS
        },
        "cpu_us_per_request": {kind: round(cost[kind], 2) for kind in KINDS},
        "added_cpu_us": {kind: round(cost[kind] - cost["direct"], 2) for kind in KINDS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--log-level", default="info")
    print(json.dumps(measure(**vars(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
