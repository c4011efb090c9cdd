"""What a server does when things go wrong, in figures: `python -m benchmarks.serving.robustness SCENARIO... | all`.

berth runs on one core, the client on another. Each scenario prints its figures; the last line is one JSON object with
all of them, and the exit code is 1 when one misses its mark. `--rounds` shortens those that repeat.

A request is **lost** when its connection was established, all of it was sent, and the connection ended without a whole
answer, or the answer was not the right one. A connection that was refused, because the listener had been closed, is not
a lost request: nothing was sent. A keep-alive connection that the server had closed while no request was under way is
not used again, as in every client.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.serving.client import Connection, Lost, Reply, connect, get, hang_up, post

START_S = 30.0
PREDICTORS = '''
import math, os, time
from typing import Annotated
import numpy as np
import berth

class Spin:
    """20 ms of pure Python."""
    def predict(self, value: int, ms: float = 20.0) -> dict[str, int]:
        end = time.perf_counter() + ms / 1000
        while time.perf_counter() < end:
            pass
        return {"value": value, "pid": os.getpid()}

class Rows:
    @berth.batched
    def predict(self, x: list[Annotated[np.ndarray, berth.Tensor("float32", (-1,))]]) -> list[float]:
        return [float(total) for total in np.stack(x).sum(axis=1)]

class Sum:
    def predict(self, x: Annotated[np.ndarray, berth.Tensor("float32", (-1, -1))]) -> float:
        return float(x.sum())
'''
Figures = dict[str, Any]


@dataclass(frozen=True)
class Server:
    """A running berth."""

    process: subprocess.Popen[bytes]
    port: int

    def processes(self) -> list[int]:
        """It, its template and its workers."""
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        return found

    def cpu_seconds(self) -> float:
        """Of all its processes so far."""
        ticks = 0
        for pid in self.processes():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mib(self, field: str) -> float:
        """VmRSS, or VmHWM for the most that it ever was, of the server's own process."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return round(int(line.split()[1]) / 1024, 1)
        return 0.0


@contextmanager
def served(**settings: object) -> Iterator[Server]:
    """berth on core 0, ready, with these BERTH_* settings; what is left of it is ended."""
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        Path(name, "robust.py").write_text(PREDICTORS)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        kept = {key: value for key, value in os.environ.items() if not key.startswith("BERTH_")}
        own = {"HOST": "127.0.0.1", "PORT": port, "ACTIVATION_SOCKET": "", "LOG_LEVEL": "warning", **settings}
        environment = {**kept, **{f"BERTH_{key}": str(value) for key, value in own.items()}}
        command = ["taskset", "-c", "0", sys.executable, "-m", "berth"]
        with subprocess.Popen(command, env=environment, cwd=name, stderr=subprocess.DEVNULL) as process:
            try:
                _wait_until_ready(process, port)
                yield Server(process, port)
            finally:
                process.terminate()
                process.wait(60)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                probe.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                if probe.recv(12).endswith(b"200"):
                    return
        time.sleep(0.02)
    raise RuntimeError("berth did not start")


def quantiles(seconds: Sequence[float]) -> Figures:
    """Median, 99th percentile and most, in milliseconds."""
    if not seconds:
        return {"count": 0}
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    figures = {"p50_ms": statistics.median(ordered), "p99_ms": p99, "max_ms": ordered[-1]}
    return {"count": len(ordered), **{name: round(value * 1000, 2) for name, value in figures.items()}}


class Tally:
    """What became of the requests of one run."""

    def __init__(self) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self.wrong: list[str] = []
        self.refused_connections = 0

    def judge(self, value: int, reply: Reply) -> None:
        """Count an answer of `Spin`."""
        if reply.status == 200 and reply.json["value"] == value:
            self.answered += 1
        else:
            self.wrong.append(f"{reply.status} {reply.body[:200]!r}")

    def figures(self) -> Figures:
        """The counts, and the first few of what went wrong."""
        return {
            "answered": self.answered,
            "lost": len(self.lost),
            "wrong": len(self.wrong),
            "connections_refused": self.refused_connections,
            "examples": (self.lost + self.wrong)[:3],
        }


# SIGTERM under load.


