"""What is asked of the yard: the bodies of API requests, as frozen values. Unknown fields are errors.

`client` writes them, `yard.api` reads them. Answers are in `spec.status`.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from dockyard.spec.deployment import Deployment
from dockyard.spec.project import Table
from dockyard.spec.status import Scope

API_VERSION = 1
"""Counts up when an old client or yard would misunderstand a new one; sent with every request and answer."""
VERSION_HEADER = "Dockyard-Api"
PRODUCT_HEADER = "Dockyard-Version"
MEDIA_TYPE_LINES = "application/jsonl"

Why = Annotated[str, Meta(max_length=1000)]
"""The reason a person gives; it goes into history and audit log as it is."""


class DeployRequest(Table, frozen=True, kw_only=True):
    """Make, or change, a deployment."""

    deployment: Deployment
    why: Why = ""
    dry_run: bool = False
    only_new: bool = False
    """Refuse if there is a deployment of that name."""


class RollbackRequest(Table, frozen=True, kw_only=True):
    """Go back to a revision: the one before the active one unless it is named."""

    revision: Annotated[int, Meta(ge=1)] | None = None
    why: Why = ""
    dry_run: bool = False


class ScaleRequest(Table, frozen=True, kw_only=True):
    """Ask for so many replicas."""

    replicas: Annotated[int, Meta(ge=0, le=1000)]
    why: Why = ""


class ActionRequest(Table, frozen=True, kw_only=True):
    """Restart, promote, abort, delete: nothing is said but why."""

    why: Why = ""


class BlobOffer(Table, frozen=True, kw_only=True):
    """A blob of an image: its digest, and its size in bytes."""

    digest: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
    size: Annotated[int, Meta(ge=0, le=256 << 30)]


class ImageOffer(Table, frozen=True, kw_only=True):
    """An image that is in the caller's store, for the yard's: what it and all that is attached to it consist of."""

    image: Annotated[str, Meta(min_length=1, max_length=500)]
    """Its name, for people and the audit log; the yard's own names stay as they are."""
    media_type: Annotated[str, Meta(max_length=200)]
    manifest: BlobOffer
    artifacts: Annotated[tuple[BlobOffer, ...], Meta(max_length=256)] = ()
    """Manifests of what is attached to it."""
    blobs: Annotated[tuple[BlobOffer, ...], Meta(max_length=4096)] = ()
    """All blobs, those above too."""
    why: Why = ""


class TokenRequest(Table, frozen=True, kw_only=True):
    """Make a token."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]*\Z", max_length=100)]
    scope: Scope
    expires_s: Annotated[float, Meta(gt=0, le=10 * 366 * 86_400)] | None = 90 * 86_400.0
    """Seconds from now; None for one that never expires."""
    why: Why = ""
