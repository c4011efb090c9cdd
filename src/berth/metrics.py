"""Counters and histograms, written as Prometheus text at /metrics.

berth's own names are histograms in seconds; Triton's `nv_inference_*` names are kept as aliases, so that dashboards and
scalers made for Triton go on working. The batcher and the application count; nothing here does I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

_MUCH = 512


class Histogram:
    """Counts per bucket, and their sum.

    Values are only collected by `observe` and counted many at once: at the request rates that a tiny model reaches,
    counting one by one would cost as much as parsing.
    """

    __slots__ = ("_values", "bounds", "counts", "help", "name", "observe", "total")

    def __init__(self, name: str, text: str, bounds: tuple[float, ...]) -> None:
        self.name = name
        self.help = text
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self._values: list[float] = []
        self.observe = self._values.append  # collect one value

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
        """The Prometheus text of this histogram."""
        self.fold()
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} histogram"
        total = 0
        for bound, count in zip((*map(_number, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            yield f'{self.name}_bucket{{{labels},le="{bound}"}} {total}'
        yield f"{self.name}_sum{{{labels}}} {self.total!r}"
        yield f"{self.name}_count{{{labels}}} {total}"


class Metrics:
    """Everything that one server counts."""

    def __init__(self, model: str, version: str) -> None:
        self._labels = f'model="{_escape(model)}",version="{_escape(version)}"'
        self.request = Histogram("berth_request_seconds", "From a whole request to its answer.", SECONDS)
        self.queue = Histogram("berth_queue_seconds", "From admission to the start of the batch.", SECONDS)
        self.batch = Histogram("berth_batch_rows", "Rows in a batch.", ROWS)
        self.decode = Histogram("berth_decode_seconds", "Bytes of a request to the model's inputs.", SECONDS)
        self.predict = Histogram("berth_predict_seconds", "One batch in the model.", SECONDS)
        self.encode = Histogram("berth_encode_seconds", "The model's answer to bytes.", SECONDS)
        self._histograms = (self.request, self.queue, self.batch, self.decode, self.predict, self.encode)
        self.answers: Counter[tuple[str, int]] = Counter()  # by route and status
        self.failures: Counter[str] = Counter()  # by Triton's reason
        self.successes = 0
        self.runs = 0
        self._pending: Callable[[], int] = int

    def started(self, waits: Sequence[float], rows: int) -> None:
        """A batch goes to the model: how long each request waited (seconds), and its rows."""
        observe = self.queue.observe
        for wait in waits:
            observe(wait)
        self.batch.observe(rows)

    def ran(self, seconds: float, runs: int) -> None:
        """A batch came back."""
        self.runs += runs
        self.predict.observe(seconds)
        for histogram in self._histograms:
            histogram.fold_some()

    def watch_pending(self, pending: Callable[[], int]) -> None:
        """Where the number of requests in flight is to be had."""
        self._pending = pending

    def fold(self) -> None:
        """Count what the histograms have collected; called every second or so, which bounds their memory."""
        for histogram in self._histograms:
            histogram.fold()

    def text(self) -> bytes:
        """The page at /metrics."""
        return ("\n".join(self._lines()) + "\n").encode()

    def _lines(self) -> Iterator[str]:
        labels = self._labels
        for histogram in self._histograms:
            yield from histogram.lines(labels)
        answers = [
            (f'{labels},route="{_escape(route)}",status="{status}"', count)
            for (route, status), count in sorted(self.answers.items())
        ]
        yield from _counter("berth_requests_total", "Answers by route and status.", answers)
        yield "# HELP berth_pending_requests Requests admitted and not yet answered."
        yield "# TYPE berth_pending_requests gauge"
        yield f"berth_pending_requests{{{labels}}} {self._pending()}"
        yield from self._triton_lines()

    def _triton_lines(self) -> Iterator[str]:
        labels = self._labels
        yield from _counter("nv_inference_request_success", "Inference requests answered.", [(labels, self.successes)])
        reasons = [(f'{labels},reason="{reason}"', self.failures[reason]) for reason in _REASONS]
        yield from _counter("nv_inference_request_failure", "Inference requests that failed.", reasons)
        yield from _counter("nv_inference_count", "Rows inferred.", [(labels, int(self.batch.sum))])
        yield from _counter("nv_inference_exec_count", "Batches run.", [(labels, self.runs)])
        yield "# HELP nv_inference_pending_request_count Requests waiting."
        yield "# TYPE nv_inference_pending_request_count gauge"
        yield f"nv_inference_pending_request_count{{{labels}}} {self._pending()}"
        durations = {
            "request": self.request.sum,
            "queue": self.queue.sum,
            "compute_input": self.decode.sum,
            "compute_infer": self.predict.sum,
            "compute_output": self.encode.sum,
        }
        for name, seconds in durations.items():
            full = f"nv_inference_{name}_duration_us"
            yield from _counter(full, f"Cumulative microseconds of {name}.", [(labels, int(seconds * 1e6))])


_REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")


def _counter(name: str, text: str, samples: Iterable[tuple[str, int]]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} counter"
    for labels, value in samples:
        yield f"{name}{{{labels}}} {value}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
