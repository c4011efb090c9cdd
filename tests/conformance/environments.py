"""Virtual environments for clients whose requirements do not fit beside the project's own.

Each is made once from a file of pinned versions, with uv, and kept in `.setup/clients` until that file changes;
`make clean` removes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

from uv import find_uv_bin

HERE = Path(__file__).parent
ROOT = HERE.parent.parent / ".setup" / "clients"
INSTALL_S = 900


def pinned(name: str, package: str) -> str:
    """The version of a package that an environment has."""
    lines = requirements(name).read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{package}==")).partition("==")[2].split(" ")[0]


def requirements(name: str) -> Path:
    return HERE / f"{name}.txt"


def python_of(name: str) -> Path:
    """The interpreter of a client's environment, which is made if it is not there yet."""
    wanted = requirements(name).read_bytes() + sys.version.encode()
    folder = ROOT / f"{name}-{hashlib.sha256(wanted).hexdigest()[:12]}"
    ROOT.mkdir(parents=True, exist_ok=True)
    with (ROOT / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test runs may begin at once
        if not (folder / "complete").exists():
            _uv("venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
            _uv("pip", "install", "--quiet", "--python", str(folder), "-r", str(requirements(name)))
            (folder / "complete").touch()
    return folder / "bin" / "python"


def _uv(*arguments: str) -> None:
    done = subprocess.run([find_uv_bin(), *arguments], capture_output=True, text=True, timeout=INSTALL_S, check=False)
    if done.returncode:
        raise RuntimeError(f"uv {' '.join(arguments)} failed:\n{done.stderr}")
