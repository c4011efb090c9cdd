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
import json
import os
import sys
from collections.abc import Callable

from benchmarks.serving.crowd import overload_small
from benchmarks.serving.extremes import health, idle, large_json
from benchmarks.serving.faults import bad_item, sigkill, sigterm
from benchmarks.serving.overload import overload, overload_by_need
from benchmarks.serving.under_test import Figures

SCENARIOS: dict[str, Callable[[int], Figures]] = {
    "sigterm": sigterm,
    "sigkill": sigkill,
    "bad-item": bad_item,
    "overload": overload,
    "overload-by-need": overload_by_need,
    "overload-small": overload_small,
    "large-json": large_json,
    "idle": idle,
    "health": health,
}


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
