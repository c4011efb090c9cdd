"""Trace context, its way into the log, and traces as a real collector gets them."""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from berth.log import ACCESSES_PER_TICK
from berth.tracing import read_trace_context
from tests.berth.grpc_support import raw_request
from tests.berth.http2_client import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    LONG,
    Client,
    frame,
    framed,
    increment,
    message_for,
)
from tests.berth.support import Answer, Berth, predictor, read_answers, serving, use_up_log

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
DEADLINE_S = 15.0


@pytest.mark.parametrize(
    ("given", "sampled"),
    [
        (SAMPLED, True),
        (UNSAMPLED, False),
        (f"00-{TRACE}-{PARENT}-03", True),  # the other bits mean nothing to us
        (f"00-{TRACE}-{PARENT}-02", False),
        (f"cc-{TRACE}-{PARENT}-01", True),  # a later version
        (f"cc-{TRACE}-{PARENT}-01-what-comes-then", True),
    ],
)
def test_a_valid_traceparent_is_taken(given: str, sampled: bool) -> None:
    context = read_trace_context({b"traceparent": given.encode()})
    assert context is not None
    assert (context.trace_id, context.parent_id, context.sampled) == (TRACE, PARENT, sampled)


@pytest.mark.parametrize(
    "given",
    [
        "",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}",
        f"0-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01.more",
        f" {SAMPLED}",
        f"{SAMPLED}\n",
        f"{SAMPLED}, {SAMPLED}",
        f"cc-{TRACE}-{PARENT}-01more",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
    ],
)
def test_a_traceparent_that_breaks_a_rule_is_ignored(given: str) -> None:
    assert read_trace_context({b"traceparent": given.encode()}) is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"),
        (" a=1 ,\t, b@c=2", "a=1,b@c=2"),
        ("Upper=1", ""),
        ("a", ""),
        ("a=1,a=2", ""),
        ("a=x=y", ""),
        ("a=\x1b", ""),
        (f"a={'x' * 257}", ""),
        (f"a={'x' * 256}", f"a={'x' * 256}"),
        (",".join(f"k{index}=v" for index in range(33)), ""),
        ("", ""),
    ],
)
def test_tracestate_is_kept_whole_or_not_at_all_and_never_ends_the_trace(given: str, kept: str) -> None:
    context = read_trace_context({b"traceparent": SAMPLED.encode(), b"tracestate": given.encode()})
    assert context is not None
    assert context.state == kept


