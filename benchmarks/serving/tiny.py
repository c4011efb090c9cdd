"""How many requests a second berth answers on one core, for a model so small that only the server counts.

Trains a 4-8-3 network on iris, exports it to ONNX, starts berth pinned to one core and drives V2 JSON over keep-alive
with wrk on another. `python -m benchmarks.serving.tiny` prints one JSON object with every run and the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.neural_network import MLPClassifier

START_DEADLINE_S = 20.0
LUA = """
wrk.method = "POST"
wrk.body = '{"inputs":[{"name":"X","shape":[1,4],"datatype":"FP32","data":[5.1,3.5,1.4,0.2]}]}'
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('RESULT {"requests":%d,"duration_us":%d,"errors":%d,"p50_us":%d,"p99_us":%d,"max_us":%d}\\n',
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"""


@dataclass(frozen=True)
class Run:
    """One run of wrk."""

    requests_per_second: float
    requests_per_cpu_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    errors: int


@dataclass(frozen=True)
class Served:
    """A running berth."""

    url: str
    process: int

    def cpu_seconds(self) -> float:
        """User and system time so far; comparable between runs when the machine has other work too."""
        fields = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self) -> float:
        """Resident memory."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process}/status").read_text())
        return round(int(found[1]) / 1024, 1) if found else 0.0


def train(folder: Path) -> Path:
    """The model as ONNX: a float input `X` of shape [N, 4], outputs `label` and `probabilities`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs, labels = load_iris(return_X_y=True)
        inputs = inputs.astype(np.float32)
        model = MLPClassifier((8,), max_iter=500, random_state=0).fit(inputs, labels)
        proto = to_onnx(model, inputs[:1], options={"zipmap": False})
    path = folder / "iris.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(weights: Path, core: int, log_level: str) -> Iterator[Served]:
    """berth on one core; until the block ends."""
    port = free_port()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("BERTH_")},
        "BERTH_FORMAT": "onnx",
        "BERTH_WEIGHTS": str(weights),
        "BERTH_HOST": "127.0.0.1",
        "BERTH_PORT": str(port),
        "BERTH_LOG_LEVEL": log_level,
        "BERTH_ACTIVATION_SOCKET": "",
    }
    command = ["taskset", "-c", str(core), sys.executable, "-m", "berth"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until_listening(port, process)
            yield Served(f"http://127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()
            process.wait(10)


def drive(server: Served, core: int, seconds: int, connections: int, script: Path) -> Run:
    """One run of wrk with one thread."""
    busy = server.cpu_seconds()
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script)]
    output = subprocess.run(
        [*command, f"{server.url}/v2/models/model/infer"],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 30,
    ).stdout
    found = re.search(r"^RESULT (.*)$", output, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk printed no result:\n{output}")
    result = json.loads(found[1])
    return Run(
        requests_per_second=round(result["requests"] / result["duration_us"] * 1e6, 1),
        requests_per_cpu_second=round(result["requests"] / (server.cpu_seconds() - busy), 1),
        p50_ms=result["p50_us"] / 1000,
        p99_ms=result["p99_us"] / 1000,
        max_ms=result["max_us"] / 1000,
        errors=result["errors"],
    )


def measure(*, runs: int = 3, seconds: int = 5, connections: int = 64, log_level: str = "info") -> dict[str, object]:
    """Train, serve, drive; every run and the medians."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = folder / "infer.lua"
        script.write_text(LUA)
        with served(train(folder), 0, log_level) as server:
            idle = server.resident_mib()
            drive(server, 1, 1, connections, script)  # warm
            results = [drive(server, 1, seconds, connections, script) for _ in range(runs)]
            loaded = server.resident_mib()
    return {
        "benchmark": "serving/tiny",
        "connections": connections,
        "log_level": log_level,
        "runs": [asdict(run) for run in results],
        "median_requests_per_second": statistics.median(run.requests_per_second for run in results),
        "median_requests_per_cpu_second": statistics.median(run.requests_per_cpu_second for run in results),
        "median_p99_ms": statistics.median(run.p99_ms for run in results),
        "idle_mib": idle,
        "after_mib": loaded,
    }


def wait_until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until something listens there; RuntimeError when the process has ended, or takes too long."""
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--log-level", default="info")
    options = parser.parse_args()
    print(json.dumps(measure(**vars(options)), indent=2))


if __name__ == "__main__":
    main()
