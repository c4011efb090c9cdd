"""HTTP/2 with raw frames: what the standard asks, what a hostile peer may try, and how a connection ends."""

from __future__ import annotations

import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from berth.protocols.v2_grpc_codec import varint
from tests.berth.grpc_support import metric, predict_request, raw_request
from tests.berth.http2_client import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    LIVE,
    LONG,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Client,
    frame,
    framed,
    increment,
    message_for,
    resident_mib,
    well,
)
from tests.berth.support import DEADLINE_S, Berth, predictor, read_answers, serving

NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, REFUSED_STREAM = 0, 1, 3, 6, 7
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 9, 11
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
ONE = message_for(raw_request("double", np.array([[1, 2]], np.float32)))
TWO = np.array([[2, 4]], np.float32).tobytes()


@pytest.fixture(scope="module")
def server(weights: Path) -> Iterator[Berth]:
    settings = {"HEADER_TIMEOUT_S": "0.5", "REQUEST_TIMEOUT_S": "1.5", "MAX_BODY_BYTES": "1000000"}
    settings["MIN_BODY_RATE"] = "0"
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "double.onnx"), MODEL_NAME="double", **settings) as running:
        yield running
        assert running.process.poll() is None


# -- what the standard asks -------------------------------------------------------------------------------------------


def test_frames_may_be_cut_anywhere(onnx_server: Berth) -> None:
    with Client(onnx_server, preface=b"") as client:
        head = frame(HEADERS, END_HEADERS, 1, client.block())
        for byte in PREFACE + frame(SETTINGS, 0, 0) + head + frame(DATA, END_STREAM, 1, framed(ONE)):
            client.send(bytes([byte]))
            time.sleep(0.0005)
        assert client.answer(1).body.endswith(TWO)
    with onnx_server.connect() as connection:
        for byte in b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n":
            connection.sendall(bytes([byte]))
            time.sleep(0.0005)
        assert read_answers(connection, 1)[0].status == 404


def test_headers_in_pieces_padding_and_priority_are_taken(server: Berth) -> None:
    with Client(server) as client:
        block = client.block()
        client.send(frame(HEADERS, 0x28, 1, b"\x03" + bytes(5) + block[:10] + bytes(3)))
        client.send(frame(CONTINUATION, 0, 1, block[10:20]) + frame(CONTINUATION, END_HEADERS, 1, block[20:]))
        client.send(frame(PRIORITY, 0, 1, bytes(5)) + frame(99, 0xFF, 7, b"unknown"))
        body = framed(ONE)
        client.send(frame(DATA, 0x8, 1, b"\x02" + body[:9] + bytes(2)) + frame(DATA, 0, 1, body[9:]))
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, client._encoder.encode([("x-trailer", "1")])))
        answer = client.answer(1)
        assert answer.body.endswith(TWO)
        assert answer.status == 0


def test_pings_and_settings_are_acknowledged(server: Berth) -> None:
    with Client(server) as client:
        client.until(SETTINGS, ACK)
        client.send(frame(PING, 0, 0, b"12345678") + frame(PING, ACK, 0, b"whatever"))
        assert client.until(PING, ACK)[3] == b"12345678"


def test_a_peer_with_a_small_header_table_is_told_that_none_is_used(server: Berth) -> None:
    with Client(server, [(1, 0)]) as client:
        client._decoder.max_allowed_table_size = 0
        for stream in (1, 3):
            client.call(stream, ONE)
            assert client.answer(stream).status == 0


def test_what_is_no_grpc_has_an_http_status(server: Berth) -> None:
    with Client(server) as client:
        client.call(1, b"", "/v2/health/live", content_type="application/json")
        assert client.answer(1).headers == {":status": "415"}
        block = client._encoder.encode([(":method", "GET"), (":scheme", "http"), (":path", "/v2")])
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, block))
        assert client.answer(3).headers == {":status": "405"}


