"""The one listener: what is taken from callers, what is refused, what errors say, and what the access log tells.

Pure. It depends on the settings alone, so it is sent once and never changes while deployments come and go. Called by
`resources`.
"""

from __future__ import annotations

from typing import Any

from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    Rds,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import HeaderMutation
from envoy.extensions.request_id.uuid.v3.uuid_pb2 import UuidRequestIdConfig
from google.protobuf.struct_pb2 import Struct

from dockyard.gateway.base import MIB, GatewaySettings
from dockyard.gateway.messages import ADS, NAMESPACE, extension, header, packed, seconds
from dockyard.gateway.routes import ROUTES

LISTENER = "gateway"
ACCESS_LOG = "access.log"
ACCESS_LOG_FIELDS = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "deployment": f"%METADATA(ROUTE:{NAMESPACE}:deployment)%",
    "revision": f"%METADATA(UPSTREAM_HOST:{NAMESPACE}:revision)%",
    "replica": f"%METADATA(UPSTREAM_HOST:{NAMESPACE}:replica)%",
    "method": "%REQ(:METHOD)%",
    "host": "%REQ(:AUTHORITY)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):2048%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS_NUMBER%",
    "flags": "%RESPONSE_FLAGS%",
    "detail": "%RESPONSE_CODE_DETAILS%",
    "duration_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
    "replica_us": "%COMMON_DURATION(US_TX_END:US_RX_END:us)%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "caller": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "agent": "%REQ(USER-AGENT):256%",
}
"""Field -> how Envoy computes it. In the reference, docs/reference/gateway.md, each has a sentence."""

_DEPLOYMENT = f"deployment %METADATA(ROUTE:{NAMESPACE}:deployment)%"
# Envoy's flag of what went wrong -> status (0: as it is) and what the caller is told.
_ANSWERS: tuple[tuple[tuple[str, ...], int, str], ...] = (
    (("UH",), 503, f"no replica of {_DEPLOYMENT} is ready; try again in 1 s, or see `dockyard status`"),
    (("UF",), 503, f"no replica of {_DEPLOYMENT} could be reached; try again in 1 s, or see `dockyard events`"),
    (("UO",), 503, f"too many requests wait for {_DEPLOYMENT}; try again in 1 s, or give it more replicas"),
    (("UC", "UR", "UPE"), 502, f"a replica of {_DEPLOYMENT} broke the connection before it answered; it may have run"),
    (("UT", "SI"), 504, f"{_DEPLOYMENT} did not answer within its timeout (routing.timeout_s)"),
)
_TRY_AGAIN = 503


def listener_of(settings: GatewaySettings, routes: RouteConfiguration | None = None) -> Listener:
    """The listener, asking for its routes by name; with `routes`, it has them inside and asks nobody."""
    return Listener(
        name=LISTENER,
        address={"socket_address": {"address": settings.host, "port_value": settings.port}},
        filter_chains=[
            {"filters": [extension("envoy.filters.network.http_connection_manager", _http(settings, routes))]}
        ],
        per_connection_buffer_limit_bytes={"value": MIB},
        tcp_backlog_size={"value": 4096},
    )


def _http(settings: GatewaySettings, routes: RouteConfiguration | None) -> HttpConnectionManager:
    limits = settings.limits
    manager = HttpConnectionManager(
        codec_type="AUTO",
        stat_prefix=LISTENER,
        http_filters=[extension("envoy.filters.http.router", Router())],
        common_http_protocol_options={
            "idle_timeout": seconds(limits.idle_timeout_s),
            "max_headers_count": {"value": limits.header_count},
        },
        http2_protocol_options={
            "max_concurrent_streams": {"value": limits.streams},
            "initial_stream_window_size": {"value": MIB},
            "initial_connection_window_size": {"value": 4 * MIB},
        },
        max_request_headers_kb={"value": limits.header_kib},
        request_headers_timeout=seconds(limits.header_timeout_s),
        stream_idle_timeout=seconds(300),
        access_log=[extension("envoy.access_loggers.file", _access_log(settings))],
        local_reply_config={
            "mappers": [*(_mapper(*each) for each in _ANSWERS), _any_error()],
        },
        **_identity(),
    )
    if routes is None:
        manager.rds.MergeFrom(Rds(route_config_name=ROUTES, config_source=ADS))
    else:
        manager.route_config.MergeFrom(routes)
    return manager


def _identity() -> dict[str, Any]:
    """Who asks, under which id and for which path: nothing that a caller claims about itself is believed.

    Headers that begin with x-envoy- steer Envoy (retries, timeouts); those of callers are removed before it reads them.
    """
    theirs = {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}}
    removal = extension("envoy.http.early_header_mutation.header_mutation", HeaderMutation(mutations=[theirs]))
    return {
        "use_remote_address": {"value": True},
        "early_header_mutation_extensions": [removal],
        "request_id_extension": {"typed_config": packed(UuidRequestIdConfig(pack_trace_reason={"value": False}))},
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": {"value": True},
        "merge_slashes": True,
    }


def _access_log(settings: GatewaySettings) -> FileAccessLog:
    """One JSON object a line. Envoy escapes what callers wrote, so a line is a line."""
    fields = Struct()
    fields.update(ACCESS_LOG_FIELDS)
    return FileAccessLog(path=str(settings.folder / ACCESS_LOG), log_format={"json_format": fields})


def _mapper(flags: tuple[str, ...], status: int, text: str) -> dict[str, Any]:
    return {
        "filter": {"response_flag_filter": {"flags": list(flags)}},
        "status_code": {"value": status},
        "body_format_override": _body(text),
        "headers_to_add": [header("retry-after", "1")] if status == _TRY_AGAIN else [],
    }


def _any_error() -> dict[str, Any]:
    """What Envoy, or a route without replicas, says otherwise."""
    from_400 = {"op": "GE", "value": {"default_value": 400, "runtime_key": "dockyard.errors_from"}}
    errors = {"status_code_filter": {"comparison": from_400}}
    return {"filter": errors, "body_format_override": _body("%LOCAL_REPLY_BODY%")}


def _body(text: str) -> dict[str, Any]:
    """An error in berth's own form, with the id to ask the log for."""
    fields = Struct()
    fields.update({"error": text, "request_id": "%REQ(X-REQUEST-ID)%"})
    return {"json_format": fields, "content_type": "application/json"}
