"""Fuzz berth's parsers for as long as one likes: new random requests every round, until one of them finds something.

    python scripts/fuzz.py --minutes 10

runs tests/berth/test_fuzz*.py again and again, each round with a seed of its own, 500 requests a test. A finding stops
it, with what pytest says (hypothesis has made the request as small as it could by then) and the command that shows it
again. `make test` runs the same tests with the same 100 requests each time.
"""

from __future__ import annotations

import argparse
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROUND_S = 3600


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="begin no round after so long (default: 10)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31), help="of the first round")
    parser.add_argument("tests", nargs="*", help="pytest's words, in place of all the fuzz tests")
    arguments = parser.parse_args()
    tests = arguments.tests or sorted(str(path) for path in (ROOT / "tests" / "berth").glob("test_fuzz*.py"))
    end = time.monotonic() + arguments.minutes * 60
    seed, examples = arguments.seed, 0
    while time.monotonic() < end:
        found, output = one_round(seed, tests)
        examples += sum(map(int, re.findall(r"(\d+) passing,", output)))
        if found:
            print(output)
            print(f"found with seed {seed}: python scripts/fuzz.py --minutes 1 --seed {seed}")
            return 1
        print(f"seed {seed}: nothing found, {examples:,} requests so far", flush=True)
        seed += 1
    return 0


def one_round(seed: int, tests: list[str]) -> tuple[bool, str]:
    """Whether a round found something, and all that it said."""
    options = ["--hypothesis-profile=long", f"--hypothesis-seed={seed}", "--hypothesis-show-statistics"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", *options, *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=ROUND_S, check=False)
    return done.returncode != 0, done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main())
