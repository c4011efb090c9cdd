"""What it costs to look: one tick of the sampler with 100 replicas of 100 deployments, and what a day of them takes.

`python -m benchmarks.deploy.sampling` prints one JSON object. Replicas are sockets that answer with a real berth's
page, in a process of their own; the gateway's page is as long as Envoy's is for 100 clusters. Ticks follow one another
at once, and processor time is this process's alone. A day's bytes are computed from those of ten busy minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from dockyard.yard import exposition
from dockyard.yard.latency import BOUNDS
from dockyard.yard.metrics import Metrics
from dockyard.yard.points import WIDTH, Metric, Subject
from dockyard.yard.readings import BERTH
from dockyard.yard.sampler import Sampler, Sources, Target
from dockyard.yard.scrape import Page, fetch
from dockyard.yard.series import Series, Tick
from dockyard.yard.series_file import SeriesFile
from dockyard.yard.state import Phase
from tests.berth.support import serving

REPLICAS = 100
TICKS = 90
BUSY_MINUTES = 10
SUBJECTS = REPLICAS * 3  # each a deployment, a revision, a replica
CLUSTER_LINES = 160  # of one used cluster, as Envoy 1.40 writes them


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ticks", type=int, default=TICKS)
    print(json.dumps(measure(ticks=parser.parse_args().ticks), indent=2))


def measure(*, ticks: int = TICKS) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory(prefix="dy-") as name:
        folder = Path(name)
        page = _berth_page()
        (folder / "page").write_text(page)
        looked = asyncio.run(_look(folder, ticks))
        return {"replicas": REPLICAS, "parse": _parse(page), "tick": looked, "series": _series(folder)}


def _berth_page() -> str:
    """What a real berth says after some requests."""
    with serving(PREDICTOR="models:Typed", MODEL_NAME="typed") as berth:
        for _ in range(20):
            berth.post("/predict", {})
        text = asyncio.run(fetch(Page(Path(berth.socket_path)), deadline=10))
        assert isinstance(text, str)
        return text


def _parse(page: str) -> dict[str, Any]:
    """Milliseconds for one replica's page: by our reader, whole and what the sampler wants; by prometheus_client."""
    return {
        "lines": page.count("\n"),
        "ms": round(_milliseconds(lambda: exposition.read(page)), 3),
        "ms_wanted": round(_milliseconds(lambda: exposition.read(page, wanted=BERTH)), 3),
        "ms_prometheus_client": round(_milliseconds(lambda: list(text_string_to_metric_families(page))), 3),
    }


def _milliseconds(action: Any, times: int = 100) -> float:
    runs = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        runs.append(time.perf_counter() - began)
    return statistics.median(runs) * 1e3


async def _look(folder: Path, ticks: int) -> dict[str, Any]:
    with _replicas(folder) as targets:
        now = 1_800_000_000.0
        page = _gateway_page(0)

        async def replicas() -> Sequence[Target]:
            return targets

        async def gateway() -> str:
            return page

        series = Series(SeriesFile(folder / "looked.db", lambda *_: None))
        looking = Sampler(Sources(replicas, gateway), series, clock=lambda: now, moment=lambda: now)
        await looking.tick()
        walls, processors = [], []
        async with _loop_delay() as delays:
            for number in range(1, ticks + 1):
                page, now = _gateway_page(number), now + 2
                wall, processor = time.perf_counter(), time.process_time()
                await looking.tick()
                walls.append(time.perf_counter() - wall)
                processors.append(time.process_time() - processor)
        assert looking.counts.unanswered == 0
        assert len(series.latest()) == SUBJECTS
        metrics = Metrics()
        began = time.process_time()
        text = metrics.text(looking.pages)
        taken = time.process_time() - began
        series.close()
    return {
        "ticks": ticks,
        "median_ms": round(statistics.median(walls) * 1e3, 1),
        "worst_ms": round(max(walls) * 1e3, 1),
        "mean_processor_ms": round(statistics.mean(processors) * 1e3, 1),
        "share_of_a_core_percent": round(statistics.mean(processors) / 2 * 100, 1),
        "worst_loop_delay_ms": round(max(delays) * 1e3, 1),
        "gateway_page_bytes": len(page),
        "metrics_page_ms": round(taken * 1e3, 1),
        "metrics_page_series": sum(not line.startswith("#") for line in text.splitlines()),
        "resident_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


@contextlib.asynccontextmanager
async def _loop_delay() -> AsyncIterator[list[float]]:
    """How late the event loop comes to something that is due every 5 ms."""
    delays = [0.0]

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.005
            await asyncio.sleep(0.005)
            delays.append(loop.time() - due)

    task = asyncio.ensure_future(watch())
    yield delays
    task.cancel()


@contextlib.contextmanager
def _replicas(folder: Path) -> Iterator[list[Target]]:
    """100 sockets that answer, and 100 processes to look at."""
    sockets = [folder / f"{number}.sock" for number in range(REPLICAS)]
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(folder / "page"), *map(str, sockets)], stdout=subprocess.PIPE
    )
    sleepers = [subprocess.Popen(["sleep", "600"]) for _ in sockets]
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield [
            Target(f"model-{number}", 1, f"model-{number}-1-a", Phase.READY, Page(path), sleeper.pid)
            for number, (path, sleeper) in enumerate(zip(sockets, sleepers, strict=True))
        ]
    finally:
        for process in (server, *sleepers):
            process.kill()
            process.communicate()