def test_answers_wait_for_the_windows_of_their_reader(server: Berth) -> None:
    with Client(server, [(4, 10)]) as client:
        client.call(1, ONE)
        while len(client.answers.get(1).body if 1 in client.answers else b"") < 10:
            assert client.read()
        client.send(frame(PING, 0, 0, b"12345678"))
        client.until(PING, ACK)
        assert len(client.answers[1].body) == 10
        client.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 20)))
        while len(client.answers[1].body) < 20:
            assert client.read()
        client.send(increment(1, 1000))
        assert client.answer(1).body.endswith(TWO)


def test_a_reader_that_opens_no_window_is_given_up(server: Berth) -> None:
    with Client(server, [(4, 0)]) as client:
        client.call(1, ONE)
        assert client.answer(1).reset == 8
        assert well(server)


# -- gRPC's own rules -------------------------------------------------------------------------------------------------


def test_the_callers_deadline_is_kept_here_too() -> None:
    with serving(**predictor("Slow", MODEL_NAME="m")) as server, Client(server) as client:
        client.call(1, message_for(predict_request("m", seconds=0.6)), grpc_timeout="15S")
        client.call(3, message_for(predict_request("m", seconds=0.1)), grpc_timeout="200m")
        assert client.answer(3).status == 4
        assert client.answer(1).status == 0
        client.call(5, message_for(predict_request("m", seconds=0.0)), grpc_timeout="15S")
        assert client.answer(5).status == 0
        assert metric(server, "nv_inference_exec_count{") == 2  # what expired did not run


@pytest.mark.parametrize(
    ("more", "body", "status", "text"),
    [
        ({"grpc_timeout": "soon"}, framed(ONE), 3, "grpc-timeout: expected digits and a unit, got 'soon'"),
        ({"grpc_encoding": "br"}, framed(ONE), 12, "grpc-encoding: expected one of identity, gzip, deflate, got 'br'"),
        ({"grpc_encoding": "gzip"}, framed(ONE, 1), 3, "the body is not valid gzip"),
        ({}, framed(ONE, 1), 3, "the message is compressed, and no grpc-encoding says how"),
        ({}, b"", 3, "expected a message, got none"),
        ({}, framed(ONE) + framed(ONE), 3, "expected one message that fills the request"),
        ({}, framed(ONE)[:-1], 3, "expected one message that fills the request"),
        ({}, b"\0\xff\xff\xff\xff", 8, "expected at most 1000000 bytes"),
        ({"x_request_timeout": "never"}, framed(ONE), 3, "x-request-timeout: expected a number above 0"),
    ],
)
def test_calls_that_break_grpcs_rules(server: Berth, more: dict[str, str], body: bytes, status: int, text: str) -> None:
    with Client(server) as client:
        for stream in (1, 3):
            head = frame(HEADERS, END_HEADERS, stream, client.block(**more))
            client.send(head + frame(DATA, END_STREAM, stream, body))
            answer = client.answer(stream)
            assert answer.status == status
            assert text in answer.headers["grpc-message"]
        client.call(5, ONE)
        assert client.answer(5).status == 0


def test_too_many_headers_are_refused(server: Berth) -> None:
    with Client(server) as client:
        client.call(1, ONE, **{f"x{index}": "1" for index in range(200)})
        answer = client.answer(1)
        assert answer.status == 8
        assert "expected at most 128 headers" in answer.headers["grpc-message"]


def test_a_stream_cut_in_the_middle_of_a_message_is_refused(server: Berth) -> None:
    with Client(server) as client:
        client.send(frame(HEADERS, END_HEADERS, 1, client.block(STREAM_INFER)))
        client.send(frame(DATA, END_STREAM, 1, framed(ONE)[:-3]))
        answer = client.answer(1)
        assert answer.status == 3
        assert "in the middle of a message" in answer.headers["grpc-message"]


def test_messages_of_a_stream_may_be_cut_anywhere(server: Berth) -> None:
    with Client(server) as client:
        client.send(frame(HEADERS, END_HEADERS, 1, client.block(STREAM_INFER)))
        body = framed(ONE) * 5
        for start in range(0, len(body), 7):
            client.send(frame(DATA, 0, 1, body[start : start + 7]))
        client.send(frame(DATA, END_STREAM, 1))
        answer = client.answer(1)
        assert answer.status == 0
        assert answer.body.count(TWO) == 5


