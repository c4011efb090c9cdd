"""First lines that are known again mean what a parser says that they mean, whatever varies in them."""

from __future__ import annotations

import json
from typing import Any

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth import http_known
from berth.http_exchange import HttpHead
from tests.berth.support import DEADLINE_S, Berth, read_answers

NAMES = ["x-request-id", "X-Request-Id", "traceparent", "TraceState", "x-forwarded-for", "X-Real-IP"]
FIXED = ["host", "accept", "x-request-idx", "content-length", "connection", "expect", "transfer-encoding", "x"]
VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=140)
VALUES = st.one_of(
    st.sampled_from(["", " ", "a b", "a, b", "0", "close", "keep-alive", "chunked"]),
    st.sampled_from(["\x80", "\t", "a\r\n b", "a\n", "a\rb", "\0"]),
    VISIBLE,
)
COLONS = st.sampled_from([": ", ":", ":  ", " :"])
LINES = st.lists(st.tuples(st.sampled_from(NAMES + FIXED), COLONS, VALUES), max_size=6)


class Parsed:
    """What the parser makes of first lines."""

    def __init__(self, start: bytes) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.whole = False
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(start)

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers[name] = b"%b, %b" % (self.headers[name], value) if name in self.headers else value

    def on_message_complete(self) -> None:
        self.whole = True

    def head(self) -> HttpHead:
        keep_alive = self._parser.should_keep_alive() and b"upgrade" not in self.headers
        return HttpHead(self._parser.get_method(), b"/", b"", self.headers, keep_alive)


def parsed(start: bytes) -> Parsed | None:
    try:
        found = Parsed(start)
    except httptools.HttpParserError:
        return None
    return found if found.whole else None


def written(lines: list[tuple[str, str, str]]) -> bytes:
    return ("GET / HTTP/1.1\r\n" + "".join(f"{a}{b}{c}\r\n" for a, b, c in lines) + "\r\n").encode("latin-1")


@settings(max_examples=600, deadline=None)
@given(lines=LINES, others=st.lists(VALUES, min_size=6, max_size=6))
def test_what_is_known_again_is_what_a_parser_would_read(lines: list[tuple[str, str, str]], others: list[str]) -> None:
    start = written(lines)
    first = parsed(start)
    if first is None:
        return
    heads: dict[http_known.Key, HttpHead] = {}
    http_known.remember(heads, start, first.head())
    changed = [(a, b, other if a in NAMES else c) for (a, b, c), other in zip(lines, others, strict=False)]
    again = written(changed)
    known = heads.get(again) or http_known.find(heads, again)
    if known is None:
        return
    expected = parsed(again)
    assert expected is not None
    assert known.headers == expected.headers
    assert known.keep_alive == expected.head().keep_alive


def test_a_proxys_first_lines_are_known_again_and_leave_the_known_ones_alone() -> None:
    start = written([("host", ": ", "x"), ("X-Request-ID", ": ", "one"), ("traceparent", ": ", "00-1")])
    first = parsed(start)
    assert first is not None
    heads: dict[http_known.Key, HttpHead] = {}
    http_known.remember(heads, start, first.head())
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    lines = [("host", ": ", "x"), ("X-Request-ID", ": ", "two"), ("traceparent", ": ", trace)]
    known = http_known.find(heads, written(lines))
    assert known is not None
    assert known.identity == b"\r\nX-Request-Id: two"
    assert known.trace is not None
    assert known.trace.sampled
    assert first.headers[b"x-request-id"] == b"one"
    assert http_known.find(heads, written([("host", ": ", "y"), *lines[1:]])) is None
    assert len(heads) == 1


