"""The yard's API: HTTP over a unix socket and, on request, over TCP with TLS.

`dockyard up` calls `serving` with the service; the command line, the dashboard and scripts speak to it, mostly through
`client`. It decides nothing: `api_access` lets in, `api_routes` turns requests into calls, `api_streams` writes answers
that go on, `api_listen` has the sockets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from aiohttp import web

from dockyard.yard.api_access import Answered, access, counted, failures, unheard
from dockyard.yard.api_listen import Listener, bound
from dockyard.yard.api_routes import ROUTES, Handlers, Route
from dockyard.yard.api_streams import Limits, Streams
from dockyard.yard.operations import Operations

_STOP_DEADLINE = 5.0


@asynccontextmanager
async def serving(
    operations: Operations,
    listeners: Sequence[Listener],
    limits: Limits | None = None,
    answered: Answered = unheard,
) -> AsyncIterator[tuple[str, ...]]:
    """Answer at these places until the body ends; gives their addresses (with the ports that the kernel chose).

    `answered` is told of each answer. YardError when a place cannot be had. Streams that still go on are cut off at the
    end, calls get 5 s.
    """
    limits = limits or Limits()
    streams = Streams(limits)
    runner = web.AppRunner(
        make_app(operations, streams, limits, answered=answered),
        handle_signals=False,
        access_log=None,
        keepalive_timeout=limits.idle_s,
        lingering_time=1.0,
        shutdown_timeout=_STOP_DEADLINE,
    )
    await runner.setup()
    try:
        assert runner.server is not None
        async with bound(listeners, runner.server, limits) as addresses:
            yield addresses
            await streams.close()
    finally:
        await runner.cleanup()


def make_app(
    operations: Operations,
    streams: Streams,
    limits: Limits,
    routes: Sequence[Route] = ROUTES,
    answered: Answered = unheard,
) -> web.Application:
    """The routes behind the door. What is added to its router without a scope is refused."""
    scopes = {(route.method, route.path): route.scope for route in routes}
    doors = [counted(answered), failures, access(operations, scopes)]
    app = web.Application(middlewares=doors, client_max_size=limits.body_bytes)
    handlers = Handlers(operations, streams, limits)
    for route in routes:
        app.router.add_route(route.method, route.path, partial(route.handler, handlers))
    return app
