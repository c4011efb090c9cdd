"""Sends one gRPC request over and over, N at once, and prints counts and latencies as wrk's script does.

Run by `generators` in an environment that has grpcio. Messages pass as bytes, nothing is decoded, yet grpcio's client
reaches only some thousands of requests a second on one core: against a fast server it measures itself.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc

IN_FLIGHT_A_CONNECTION = 16
DEADLINE_S = 30.0


@dataclass
class Seen:
    """Latencies in seconds of the good, and how many failed."""

    latencies: list[float] = field(default_factory=list)
    errors: int = 0


async def ask_until(end: float, call: grpc.aio.UnaryUnaryMultiCallable, body: bytes, seen: Seen) -> None:
    """One after the other."""
    while (began := time.perf_counter()) < end:
        try:
            await call(body, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError:
            seen.errors += 1
        else:
            seen.latencies.append(time.perf_counter() - began)


async def run(target: str, path: str, body: bytes, at_once: int, seconds: float) -> None:
    """All of them, over as few connections as real clients use, and the result on standard output."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    channels = [grpc.aio.insecure_channel(target, options) for _ in range(-(-at_once // IN_FLIGHT_A_CONNECTION))]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    calls = [channel.unary_unary(path) for channel in channels]
    seen, began = Seen(), time.perf_counter()
    end = began + seconds
    await asyncio.gather(*(ask_until(end, calls[number % len(calls)], body, seen) for number in range(at_once)))
    took = time.perf_counter() - began
    for channel in channels:
        await channel.close()
    ordered = sorted(seen.latencies) or [0.0]
    result = {
        "requests": len(seen.latencies) + seen.errors,
        "duration_us": round(took * 1e6),
        "errors": 0,
        "refused": seen.errors,
        "p50_us": round(ordered[len(ordered) // 2] * 1e6),
        "p99_us": round(ordered[len(ordered) * 99 // 100] * 1e6),
        "max_us": round(ordered[-1] * 1e6),
    }
    print("RESULT " + json.dumps(result))


async def once(target: str, path: str, body: bytes) -> None:
    """One request; the answer's bytes on standard output."""
    async with grpc.aio.insecure_channel(target) as channel:
        answer: bytes = await channel.unary_unary(path)(body, timeout=DEADLINE_S)
    sys.stdout.buffer.write(answer)


def main() -> None:
    """`grpc_client.py TARGET PATH BODY-FILE AT-ONCE SECONDS`; 0 at once: one request, to check the answer."""
    target, path, file, at_once, seconds = sys.argv[1:]
    body = Path(file).read_bytes()
    asyncio.run(run(target, path, body, int(at_once), float(seconds)) if int(at_once) else once(target, path, body))


if __name__ == "__main__":
    main()