@pytest.mark.parametrize(
    "lines",
    [
        [("x-request-id", ": ", "one"), ("x-request-id", ": ", "two")],
        [("x-request-id", ": ", "one"), ("X-REQUEST-ID", ": ", "two")],
        [("x-request-id", ": ", "one"), ("connection", ": ", "close")],
        [("x-request-id", ": ", "one"), ("transfer-encoding", ": ", "chunked")],
        [("x-request-id", ": ", "one"), ("expect", ": ", "100-continue")],
    ],
)
def test_what_is_out_of_the_ordinary_is_always_parsed(lines: list[tuple[str, str, str]]) -> None:
    start = written(lines)
    headers = {name.lower().encode(): value.encode() for name, _, value in lines}
    head = HttpHead(b"GET", b"/", b"", headers, keep_alive=b"connection" not in headers)
    heads: dict[http_known.Key, HttpHead] = {}
    http_known.remember(heads, start, head)
    assert not heads


def _request(lines: list[str], body: bytes = b"") -> bytes:
    return "\r\n".join(["POST /v2/models/double/infer HTTP/1.1", "Host: x", *lines]).encode() + b"\r\n\r\n" + body


def test_a_smuggled_request_is_refused_after_its_like_was_known(onnx_server: Berth) -> None:
    tensor: dict[str, Any] = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    body = json.dumps({"inputs": [tensor]}).encode()
    length = f"Content-Length: {len(body)}"
    bad = [
        [length, "Transfer-Encoding: chunked", "X-Request-Id: b"],
        [length, "Content-Length: 0", "X-Request-Id: b"],
        [length, "X-Request-Id: b\nContent-Length: 0"],
        [length, "X-Request-Id: b\rContent-Length: 0"],
        [length, "X-Request-Id: b\0"],
        [length, "X-Request-Id : b"],
    ]
    for lines in bad:
        with onnx_server.connect() as connection:
            for number in range(3):
                connection.sendall(_request([length, f"X-Request-Id: a{number}"], body))
                assert read_answers(connection, 1)[0].headers["X-Request-Id"] == f"a{number}"
            connection.sendall(_request(lines, body))
            assert read_answers(connection, 1)[0].status == 400, lines
            assert connection.recv(1) == b""


def test_two_in_one_piece_and_one_in_two_pieces_are_answered_with_their_own_ids(onnx_server: Berth) -> None:
    def ask(identity: str) -> bytes:
        return f"GET /v2 HTTP/1.1\r\nHost: x\r\nx-request-id: {identity}\r\n\r\n".encode()

    with onnx_server.connect() as connection:
        for turn in range(3):
            connection.sendall(ask(f"a{turn}") + ask(f"b{turn}"))
            found = [answer.headers["X-Request-Id"] for answer in read_answers(connection, 2)]
            assert found == [f"a{turn}", f"b{turn}"]
            connection.sendall(ask(f"c{turn}")[:-20])
            connection.sendall(ask(f"c{turn}")[-20:])
            assert read_answers(connection, 1)[0].headers["X-Request-Id"] == f"c{turn}"


def test_an_answer_to_a_known_head_is_the_answer_to_an_unknown_one(onnx_server: Berth) -> None:
    for path in ("/v2", "/v2/models/double", "/v2/models/none", "/livez", "/openapi.json"):
        answers = []
        with onnx_server.connect() as connection:
            for turn in range(3):
                lines = f"GET {path} HTTP/1.1\r\nHost: known\r\nx-request-id: {path}{turn}\r\n\r\n"
                connection.sendall(lines.encode())
                answer = read_answers(connection, 1)[0]
                assert answer.headers["X-Request-Id"] == f"{path}{turn}"
                told = {name: value for name, value in answer.headers.items() if name in ("Content-Type", "Allow")}
                answers.append((answer.status, told, answer.body))
        assert answers[0] == answers[1] == answers[2]


def test_blank_lines_before_a_request_are_never_taken_for_one(onnx_server: Berth) -> None:
    with onnx_server.connect() as connection:
        connection.sendall(b"\r\n\r\nGET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answers(connection, 1)[0].json["name"] == "berth"
    with onnx_server.connect() as connection:
        connection.sendall(b"\r\n\r\n")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(DEADLINE_S)
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answers(connection, 1)[0].json == {"live": True}
