"""Taking a listening socket from the process that has it, over real sockets and processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dockyard.engines.recovery import recover
from dockyard.engines.sockets import Listener

HOLD = """
import socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""
AS_NOBODY = """
import os, sys
from pathlib import Path
from dockyard.engines.recovery import recover
os.setgroups([]); os.setgid(65534); os.setuid(65534)
recover(int(sys.argv[1]), Path(sys.argv[2]))
"""


@contextmanager
def holder(listener: Listener) -> Iterator[int]:
    """The id of a process that has a copy of the listener."""
    descriptor = listener.fileno()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(descriptor)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(descriptor,),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def test_connections_made_while_nobody_of_us_had_it_are_there(short_path: Path) -> None:
    first = Listener.bind(short_path / "one")
    with holder(first) as pid:
        first.close()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(first.socket))
            found = recover(pid, first.socket)
            assert found is not None
            with found:
                assert (found.folder, found.socket, found.ports) == (first.folder, first.socket, ())
                assert found.waiting
                accepted, _ = found.sockets[0].accept()
                accepted.close()
                assert not found.waiting


def test_a_process_that_is_gone_or_does_not_listen_there_has_none(short_path: Path) -> None:
    with Listener.bind(short_path / "one") as one, Listener.bind(short_path / "two") as two:
        with holder(one) as pid:
            assert recover(pid, two.socket) is None
        assert recover(pid, one.socket) is None


def test_a_connection_to_the_path_is_not_taken_for_its_listener(short_path: Path) -> None:
    with Listener.bind(short_path / "one") as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(listener.socket))
        accepted, _ = listener.sockets[0].accept()
        with accepted, holder(Listener(short_path, [accepted])) as pid:
            assert recover(pid, listener.socket) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not")
def test_without_the_right_to_the_error_says_what_follows(short_path: Path) -> None:
    with Listener.bind(short_path / "one") as listener, holder(listener) as pid:
        words = [sys.executable, "-c", AS_NOBODY, str(pid), str(listener.socket)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert "cannot be taken over" in done.stderr
    assert "EngineError" in done.stderr
