"""Where a deployment answers, as URLs for people. Pure; `telling` shows them. The routes are the gateway's own.

What berth answers under is known. A server of others is asked under its own paths: told is how to get to these, and the
whole path only where the deployment says what the model is called inside.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

from dockyard.gateway.addresses import PREVIEW_HEADER, host_of, preview_host_of
from dockyard.spec.deployment import Deployment
from dockyard.yard.records import DeploymentSnapshot
from dockyard.yard.state import Traffic

_TFSERVING_MODEL = re.compile(r"/v1/models/([^/:]+)")


def urls(gateway: str, name: str, settings: Deployment | None) -> tuple[str, ...]:
    """What leads to it: paths of the gateway with its name, and its hosts. Nothing while it has no revision."""
    if settings is None:
        return ()
    hosts = tuple(f"http://{host}:{_port(gateway)}" for host in settings.routing.hosts)
    if not settings.server.port:
        return (f"{gateway}/models/{name}/predict", f"{gateway}/v2/models/{name}/infer", *hosts)
    own_host = f"http://{host_of(name)}:{_port(gateway)}{_path_inside(settings)}"
    return (f"{gateway}{_path(name, settings)}", own_host, *hosts)


def preview_urls(gateway: str, snapshot: DeploymentSnapshot, traffic: Mapping[str, Traffic]) -> tuple[str, ...]:
    """Where a revision that waits for its promotion can be tried: by its host, and by a header."""
    name = snapshot.deployment.name
    wanted = traffic.get(name)
    shown = snapshot.revisions.get(wanted.preview) if wanted and wanted.preview is not None else None
    if shown is None:
        return ()
    return (
        f"http://{preview_host_of(name)}:{_port(gateway)}{_path_inside(shown.settings)}",
        f"{gateway}{_path(name, shown.settings)} with the header `{PREVIEW_HEADER}: {name}`",
    )


def _path(name: str, settings: Deployment) -> str:
    """The gateway's path to it; the shorter one where the name inside is the deployment's."""
    inside = _path_inside(settings)
    return inside if inside == _tfserving_path(name) else f"/models/{name}{inside}"


def _path_inside(settings: Deployment) -> str:
    """The path by which its server answers predictions, or `/` where nobody but its user knows that."""
    if not settings.server.port:
        return "/predict"
    if settings.server.preset != "tfserving":
        return "/"
    model = settings.environment.get("MODEL_NAME", "")
    if not model and (asked := _TFSERVING_MODEL.match(settings.probes.ready_path)):
        model = asked[1]
    return _tfserving_path(model) if model else "/"


def _tfserving_path(model: str) -> str:
    return f"/v1/models/{quote(model, safe='')}:predict"


def _port(gateway: str) -> str:
    return gateway.rpartition(":")[2]