def test_a_flood_of_calls_is_answered_call_by_call(server: Berth) -> None:
    with Client(server) as client:
        first, block = client.block(), client.block()
        count = 5000
        calls = [frame(HEADERS, 5, 2 * index + 1, block if index else first) for index in range(count)]
        client.send(b"".join(calls))
        for index in range(count):
            assert client.answer(2 * index + 1).status == 3
        client.call(2 * count + 1, ONE)
        assert client.answer(2 * count + 1).status == 0


def test_a_request_of_countless_parts_is_refused_before_it_is_unfolded(weights: Path) -> None:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "double.onnx"), MODEL_NAME="m") as server:
        assert well(server)
        before = resident_mib(server)
        nested = b"\x22\x00" * 4_000_000  # empty parameters of one input
        bodies = [b"\x2a\x00" * 4_000_000, b"\x2a" + varint(len(nested)) + nested]
        with Client(server) as client:
            for stream, body in zip((1, 3), bodies, strict=True):
                client.send(frame(HEADERS, END_HEADERS, stream, client.block()))
                data = framed(body)
                for at in range(0, len(data), 250_000):
                    last = at + 250_000 >= len(data)
                    client.send(frame(DATA, END_STREAM if last else 0, stream, data[at : at + 250_000]))
                answer = client.answer(stream)
                assert answer.status == 3
                assert "too fragmented" in answer.headers["grpc-message"]
        assert resident_mib(server) < before + 100


