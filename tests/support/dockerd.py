"""A real Docker Engine for tests: the machine's, when one answers, or one of our own in a temporary folder.

The fixture `dockerd` in conftest.py calls it. Our own has no bridge and no firewall rules, so it needs nothing of the
machine's network; it is stopped by its own process, and what it mounted is unmounted.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_DEADLINE = 30.0
STOP_DEADLINE = 30.0
_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@contextmanager
def docker_engine() -> Iterator[str]:
    """The address (`unix:///...`) of a Docker Engine that answers."""
    for address in (os.environ.get("DOCKER_HOST", ""), "unix:///var/run/docker.sock"):
        if address.startswith("unix://") and _answers(Path(address.removeprefix("unix://"))):
            yield address
            return
    with own_engine() as path:
        yield f"unix://{path}"


@contextmanager
def own_engine() -> Iterator[Path]:
    """The socket of an engine that nobody else uses, for as long as the context lasts."""
    program = shutil.which("dockerd", path=_SEARCH)
    assert program, "dockerd is not installed: run `make test`, which installs it"
    folder = Path(tempfile.mkdtemp(prefix="dk-"))
    log = folder / "log"
    arguments = [f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid"]
    network = ["--iptables=false", "--ip6tables=false", "--bridge=none"]
    with log.open("wb") as words:
        process = subprocess.Popen(
            [program, *arguments, "-H", f"unix://{folder}/d.sock", *network],
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            env={**os.environ, "PATH": _SEARCH},
            start_new_session=True,
        )
    try:
        _wait(process, folder / "d.sock", log)
        yield folder / "d.sock"
    finally:
        _stop(process)
        _unmount(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], path: Path, log: Path) -> None:
    give_up = time.monotonic() + START_DEADLINE
    while not _answers(path):
        ended = process.poll() is not None
        if ended or time.monotonic() > give_up:
            tail = log.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"dockerd {'ended' if ended else 'did not answer in time'}; the end of its log:\n{tail}")
        time.sleep(0.05)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2)
        try:
            client.connect(str(path))
            client.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in client.recv(100)
        except OSError:
            return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_DEADLINE)


def _unmount(folder: Path) -> None:
    """Unmount what is left below the folder, deepest first."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    below = sorted((mount for mount in mounts if mount.startswith(f"{folder}/")), key=len, reverse=True)
    for mount in below:
        subprocess.run(["umount", "--lazy", mount], check=False)
