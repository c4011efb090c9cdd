"""One virtual environment a peer, made by uv from the peer's pinned requirements, kept in a cache and used again.

Called by `compare`. The folder's name is the hash of what was asked for, so a changed pin makes a new environment.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

INSTALL_DEADLINE_S = 900.0


class NotRun(Exception):  # noqa: N818 - it is not an error of the harness but a line of its report
    """Why a peer, a model or a protocol was not measured."""


def cache() -> Path:
    """Where environments and logs are kept; safe to delete."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "dockyard-benchmarks"


def shared_requirements() -> tuple[str, ...]:
    """What runs the model, in the very version that berth uses here."""
    return (f"onnxruntime=={importlib.metadata.version('onnxruntime')}", "numpy")


def environment(requirements: Sequence[str], log: Path) -> Path:
    """The Python of an environment with the requirements; NotRun with uv's last line when they do not install."""
    if not requirements:
        return Path(sys.executable)
    wanted = "\n".join([sys.version, *requirements])
    folder = cache() / "environments" / hashlib.sha256(wanted.encode()).hexdigest()[:16]
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _uv(["venv", "--quiet", "--python", sys.executable, str(folder)], log)
    _uv(["pip", "install", "--python", str(python), *requirements], log)
    (folder / "complete").write_text(wanted + "\n")
    return python


def versions(python: Path, requirements: Sequence[str]) -> dict[str, str]:
    """The installed version of each requirement, for the report."""
    names = [requirement.partition("==")[0].partition("[")[0] for requirement in requirements]
    code = "import importlib.metadata as m, sys; print(*(m.version(n) for n in sys.argv[1:]))"
    words = [str(python), "-c", code, *names]
    found = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    return dict(zip(names, found, strict=True))


def last_line(log: Path) -> str:
    """What a program said at last, and where the rest is."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{''.join(lines[-1:])} ({log.name} in the folder of logs has the rest)"


def _uv(words: Sequence[str], log: Path) -> None:
    program = Path(sys.executable).with_name("uv")
    with log.open("ab") as output:
        try:
            command = [str(program) if program.exists() else "uv", *words]
            subprocess.run(command, stdout=output, stderr=output, check=True, timeout=INSTALL_DEADLINE_S)
        except subprocess.CalledProcessError as error:
            raise NotRun(f"did not install: {last_line(log)}") from error
        except subprocess.TimeoutExpired as error:
            raise NotRun(f"did not install within {INSTALL_DEADLINE_S:.0f} s") from error