def test_both_ways_give_the_same_answers(weights: Path) -> None:
    """The express lane, which opens when more calls come than are logged one by one, and the general way."""
    rows = [np.array([row], np.float32) for row in ([1, 2], [0.5, -1e30], [np.nan, np.inf], [3e38, 3e38])]
    messages = [message_for(raw_request("m", row)) for row in rows]
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "double.onnx"), MODEL_NAME="m") as server:
        expected = []
        with Client(server) as client:
            client.send(increment(0, LONG - 65_535))
            for index, message in enumerate(messages):
                client.call(2 * index + 1, message)
                expected.append(client.answer(2 * index + 1))
            stream = 2 * len(messages) + 1
            end = time.monotonic() + 3 * DEADLINE_S
            while metric(server, "berth_express_requests_total{") < 200:
                assert time.monotonic() < end
                streams = range(stream, stream + 1400, 2)
                block = client.block()
                for each in streams:
                    body = framed(messages[each // 2 % 4])
                    client.send(frame(HEADERS, END_HEADERS, each, block) + frame(DATA, END_STREAM, each, body))
                for each in streams:
                    found = client.answer(each)
                    assert (found.headers, found.body) == (
                        expected[each // 2 % 4].headers,
                        expected[each // 2 % 4].body,
                    )
                stream += 1400
                client.frames.clear()
            wrong = message_for(raw_request("m", rows[0][:, :1]))
            client.call(stream, wrong)
            assert client.answer(stream).status == 3
        answered = metric(server, "nv_inference_request_success{")
        assert answered == stream // 2


# -- hostile peers ----------------------------------------------------------------------------------------------------


def bomb(client: Client) -> bytes:
    """A header block that unfolds to megabytes: one large field, referred to again and again."""
    large = client._encoder.encode([("x-large", "y" * 3000)], huffman=False)
    return frame(HEADERS, END_HEADERS | END_STREAM, 1, client.block() + large + b"\xbe" * 10_000)


def reset_flood(client: Client) -> bytes:
    first, block = client.block(), client.block()
    calls = []
    for stream in range(1, 12_000, 2):
        head = frame(HEADERS, END_HEADERS, stream, first if stream == 1 else block)
        calls.append(head + frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))
    return b"".join(calls)


def whole_reset_flood(client: Client) -> bytes:
    first, block, typed = client.block(), client.block(), service_pb2.ModelInferRequest(model_name="double")
    tensor = typed.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    tensor.contents.fp32_contents.extend([1, 2])
    body, calls = framed(message_for(typed)), []
    for stream in range(1, 12_000, 2):
        head = frame(HEADERS, END_HEADERS, stream, first if stream == 1 else block)
        call = head + frame(DATA, END_STREAM, stream, body)
        calls.append(call + frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))
    return b"".join(calls)


def headers_of(client: Client, *fields: tuple[str, str]) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, 1, client._encoder.encode(list(fields)))


def after_headers(client: Client, data: bytes) -> bytes:
    return frame(HEADERS, END_HEADERS, 1, client.block()) + data


METHOD, SCHEME, PATH = (":method", "POST"), (":scheme", "http"), (":path", LIVE)
HOSTILE: dict[str, tuple[Callable[[Client], bytes], int]] = {
    "a frame over the limit": (lambda _: frame(DATA, 0, 1, bytes(300_000)), FRAME_SIZE_ERROR),
    "a frame that claims 16 MB": (lambda _: b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", FRAME_SIZE_ERROR),
    "a header bomb": (bomb, COMPRESSION_ERROR),
    "headers that cannot be decoded": (lambda _: frame(HEADERS, 5, 1, b"\xff\xff\xff\xff\xff\xff"), COMPRESSION_ERROR),
    "a table larger than allowed": (lambda _: frame(HEADERS, 5, 1, b"\x3f\xe1\xff\x03"), COMPRESSION_ERROR),
    "endless continuations": (
        lambda c: frame(HEADERS, 0, 1, c.block()) + frame(CONTINUATION, 0, 1, bytes(16_000)) * 100,
        ENHANCE_YOUR_CALM,
    ),
    "empty continuations": (
        lambda c: frame(HEADERS, 0, 1, c.block()) + frame(CONTINUATION, 0, 1) * 1000,
        ENHANCE_YOUR_CALM,
    ),
    "something between headers": (
        lambda c: frame(HEADERS, 0, 1, c.block()) + frame(PING, 0, 0, bytes(8)),
        PROTOCOL_ERROR,
    ),
    "a continuation of nothing": (lambda _: frame(CONTINUATION, END_HEADERS, 1, b"\x82"), PROTOCOL_ERROR),
    "resets": (reset_flood, ENHANCE_YOUR_CALM),
    "resets of whole calls": (whole_reset_flood, ENHANCE_YOUR_CALM),
    "pings": (lambda _: frame(PING, 0, 0, bytes(8)) * 9000, ENHANCE_YOUR_CALM),
    "settings": (lambda _: frame(SETTINGS, 0, 0) * 9000, ENHANCE_YOUR_CALM),
    "priorities": (lambda _: frame(PRIORITY, 0, 1, bytes(5)) * 9000, ENHANCE_YOUR_CALM),
    "unknown frames": (lambda _: frame(77, 0, 0) * 9000, ENHANCE_YOUR_CALM),
    "empty data": (lambda c: after_headers(c, frame(DATA, 0, 1) * 9000), ENHANCE_YOUR_CALM),
    "data in single bytes": (lambda c: after_headers(c, frame(DATA, 0, 1, b"x") * 9000), ENHANCE_YOUR_CALM),
    "nothing but padding": (lambda c: after_headers(c, frame(DATA, 8, 1, b"\x01\x00") * 9000), ENHANCE_YOUR_CALM),
    "data for a stream that is over": (
        lambda c: after_headers(c, frame(RST_STREAM, 0, 1, bytes(4)) + frame(DATA, 0, 1, b"x") * 9000),
        ENHANCE_YOUR_CALM,
    ),
    "padding longer than its frame": (lambda c: after_headers(c, frame(DATA, 8, 1, b"\x05abc")), PROTOCOL_ERROR),
    "data for no stream": (lambda _: frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
    "data for the connection": (lambda _: frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
    "a stream that goes back": (
        lambda c: frame(HEADERS, 5, 5, c.block()) + frame(HEADERS, 5, 4, c.block()),
        PROTOCOL_ERROR,
    ),
    "a reset of nothing": (lambda _: frame(RST_STREAM, 0, 9, bytes(4)), PROTOCOL_ERROR),
    "a push": (lambda _: frame(PUSH_PROMISE, 4, 1, bytes(4)), PROTOCOL_ERROR),
    "a window that overflows": (lambda _: increment(0, LONG), FLOW_CONTROL_ERROR),
    "a window that stays": (lambda _: increment(0, 0), FLOW_CONTROL_ERROR),
    "an initial window that overflows": (
        lambda _: frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31)),
        FLOW_CONTROL_ERROR,
    ),
    "a frame size out of range": (lambda _: frame(SETTINGS, 0, 0, struct.pack(">HI", 5, 1)), PROTOCOL_ERROR),
    "settings cut short": (lambda _: frame(SETTINGS, 0, 0, b"123"), FRAME_SIZE_ERROR),
    "a ping cut short": (lambda _: frame(PING, 0, 0, b"123"), FRAME_SIZE_ERROR),
    "a window update cut short": (lambda _: frame(WINDOW_UPDATE, 0, 0, b"1"), FRAME_SIZE_ERROR),
    "no path": (lambda c: headers_of(c, METHOD, SCHEME), PROTOCOL_ERROR),
    "two paths": (lambda c: headers_of(c, METHOD, SCHEME, PATH, PATH), PROTOCOL_ERROR),
    "a path after a header": (lambda c: headers_of(c, METHOD, SCHEME, ("te", "trailers"), PATH), PROTOCOL_ERROR),
    "a name in capitals": (lambda c: headers_of(c, METHOD, SCHEME, PATH, ("Te", "x")), PROTOCOL_ERROR),
    "a header of HTTP/1.1": (lambda c: headers_of(c, METHOD, SCHEME, PATH, ("connection", "close")), PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_peer_loses_its_connection_and_nobody_elses(server: Berth, name: str) -> None:
    make, code = HOSTILE[name]
    assert well(server)
    before = resident_mib(server)
    with Client(server) as bystander, Client(server) as client:
        client.send(make(client))
        ended = client.end()
        assert ended is not None
        assert ended[0] == code, ended
        bystander.call(1, ONE)
        assert bystander.answer(1).body.endswith(TWO)
    assert well(server)
    assert resident_mib(server) < before + 40


def test_a_wrong_preface_ends_the_connection(server: Berth) -> None:
    with Client(server, preface=b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n") as client:
        ended = client.end()
        assert ended is not None
        assert ended[0] == PROTOCOL_ERROR
    assert well(server)


def test_a_window_of_a_stream_that_overflows_ends_the_stream(server: Berth) -> None:
    with Client(server) as client:
        client.send(after_headers(client, increment(1, LONG)))
        assert client.answer(1).reset == FLOW_CONTROL_ERROR
        client.call(3, ONE)
        assert client.answer(3).status == 0


@pytest.mark.parametrize("sent", [PREFACE[:5], PREFACE[:1], b"", PREFACE + frame(HEADERS, 0, 1, b"\x83")])
def test_a_beginning_that_is_never_finished_ends_in_time(server: Berth, sent: bytes) -> None:
    if not sent:
        sent = PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 0, 1, b"\x83")
    with Client(server, preface=b"") as client:
        client.send(sent)
        started = time.monotonic()
        while client.read():
            assert time.monotonic() - started < DEADLINE_S
    assert well(server)


def test_a_slow_header_block_is_not_kept_alive_by_its_trickle(server: Berth) -> None:
    with Client(server) as client:
        block = client.block()
        client.send(frame(HEADERS, 0, 1, block[:1]))
        client.socket.settimeout(0.1)
        started, at = time.monotonic(), 1
        ended = False
        while not ended and time.monotonic() - started < DEADLINE_S:
            client.send(frame(CONTINUATION, 0, 1, block[at : at + 1]))
            at += 1
            try:
                ended = not client.read()
            except TimeoutError:
                ended = False
        assert ended
    assert well(server)


def test_a_slow_body_is_refused_in_time(server: Berth) -> None:
    with Client(server) as client:
        client.send(after_headers(client, frame(DATA, 0, 1, framed(ONE)[:10])))
        answer = client.answer(1)
        assert answer.status == 4
        assert "did not arrive within 1.5 s" in answer.headers["grpc-message"]
        client.send(frame(DATA, 0, 1, b"too late"))
        client.call(3, ONE)
        assert client.answer(3).status == 0


def test_a_trickling_body_is_refused(weights: Path) -> None:
    settings = {"FORMAT": "onnx", "WEIGHTS": str(weights / "double.onnx"), "HEADER_TIMEOUT_S": "0.5"}
    with serving(**settings, MIN_BODY_RATE="1000") as server, Client(server) as client:
        client.send(after_headers(client, frame(DATA, 0, 1, framed(ONE)[:10])))
        answer = client.answer(1)
        assert answer.status == 4
        assert "expected 1000 bytes of the request a second" in answer.headers["grpc-message"]


def test_a_message_of_a_stream_that_stops_in_the_middle_is_refused_in_time(server: Berth) -> None:
    with Client(server) as client:
        client.send(frame(HEADERS, END_HEADERS, 1, client.block(STREAM_INFER)) + frame(DATA, 0, 1, framed(ONE)[:10]))
        assert client.answer(1).status == 4


def test_bodies_that_never_end_are_bounded_together(server: Berth) -> None:
    before = resident_mib(server)
    with Client(server) as client:
        first, block = client.block(), client.block()
        for index in range(40):
            stream = 2 * index + 1
            client.send(frame(HEADERS, END_HEADERS, stream, first if index == 0 else block))
            start = b"\0" + struct.pack(">I", 950_000)
            client.send(
                b"".join(frame(DATA, 0, stream, (start if at == 0 else b"") + bytes(16_000)) for at in range(50))
            )
        last = client.answer(79)
        assert last.status == 8
        assert "bytes of requests are arriving on this connection" in last.headers["grpc-message"]
        assert resident_mib(server) < before + 30
    assert well(server)


def test_streams_beyond_the_limit_are_refused_and_may_come_again(server: Berth) -> None:
    with Client(server) as client:
        first, block = client.block(), client.block()
        for index in range(1030):
            client.send(frame(HEADERS, END_HEADERS, 2 * index + 1, first if index == 0 else block))
        assert client.answer(2 * 1029 + 1).reset == REFUSED_STREAM
        client.send(frame(RST_STREAM, 0, 1, struct.pack(">I", 8)))
        client.call(3001, ONE)
        assert client.answer(3001).status == 0


def test_a_peer_that_never_reads_does_not_fill_the_memory(weights: Path) -> None:
    settings = {"FORMAT": "onnx", "WEIGHTS": str(weights / "wide.onnx"), "MODEL_NAME": "m", "REQUEST_TIMEOUT_S": "3"}
    with serving(**settings) as server:
        assert well(server)
        before = resident_mib(server)
        message = framed(message_for(raw_request("m", np.zeros((1, 250_000), np.float32))))
        with Client(server, [(4, LONG)]) as client:
            client.send(increment(0, LONG - 65_535))
            client.socket.settimeout(1.0)
            first, block = client.block(), client.block()
            pieces = [message[at : at + 16_000] for at in range(0, len(message), 16_000)]
            try:
                for index in range(1000):
                    stream = 2 * index + 1
                    client.send(frame(HEADERS, END_HEADERS, stream, first if index == 0 else block))
                    frames = [frame(DATA, 0, stream, piece) for piece in pieces[:-1]]
                    client.send(b"".join(frames) + frame(DATA, END_STREAM, stream, pieces[-1]))
            except TimeoutError:
                pass  # the server does not read any more, which is right
            else:
                pytest.fail("a gigabyte was taken from a peer that reads nothing")
            assert well(server)
            assert resident_mib(server) < before + 300


PAYLOADS = st.one_of(st.binary(max_size=40), st.sampled_from([bytes(4), bytes(8), bytes(5), framed(ONE)]))
FRAMES = st.lists(
    st.tuples(
        st.integers(0, 11), st.sampled_from([0, 1, 4, 5, 8, 9, 0x20, 0x2D]), st.integers(0, 7), PAYLOADS, st.booleans()
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FRAMES)
def test_no_frames_break_the_server(server: Berth, frames: list[tuple[int, int, int, bytes, bool]]) -> None:
    with Client(server) as client:
        sent = b""
        for kind, flags, stream, payload, real in frames:
            data = client.block() if real and kind == HEADERS else payload
            sent += frame(kind, flags, stream, data)
        client.send(sent)
    with Client(server) as other:
        other.call(1, ONE)
        assert other.answer(1).body.endswith(TWO)


# -- ends -------------------------------------------------------------------------------------------------------------


def test_a_drain_says_good_bye_answers_and_closes() -> None:
    with serving(**predictor("Slow", MODEL_NAME="m")) as server, Client(server) as client, Client(server) as idle:
        idle.until(SETTINGS)
        client.call(1, message_for(predict_request("m", seconds=1.5)))
        client.send(frame(PING, 0, 0, b"12345678"))
        client.until(PING, ACK)
        server.process.send_signal(signal.SIGTERM)
        announced = client.until(GOAWAY)
        assert int.from_bytes(announced[3][:4], "big") == LONG
        farewell = client.until(PING)
        client.call(3, message_for(predict_request("m", seconds=0.0)))  # sent before it could know
        client.send(frame(PING, ACK, 0, farewell[3]))
        confirmed = client.until(GOAWAY)
        assert int.from_bytes(confirmed[3][:4], "big") == 3
        client.call(5, message_for(predict_request("m", seconds=0.0)))
        assert client.answer(1).status == 0
        assert client.answer(3).status == 0
        assert client.end() is None
        assert 5 not in client.answers
        client.socket.close()
        idle.end()
        idle.socket.close()
        assert server.process.wait(DEADLINE_S) == 0
        assert server.events()[-1]["message"] == "stopped"


def test_a_drain_ends_a_stream_that_asks_nothing(server: Berth, weights: Path) -> None:
    with (
        serving(FORMAT="onnx", WEIGHTS=str(weights / "double.onnx"), MODEL_NAME="double") as own,
        Client(own) as client,
    ):
        client.send(frame(HEADERS, END_HEADERS, 1, client.block(STREAM_INFER)) + frame(DATA, 0, 1, framed(ONE)))
        while 1 not in client.answers or not client.answers[1].body:
            assert client.read()
        own.process.send_signal(signal.SIGTERM)
        client.send(frame(PING, ACK, 0, client.until(PING)[3]))
        answer = client.answer(1)
        assert answer.status == 14
        assert "draining" in answer.headers["grpc-message"]
        client.end()
        client.socket.close()
        assert own.process.wait(DEADLINE_S) == 0


def test_an_idle_connection_is_closed(weights: Path) -> None:
    settings = {"FORMAT": "onnx", "WEIGHTS": str(weights / "double.onnx"), "KEEP_ALIVE_S": "0.5"}
    with serving(**settings) as server, Client(server) as client:
        assert client.end() == (NO_ERROR, "idle")


def test_connections_beyond_the_limit_are_refused_whatever_they_speak(weights: Path) -> None:
    settings = {
        "FORMAT": "onnx",
        "WEIGHTS": str(weights / "double.onnx"),
        "MAX_CONNECTIONS": "1",
        "MODEL_NAME": "double",
    }
    with serving(**settings) as server, Client(server) as client:
        client.call(1, ONE)
        assert client.answer(1).status == 0
        with server.connect() as second:
            assert read_answers(second, 1)[0].status == 503
        client.call(3, ONE)
        assert client.answer(3).status == 0


def test_a_server_that_cannot_load_grpc_says_so_and_answers_everything_else(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "hpack.py").write_text("raise ImportError('there is no hpack')")
    settings = {"FORMAT": "onnx", "WEIGHTS": str(weights / "double.onnx")}
    with serving(cwd=tmp_path, **settings) as server:
        for _ in range(2):
            with Client(server) as client:
                client.end()
                assert not client.answers
        assert "there is no hpack" in server.wait_for_event("gRPC could not be loaded")["error"]
        assert server.get("/v2/health/ready").status == 200
