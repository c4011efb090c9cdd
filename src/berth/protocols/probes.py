"""Health and metrics: `/v2/health/*`, the usual short names for probes, and `/metrics`.

They answer on the event loop and never wait for the model. site.py mounts it.
"""

from __future__ import annotations

from berth.health import Health
from berth.metrics import CONTENT_TYPE, Metrics
from berth.protocols.base import Request, Response, Route, json_response
from berth.protocols.site import Site

LIVE_PATHS = ("/v2/health/live", "/livez", "/healthz")
READY_PATHS = ("/v2/health/ready", "/readyz")


def face(site: Site) -> Probes:
    """The face of a server."""
    return Probes(site.health, site.metrics)


class Probes:
    """The routes that machines ask every few seconds."""

    def __init__(self, health: Health, metrics: Metrics) -> None:
        self._health = health
        self._metrics = metrics
        self._live_response = json_response({"live": True})

    def routes(self) -> list[Route]:
        """Live, ready and metrics."""
        live = [Route(path, "health.live", {"GET": self._live}) for path in LIVE_PATHS]
        ready = [Route(path, "health.ready", {"GET": self._ready}) for path in READY_PATHS]
        return [*live, *ready, Route("/metrics", "metrics", {"GET": self._text})]

    def resolve(self, _: str) -> None:
        """None of its paths names a model."""

    def _live(self, _: Request) -> Response:
        why = self._health.why_dead()
        return json_response({"live": False, "error": why}, 503) if why else self._live_response

    def _ready(self, _: Request) -> Response:
        if self._health.ready:
            return json_response({"ready": True})
        return json_response({"ready": False, "error": self._health.why_not}, 503)

    def _text(self, _: Request) -> Response:
        return Response(self._metrics.text(), 200, CONTENT_TYPE)
