"""From HTTP/1.1 to HTTP/2: a connection that begins with HTTP/2's preface is handed over to http2.py and grpc.py.

What gRPC needs (protobuf, tables for header compression) takes some 50 ms and 5 MB to load, so it is loaded when the
first such connection comes, in a thread, while that connection waits. A server that is only asked over HTTP/1.1 never
pays for it. server.py makes one `Upgrade`, http.py calls it.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

from berth.http import Connection
from berth.http_server import Server
from berth.log import Log

MODULES = ("berth.grpc", "berth.http2")
Make = Callable[[Any], Any]


class _Waiting:
    """A connection that waits for its protocol to be loaded, and counts as one of the server's until then."""

    def __init__(self, transport: asyncio.Transport, data: bytes, deadline: float) -> None:
        self.transport = transport
        self.data = data
        self._deadline = deadline

    def check_time(self, now: float) -> None:
        """Loading takes a moment, or something is wrong."""
        if now > self._deadline:
            self.transport.abort()

    def close_if_idle(self) -> None:
        """A call has begun, so it is answered first."""

    def abort(self) -> None:
        """Drop the connection."""
        self.transport.abort()


class Upgrade:
    """Hands connections over. `make` turns the module berth.grpc into the calls of this server."""

    def __init__(self, server: Server, log: Log, make: Make) -> None:
        self._server = server
        self._log = log
        self._make = make
        self._calls: Any = None
        self._connection: Any = None  # the class of HTTP/2 connections
        self._loading: asyncio.Future[list[Any]] | None = None
        self._waiting: list[_Waiting] = []

    def take_over(self, connection: Connection, transport: asyncio.Transport, data: bytes) -> None:
        """Take a connection over, with the first bytes that came on it."""
        self._server.connections.discard(connection)
        if self._calls is not None:
            self._hand_over(transport, data)
            return
        transport.pause_reading()
        waiting = _Waiting(transport, data, self._server.now + self._server.limits.request_timeout)
        self._server.connections.add(waiting)
        self._waiting.append(waiting)
        if self._loading is None:
            self._loading = asyncio.get_running_loop().run_in_executor(None, _load)
            self._loading.add_done_callback(self._loaded)

    def _loaded(self, loading: asyncio.Future[list[Any]]) -> None:
        self._loading = None
        waiting, self._waiting = self._waiting, []
        self._server.connections.difference_update(waiting)
        try:
            grpc, http2 = loading.result()
            self._calls, self._connection = self._make(grpc), http2.Http2Connection
        except Exception as error:
            self._log.event("error", "gRPC could not be loaded", error=repr(error))
            for each in waiting:
                each.abort()
            return
        for each in waiting:
            if not each.transport.is_closing():
                self._hand_over(each.transport, each.data)
                each.transport.resume_reading()

    def _hand_over(self, transport: asyncio.Transport, data: bytes) -> None:
        protocol = self._connection(self._server, self._calls, transport)
        transport.set_protocol(protocol)
        protocol.data_received(data)


def _load() -> list[Any]:
    return [importlib.import_module(name) for name in MODULES]
