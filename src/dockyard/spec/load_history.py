"""What the yard tells of the load over time: one deployment's, in steps of equal length, as frozen values.

`yard.measuring` makes them out of the time series, `client` reads them, `dockyard top --since` shows them. Times are
seconds since 1970.
"""

from __future__ import annotations

from dockyard.spec.status import Noun


class LoadStep(Noun, frozen=True, kw_only=True):
    """What a deployment did and used in one step, on average; None where nobody measured. `at`: when it began."""

    at: float
    requests_per_second: float | None = None
    errors_per_second: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    in_flight: float | None = None
    ready: float | None = None
    """Replicas that were ready."""
    cpus: float | None = None
    memory: int | None = None


class LoadHistory(Noun, frozen=True, kw_only=True):
    """A deployment's steps of `step_s` seconds, the oldest first; the last is the one that runs."""

    deployment: str
    step_s: float
    steps: tuple[LoadStep, ...] = ()
