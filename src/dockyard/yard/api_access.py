"""The door of the API: who calls, whether they may, and every error as JSON. Nothing gets in that is not declared.

Three middlewares, outermost first: `counted` counts answers; `failures` turns errors into answers and says which API
this is; `access` finds out who calls (the kernel's word for a unix socket, a token elsewhere) and compares their scope
with the route's. A route without a declared scope is refused, so one that forgets it is closed, not open. Called by
`api`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import uuid
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from dockyard import __version__
from dockyard.errors import DockyardError, ForbiddenError, UnauthenticatedError, YardBusyError, YardVersionError
from dockyard.spec.failures import Failure, FailureBody, failure_of
from dockyard.spec.requests import API_VERSION, PRODUCT_HEADER, VERSION_HEADER
from dockyard.spec.status import Scope
from dockyard.yard.operations import Access, Actor, Peer, Refusal

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Scopes = Mapping[tuple[str, str], Scope]
"""Method and path pattern of each route, with the scope that it needs."""

Answered = Callable[[str, int], None]
"""Is told of each answer: the pattern of the route (`none` where there is none), and the status."""

ACTOR: web.RequestKey[Actor] = web.RequestKey("actor", Actor)
HEADERS = {VERSION_HEADER: str(API_VERSION), PRODUCT_HEADER: __version__, "Cache-Control": "no-store"}
_TOKEN_LIMIT = 512
_NOTING_DEADLINE = 5.0
_PEERCRED = struct.Struct("3i")
_log = logging.getLogger("dockyard.yard.api")


def unheard(route: str, status: int) -> None:
    """Tells nobody of an answer."""


def counted(answered: Answered) -> Middleware:
    """The middleware that tells of each answer: the pattern of its route, and its status."""

    @web.middleware
    async def telling(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        resource = request.match_info.route.resource
        answered(resource.canonical if resource is not None else "none", response.status)
        return response

    return telling


@web.middleware
async def failures(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as JSON with its status; what nobody foresaw as a 500 whose number is in the yard's log."""
    try:
        _check_version(request)
        response = await handler(request)
    except DockyardError as error:
        return _failed(*failure_of(error))
    except web.HTTPException as error:
        return _failed(error.status, _of_http(request, error))
    except TimeoutError:
        return _failed(*failure_of(YardBusyError("the yard did not answer in time", remedy="Ask again in a moment.")))
    except Exception:
        number = uuid.uuid4().hex[:12]
        _log.exception("call %s %s failed: %s", request.method, request.path, number)
        what = "the yard made a mistake that nobody foresaw"
        return _failed(500, Failure(what=what, remedy=f"Its log has the reason under {number}."))
    if not response.prepared:
        response.headers.update(HEADERS)
    return response


def access(operations: Access, scopes: Scopes) -> Middleware:
    """The middleware that lets in who may."""

    @web.middleware
    async def checked(request: web.Request, handler: Handler) -> web.StreamResponse:
        peer, actor, needed = peer_of(request), None, _needed(request, scopes)
        try:
            actor = await operations.authenticate(peer)
            _authorize(request, actor, needed)
            request[ACTOR] = actor
            return await handler(request)
        except (UnauthenticatedError, ForbiddenError) as error:
            status = failure_of(error)[0]
            await _note(operations, Refusal(peer, actor, request.method, request.path, status, error.what, needed))
            raise

    return checked


def _needed(request: web.Request, scopes: Scopes) -> Scope | None:
    resource = request.match_info.route.resource
    return scopes.get((request.method, resource.canonical)) if resource is not None else None


def _authorize(request: web.Request, actor: Actor, needed: Scope | None) -> None:
    if request.match_info.http_exception is not None:
        return  # there is no such route: the handler says so, to callers that are known
    if needed is None:
        raise ForbiddenError(f"{request.method} {request.path} declares no scope, so nobody may call it")
    if not actor.scope.covers(needed):
        raise ForbiddenError(
            f"{actor.name} may not do this: it needs the scope {needed}, and they have {actor.scope}",
            remedy=f"Ask an admin for a token: `dockyard token create NAME --scope {needed}`.",
        )


def peer_of(request: web.Request) -> Peer:
    """Who is at the other end, and the token that they sent."""
    transport = request.transport
    connection = transport.get_extra_info("socket") if transport is not None else None
    token = _bearer(request)
    if connection is not None and connection.family == socket.AF_UNIX:
        pid, uid, gid = _PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
        return Peer("unix", uid=uid, gid=gid, pid=pid, token=token)
    return Peer(request.remote or "unknown", token=token)


def _bearer(request: web.Request) -> str:
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip()[:_TOKEN_LIMIT] if kind.lower() == "bearer" else ""


def _check_version(request: web.Request) -> None:
    said = request.headers.get(VERSION_HEADER, str(API_VERSION))
    if said == str(API_VERSION):
        return
    older = said.isdigit() and int(said) < API_VERSION
    raise YardVersionError(
        f"this client speaks version {said[:20]!r} of the API; the yard (Dockyard {__version__}) speaks {API_VERSION}",
        remedy="Upgrade Dockyard where you call from." if older else "Upgrade Dockyard on the yard's host.",
    )


def _of_http(request: web.Request, error: web.HTTPException) -> Failure:
    if error.status == 404:
        return Failure(what=f"the yard has no route {request.path}", remedy="Is this client newer than the yard?")
    if error.status == 405:
        return Failure(what=f"{request.path} cannot be asked with {request.method}")
    if error.status == 413:
        return Failure(what="the request is too large", remedy="A deployment has at most 1 MiB of JSON.")
    return Failure(what=f"the request is wrong: {error.reason}")


def _failed(status: int, failure: Failure) -> web.Response:
    body = msgspec.json.encode(FailureBody(error=failure))
    headers = HEADERS | ({"WWW-Authenticate": "Bearer"} if status == 401 else {})
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


async def _note(operations: Access, refusal: Refusal) -> None:
    """Tell the audit log; the call stays refused even if that fails."""
    try:
        async with asyncio.timeout(_NOTING_DEADLINE):
            await operations.refused(refusal)
    except Exception:
        _log.exception("a refused call could not be noted: %s %s", refusal.method, refusal.path)
