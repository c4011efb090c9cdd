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

from berth.http import Connection, Server
from berth.log import Log

MODULES = ("berth.grpc", "berth.http2")
Make = Callable[[Any], Any]


class Upgrade:
    """Hands connections over. `make` turns the module berth.grpc into the calls of this server."""

    def __init__(self, server: Server, log: Log, make: Make) -> None:
        self._server = server
        self._log = log
        self._make = make
        self._calls: Any = None
        self._connection: Any = None  # the class of HTTP/2 connections
        self._loading: asyncio.Future[list[Any]] | None = None
        self._waiting: list[tuple[Connection, asyncio.Transport, bytes]] = []

    def take_over(self, connection: Connection, transport: asyncio.Transport, data: bytes) -> None:
        """Take a connection over, with the first bytes that came on it."""
        if self._calls is not None:
            self._hand_over(connection, transport, data)
            return
        transport.pause_reading()
        self._waiting.append((connection, transport, data))
        if self._loading is None:
            self._loading = asyncio.get_running_loop().run_in_executor(None, _load)
            self._loading.add_done_callback(self._loaded)

    def _loaded(self, loading: asyncio.Future[list[Any]]) -> None:
        self._loading = None
        waiting, self._waiting = self._waiting, []
        try:
            grpc, http2 = loading.result()
            self._calls, self._connection = self._make(grpc), http2.Http2Connection
        except Exception as error:
            self._log.event("error", "gRPC could not be loaded", error=repr(error))
            for _, transport, _ in waiting:
                transport.abort()
            return
        for connection, transport, data in waiting:
            if not transport.is_closing():
                self._hand_over(connection, transport, data)
                transport.resume_reading()

    def _hand_over(self, connection: Connection, transport: asyncio.Transport, data: bytes) -> None:
        self._server.connections.discard(connection)
        protocol = self._connection(self._server, self._calls, transport)
        transport.set_protocol(protocol)
        protocol.data_received(data)


def _load() -> list[Any]:
    return [importlib.import_module(name) for name in MODULES]
