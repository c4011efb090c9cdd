"""Errors on their way over the API: each kind of error as an HTTP status and JSON, and back again.

The yard's API calls `failure_of`, the client `error_of`; both read the one table here, so what is raised in the yard is
raised again in the command line with the same words.
"""

from __future__ import annotations

from msgspec import Struct

from dockyard.errors import (
    DeploymentError,
    DockyardError,
    EngineError,
    EvidenceError,
    ForbiddenError,
    ImageError,
    ImageNotFoundError,
    PolicyError,
    PolicyFileError,
    ProjectError,
    StartError,
    StoreError,
    UnauthenticatedError,
    UnknownInYardError,
    YardBusyError,
    YardConflictError,
    YardError,
    YardVersionError,
)


class Failure(Struct, frozen=True, kw_only=True):
    """An error as JSON: what failed and where, how to mend it, more of it, and the policy's rule that refused."""

    what: str
    remedy: str = ""
    detail: str = ""
    rule: str = ""
    kind: str = ""
    """The class of the error, where the status stands for several."""


class FailureBody(Struct, frozen=True, kw_only=True):
    """The body of an answer that is an error."""

    error: Failure


# The first class that fits decides, so subclasses stand before what they are subclasses of.
_STATUSES: tuple[tuple[type[DockyardError], int], ...] = (
    (DeploymentError, 400),
    (ProjectError, 400),
    (YardVersionError, 400),
    (UnauthenticatedError, 401),
    (ForbiddenError, 403),
    (UnknownInYardError, 404),
    (YardConflictError, 409),
    (PolicyError, 422),
    (PolicyFileError, 503),
    (EvidenceError, 422),
    (ImageNotFoundError, 422),
    (ImageError, 422),
    (StartError, 422),
    (YardBusyError, 503),
    (StoreError, 503),
    (EngineError, 503),
    (YardError, 500),
    (DockyardError, 500),
)
_KINDS = {kind.__name__: kind for kind, _ in _STATUSES}


def failure_of(error: DockyardError) -> tuple[int, Failure]:
    """The HTTP status and the JSON of an error."""
    kind, status = next((kind, status) for kind, status in _STATUSES if isinstance(error, kind))
    rule = error.rule if isinstance(error, PolicyError) else ""
    return status, Failure(what=error.what, remedy=error.remedy, detail=error.detail, rule=rule, kind=kind.__name__)


def error_of(status: int, failure: Failure) -> DockyardError:
    """The error that the yard raised, or the nearest that the status allows; a stranger's kind is a YardError."""
    first = next((kind for kind, known in _STATUSES if known == status), YardError)
    kind = _KINDS.get(failure.kind, first)
    if kind is PolicyError:
        return PolicyError(failure.what, rule=failure.rule, remedy=failure.remedy, detail=failure.detail)
    return kind(failure.what, remedy=failure.remedy, detail=failure.detail)