def test_the_trace_id_is_in_the_lines_of_a_request_and_in_those_of_its_error() -> None:
    with serving(**predictor("RaisesInPredict", MODEL_NAME="raiser", MODEL_VERSION="4")) as server:
        assert server.post("/predict", {"x": 1}, {"traceparent": UNSAMPLED}).status == 500
        error = server.wait_for_event("predict failed", trace_id=TRACE)
        assert (error["model"], error["version"]) == ("raiser", "4")
        line = server.wait_for_event("request", trace_id=TRACE, status=500)
        assert line["request_id"] == error["request_id"]
        server.post("/predict", {"x": 7}, {"traceparent": SAMPLED.upper(), "X-Request-Id": "without"})
        assert "trace_id" not in server.wait_for_event("request", request_id="without")
        server.ask("GET", "/nothing", None, {"traceparent": SAMPLED, "X-Request-Id": "lost"})
        assert server.wait_for_event("request", request_id="lost")["trace_id"] == TRACE
        two = [("traceparent", SAMPLED), ("traceparent", SAMPLED), ("X-Request-Id", "two")]
        with server.connect() as connection:
            lines = "".join(f"{name}: {value}\r\n" for name, value in two)
            connection.sendall(f"GET /livez HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
            assert read_answers(connection, 1)[0].status == 200
        assert "trace_id" not in server.wait_for_event("request", request_id="two")


class Collector:
    """A real HTTP server that keeps what it is sent; `statuses` are its next answers, 200 after them."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.hold = threading.Event()
        self.hold.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.hold.wait(DEADLINE_S)
                collector.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(collector.statuses.pop(0) if collector.statuses else 200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def documents(self) -> list[ExportTraceServiceRequest]:
        """What was sent, read by OpenTelemetry's own definition of it; unknown fields are errors."""
        return [_parse(body) for _, _, body in self.requests]

    def spans(self) -> list[Span]:
        return [
            span
            for document in self.documents()
            for resource in document.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def wait_for(self, count: int, name: str = "") -> list[Span]:
        """At least so many spans, of this name."""
        deadline = time.monotonic() + DEADLINE_S
        while len(found := [span for span in self.spans() if name in ("", span.name)]) < count:
            assert time.monotonic() < deadline, f"{len(found)} spans, not {count}"
            time.sleep(0.05)
        return found


def _parse(body: bytes) -> ExportTraceServiceRequest:
    """OTLP's JSON is protobuf's, but for ids, which are hexadecimal rather than base64."""
    document = json.loads(body)
    for resource in document["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for key, size in (("traceId", 16), ("spanId", 8), ("parentSpanId", 8)):
                    if key in span:
                        raw = bytes.fromhex(span[key])
                        assert len(raw) == size
                        span[key] = base64.b64encode(raw).decode()
    return json_format.ParseDict(document, ExportTraceServiceRequest())


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield collector
    finally:
        collector.hold.set()
        collector.server.shutdown()
        thread.join()
        collector.server.server_close()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        yield running


def attributes(span: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


def test_a_traced_request_arrives_with_its_parts(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "yard")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test%20bed,team=a")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x")
    before = time.time_ns()
    digest = "sha256:" + "ab" * 32
    with serving(**predictor("Slow", MODEL_NAME="slow", MODEL_VERSION="7", IMAGE_DIGEST=digest)) as server:
        headers = {"traceparent": SAMPLED, "tracestate": "rojo=1", "User-Agent": "tests/1"}
        assert server.post("/predict?x=1", {"seconds": 0.2}, headers).status == 200
        spans = {span.name: span for span in collector.wait_for(5)}
    path, sent, _ = collector.requests[0]
    assert path == "/v1/traces"
    assert sent["content-type"] == "application/json"
    assert sent["authorization"] == "Bearer x"
    resource = attributes(collector.documents()[0].resource_spans[0].resource)
    assert (
        resource.items()
        >= {
            "service.name": "yard",
            "service.version": "7",
            "deployment.environment.name": "test bed",
            "team": "a",
            "oci.manifest.digest": digest,
            "telemetry.sdk.language": "python",
        }.items()
    )
    assert set(spans) == {"POST /predict", "decode", "queue", "predict", "encode"}
    whole = spans.pop("POST /predict")
    assert whole.kind == Span.SPAN_KIND_SERVER
    assert whole.parent_span_id.hex() == PARENT
    assert before < whole.start_time_unix_nano < whole.end_time_unix_nano < time.time_ns()
    assert whole.status.code == Status.STATUS_CODE_UNSET
    assert attributes(whole) == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "url.path": "/predict",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "http.request.body.size": 16,
        "http.response.body.size": 3,
        "user_agent.original": "tests/1",
        "berth.model.name": "slow",
        "berth.model.version": "7",
    }
    ids = {whole.span_id}
    end = whole.start_time_unix_nano
    for name in ("decode", "queue", "predict", "encode"):
        part = spans[name]
        assert (part.trace_id.hex(), part.trace_state) == (TRACE, "rojo=1")
        assert part.parent_span_id == whole.span_id
        assert end - 2000 <= part.start_time_unix_nano <= part.end_time_unix_nano <= whole.end_time_unix_nano + 2000
        end = part.end_time_unix_nano
        ids.add(part.span_id)
    assert len(ids) == 5
    assert spans["predict"].end_time_unix_nano - spans["predict"].start_time_unix_nano > 150_000_000
    assert attributes(spans["predict"]) == {"berth.batch.requests": 1}


def test_the_callers_decision_is_kept_and_invalid_contexts_begin_a_trace(collector: Collector) -> None:
    with serving(**predictor("RaisesInPredict")) as server:
        assert server.post("/predict", {"x": 7}, {"traceparent": UNSAMPLED}).status == 200
        assert server.get("/livez").status == 200  # a probe begins no trace
        assert server.post("/predict", {"x": 1}, {"traceparent": "nonsense"}).status == 500
        assert server.post("/predict", {"x": "a"}, {"traceparent": SAMPLED}).status == 422
        assert server.ask("GET", "/lost", None, {"traceparent": SAMPLED}).status == 404
        failed = server.wait_for_event("predict failed")
        page = wait_for_exported(server, 3)
    assert 'berth_traced_requests_total{outcome="dropped"} 0' in page
    roots = {attributes(span)["http.response.status_code"]: span for span in collector.spans() if span.kind == 2}
    assert set(roots) == {500, 422, 404}
    assert roots[500].parent_span_id == b""
    assert roots[500].trace_id.hex() == failed["trace_id"] != TRACE
    assert roots[500].status.code == Status.STATUS_CODE_ERROR
    assert attributes(roots[500])["error.type"] == "500"
    assert roots[422].trace_id.hex() == roots[404].trace_id.hex() == TRACE
    assert roots[404].name == "GET"


def wait_for_exported(server: Berth, count: int) -> str:
    deadline = time.monotonic() + DEADLINE_S
    while f'berth_traced_requests_total{{outcome="exported"}} {count}' not in (
        page := server.get("/metrics").body.decode()
    ):
        assert time.monotonic() < deadline, page
        time.sleep(0.05)
    return page


@pytest.mark.parametrize(("sampler", "traced"), [("always_off", 0), ("parentbased_always_off", 50), ("always_on", 100)])
def test_a_sampler_decides(collector: Collector, monkeypatch: pytest.MonkeyPatch, sampler: str, traced: int) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    with serving(**predictor("RaisesInPredict")) as server:
        for _ in range(50):
            server.post("/predict", {"x": 7})
            server.post("/predict", {"x": 7}, {"traceparent": SAMPLED})
        if traced:
            wait_for_exported(server, traced)
    assert sum(span.kind == Span.SPAN_KIND_SERVER for span in collector.spans()) == traced


def test_a_ratio_is_taken_of_the_trace_ids_as_other_services_take_it(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")
    numbers = random.Random(1)
    traces = [f"{numbers.getrandbits(128):032x}" for _ in range(80)]
    expected = {trace for trace in traces if int(trace[16:], 16) < 0.25 * 2**64}
    assert 5 < len(expected) < 40
    with serving(**predictor("RaisesInPredict")) as server:
        for trace in traces:
            server.post("/predict", {"x": 7}, {"traceparent": f"00-{trace}-{PARENT}-00"})
        wait_for_exported(server, len(expected))
    assert {span.trace_id.hex() for span in collector.spans()} == expected


def test_traced_requests_take_the_express_lane_each_with_its_own_trace(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    traces = [f"{number:032x}" for number in range(1, 101)]
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}).encode()

    def request(header: str) -> bytes:
        head = f"POST /v2/models/model/infer HTTP/1.1\r\nHost: x\r\n{header}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def ask(connection: Any, header: str) -> Answer:
        connection.sendall(request(header))
        return read_answers(connection, 1)[0]

    with serving(FORMAT="onnx", WEIGHTS=str(weights / "double.onnx")) as server, server.connect() as connection:
        for _ in range(3):
            use_up_log(connection, request(f"traceparent: {UNSAMPLED}\r\n"))
            for _ in range(100):
                assert ask(connection, f"traceparent: {UNSAMPLED}\r\n").status == 200
        expressed = number(server, "berth_express_requests_total")
        assert expressed > 0
        for trace in traces:
            answer = ask(connection, f"traceparent: 00-{trace}-{PARENT}-01\r\ntracestate: a={trace}\r\n")
            assert answer.status == 200
            assert "predict;dur=" in answer.headers["Server-Timing"]
            if trace == traces[20]:
                time.sleep(0.6)  # the log's budget is renewed meanwhile
            if trace == traces[60]:
                use_up_log(connection, request(f"traceparent: {UNSAMPLED}\r\n"))
        wait_for_exported(server, 100)
        assert number(server, "berth_express_requests_total") > expressed
    roots = [span for span in collector.spans() if span.kind == Span.SPAN_KIND_SERVER]
    assert sorted(span.trace_id.hex() for span in roots) == traces
    assert all(span.trace_state == f"a={span.trace_id.hex()}" for span in roots)
    assert {span.parent_span_id.hex() for span in roots} == {PARENT}
    wanted = {"http.response.status_code": 200, "http.request.body.size": len(body), "berth.model.name": "model"}
    assert all(attributes(span).items() >= wanted.items() for span in roots)
    parts = [span.name for span in collector.spans() if span.kind != Span.SPAN_KIND_SERVER]
    assert {name: parts.count(name) for name in parts} == dict.fromkeys(("decode", "queue", "predict", "encode"), 100)


def test_a_trace_that_begins_here_begins_in_the_express_lane_too(collector: Collector, weights: Path) -> None:
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}).encode()
    request = f"POST /v2/models/model/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "double.onnx")) as server, server.connect() as connection:
        asked = 0
        while asked < 1800 and number(server, "berth_express_requests_total") < 100:
            use_up_log(connection, request)
            for _ in range(100):
                connection.sendall(request)
                assert read_answers(connection, 1)[0].status == 200
            asked += ACCESSES_PER_TICK + 100
            time.sleep(0.5)  # more at once would be more than the exporter keeps
        assert number(server, "berth_express_requests_total") > 0
        wait_for_exported(server, asked)
    roots = [span for span in collector.spans() if span.kind == Span.SPAN_KIND_SERVER]
    assert len({span.trace_id for span in roots}) == asked


