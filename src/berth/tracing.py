"""W3C trace context, and which requests become spans.

Every request may bring `traceparent` and `tracestate`; what does not follow the recommendation is ignored, as it asks.
The trace id goes into the request's log lines. Spans are made only when the environment names a collector
(`OTEL_EXPORTER_OTLP_ENDPOINT`); then the application asks `Tracer.begin` for each request, answers.py hands over those
that are finished, and otlp.py sends them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit

import msgspec

_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_STATE_KEY = re.compile(r"[a-z0-9][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}")
_STATE_VALUE = re.compile(r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
MAX_STATE_MEMBERS = 32
CONTEXT_HEADERS = frozenset((b"traceparent", b"tracestate"))
CALL = b"CALL"  # in place of a method: one model of this server asked another
HUNG_UP = 0  # in place of a status: the caller did not wait for one
_TRACES_PATH = "v1/traces"


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """What a caller said of the trace that its request belongs to; ids in lower-case hexadecimal."""

    trace_id: str
    parent_id: str
    sampled: bool
    state: str = ""


def read_trace_context(headers: Mapping[bytes, bytes]) -> TraceContext | None:
    """The context in these headers (names in lower case); None where there is none, or none that is valid."""
    given = headers.get(b"traceparent")
    found = None if given is None else _PARENT.fullmatch(given)
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    if not trace_id.strip(b"0") or not parent_id.strip(b"0"):
        return None
    state = _read_state(headers.get(b"tracestate", b""))
    return TraceContext(trace_id.decode(), parent_id.decode(), bool(int(flags, 16) & 1), state)


def _read_state(given: bytes) -> str:
    """The vendors' own members, or nothing when one of them is malformed; the trace itself stays valid then."""
    members = [member.strip(" \t") for member in given.decode("latin-1").split(",")]
    members = [member for member in members if member]
    keys: set[str] = set()
    for member in members:
        key, equals, value = member.partition("=")
        if not equals or not _STATE_KEY.fullmatch(key) or not _STATE_VALUE.fullmatch(value) or key in keys:
            return ""
        keys.add(key)
    return ",".join(members) if len(members) <= MAX_STATE_MEMBERS else ""


class Span(msgspec.Struct, eq=False):
    """A request that is traced. `arrived` is when it was admitted, on the performance counter's clock, 0 before."""

    trace_id: str
    span_id: str
    parent_id: str = ""
    state: str = ""
    arrived: float = 0.0
    run_seconds: float = 0.0
    together: int = 0  # how many requests ran in its batch

    def ran(self, seconds: float, together: int) -> None:
        """Its batch has come back."""
        self.run_seconds, self.together = seconds, together


class Traced(msgspec.Struct, frozen=True):
    """A traced request with its answer, as the exporter gets it; times on the performance counter's clock."""

    span: Span
    method: str
    path: str
    route: str  # its path; empty where no route was found
    user_agent: str
    status: int  # or HUNG_UP
    started: float
    ended: float
    queued: float
    received: int
    sent: int
    model: str = ""
    version: str = ""


class Tracer:
    """Decides which requests are traced, and hands those that are finished to the exporter."""

    def __init__(self, settings: TraceSettings, export: Callable[[Traced], None]) -> None:
        self._settings = settings
        self._export = export

    def finish(self, traced: Traced) -> None:
        """A traced request has its answer."""
        self._export(traced)

    def begin(self, context: TraceContext | None, *, for_model: bool) -> Span | None:
        """The span of a request that has just come; None for one that is not traced.

        A trace begins here only with a request for a model: nobody wants one of every probe.
        """
        decided = context is not None and self._settings.parent_decides
        wanted = context.sampled if context is not None and decided else self._settings.ratio > 0
        if not wanted or (context is None and not for_model):
            return None
        trace_id = os.urandom(16).hex() if context is None else context.trace_id
        # The same part of the id as in OpenTelemetry's TraceIdRatioBased sampler: all services decide alike.
        if not decided and int(trace_id[16:], 16) >= self._settings.ratio * 2**64:
            return None
        if context is None:
            return Span(trace_id, os.urandom(8).hex())
        return Span(trace_id, os.urandom(8).hex(), context.parent_id, context.state)


