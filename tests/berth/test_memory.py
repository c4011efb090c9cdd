"""What loading needed is given back before a server is ready."""

from __future__ import annotations

import re
import subprocess
import sys

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