async def _keep_asking(port: int, lane: int, tally: Tally, until: asyncio.Event, *, fresh: bool) -> None:
    """Ask until told, or until nobody listens any more; on one connection, or on a new one each time."""
    connection: Connection | None = None
    number = 0
    while not until.is_set():
        try:
            if connection is None or connection.closed:
                connection = await connect(port)
        except OSError:
            tally.refused_connections += 1
            return
        number += 1
        value = lane * 1_000_000 + number
        try:
            reply = await connection.ask(post("/predict", {"value": value, "ms": 1}))
        except Lost as error:
            tally.lost.append(f"{'fresh' if fresh else 'keep-alive'}: {error}")
            connection = None
            continue
        tally.judge(value, reply)
        if fresh or reply.closes:
            connection.close()
            connection = None


async def _sigterm_once(server: Server, tally: Tally) -> None:
    until = asyncio.Event()
    lanes = [
        asyncio.create_task(_keep_asking(server.port, lane, tally, until, fresh=lane % 2 == 0)) for lane in range(32)
    ]
    await asyncio.sleep(0.5)
    server.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        await asyncio.gather(*lanes)


def sigterm(rounds: int) -> Figures:
    """SIGTERM while 16 clients keep their connections and 16 open a new one for each request."""
    tally, codes = Tally(), Counter[int]()
    for _ in range(rounds):
        with served(PREDICTOR="robust:Spin") as server:
            _run(_sigterm_once(server, tally))
            codes[server.process.wait(30)] += 1
    figures = {"rounds": rounds, **tally.figures(), "exit_codes": dict(codes)}
    return _marked(figures, not tally.lost and not tally.wrong and set(codes) == {0})


# SIGKILL of a worker under load.


async def _sigkill(server: Server, rounds: int, tally: Tally) -> None:
    until = asyncio.Event()
    lanes = [asyncio.create_task(_keep_asking(server.port, lane, tally, until, fresh=False)) for lane in range(16)]
    connection = await connect(server.port)
    for number in range(rounds):
        await asyncio.sleep(0.5)
        value = 900_000_000 + number
        reply = await connection.ask(post("/predict", {"value": value, "ms": 1}))
        tally.judge(value, reply)
        os.kill(reply.json["pid"], signal.SIGKILL)
    await asyncio.sleep(1.0)
    until.set()
    async with asyncio.timeout(30):
        await asyncio.gather(*lanes)


def sigkill(rounds: int) -> Figures:
    """SIGKILL one of two workers, again and again, while 16 clients ask."""
    tally = Tally()
    with served(PREDICTOR="robust:Spin", WORKERS=2) as server:
        _run(_sigkill(server, rounds, tally))
    return _marked({"rounds": rounds, **tally.figures()}, not tally.lost and not tally.wrong)


# One bad item among many.


async def _bad_item(port: int, rounds: int) -> tuple[Counter[int], Counter[int]]:
    good, bad = Counter[int](), Counter[int]()

    async def lane(number: int, guilty: bool) -> None:
        connection = await connect(port)
        for _ in range(5):
            x: list[Any] = [[1.0, 2.0], [3.0, 4.0]] if guilty else [number, 1.0, 2.0, 3.0]
            reply = await connection.ask(post("/predict", {"x": x}))
            right = guilty or (reply.status == 200 and reply.json == number + 6)
            (bad if guilty else good)[reply.status if right else -1] += 1
        connection.close()

    for _ in range(rounds):
        await asyncio.gather(*(lane(number, guilty=False) for number in range(48)), lane(48, guilty=True))
    return good, bad


def bad_item(rounds: int) -> Figures:
    """One request of the wrong shape for every 48 good ones in flight, batching on: 240 good ones a round."""
    with served(PREDICTOR="robust:Rows", MAX_BATCH_DELAY_MS=2) as server:
        good, bad = _run(_bad_item(server.port, rounds))
    figures = {"rounds": rounds, "good": dict(good), "bad": dict(bad)}
    return _marked(figures, set(good) == {200} and set(bad) == {422})


# More than can be answered.


