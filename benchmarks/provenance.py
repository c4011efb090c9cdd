"""What a result was measured on and of: the machine and the commit. Called by every benchmark that writes a result."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path


def machine() -> dict[str, object]:
    """What was measured on: processor, cores, memory, kernel, Python."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo)
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit that is measured; `-dirty` behind it if files differ."""
    words = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--match", ""]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
