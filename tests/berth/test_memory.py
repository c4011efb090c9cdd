"""What loading needed is given back before a server is ready."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from berth import memory

PROGRAM = """
import re, numpy, onnxruntime
from berth.memory import release

def resident(kind):
    return int(re.search(kind + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

rows = numpy.arange(1_000_000, dtype=float)
before = resident("RssFile")
release()
print(before, resident("RssFile"))
assert rows.sum() == 499999500000.0
assert onnxruntime.get_available_providers()
assert re.match("a+", "aaa")
"""


def test_pages_of_files_are_let_go_and_everything_still_works() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    before, after = map(int, re.findall(r"\d+", done.stdout))
    assert after < before / 2


def test_once_more_at_the_first_quiet_moment_after_the_first_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    released = []
    monkeypatch.setattr(memory, "release", lambda: released.append(seen))
    settling = memory.Settling()
    for seen in enumerate(((0, 0), (0, 0), (3, 0), (5, 1), (5, 1), (5, 0), (5, 0), (6, 0), (6, 0))):
        settling.look(*seen[1])
    assert released == [(5, (5, 0))]
