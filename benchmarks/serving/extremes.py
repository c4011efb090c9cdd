"""What a server does with very much at once, with nothing, and when asked how it is: scenarios of `robustness`."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Sequence
from typing import Any

from benchmarks.serving.client import Reply, connect, get, post
from benchmarks.serving.under_test import Figures, Server, Tally, marked, quantiles, run, served

# A very large body.


async def _ask_meanwhile(port: int, requests: Sequence[bytes], work: Awaitable[Reply]) -> tuple[Reply, list[float]]:
    """Other requests, one after the other, until the work is done; how long each took."""
    task = asyncio.ensure_future(work)
    connection = await connect(port)
    times: list[float] = []
    while not task.done():
        for request in requests:
            reply = await connection.ask(request)
            assert reply.status == 200, reply
            times.append(reply.seconds)
        await asyncio.sleep(0.002)
    return await task, times


async def _large(port: int, request: bytes, small: bytes) -> tuple[Reply, list[float]]:
    # The client's own loop must not be what is slow: a process of its own sends the large body.
    return await _ask_meanwhile(port, [get("/livez"), small], asyncio.to_thread(_send_apart, port, request))


def _send_apart(port: int, request: bytes) -> Reply:
    with tempfile.NamedTemporaryFile() as file:
        file.write(request)
        file.flush()
        command = [sys.executable, "-m", "benchmarks.serving.client", str(port), file.name]
        done = subprocess.run(command, capture_output=True, check=True)
    status, seconds, body = done.stdout.split(b" ", 2)
    return Reply(int(status), b"", body, float(seconds))


def large_json(_: int) -> Figures:
    """100 MB of JSON: refused at the limit; within a raised limit answered, by V2 and natively, others unharmed."""
    count = 10_000_000
    numbers = b",".join(b"%d.%06d" % (number % 7, number % 999_983) for number in range(count))
    v2 = b'{"inputs":[{"name":"x","shape":[1,1,%d],"datatype":"FP32","data":[%b]}]}' % (count, numbers)
    native = b'{"x":[[%b]]}' % numbers
    small = post("/predict", {"x": [[1.0, 2.0]]})
    figures: Figures = {"bytes": len(v2)}
    with served(PREDICTOR="robust:Sum") as server, socket.create_connection(("127.0.0.1", server.port)) as probe:
        began = time.perf_counter()
        probe.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(v2))
        status = int(probe.recv(100)[9:12])
        figures["at_the_limit"] = {"status": status, "ms": round((time.perf_counter() - began) * 1000, 2)}
    for name, path, body in (("v2", "/v2/models/model/infer", v2), ("native", "/predict", native)):
        with served(PREDICTOR="robust:Sum", MAX_BODY_BYTES=200_000_000) as server:
            run(_ask_meanwhile(server.port, [small], asyncio.sleep(0.2, None)))  # type: ignore[arg-type]
            reply, times = run(_large(server.port, post(path, body), small))
            figures[name] = {
                "status": reply.status,
                "seconds": round(reply.seconds, 2),
                "most_resident_mib": server.memory_mib("VmHWM"),
                "others": quantiles(times),
            }
    held = figures["at_the_limit"]["status"] == 413 and all(
        figures[name]["status"] == 200
        and figures[name]["most_resident_mib"] < 1000
        and figures[name]["others"]["max_ms"] < 50
        for name in ("v2", "native")
    )
    return marked(figures, held)


# Nothing to do, and too much to do.


def idle(rounds: int) -> Figures:
    """CPU of a server with four models that nobody asks: two in threads, one in two workers, one with a cache."""
    seconds = min(20.0, 4.0 + rounds)
    models: list[dict[str, Any]] = [
        {"name": "a", "predictor": "robust:Spin"},
        {"name": "b", "predictor": "robust:Rows"},
        {"name": "c", "predictor": "robust:Spin", "workers": 2},
        {"name": "d", "predictor": "robust:Sum", "cache_bytes": 1_000_000},
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(models, file)
        file.flush()
        with served(MODELS=file.name) as server:
            for model in models:
                run(_first_answer(server.port, f"/v2/models/{model['name']}/ready"))
            time.sleep(2)
            before = server.cpu_seconds()
            time.sleep(seconds)
            percent = round((server.cpu_seconds() - before) / seconds * 100, 3)
    return marked({"models": 4, "seconds": seconds, "cpu_percent_of_a_core": percent}, percent < 0.5)


async def _first_answer(port: int, path: str) -> None:
    connection = await connect(port)
    assert (await connection.ask(get(path))).status == 200
    connection.close()


async def _health(server: Server, seconds: float) -> Figures:
    until = asyncio.Event()
    tally = Tally()
    found: dict[str, list[float]] = {"health": [], "metrics": [], "refusals": [], "deadlines": []}

    async def load(lane: int) -> None:
        connection = await connect(server.port)
        while not until.is_set():
            tally.judge(lane, await connection.ask(post("/predict", {"value": lane})))
        connection.close()

    async def probe(name: str, request: bytes, over: float = 0.0) -> None:
        connection = await connect(server.port)
        while not until.is_set():
            reply = await connection.ask(request)
            if reply.status == (200 if name in ("health", "metrics") else 504 if name == "deadlines" else 503):
                found[name].append(reply.seconds - over)
            await asyncio.sleep(0.005)
        connection.close()

    lanes = [asyncio.create_task(load(lane)) for lane in range(16)]
    await asyncio.sleep(1.0)
    lanes += [
        asyncio.create_task(probe("health", get("/v2/health/live"))),
        asyncio.create_task(probe("metrics", get("/metrics"))),
        asyncio.create_task(probe("refusals", post("/predict", {"value": 1}, "X-Request-Timeout: 0.001"))),
        asyncio.create_task(
            probe("deadlines", post("/predict", {"value": 1, "ms": 400}, "X-Request-Timeout: 0.3"), 0.3)
        ),
    ]
    await asyncio.sleep(seconds)
    until.set()
    await asyncio.gather(*lanes)
    return {**{name: quantiles(times) for name, times in found.items()}, **tally.figures()}


def health(rounds: int) -> Figures:
    """Two workers that compute pure Python, 20 ms a request, all the time, on the server's own core."""
    with served(PREDICTOR="robust:Spin", WORKERS=2) as server:
        figures = run(_health(server, min(10.0, 2.0 + rounds)))
    late = [name for name in ("health", "metrics", "refusals", "deadlines") if figures[name].get("p99_ms", 0) >= 20]
    return marked({**figures, "over_20_ms": late}, not late and figures["health"]["count"] > 0)