def number(server: Berth, name: str) -> int:
    lines = server.get("/metrics").body.decode().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}{{")).split()[-1])


def test_streams_and_workers_are_traced(collector: Collector) -> None:
    with serving(PREDICTOR="models_streams:Tokens", WORKERS="1") as server:
        answer = server.post("/predict", {"text": "a", "count": 3, "pause": 0.1}, {"traceparent": SAMPLED})
        assert answer.body.count(b"data:") == 3
        spans = {span.name: span for span in collector.wait_for(5)}
    assert spans["predict"].end_time_unix_nano - spans["predict"].start_time_unix_nano > 150_000_000
    assert attributes(spans["POST /predict"])["http.response.body.size"] == len(answer.body)


def test_a_caller_that_hangs_up_leaves_a_span_that_says_so(collector: Collector) -> None:
    with serving(**predictor("Slow")) as server:
        body = b'{"seconds":1.0}'
        with server.connect() as connection:
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\ntraceparent: {SAMPLED}\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            deadline = time.monotonic() + DEADLINE_S
            while not number(server, "berth_pending_requests"):
                assert time.monotonic() < deadline
        (span,) = collector.wait_for(1, "POST /predict")
    assert attributes(span)["error.type"] == "canceled"
    assert "http.response.status_code" not in attributes(span)
    assert span.status.code == Status.STATUS_CODE_ERROR


def test_a_collector_that_is_slow_or_refuses_costs_spans_and_nothing_else(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "300")
    collector.statuses = [503, 400]
    with serving(**predictor("RaisesInPredict")) as server:
        assert server.predict(x=7).status == 200
        event = server.wait_for_event("traces not sent")  # tried again after the 503, not after the 400
        assert "400" in event["reason"]
        collector.hold.clear()

        def ask(_: int) -> None:
            with server.connect() as connection:
                for _ in range(320):
                    connection.sendall(b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{"x":7}')
                    assert read_answers(connection, 1)[0].status == 200

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(8)))
        deadline = time.monotonic() + DEADLINE_S
        while number_of(server, "dropped") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert server.predict(x=7).status == 200
        collector.hold.set()
        deadline = time.monotonic() + DEADLINE_S
        while not number_of(server, "exported"):
            server.predict(x=7)
            assert time.monotonic() < deadline
            time.sleep(0.1)


def number_of(server: Berth, outcome: str) -> int:
    lines = server.get("/metrics").body.decode().splitlines()
    return int(next(line for line in lines if f'outcome="{outcome}"' in line).split()[-1])


def test_what_is_left_is_sent_at_the_stop(collector: Collector) -> None:
    with serving(**predictor("RaisesInPredict")) as server:
        assert server.predict(x=7).status == 200
        assert server.terminate() == 0
    assert collector.wait_for(1, "POST /predict")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "HTTP only"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "expected http://"),
        ({"OTEL_TRACES_SAMPLER": "sometimes"}, "expected one of"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "expected a number"),
    ],
)
def test_a_variable_that_makes_no_sense_is_told_and_serving_goes_on(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with serving(**predictor("RaisesInPredict")) as server:
        assert words in server.wait_for_event("tracing")["reason"]
        assert server.predict(x=7).status == 200


@pytest.mark.parametrize(("name", "value"), [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")])
def test_traces_can_be_turned_off(collector: Collector, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with serving(**predictor("RaisesInPredict")) as server:
        assert server.post("/predict", {"x": 7}, {"traceparent": SAMPLED}).status == 200
        assert "berth_traced_requests_total" not in server.get("/metrics").body.decode()
    assert collector.requests == []


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("name", ["One", "Asynchronous", "Many", "Items"])
def test_predict_learns_which_headers_continue_the_trace(name: str, workers: str) -> None:
    with serving(PREDICTOR=f"models_traces:{name}", WORKERS=workers) as server:
        given = {"traceparent": UNSAMPLED, "tracestate": "a=1", "Accept": "application/json"}
        answer = server.post("/predict", {"x": 1}, given)
        expected = {"traceparent": UNSAMPLED, "tracestate": "a=1"}
        assert answer.json == ([expected] * 2 if name == "Items" else expected)
        assert server.post("/predict", {"x": 1}, {"Accept": "application/json"}).json in ({}, [{}, {}])


@pytest.mark.parametrize("workers", ["0", "1"])
def test_each_of_a_batch_has_its_own_trace_even_when_one_fails(workers: str) -> None:
    given = [f"00-{number:032x}-{PARENT}-00" for number in range(1, 9)]
    settings = {"PREDICTOR": "models_traces:Many", "MAX_BATCH_DELAY_MS": "300", "MAX_BATCH_SIZE": "8"}
    with serving(WORKERS=workers, **settings) as server, ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(server.post, "/predict", {"x": -1 if number == 2 else 1}, {"traceparent": parent})
            for number, parent in enumerate(given)
        ]
        answers = [future.result() for future in asked]
    assert [answer.status for answer in answers] == [422 if number == 2 else 200 for number in range(8)]
    for parent, answer in zip(given, answers, strict=True):
        if answer.status == 200:
            assert answer.json == {"traceparent": parent}


def test_what_predict_sends_on_is_a_child_of_the_exported_span(collector: Collector) -> None:
    with serving(PREDICTOR="models_traces:One") as server:
        headers = server.post("/predict", {"x": 1}, {"traceparent": SAMPLED}).json
        span = next(span for span in collector.wait_for(5) if span.kind == Span.SPAN_KIND_SERVER)
    assert headers == {"traceparent": f"00-{TRACE}-{span.span_id.hex()}-01"}


@contextmanager
def relaying(folder: Path, name: str, workers: int, one_workers: int = 0) -> Iterator[Berth]:
    """A server in which one model asks another."""
    models = [
        {"name": "relay", "predictor": f"models_traces:{name}", "workers": workers},
        {"name": "one", "predictor": "models_traces:One", "workers": one_workers},
    ]
    (folder / "models.json").write_text(json.dumps(models))
    with serving(MODELS=str(folder / "models.json")) as server:
        yield server


@pytest.mark.parametrize(("workers", "one_workers"), [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("name", ["Relays", "RelaysAsync", "RelaysItems"])
def test_a_model_that_another_calls_is_of_the_same_trace(
    tmp_path: Path, name: str, workers: int, one_workers: int
) -> None:
    with relaying(tmp_path, name, workers, one_workers) as server:
        given = {"traceparent": UNSAMPLED, "tracestate": "a=1", "Accept": "application/json"}
        expected = {"traceparent": UNSAMPLED, "tracestate": "a=1"}
        answer = server.post("/predict", {"x": 1}, given).json
        assert (answer[0] if name == "RelaysItems" else answer) == [expected, expected]
        answer = server.post("/predict", {"x": 1}, {"Accept": "application/json"}).json
        assert (answer[0] if name == "RelaysItems" else answer) == [{}, {}]
        assert server.wait_for_event("request", trace_id=TRACE, route="chain")["model"] == "one"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_call_between_models_is_a_span_within_that_of_the_request(
    collector: Collector, tmp_path: Path, workers: int
) -> None:
    with relaying(tmp_path, "Relays", workers) as server:
        own, called = server.post("/predict", {"x": 1}, {"traceparent": SAMPLED}).json
        spans = {span.name: span for name in ("POST /predict", "call one") for span in collector.wait_for(1, name)}
    whole, call = spans["POST /predict"], spans["call one"]
    assert own == {"traceparent": f"00-{TRACE}-{whole.span_id.hex()}-01"}
    assert called == {"traceparent": f"00-{TRACE}-{call.span_id.hex()}-01"}
    assert (call.trace_id.hex(), call.parent_span_id, call.kind) == (TRACE, whole.span_id, Span.SPAN_KIND_INTERNAL)
    assert attributes(call) == {"berth.model.name": "one", "berth.model.version": "1"}


def test_calls_over_grpc_take_the_express_lane_traced(collector: Collector, weights: Path) -> None:
    message = message_for(raw_request("model", np.ones((1, 2), np.float32)))
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "double.onnx")) as server, Client(server) as client:
        client.send(increment(0, LONG - 65_535))
        asked, end = 0, time.monotonic() + 3 * DEADLINE_S
        while not number(server, "berth_express_requests_total"):
            assert time.monotonic() < end
            streams = range(2 * asked + 1, 2 * asked + 1401, 2)
            block = client.block(traceparent=SAMPLED)
            for stream in streams:
                body = frame(DATA, END_STREAM, stream, framed(message))
                client.send(frame(HEADERS, END_HEADERS, stream, block) + body)
                block = block if stream > 1 else client.block(traceparent=SAMPLED)
            assert {client.answer(stream).status for stream in streams} == {0}
            asked += len(streams)
            client.frames.clear()
            wait_for_exported(server, asked)
    roots = [span for span in collector.spans() if span.kind == Span.SPAN_KIND_SERVER]
    assert {(span.trace_id.hex(), span.parent_span_id.hex()) for span in roots} == {(TRACE, PARENT)}
    assert {attributes(span)["http.request.body.size"] for span in roots} == {len(message)}
    assert len({span.span_id for span in roots}) == asked
