"""`grpc.health.v1`: whether the server wants requests, asked once or watched. grpc.py mounts it."""

from __future__ import annotations

import asyncio

from berth.exchange import Exchange
from berth.health import Health, State
from berth.protocols.base import Refusal, Request, Response, Route
from berth.protocols.grpc_base import GRPC, answer_of, call_route, framed, parsed
from berth.protocols.protobuf import FILES, File, Method, register
from berth.repository import Repository

PACKAGE = "grpc.health.v1"
_POLL_S = 0.2  # how often a watched state is looked at
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3

_MESSAGES = register(
    File(
        name="grpc/health/v1/health.proto",
        package=PACKAGE,
        messages={
            "HealthCheckRequest": "service:string=1",
            "HealthCheckResponse": "status:HealthCheckResponse.ServingStatus=1",
        },
        services={
            "Health": [
                Method("Check", "HealthCheckRequest", "HealthCheckResponse"),
                Method("Watch", "HealthCheckRequest", "HealthCheckResponse", streams_out=True),
            ]
        },
        enums={"HealthCheckResponse.ServingStatus": "UNKNOWN SERVING NOT_SERVING SERVICE_UNKNOWN"},
    )
)


class GrpcHealth:
    """The health service. A service's name is empty for the whole server, or that of a model or of a gRPC service."""

    def __init__(self, repository: Repository, health: Health) -> None:
        self._repository = repository
        self._health = health

    def routes(self) -> list[Route]:
        """Check and Watch."""
        service = f"{PACKAGE}.Health"
        return [
            call_route(service, "Check", "grpc.health_check", self._check),
            call_route(service, "Watch", "grpc.health_watch", self._watch),
        ]

    def resolve(self, _: str) -> None:
        """All its paths are fixed."""

    def _check(self, request: Request) -> Response:
        service = parsed(_MESSAGES["HealthCheckRequest"], request.body).service
        status = self._status(service)
        if status == _SERVICE_UNKNOWN:
            raise Refusal(404, f"no service or model {service!r}")
        return answer_of(_MESSAGES["HealthCheckResponse"](status=status))

    async def _watch(self, request: Request) -> Response:
        """Say the state now and whenever it changes, until the caller goes or the server stops."""
        assert isinstance(request, Exchange)
        service = parsed(_MESSAGES["HealthCheckRequest"], request.body).service
        request.begin(Response(b"", 200, GRPC))
        said = None
        while not request.gone:
            status = self._status(service)
            if status != said:
                said = status
                request.send(framed(_MESSAGES["HealthCheckResponse"](status=status).SerializeToString()))
            if self._health.state is State.DRAINING:
                raise Refusal(503, "the server is draining")
            await asyncio.sleep(_POLL_S)
        return Response(b"")

    def _status(self, service: str) -> int:
        if not service or any(
            service == f"{proto.package}.{each.name}" for proto in FILES.values() for each in proto.service
        ):
            return _SERVING if self._health.ready else _NOT_SERVING
        try:
            served = self._repository.find(service)
        except Refusal:
            return _SERVICE_UNKNOWN
        return _NOT_SERVING if self._health.why_not or served.why_unready else _SERVING
