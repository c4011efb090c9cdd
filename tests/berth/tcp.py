"""A TCP address for a berth on a unix socket, for clients that know no other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.berth.support import DEADLINE_S, Berth


@contextmanager
def on_tcp(server: Berth) -> Iterator[str]:
    """`http://127.0.0.1:port`, where the server answers."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("forward.py")), server.socket_path], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
        process.stdout.close()
