"""The raw-socket gRPC generator of `grpc_load`, as one run for `generators`: prints what wrk's script prints.

Used for the small models when this checkout has `grpc_load`: grpcio's own client is slower than the servers.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np

CALLS_A_CONNECTION = 16


def main() -> None:
    """`grpc_frames TARGET WEIGHTS AT-ONCE SECONDS`."""
    target, weights, at_once, seconds = sys.argv[1:]
    load = importlib.import_module("benchmarks.serving.grpc_load")
    asked = load.question(Path(weights), "model")
    began = time.perf_counter()
    channels = -(-int(at_once) // CALLS_A_CONNECTION)
    latencies = load.drive(target, asked, channels, int(at_once), float(seconds))
    took = time.perf_counter() - began
    p50, p99, most = np.percentile(np.array(latencies) * 1e6, [50, 99, 100]).tolist()
    result = {"requests": len(latencies), "duration_us": round(took * 1e6), "errors": 0, "refused": 0}
    print("RESULT " + json.dumps(result | {"p50_us": round(p50), "p99_us": round(p99), "max_us": round(most)}))


if __name__ == "__main__":
    main()