class TraceSettings(msgspec.Struct, frozen=True):
    """Where traces go (empty `endpoint`: nowhere) and which; `problems` are told in the log, they stop no start."""

    endpoint: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    timeout: float = 10.0
    service: str = ""
    resource: tuple[tuple[str, str], ...] = ()
    parent_decides: bool = True
    ratio: float = 1.0  # of the traces that begin here
    problems: tuple[str, ...] = ()


def read_trace_settings(environment: Mapping[str, str]) -> TraceSettings:
    """OpenTelemetry's own variables, as every other service of its users reads them."""
    endpoint = _endpoint(environment)
    if not endpoint:
        return TraceSettings()
    problems: list[str] = []
    protocol = _of_traces(environment, "PROTOCOL") or "http/json"
    if not protocol.startswith("http/"):
        problems.append(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: berth speaks OTLP over HTTP only; no traces are sent")
    elif urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).hostname:
        problems.append("OTEL_EXPORTER_OTLP_ENDPOINT: expected http:// or https:// and a host; no traces are sent")
    if problems:
        return TraceSettings(problems=tuple(problems))
    parent_decides, ratio = _sampler(environment, problems)
    resource = _pairs(environment.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    return TraceSettings(
        endpoint=endpoint,
        headers=_pairs(_of_traces(environment, "HEADERS")),
        timeout=_number(environment, "OTEL_EXPORTER_OTLP_TIMEOUT", 10_000.0, problems) / 1000,
        service=environment.get("OTEL_SERVICE_NAME", "") or dict(resource).get("service.name", ""),
        resource=tuple((name, value) for name, value in resource if name != "service.name"),
        parent_decides=parent_decides,
        ratio=ratio,
        problems=tuple(problems),
    )


def _endpoint(environment: Mapping[str, str]) -> str:
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if off or environment.get("OTEL_TRACES_EXPORTER", "otlp") not in ("otlp", ""):
        return ""
    whole = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
    base = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    return whole or (f"{base.rstrip('/')}/{_TRACES_PATH}" if base else "")


def _of_traces(environment: Mapping[str, str], name: str) -> str:
    return environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}", "") or environment.get(f"OTEL_EXPORTER_OTLP_{name}", "")


_SAMPLERS = {
    "always_on": (False, 1.0),
    "always_off": (False, 0.0),
    "traceidratio": (False, None),
    "parentbased_always_on": (True, 1.0),
    "parentbased_always_off": (True, 0.0),
    "parentbased_traceidratio": (True, None),
}


def _sampler(environment: Mapping[str, str], problems: list[str]) -> tuple[bool, float]:
    name = environment.get("OTEL_TRACES_SAMPLER", "") or "parentbased_always_on"
    if name not in _SAMPLERS:
        problems.append(f"OTEL_TRACES_SAMPLER={name}: expected one of {', '.join(_SAMPLERS)}; taken as always_on")
        name = "parentbased_always_on"
    parent_decides, ratio = _SAMPLERS[name]
    if ratio is None:
        ratio = _number(environment, "OTEL_TRACES_SAMPLER_ARG", 1.0, problems)
    return parent_decides, min(max(ratio, 0.0), 1.0)


def _number(environment: Mapping[str, str], name: str, default: float, problems: list[str]) -> float:
    text = environment.get(name, "")
    try:
        value = float(text) if text else default
        if value >= 0:  # and not NaN
            return value
    except ValueError:
        pass
    problems.append(f"{name}={text}: expected a number of 0 or more; taken as {default:g}")
    return default


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """`key=value,key=value`, with percent-encoded values."""
    pairs = [part.partition("=") for part in text.split(",")]
    return tuple((name.strip(), unquote(value.strip())) for name, _, value in pairs if name.strip())
