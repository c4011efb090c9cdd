"""A TCP proxy that cuts connections in the middle, for tests of transfers that break off.

Bytes pass unchanged in both directions; each entry of `cuts` lets so many bytes of one direction pass before both sides
are reset. When none is left, everything passes.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

_CHUNK = 1 << 16


@dataclass
class CuttingProxy:
    """`host` is where it listens; `moved` counts the bytes that passed each way, `cut` the connections that it cut."""

    target: tuple[str, int]
    direction: str  # "up" (to the server) or "down"
    cuts: list[int]
    host: str = ""
    moved: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    cut: int = 0
    _threads: list[threading.Thread] = field(default_factory=list)
    _open: set[socket.socket] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._connection, args=(client,))
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """End the connections: clients and servers keep theirs for the next request."""
        with self._lock:
            kept = list(self._open)
        for end in kept:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)

    def _connection(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.target, timeout=30) as server:
            client.settimeout(30)
            with self._lock:
                self._open |= {client, server}
            down = threading.Thread(target=self._pass, args=(server, client, "down"))
            down.start()
            self._pass(client, server, "up")
            down.join()
            with self._lock:
                self._open -= {client, server}

    def _pass(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                if direction == self.direction and not self._allowed(len(data)):
                    for end in (source, sink):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    for end in (source, sink):
                        end.shutdown(socket.SHUT_RDWR)
                    return
                sink.sendall(data)
                with self._lock:
                    self.moved[direction] += len(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _allowed(self, count: int) -> bool:
        with self._lock:
            if not self.cuts:
                return True
            self.cuts[0] -= count
            if self.cuts[0] > 0:
                return True
            self.cuts.pop(0)
            self.cut += 1
            return False


@contextlib.contextmanager
def cutting_proxy(target: str, direction: str, cuts: list[int]) -> Iterator[CuttingProxy]:
    """Listen on a loopback port in front of `target` (`host:port`)."""
    name, _, port = target.rpartition(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = CuttingProxy((name, int(port)), direction, cuts, f"127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=proxy.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            proxy.close()
