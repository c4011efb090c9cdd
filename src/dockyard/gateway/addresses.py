"""By which header and hosts callers reach a deployment, or its preview, beside the paths with its name.

Pure, and without a word of Envoy's, so that `routes`, which serves them, and the yard, which tells people of them, read
the same.
"""

from __future__ import annotations

from dockyard.spec.deployment import LOCAL_DOMAIN

PREVIEW_HEADER = "x-dockyard-preview"
"""With a deployment's name in it, on a request: the revision that waits to be promoted is meant."""


def host_of(name: str, domain: str = LOCAL_DOMAIN) -> str:
    """The host under which every path leads to a deployment."""
    return f"{name}.{domain}"


def preview_host_of(name: str, domain: str = LOCAL_DOMAIN) -> str:
    """The host under which every path leads to the revision that waits to be promoted."""
    return f"preview.{host_of(name, domain)}"
