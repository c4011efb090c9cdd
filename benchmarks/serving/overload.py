"""A model that 2,000 connections ask for forty times what it can do: scenarios of `robustness`.

Three runs each: 8 callers that wait for their turn (the peak), 2,000 that do as Retry-After says, 2,000 that ask again
at once. Models differ in what they need of the processor, for that is what a flood of refusals takes from them. Small
networks, which refuse nobody, are in `crowd`, which measures as this does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from benchmarks.serving.client import Lost, connect, post
from benchmarks.serving.impatient import Overload, ask_again
from benchmarks.serving.under_test import Figures, marked, quantiles, run, served

CONNECTIONS = 2000
REQUEST = post("/predict", {"value": 7}, "X-Request-Timeout: 1")
IN_THE_ISSUE = {"thread": ("robust:Spin", 0), "worker": ("robust:Spin", 1)}
BY_NEED = {
    "computes, thread": ("robust:Compute", 0),
    "computes, worker": ("robust:Compute", 1),
    "waits, thread": ("robust:Wait", 0),
    "waits, worker": ("robust:Wait", 1),
}


def overload(rounds: int) -> Figures:
    """20 ms of pure Python by the clock, in the server's own process and in a worker's, on the server's core."""
    figures = {name: _overloaded(*model, rounds) for name, model in IN_THE_ISSUE.items()}
    return marked(figures, all(_holds(found) for found in figures.values()))


def overload_by_need(rounds: int) -> Figures:
    """20 ms of processor time, which a flood can take away, and 20 ms of waiting for a device, which it cannot."""
    figures = {name: _overloaded(*model, rounds) for name, model in BY_NEED.items()}
    return marked(figures, all(_holds(found) for found in figures.values()))


def _overloaded(predictor: str, workers: int, rounds: int) -> Figures:
    seconds = min(8.0, 2.0 + rounds)
    with served(PREDICTOR=predictor, WORKERS=workers) as server:
        figures = {
            "peak": measured(server, seconds, lambda: run(_drive(server.port, 8, seconds))),
            "patient": measured(server, seconds, lambda: run(_drive(server.port, CONNECTIONS, seconds))),
            "impatient": measured(server, seconds, lambda: ask_again(server.connect, REQUEST, CONNECTIONS, seconds)),
        }
        alive = server.process.poll() is None
    return {**figures, "impatience": _impatience(figures["peak"], figures["impatient"]), "alive": alive}


def _impatience(peak: Figures, impatient: Figures) -> Figures:
    return {
        "goodput_of_peak": round(impatient["goodput_per_second"] / peak["goodput_per_second"], 3),
        "refused_under_50_ms": impatient["refused"].get("p99_ms", 0) < 50,
    }


class Measured(Protocol):
    """A server as far as its processor time goes, in seconds."""

    def loop_seconds(self) -> float:
        """Of the thread that all connections are served in."""

    def cpu_seconds(self) -> float:
        """Of all its processes so far."""


def measured(server: Measured, seconds: float, drive: Callable[[], Overload]) -> Figures:
    """One run, and how much of its time each side computed."""
    began, loop, all_of_it, client = time.monotonic(), server.loop_seconds(), server.cpu_seconds(), time.process_time()
    found = drive()
    took = time.monotonic() - began
    shares = {
        "event_loop": server.loop_seconds() - loop,
        "server": server.cpu_seconds() - all_of_it,
        "client": time.process_time() - client,
    }
    return {
        "goodput_per_second": round(found.in_time / seconds, 1),
        "statuses": dict(found.statuses),
        "resets": len(found.resets),
        "answered": quantiles(found.times.get(200, [])),
        "refused": quantiles(found.times.get(503, [])),
        "oldest_unanswered_ms": round(found.unanswered * 1000, 1),
        "server_us_per_answer": round(shares["server"] / max(1, found.statuses.total()) * 1e6, 2),
        "processor_shares": {name: round(share / took, 2) for name, share in shares.items()},
    }


async def _drive(port: int, connections: int, seconds: float) -> Overload:
    """So many connections that ask again after what Retry-After says."""
    found = Overload()
    end = time.monotonic() + seconds

    async def lane(number: int) -> None:
        await asyncio.sleep(number / connections * min(1.0, seconds / 4))
        try:
            connection = await connect(port)
            while time.monotonic() < end:
                reply = await connection.ask(REQUEST)
                found.statuses[reply.status] += 1
                found.in_time += reply.status == 200 and time.monotonic() < end
                found.times.setdefault(reply.status, []).append(reply.seconds)
                if reply.status != 200:
                    await asyncio.sleep(reply.retry_after)
            connection.close()
        except (Lost, OSError) as error:
            found.resets.append(repr(error))

    await asyncio.gather(*(lane(number) for number in range(connections)))
    return found


def _holds(found: Figures) -> bool:
    peak, patient = found["peak"]["goodput_per_second"], found["patient"]
    fine = found["alive"] and not patient["resets"] and not found["impatient"]["resets"]
    return bool(fine and patient["goodput_per_second"] >= 0.9 * peak and patient["refused"].get("p99_ms", 0) < 50)
