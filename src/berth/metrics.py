"""Counters and histograms, written as Prometheus text at /metrics.

berth's own names are histograms in seconds; Triton's `nv_inference_*` names are kept as aliases, so that dashboards and
scalers made for Triton go on working. The batcher and the application count; nothing here does I/O.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

import berth
from berth import process

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

_MUCH = 512


class Histogram:
    """Counts per bucket, and their sum.

    Values are only collected by `observe` and counted many at once: at the request rates that a tiny model reaches,
    counting one by one would cost as much as parsing.
    """

    __slots__ = ("_values", "bounds", "counts", "help", "name", "observe", "observe_all", "total")

    def __init__(self, name: str, text: str, bounds: tuple[float, ...]) -> None:
        self.name = name
        self.help = text
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self._values: list[float] = []
        self.observe = self._values.append  # collect one value
        self.observe_all = self._values.extend

    def fold_some(self) -> None:
        """Count what was collected, if it is much: little by little, so that no request waits for it."""
        if len(self._values) >= _MUCH:
            self.fold()

    def fold(self) -> None:
        """Count what was collected."""
        values = self._values
        if not values:
            return
        array = np.array(values)
        values.clear()
        self.total += float(array.sum())
        found = np.bincount(np.searchsorted(self.bounds, array), minlength=len(self.counts)).tolist()
        self.counts = [old + new for old, new in zip(self.counts, found, strict=True)]

    @property
    def sum(self) -> float:
        """The sum of all values."""
        self.fold()
        return self.total

    def lines(self, labels: str) -> Iterator[str]:
        """The samples of this histogram as Prometheus text."""
        self.fold()
        before = f"{labels}," if labels else ""
        own = f"{{{labels}}}" if labels else ""
        total = 0
        for bound, count in zip((*map(_number, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            yield f'{self.name}_bucket{{{before}le="{bound}"}} {total}'
        yield f"{self.name}_sum{own} {self.total!r}"
        yield f"{self.name}_count{own} {total}"


class CacheCounts(Protocol):
    """What a response cache counts."""

    hits: int
    misses: int


class ModelMetrics:
    """What is counted for one model."""

    def __init__(self, model: str, version: str) -> None:
        self.model, self.version = model, version
        self.labels = f'model="{_escape(model)}",version="{_escape(version)}"'
        self.request = Histogram("berth_request_seconds", "From a whole request to its answer.", SECONDS)
        self.queue = Histogram("berth_queue_seconds", "From admission to the start of the batch.", SECONDS)
        self.batch = Histogram("berth_batch_rows", "Rows in a batch.", ROWS)
        self.decode = Histogram("berth_decode_seconds", "Bytes of a request to the model's inputs.", SECONDS)
        self.predict = Histogram("berth_predict_seconds", "One batch in the model.", SECONDS)
        self.encode = Histogram("berth_encode_seconds", "The model's answer to bytes.", SECONDS)
        self.histograms = (self.request, self.queue, self.batch, self.decode, self.predict, self.encode)
        self.failures: Counter[str] = Counter()  # by Triton's reason
        self.successes = 0
        self.computed = 0.0  # seconds: each request that went well counts the whole run of its batch, as Triton has it
        self.last = 0.0  # when the model ran last, in seconds since 1970
        self.express = 0  # of the successes, those of the express lane
        self.runs = 0
        self.cache: CacheCounts | None = None
        self.workers: Counter[str] = Counter()  # what happened to worker processes
        self.processes: Callable[[], Iterable[tuple[int, int, process.Usage]]] = tuple  # see WorkerPool.facts
        self.pending: Callable[[], int] = int  # how many requests are in flight
        self.waiting: Callable[[], int] = int  # how many of them no batch has taken yet

    def ran(self, seconds: float, runs: int) -> None:
        """A batch came back."""
        self.runs += runs
        self.last = time.time()
        self.predict.observe(seconds)
        for histogram in self.histograms:
            histogram.fold_some()


class Metrics:
    """Everything that one server counts: its answers, itself, and what it counts for each model."""

    def __init__(self, image_digest: str = "") -> None:
        text = "How late the event loop comes to what is due; looked at twice a second."
        self.lag = Histogram("berth_event_loop_lag_seconds", text, SECONDS)
        self.connections: Callable[[], int] = int  # how many are open
        self.traces: Mapping[str, int] | None = None  # what became of traced requests
        facts = {"version": berth.__version__, "python": platform.python_version(), "image_digest": image_digest}
        self._info = ",".join(f'{name}="{_escape(value)}"' for name, value in facts.items())
        self.answers: Counter[tuple[str, str, int]] = Counter()  # by the model's labels, route and status
        self._models: dict[tuple[str, str], ModelMetrics] = {}

    def of(self, model: str, version: str) -> ModelMetrics:
        """The counts of a model; a version that is loaded again goes on counting where it stopped."""
        return self._models.setdefault((model, version), ModelMetrics(model, version))

    @property
    def successes(self) -> int:
        """Requests answered well, of all models."""
        return sum(model.successes for model in self._models.values())

    def fold(self) -> None:
        """Count what the histograms have collected; called every second or so, which bounds their memory."""
        self.lag.fold()
        for model in self._models.values():
            for histogram in model.histograms:
                histogram.fold()

    def text(self) -> bytes:
        """The page at /metrics."""
        return ("\n".join(self._lines()) + "\n").encode()

    def _lines(self) -> Iterator[str]:
        models = list(self._models.values())
        for several in zip(*(model.histograms for model in models), strict=True):
            yield from _head(several[0].name, several[0].help, "histogram")
            for model, histogram in zip(models, several, strict=True):
                yield from histogram.lines(model.labels)
        answers = [
            (f'{labels}{labels and ","}route="{_escape(route)}",status="{status}"', count)
            for (labels, route, status), count in sorted(self.answers.items())
        ]
        yield from _samples("berth_requests_total", "Answers by route and status.", "counter", answers)
        pending = [(model.labels, model.pending()) for model in models]
        yield from _samples("berth_pending_requests", "Requests admitted and not yet answered.", "gauge", pending)
        express = [(model.labels, model.express) for model in models]
        text = "Requests answered in one turn of the event loop, without queue or log line."
        yield from _samples("berth_express_requests_total", text, "counter", express)
        events = [
            (f'{model.labels},event="{event}"', count)
            for model in models
            for event, count in sorted(model.workers.items())
        ]
        if events:
            yield from _samples("berth_worker_events_total", "What happened to worker processes.", "counter", events)
            yield from _worker_lines(models)
        cached = [(model.labels, model.cache) for model in models if model.cache is not None]
        if cached:
            hits = [(labels, cache.hits) for labels, cache in cached]
            misses = [(labels, cache.misses) for labels, cache in cached]
            yield from _samples("berth_cache_hits_total", "Answers without a run.", "counter", hits)
            yield from _samples("berth_cache_misses_total", "Questions that had to run.", "counter", misses)
        yield from _triton_lines(models)
        yield from self._own_lines()

    def _own_lines(self) -> Iterator[str]:
        yield from _samples("berth_info", "What serves; always 1.", "gauge", [(self._info, 1)])
        yield from _samples("berth_open_connections", "Connections now.", "gauge", [("", self.connections())])
        yield from _head(self.lag.name, self.lag.help, "histogram")
        yield from self.lag.lines("")
        if self.traces is not None:
            traced = [(f'outcome="{outcome}"', count) for outcome, count in sorted(self.traces.items())]
            yield from _samples("berth_traced_requests_total", "Requests that were traced.", "counter", traced)
        for name, text, kind, value in process.facts():
            yield from _samples(name, text, kind, [("", value)])


def _worker_lines(models: Sequence[ModelMetrics]) -> Iterator[str]:
    """What each worker process uses; its number is never given again, and its lines end with it."""
    found = [
        (f'{model.labels},worker="{number}"', busy, used)
        for model in models
        for number, busy, used in model.processes()
    ]
    resident = [(labels, used.resident_bytes) for labels, _, used in found]
    seconds = [(labels, used.cpu_seconds) for labels, _, used in found]
    running = [(labels, busy) for labels, busy, _ in found]
    text = "Resident memory of a worker process, with what it shares with the others."
    yield from _samples("berth_worker_resident_memory_bytes", text, "gauge", resident)
    yield from _samples("berth_worker_cpu_seconds_total", "Processor time of a worker process.", "counter", seconds)
    yield from _samples("berth_worker_running_requests", "Requests that a worker runs now.", "gauge", running)


_REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")


def _triton_lines(models: Sequence[ModelMetrics]) -> Iterator[str]:
    def counter(name: str, text: str, count: Callable[[ModelMetrics], int]) -> Iterator[str]:
        yield from _samples(name, text, "counter", [(model.labels, count(model)) for model in models])

    yield from counter("nv_inference_request_success", "Inference requests answered.", lambda model: model.successes)
    failures = [
        (f'{model.labels},reason="{reason}"', model.failures[reason]) for model in models for reason in _REASONS
    ]
    yield from _samples("nv_inference_request_failure", "Inference requests that failed.", "counter", failures)
    yield from counter("nv_inference_count", "Rows inferred.", lambda model: int(model.batch.sum))
    yield from counter("nv_inference_exec_count", "Batches run.", lambda model: model.runs)
    waiting = [(model.labels, model.waiting()) for model in models]
    yield from _samples("nv_inference_pending_request_count", "Requests that wait for a run.", "gauge", waiting)
    durations: dict[str, Callable[[ModelMetrics], float]] = {
        "request": lambda model: model.request.sum,
        "queue": lambda model: model.queue.sum,
        "compute_input": lambda model: model.decode.sum,
        "compute_infer": lambda model: model.computed,
        "compute_output": lambda model: model.encode.sum,
    }
    for name, seconds in durations.items():
        samples = [(model.labels, int(seconds(model) * 1e6)) for model in models]
        full = f"nv_inference_{name}_duration_us"
        yield from _samples(full, f"Cumulative microseconds of {name}.", "counter", samples)


def _head(name: str, text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _samples(name: str, text: str, kind: str, samples: Iterable[tuple[str, float]]) -> Iterator[str]:
    yield from _head(name, text, kind)
    for labels, value in samples:
        yield f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
