"""Builds of the file-type example: from nothing, after an edit of the code, and what a second load moves.

`python -m benchmarks.images.build` prints one JSON object with every run and the medians. Each build is the real
command, `dockyard build`, timed from outside; "from nothing" has empty caches, uv's included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[2] / "examples" / "file-type"
DEADLINE_S = 300


@dataclass(frozen=True)
class Bench:
    """A copy of the example and a home, both temporary."""

    project: Path
    home: Path

    def dockyard(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command in this home; its failure ends the benchmark."""
        return subprocess.run(
            [sys.executable, "-m", "dockyard.cli", *words],
            cwd=self.project,
            env={**_environment(), "DOCKYARD_HOME": str(self.home), "UV_CACHE_DIR": str(self.home / "uv")},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=True,
        )

    def build(self) -> tuple[float, dict[str, Any]]:
        """Seconds of `dockyard build`, process start included, and what it says it made."""
        started = time.perf_counter()
        done = self.dockyard("build", "--json")
        return time.perf_counter() - started, json.loads(done.stdout)

    def edit(self, number: int) -> None:
        """Change one line of the predictor's code."""
        file = self.project / "predictor.py"
        file.write_text(f"{(EXAMPLE / 'predictor.py').read_text()}\nEDIT = {number}\n")


def measure(*, runs: int = 5) -> dict[str, object]:
    """Every run and the medians: seconds, bytes."""
    with tempfile.TemporaryDirectory(prefix="dy-bench-") as name:
        folder = Path(name)
        project = folder / "file-type"
        shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("*.lock"))
        subprocess.run([sys.executable, "train.py"], cwd=project, check=True, capture_output=True, timeout=60)
        cold, sizes = [], {}
        for number in range(runs):
            (project / "dockyard.lock").unlink(missing_ok=True)
            bench = Bench(project, folder / f"home-{number}")
            seconds, built = bench.build()
            cold.append(seconds)
            sizes = {layer["title"]: layer["size"] for layer in built["layers"]} | {"image": built["size"]}
        bench = Bench(project, folder / "home-0")
        bench.build()
        edits = [_edited(bench, number) for number in range(runs)]
        unchanged = [bench.build()[0] for _ in range(runs)]
    return {
        "benchmark": "images/build",
        "cold_s": cold,
        "code_edit_s": edits,
        "nothing_changed_s": unchanged,
        "median_cold_s": statistics.median(cold),
        "median_code_edit_s": statistics.median(edits),
        "median_nothing_changed_s": statistics.median(unchanged),
        "bytes": sizes,
    }


def _environment() -> dict[str, str]:
    """This process's, but Python keeps the bytecode of Dockyard itself, as an installed program's is kept."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _edited(bench: Bench, number: int) -> float:
    bench.edit(number)
    seconds, built = bench.build()
    fresh = [layer["title"] for layer in built["layers"] if not layer["reused"]]
    if fresh != ["code"]:
        raise RuntimeError(f"an edit of the code made these layers anew: {fresh}")
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    print(json.dumps(measure(runs=parser.parse_args().runs), indent=2))


if __name__ == "__main__":
    main()