_SERVER = """
import asyncio, sys
page = open(sys.argv[1], "rb").read()
answer = b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(page) + page
async def one(reader, writer):
    try:
        await reader.readuntil(b"\\r\\n\\r\\n")
        writer.write(answer)
        await writer.drain()
    finally:
        writer.close()
async def main():
    servers = [await asyncio.start_unix_server(one, path) for path in sys.argv[2:]]
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def _gateway_page(rounds: int) -> str:
    """As long as Envoy's, with what the sampler reads in it."""
    bounds = (0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6, 3.6e6)
    lines = []
    for number in range(REPLICAS):
        own = f'envoy_cluster_name="model-{number}_1",deployment="model-{number}",revision="1"'
        count = rounds * 200
        lines.append(f'envoy_cluster_upstream_rq_xx{{envoy_response_code_class="2",{own}}} {count}')
        lines.append(f"envoy_cluster_upstream_rq_active{{{own}}} 1")
        lines += [f'envoy_cluster_upstream_rq_time_bucket{{{own},le="{bound:g}"}} {count}' for bound in bounds]
        lines.append(f"envoy_cluster_upstream_rq_time_sum{{{own}}} {count * 0.4}")
        rest = CLUSTER_LINES - len(bounds) - 3
        lines += [f"envoy_cluster_upstream_other_{each}_total{{{own}}} {count}" for each in range(rest)]
    return "\n".join(lines) + "\n"


def _series(folder: Path) -> dict[str, Any]:
    """Busy minutes of 300 subjects: what recording costs, what a day takes, how long questions take."""
    random = np.random.default_rng(7)
    subjects = [
        Subject(f"model-{number}", *rest)
        for number in range(REPLICAS)
        for rest in ((), (1,), (1, f"model-{number}-1-a"))
    ]
    file = SeriesFile(folder / "series.db", lambda *_: None)
    series = Series(file)
    start = 1_800_000_000
    began = time.process_time()
    for number in range(1, BUSY_MINUTES * 30 + 2):
        rows = _busy(random, len(subjects))
        series.record(Tick(start + 2 * number, 2 * number, 2.0, dict(zip(subjects, rows, strict=True))))
    taken = time.process_time() - began
    end = start + BUSY_MINUTES * 60
    sizes = {
        span: statistics.mean(len(data) for _, data in file.read(span, subjects[1], start, end)) for span in (2, 60)
    }
    result = {
        "subjects": len(subjects),
        "record_processor_ms": round(taken / (BUSY_MINUTES * 30) * 1e3, 2),
        "bytes_of_a_minute_of_ticks": round(sizes[2]),
        "bytes_of_a_minute_rolled_up": round(sizes[60]),
        "day_mb": round(len(subjects) * (60 * sizes[2] + 1440 * sizes[60]) / 1e6, 1),
        "query_10_minutes_ms": round(
            _milliseconds(lambda: series.query(subjects[1], [Metric.P99], start, end, 2), times=20), 1
        ),
    }
    series.close()
    return result


def _busy(random: np.random.Generator, count: int) -> Any:
    """Rows with noise in every amount, which compress worse than real ones."""
    rows = np.zeros((count, WIDTH))
    rows[:, 0] = requests = random.poisson(200, count)
    rows[:, 2:5] = random.random((count, 3))
    rows[:, 5] = (100 << 20) + random.integers(0, 1000, count) * 4096
    rows[:, 6] = 2
    buckets = WIDTH - len(BOUNDS) - 1
    for place, share in ((3, 0.2), (4, 0.5), (5, 0.2), (6, 0.08), (7, 0.02)):
        rows[:, buckets + place] = random.poisson(requests * share)
    return rows


if __name__ == "__main__":
    main()