class Overload:
    """What 2,000 connections got."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.in_time = 0  # of the good answers, those before the run's end: the queue is emptied after it
        self.times: dict[int, list[float]] = {}
        self.resets: list[str] = []

    def figures(self, seconds: float) -> Figures:
        """Goodput, refusals and how long they took."""
        return {
            "goodput_per_second": round(self.in_time / seconds, 1),
            "statuses": dict(self.statuses),
            "resets": len(self.resets),
            "answered": quantiles(self.times.get(200, [])),
            "refused": quantiles(self.times.get(503, [])),
        }


async def _drive(port: int, connections: int, seconds: float, *, pause: bool) -> Overload:
    """So many connections that ask again at once, or after what Retry-After says."""
    found = Overload()
    request = post("/predict", {"value": 7}, "X-Request-Timeout: 1")
    end = time.monotonic() + seconds

    async def lane(number: int) -> None:
        await asyncio.sleep(number / connections * min(1.0, seconds / 4))
        try:
            connection = await connect(port)
            while time.monotonic() < end:
                reply = await connection.ask(request)
                found.statuses[reply.status] += 1
                found.in_time += reply.status == 200 and time.monotonic() < end
                found.times.setdefault(reply.status, []).append(reply.seconds)
                if pause and reply.status != 200:
                    await asyncio.sleep(reply.retry_after)
            connection.close()
        except (Lost, OSError) as error:
            found.resets.append(repr(error))

    await asyncio.gather(*(lane(number) for number in range(connections)))
    return found


def overload(rounds: int) -> Figures:
    """2,000 connections for a model that answers 50 a second, each with a deadline of one second."""
    seconds = min(10.0, 2.0 + rounds)
    figures: Figures = {}
    for name, workers in (("thread", 0), ("worker", 1)):
        with served(PREDICTOR="robust:Spin", WORKERS=workers) as server:
            peak = _run(_drive(server.port, 8, seconds, pause=True))
            flood = _run(_drive(server.port, 2000, seconds, pause=True))
            rude = _run(_drive(server.port, 2000, seconds, pause=False))
            alive = server.process.poll() is None
        found = {"peak": peak, "patient": flood, "impatient": rude}
        figures[name] = {key: value.figures(seconds) for key, value in found.items()} | {"alive": alive}
    return _marked(figures, all(_overload_holds(found) for found in figures.values()))


def _overload_holds(found: Figures) -> bool:
    peak = found["peak"]["goodput_per_second"]
    patient = found["patient"]
    fine = found["alive"] and not patient["resets"] and not found["impatient"]["resets"]
    return bool(fine and patient["goodput_per_second"] >= 0.9 * peak and patient["refused"].get("p99_ms", 0) < 50)


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
            _run(_ask_meanwhile(server.port, [small], asyncio.sleep(0.2, None)))  # type: ignore[arg-type]
            reply, times = _run(_large(server.port, post(path, body), small))
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
    return _marked(figures, held)


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
                _run(_first_answer(server.port, f"/v2/models/{model['name']}/ready"))
            time.sleep(2)
            before = server.cpu_seconds()
            time.sleep(seconds)
            percent = round((server.cpu_seconds() - before) / seconds * 100, 3)
    return _marked({"models": 4, "seconds": seconds, "cpu_percent_of_a_core": percent}, percent < 0.5)


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
        figures = _run(_health(server, min(10.0, 2.0 + rounds)))
    late = [name for name in ("health", "metrics", "refusals", "deadlines") if figures[name].get("p99_ms", 0) >= 20]
    return _marked({**figures, "over_20_ms": late}, not late and figures["health"]["count"] > 0)


SCENARIOS: dict[str, Callable[[int], Figures]] = {
    "sigterm": sigterm,
    "sigkill": sigkill,
    "bad-item": bad_item,
    "overload": overload,
    "large-json": large_json,
    "idle": idle,
    "health": health,
}


def _marked(figures: Figures, holds: bool) -> Figures:
    return {**figures, "holds": holds}


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    async def run() -> Any:
        try:
            return await work
        finally:
            await hang_up()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", nargs="+", choices=[*SCENARIOS, "all"])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    names = list(SCENARIOS) if "all" in options.scenario else options.scenario
    if len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    results: Figures = {}
    for name in names:
        results[name] = SCENARIOS[name](options.rounds)
        print(name, json.dumps(results[name], indent=2), file=sys.stderr)
    print(json.dumps({"benchmark": "serving/robustness", **results}))
    return 0 if all(result["holds"] for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
