"""The load generators, behind one function: `drive` sends one request over and over on N connections and counts.

HTTP is wrk with one thread. gRPC is `grpc_frames` for small models where this checkout has it, otherwise `grpc_client`,
which runs in an environment of its own. All run on the client's core. Called by `trial`.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.asking import Answer, Ask
from benchmarks.serving.environments import environment

ROOT = Path(__file__).parents[2]
GRPC_REQUIREMENTS = ("grpcio==1.85.3",)
TIMEOUT_S = 30
HAS_FRAMES = importlib.util.find_spec("benchmarks.serving.grpc_load") is not None
_WRK_SCRIPT = """
local file = io.open(%(body)s, "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
%(headers)s
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests":%%d,"duration_us":%%d,"errors":%%d,"refused":%%d,"p50_us":%%d,"p99_us":%%d,"max_us":%%d}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.timeout, e.status,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"""


@dataclass(frozen=True)
class Target:
    """Whom to ask, how many at once, for how long, from which core; `folder` is for the generator's files."""

    port: int
    connections: int
    seconds: float
    core: int
    folder: Path


@dataclass(frozen=True)
class Load:
    """What a generator saw. Only answers without an error count as requests; latencies in milliseconds."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    requests: int
    errors: int


def drive(ask: Ask, target: Target) -> Load:
    """One run of load."""
    words = {"wrk": _wrk, "grpc_frames": _frames, "grpcio": _grpcio}[generator(ask)](ask, target)
    command = ["taskset", "-c", str(target.core), *words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=target.seconds + TIMEOUT_S + 30, check=False, cwd=ROOT
    )
    found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if found is None:
        said = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise RuntimeError(f"{generator(ask)} printed no result: {''.join(said)}")
    result = json.loads(found[1])
    good = result["requests"] - result["refused"]
    return Load(
        requests_per_second=round(good / result["duration_us"] * 1e6, 1),
        p50_ms=result["p50_us"] / 1000,
        p99_ms=result["p99_us"] / 1000,
        max_ms=result["max_us"] / 1000,
        requests=good,
        errors=result["errors"] + result["refused"],
    )


def generator(ask: Ask) -> str:
    """Which generator is used: its name stands in the table."""
    if ask.protocol != "grpc":
        return "wrk"
    return "grpc_frames" if HAS_FRAMES and ask.weights is not None else "grpcio"


def ask_once(ask: Ask, port: int, folder: Path) -> Answer:
    """One request, one answer; OSError or RuntimeError when there is none."""
    if ask.protocol != "grpc":
        return _ask_http(ask, port)
    target = Target(port=port, connections=0, seconds=0, core=0, folder=folder)
    command = list(_grpcio(ask, target))
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S * 2, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace").strip().splitlines()[-1])
    return Answer(0, {}, done.stdout)


def get_seconds(path: str, port: int) -> float | None:
    """How long a new connection waits for a good answer to GET; None: none came."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return time.perf_counter() - began if answer.status < 400 else None


def _ask_http(ask: Ask, port: int) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", ask.path, ask.body, dict(ask.headers))
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, headers, answer.read())
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP answer: {error!r}") from error
    finally:
        connection.close()


def _wrk(ask: Ask, target: Target) -> Sequence[str]:
    body = target.folder / "request-body"
    body.write_bytes(ask.body)
    headers = "\n".join(f"wrk.headers[{json.dumps(k)}] = {json.dumps(v)}" for k, v in ask.headers.items())
    script = target.folder / "request.lua"
    script.write_text(_WRK_SCRIPT % {"body": json.dumps(str(body)), "headers": headers})
    words = ["wrk", "-t1", f"-c{target.connections}", f"-d{math.ceil(target.seconds)}s", f"--timeout={TIMEOUT_S}s"]
    return [*words, "-s", str(script), f"http://127.0.0.1:{target.port}{ask.path}"]


def _grpcio(ask: Ask, target: Target) -> Sequence[str]:
    body = target.folder / "request-body"
    body.write_bytes(ask.body)
    python = environment(GRPC_REQUIREMENTS, target.folder / "install.log")
    program = str(Path(__file__).with_name("grpc_client.py"))
    words = [f"127.0.0.1:{target.port}", ask.path, str(body), str(target.connections), str(target.seconds)]  # 0: once
    return [str(python), program, *words]


def _frames(ask: Ask, target: Target) -> Sequence[str]:
    words = [f"127.0.0.1:{target.port}", str(ask.weights), str(target.connections), str(target.seconds)]
    return [sys.executable, "-m", "benchmarks.serving.grpc_frames", *words]
