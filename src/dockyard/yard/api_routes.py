"""The API's routes: each with the scope that it needs, and the few lines that turn it into one call of the service.

Bodies and queries are decoded strictly into the nouns of `spec.requests`; answers are written as they are. Called by
`api`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from dockyard.errors import DeploymentError, YardBusyError
from dockyard.spec.deployment import Name
from dockyard.spec.load import check_deployment, explained
from dockyard.spec.project import Table
from dockyard.spec.requests import (
    ActionRequest,
    BlobOffer,
    DeployRequest,
    ImageOffer,
    RollbackRequest,
    ScaleRequest,
    TokenRequest,
    Why,
)
from dockyard.spec.status import Scope
from dockyard.yard.api_access import ACTOR
from dockyard.yard.api_streams import Limits, Streams
from dockyard.yard.operations import Cause, Operations
from dockyard.yard.series import KEPT_S

_Body = TypeVar("_Body", bound=msgspec.Struct)
_Answer = TypeVar("_Answer")
_SOURCE = "the request"


class _Nothing(Table, frozen=True, kw_only=True):
    """A query without parameters."""


class _Which(Table, frozen=True, kw_only=True):
    deployment: str = ""


class _Following(Table, frozen=True, kw_only=True):
    number: Annotated[int, Meta(ge=1)] | None = None


class _Events(Table, frozen=True, kw_only=True):
    since: Annotated[int, Meta(ge=0)] = 0
    deployment: str = ""
    follow: bool = False


class _Logs(Table, frozen=True, kw_only=True):
    replica: str = ""
    tail: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    follow: bool = False


class _AccessLog(Table, frozen=True, kw_only=True):
    status: Annotated[str, Meta(pattern="^([1-5][0-9][0-9]|[1-5]xx|0)?$")] = ""
    revision: Annotated[int, Meta(ge=1)] | None = None
    tail: Annotated[int, Meta(ge=1, le=10_000)] = 100
    follow: bool = False


class _Load(Table, frozen=True, kw_only=True):
    since_s: Annotated[int, Meta(ge=10, le=KEPT_S)] = 3_600
    step_s: Annotated[int, Meta(ge=0, le=KEPT_S)] = 0


class _Audit(Table, frozen=True, kw_only=True):
    since: int = 0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class _Size(Table, frozen=True, kw_only=True):
    size: int


class _Because(Table, frozen=True, kw_only=True):
    why: Why = ""


class _Backup(Table, frozen=True, kw_only=True):
    images: bool = True
    why: Why = ""


class Handlers:
    """One method a route."""

    def __init__(self, operations: Operations, streams: Streams, limits: Limits) -> None:
        self._yard = operations
        self._streams = streams
        self._limits = limits

    async def info(self, request: web.Request) -> web.StreamResponse:
        """The yard itself, and who asks."""
        _query(request, _Nothing)
        return await self._read(self._yard.info(request[ACTOR]))

    async def deployments(self, request: web.Request) -> web.StreamResponse:
        """All deployments."""
        _query(request, _Nothing)
        return await self._read(self._yard.deployments())

    async def status(self, request: web.Request) -> web.StreamResponse:
        """One deployment."""
        _query(request, _Nothing)
        return await self._read(self._yard.status(_name(request)))

    async def history(self, request: web.Request) -> web.StreamResponse:
        """Its revisions."""
        _query(request, _Nothing)
        return await self._read(self._yard.history(_name(request)))

    async def rollout(self, request: web.Request) -> web.StreamResponse:
        """How its rollout gets on, as lines."""
        query = _query(request, _Following)
        return await self._streams.lines(request, self._yard.rollout(_name(request), query.number))

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """What its replicas write, as lines."""
        query = _query(request, _Logs)
        lines = self._yard.logs(_name(request), replica=query.replica, tail=query.tail, follow=query.follow)
        return await self._streams.lines(request, lines)

    async def access(self, request: web.Request) -> web.StreamResponse:
        """The last requests to it; following, as lines that go on."""
        query = _query(request, _AccessLog)
        name, status, revision, tail = _name(request), query.status, query.revision, query.tail
        if query.follow:
            lines = self._yard.follow_access(name, status=status, revision=revision, tail=tail)
            return await self._streams.lines(request, lines)
        return await self._read(self._yard.access(name, status=status, revision=revision, tail=tail))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """What happened, as lines."""
        query = _query(request, _Events)
        events = self._yard.events(query.since, deployment=query.deployment, follow=query.follow)
        return await self._streams.lines(request, events)

    async def drift(self, request: web.Request) -> web.StreamResponse:
        """What runs otherwise than it was asked for."""
        return await self._read(self._yard.drift(_query(request, _Which).deployment))

    async def top(self, request: web.Request) -> web.StreamResponse:
        """The load."""
        _query(request, _Nothing)
        return await self._read(self._yard.top())

    async def load_history(self, request: web.Request) -> web.StreamResponse:
        """The load of one deployment over time."""
        query = _query(request, _Load)
        return await self._read(self._yard.load_history(_name(request), query.since_s, query.step_s))

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Prometheus' text format."""
        text = await _within(self._yard.metrics(), self._limits.read_s)
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def deploy(self, request: web.Request) -> web.StreamResponse:
        """Make or change a deployment."""
        body = await self._body(request, DeployRequest)
        check_deployment(body.deployment, _SOURCE)
        flags = {"dry_run": body.dry_run, "only_new": body.only_new}
        return await self._change(self._yard.deploy(body.deployment, _cause(request, body.why), **flags))

    async def rollback(self, request: web.Request) -> web.StreamResponse:
        """Back to an earlier revision."""
        body = await self._body(request, RollbackRequest)
        cause = _cause(request, body.why)
        return await self._change(self._yard.rollback(_name(request), body.revision, cause, dry_run=body.dry_run))

    async def scale(self, request: web.Request) -> web.StreamResponse:
        """Another number of replicas."""
        body = await self._body(request, ScaleRequest)
        return await self._change(self._yard.scale(_name(request), body.replicas, _cause(request, body.why)))

    async def restart(self, request: web.Request) -> web.StreamResponse:
        """New replicas of the same revision."""
        return await self._act(request, self._yard.restart)

    async def promote(self, request: web.Request) -> web.StreamResponse:
        """Let the preview have the traffic."""
        return await self._act(request, self._yard.promote)

    async def abort(self, request: web.Request) -> web.StreamResponse:
        """Give up the rollout."""
        return await self._act(request, self._yard.abort)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Stop and remove it."""
        cause = _cause(request, _query(request, _Because).why)
        return await self._change(self._yard.delete(_name(request), cause))

    async def image_wanted(self, request: web.Request) -> web.StreamResponse:
        """Which blobs of an image are lacking."""
        return await self._read(self._yard.image_wanted(await self._body(request, ImageOffer)))

    async def receive_blob(self, request: web.Request) -> web.StreamResponse:
        """A blob, as it comes; as long as it does come."""
        query = _query(request, _Size)
        blob = _converted({"digest": request.match_info["digest"], "size": query.size}, BlobOffer)
        async with aclosing(self._streams.body(request)) as parts:
            return _json(await self._yard.receive_blob(blob, parts, _cause(request, "")))

    async def receive_image(self, request: web.Request) -> web.StreamResponse:
        """An image whose blobs are all here."""
        body = await self._body(request, ImageOffer)
        return await self._change(self._yard.receive_image(body, _cause(request, body.why)))

    async def audit(self, request: web.Request) -> web.StreamResponse:
        """Entries of the audit log."""
        query = _query(request, _Audit)
        return await self._read(self._yard.audit(query.since, query.limit))

    async def export_audit(self, request: web.Request) -> web.StreamResponse:
        """The whole audit log."""
        _query(request, _Nothing)
        return await self._streams.file(request, self._yard.export_audit())

    async def tokens(self, request: web.Request) -> web.StreamResponse:
        """All tokens."""
        _query(request, _Nothing)
        return await self._read(self._yard.tokens())

    async def create_token(self, request: web.Request) -> web.StreamResponse:
        """A new token."""
        body = await self._body(request, TokenRequest)
        return await self._change(self._yard.create_token(body, _cause(request, body.why)))

    async def revoke_token(self, request: web.Request) -> web.StreamResponse:
        """End a token."""
        cause = _cause(request, _query(request, _Because).why)
        return await self._change(self._yard.revoke_token(request.match_info["token"][:200], cause))

    async def backup(self, request: web.Request) -> web.StreamResponse:
        """Everything in one file."""
        query = _query(request, _Backup)
        return await self._streams.file(request, self._yard.backup(_cause(request, query.why), images=query.images))

    async def _act(self, request: web.Request, action: Callable[[str, Cause], Awaitable[Any]]) -> web.StreamResponse:
        body = await self._body(request, ActionRequest)
        return await self._change(action(_name(request), _cause(request, body.why)))

    async def _read(self, answer: Awaitable[Any]) -> web.StreamResponse:
        return _json(await _within(answer, self._limits.read_s))

    async def _change(self, answer: Awaitable[Any]) -> web.StreamResponse:
        return _json(await _within(answer, self._limits.change_s))

    async def _body(self, request: web.Request, kind: type[_Body]) -> _Body:
        """The body as `kind`; it must arrive in time."""
        try:
            async with asyncio.timeout(self._limits.body_s):
                data = await request.read()
        except TimeoutError as error:
            raise web.HTTPRequestTimeout(reason="its body did not arrive in time") from error
        try:
            raw = msgspec.json.decode(data or b"{}")
        except msgspec.DecodeError as error:
            raise DeploymentError(f"the request's body is not JSON: {error}", remedy="Send JSON.") from error
        return _converted(raw, kind)


@dataclass(frozen=True)
class Route:
    """A method, a path, the scope that it needs, and what answers."""

    method: str
    path: str
    scope: Scope
    handler: Callable[[Handlers, web.Request], Awaitable[web.StreamResponse]]


_ONE = "/v1/deployments/{name}"
ROUTES = (
    Route("GET", "/metrics", Scope.VIEWER, Handlers.metrics),
    Route("GET", "/v1/yard", Scope.VIEWER, Handlers.info),
    Route("GET", "/v1/top", Scope.VIEWER, Handlers.top),
    Route("GET", "/v1/events", Scope.VIEWER, Handlers.events),
    Route("GET", "/v1/drift", Scope.VIEWER, Handlers.drift),
    Route("GET", "/v1/deployments", Scope.VIEWER, Handlers.deployments),
    Route("POST", "/v1/deployments", Scope.OPERATOR, Handlers.deploy),
    Route("GET", _ONE, Scope.VIEWER, Handlers.status),
    Route("DELETE", _ONE, Scope.OPERATOR, Handlers.delete),
    Route("GET", f"{_ONE}/history", Scope.VIEWER, Handlers.history),
    Route("GET", f"{_ONE}/load", Scope.VIEWER, Handlers.load_history),
    Route("GET", f"{_ONE}/rollout", Scope.VIEWER, Handlers.rollout),
    Route("GET", f"{_ONE}/logs", Scope.VIEWER, Handlers.logs),
    Route("GET", f"{_ONE}/access", Scope.VIEWER, Handlers.access),
    Route("POST", f"{_ONE}/rollback", Scope.OPERATOR, Handlers.rollback),
    Route("POST", f"{_ONE}/scale", Scope.OPERATOR, Handlers.scale),
    Route("POST", f"{_ONE}/restart", Scope.OPERATOR, Handlers.restart),
    Route("POST", f"{_ONE}/promote", Scope.OPERATOR, Handlers.promote),
    Route("POST", f"{_ONE}/abort", Scope.OPERATOR, Handlers.abort),
    Route("POST", "/v1/images/wanted", Scope.OPERATOR, Handlers.image_wanted),
    Route("PUT", "/v1/images/blobs/{digest}", Scope.OPERATOR, Handlers.receive_blob),
    Route("POST", "/v1/images", Scope.OPERATOR, Handlers.receive_image),
    Route("GET", "/v1/audit", Scope.ADMIN, Handlers.audit),
    Route("GET", "/v1/audit/export", Scope.ADMIN, Handlers.export_audit),
    Route("GET", "/v1/tokens", Scope.ADMIN, Handlers.tokens),
    Route("POST", "/v1/tokens", Scope.ADMIN, Handlers.create_token),
    Route("DELETE", "/v1/tokens/{token}", Scope.ADMIN, Handlers.revoke_token),
    Route("POST", "/v1/backup", Scope.ADMIN, Handlers.backup),
)


def _name(request: web.Request) -> str:
    given = request.match_info["name"]
    try:
        return msgspec.convert(given, Name)
    except msgspec.ValidationError as error:
        raise DeploymentError(
            f"{given[:80]!r} is not a deployment's name", remedy="Names have small letters, digits and hyphens."
        ) from error


def _query(request: web.Request, kind: type[_Body]) -> _Body:
    return _converted(dict(request.query), kind, strict=False)


def _converted(data: Any, kind: type[_Body], *, strict: bool = True) -> _Body:
    try:
        return msgspec.convert(data, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise explained(str(error), data, kind, _SOURCE, DeploymentError) from error


def _cause(request: web.Request, why: str) -> Cause:
    return Cause(request[ACTOR], why)


async def _within(answer: Awaitable[_Answer], seconds: float) -> _Answer:
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError as error:
        raise YardBusyError(
            f"the yard did not answer within {seconds:g} s", remedy="`dockyard status` shows what it is doing."
        ) from error


def _json(answer: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json")
