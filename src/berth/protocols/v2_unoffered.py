"""The V2 extensions that berth does not offer, each refused in words rather than as a route that nobody knows.

Clients written for Triton have methods for them. `/v2` does not advertise them; who calls them all the same learns
which extension it was and what to do in its place. site.py mounts this after V2.
"""

from __future__ import annotations

import functools

from berth.protocols.base import Refusal, Request, Response, Route
from berth.protocols.site import Site

METHODS = ("GET", "POST")
STATUS = 501
SHARED_MEMORY = "shared memory regions are not offered; send tensors as binary data"
LOGGING = "log settings cannot be changed over the wire; start the server with BERTH_LOG_LEVEL"
TRACE = "trace settings are not offered"
_PREFIXES = {"/v2/systemsharedmemory/": SHARED_MEMORY, "/v2/cudasharedmemory/": SHARED_MEMORY}
_MODELS, _TRACE_SETTING = "/v2/models/", "/trace/setting"


def face(_: Site) -> V2Unoffered:
    """The face of a server."""
    return V2Unoffered()


class V2Unoffered:
    """Routes that only refuse."""

    def routes(self) -> list[Route]:
        """The settings that Triton keeps for the whole server."""
        return [_refusing("/v2/logging", "v2.logging", LOGGING), _refusing("/v2/trace/setting", "v2.trace", TRACE)]

    def resolve(self, path: str) -> Route | None:
        """Shared memory, and one model's trace settings."""
        if path.startswith(_MODELS) and path.endswith(_TRACE_SETTING):
            return _refusing(path, "v2.trace", TRACE)
        found = (text for prefix, text in _PREFIXES.items() if path.startswith(prefix))
        return next((_refusing(path, "v2.shared_memory", text) for text in found), None)


def _refusing(path: str, name: str, text: str) -> Route:
    handler = functools.partial(_refuse, text)
    return Route(path, name, dict.fromkeys(METHODS, handler))


def _refuse(text: str, _: Request) -> Response:
    raise Refusal(STATUS, text)
