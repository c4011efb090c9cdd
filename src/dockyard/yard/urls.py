"""Where a deployment answers, as URLs for people. Pure; `telling` shows them. The routes are the gateway's own."""

from __future__ import annotations

from collections.abc import Mapping

from dockyard.spec.deployment import Deployment
from dockyard.yard.records import DeploymentSnapshot
from dockyard.yard.state import Traffic


def urls(gateway: str, name: str, settings: Deployment | None) -> tuple[str, ...]:
    """The paths that the gateway serves it under, and its hosts."""
    port = gateway.rpartition(":")[2]
    hosts = settings.routing.hosts if settings else ()
    paths = (f"{gateway}/models/{name}/predict", f"{gateway}/v2/models/{name}/infer")
    return (*paths, *(f"http://{host}:{port}" for host in hosts))


def preview_urls(gateway: str, snapshot: DeploymentSnapshot, traffic: Mapping[str, Traffic]) -> tuple[str, ...]:
    """Where a revision that waits for its promotion can be tried."""
    name = snapshot.deployment.name
    wanted = traffic.get(name)
    if wanted is None or wanted.preview is None:
        return ()
    return (f"{gateway}/models/{name}/predict with the header `dockyard-preview: {name}`",)
