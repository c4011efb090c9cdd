"""The wire: methods, sizes, pipelines, time limits, encodings."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Iterator

import pytest

from tests.berth.support import Berth, predictor, read_answers, serving


@pytest.fixture(scope="module")
def small() -> Iterator[Berth]:
    """models.Files with small limits."""
    limits = {"MAX_BODY_BYTES": "2000", "HEADER_TIMEOUT_S": "0.6", "REQUEST_TIMEOUT_S": "1", "KEEP_ALIVE_S": "1.5"}
    with serving(**predictor("Files", **limits)) as server:
        yield server


def test_an_unknown_route_is_404(small: Berth) -> None:
    answer = small.get("/nothing/here")
    assert answer.status == 404
    assert answer.headers["Content-Type"] == "application/json"
    assert "/nothing/here" in answer.json["error"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/predict", "POST"),
        ("DELETE", "/v2/health/live", "GET, HEAD"),
        ("PUT", "/v2/models/model/infer", "POST"),
        ("POST", "/metrics", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_405_with_allow(small: Berth, method: str, path: str, allow: str) -> None:
    answer = small.ask(method, path)
    assert answer.status == 405
    assert answer.headers["Allow"] == allow
    assert method in answer.json["error"]


def test_head_has_the_headers_of_get_and_no_body(small: Berth) -> None:
    answer = small.ask("HEAD", "/v2/health/live")
    assert answer.status == 200
    assert answer.headers["Content-Length"] == "13"
    assert answer.body == b""


def test_a_query_is_no_part_of_the_route(small: Berth) -> None:
    assert small.get("/v2/health/live?verbose=1").status == 200


def test_a_content_length_too_large_is_413_before_the_body_is_read(small: Berth) -> None:
    with small.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 2001\r\n\r\n")
        (answer,) = read_answers(connection, 1)
        assert answer.status == 413
        assert answer.headers["Connection"] == "close"
        assert "2000" in answer.json["error"]
        assert connection.recv(1) == b""


def test_the_sender_of_a_large_upload_sees_the_refusal(small: Berth) -> None:
    assert small.post("/predict", b"x" * 3_000_000).status == 413


def test_a_chunked_body_too_large_is_413_while_it_arrives(small: Berth) -> None:
    with small.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            connection.sendall(b"320\r\n" + b"x" * 0x320 + b"\r\n")
        (answer,) = read_answers(connection, 1)
        assert answer.status == 413


def test_a_chunked_body_arrives_whole(small: Berth) -> None:
    with small.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b'{"fil', b'es":[],', b'"n":7}'):
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            time.sleep(0.02)
        connection.sendall(b"0\r\n\r\n")
        (answer,) = read_answers(connection, 1)
        assert answer.json["n"] == 7


def test_expect_continue_is_answered(small: Berth) -> None:
    with small.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n")
        assert read_answers(connection, 1)[0].status == 100
        connection.sendall(b'{"files":[]}')
        assert read_answers(connection, 1)[0].status == 200


def test_a_request_in_single_bytes_is_understood(small: Berth) -> None:
    with small.connect() as connection:
        for byte in b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n":
            connection.sendall(bytes([byte]))
        assert read_answers(connection, 1)[0].json == {"live": True}


@pytest.mark.parametrize(
    "garbage", [b"\r\n\r\nhello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"]
)
def test_what_is_not_http_is_400_and_the_end(small: Berth, garbage: bytes) -> None:
    with small.connect() as connection:
        connection.sendall(garbage)
        (answer,) = read_answers(connection, 1)
        assert answer.status == 400
        assert connection.recv(1) == b""


def test_two_lengths_are_refused(small: Berth) -> None:
    with small.connect() as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        assert read_answers(connection, 1)[0].status == 400


def test_endless_headers_are_431(small: Berth) -> None:
    with small.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        for index in range(100):
            try:
                connection.sendall(b"X-%d: %b\r\n" % (index, b"y" * 1000))
            except OSError:
                break
        assert read_answers(connection, 1)[0].status == 431


def test_too_many_headers_are_431(small: Berth) -> None:
    lines = b"".join(b"X-%d: y\r\n" % index for index in range(200))
    with small.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n" + lines + b"\r\n")
        assert read_answers(connection, 1)[0].status == 431


def test_slow_headers_are_408(small: Berth) -> None:
    with small.connect() as connection:
        connection.sendall(b"GET /v2/health/live HT")
        started = time.monotonic()
        assert read_answers(connection, 1)[0].status == 408
        assert 0.5 < time.monotonic() - started < 3


def test_a_slow_body_is_408(small: Berth) -> None:
    with small.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n{")
        assert read_answers(connection, 1)[0].status == 408


def test_an_idle_connection_is_closed_after_its_time(small: Berth) -> None:
    with small.connect() as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answers(connection, 1)[0].status == 200
        started = time.monotonic()
        assert connection.recv(1) == b""
        assert 1 < time.monotonic() - started < 4


def test_connection_close_is_honoured(small: Berth) -> None:
    with small.connect() as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        (answer,) = read_answers(connection, 1)
        assert answer.headers["Connection"] == "close"
        assert connection.recv(1) == b""


def test_an_upgrade_is_ignored(small: Berth) -> None:
    with small.connect() as connection:
        connection.sendall(
            b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
        )
        (answer,) = read_answers(connection, 1)
        assert answer.status == 200
        assert answer.headers["Connection"] == "close"


def test_pipelined_requests_are_answered_in_order() -> None:
    with serving(**predictor("Slow")) as server, server.connect() as connection:
        slow = b'{"seconds":0.2}'
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(slow), slow)
            + b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
            + b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        first, second, third = read_answers(connection, 3)
        assert first.json == 0.2
        assert second.json == {"live": True}
        assert third.status == 404


def test_a_pipeline_longer_than_its_bound_is_answered_whole(typed_server: Berth) -> None:
    body = json.dumps({"count": 1, "name": "a", "numbers": []}).encode()
    one = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with typed_server.connect() as connection:
        connection.sendall(one * 500)
        answers = read_answers(connection, 500)
    assert {answer.status for answer in answers} == {422}


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_request_is_unfolded(small: Berth, encoding: str, pack: object) -> None:
    body = pack(b'{"files":[],"n":5}')  # type: ignore[operator]
    assert small.post("/predict", body, {"Content-Encoding": encoding}).json["n"] == 5


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", gzip.compress(b" " * 5000, mtime=0), 413),
        ("gzip", b"not gzip", 400),
        ("gzip", gzip.compress(b'{"files":[]}', mtime=0)[:-4], 400),
        ("gzip", gzip.compress(b'{"files":[]}', mtime=0) + b"more", 400),
        ("br", b"", 415),
        ("identity", b'{"files":[]}', 200),
    ],
)
def test_content_encodings_are_bounded_and_checked(small: Berth, encoding: str, body: bytes, status: int) -> None:
    answer = small.post("/predict", body, {"Content-Encoding": encoding})
    assert answer.status == status, answer.body


def test_an_answer_is_compressed_when_asked_for_and_worth_it(small: Berth) -> None:
    answer = small.ask("GET", "/docs", headers={"Accept-Encoding": "br, gzip;q=0.8"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert b"</html>" in gzip.decompress(answer.body)
    assert "Content-Encoding" not in small.ask("GET", "/livez", headers={"Accept-Encoding": "gzip"}).headers
    assert "Content-Encoding" not in small.ask("GET", "/docs", headers={"Accept-Encoding": "gzip;q=0"}).headers


def test_a_request_id_is_echoed_and_a_strange_one_is_not(small: Berth) -> None:
    assert small.ask("GET", "/nothing", headers={"X-Request-Id": "abc-1"}).headers["X-Request-Id"] == "abc-1"
    assert "\u00e9" not in small.ask("GET", "/nothing", headers={"X-Request-Id": "\u00e9"}).headers["X-Request-Id"]
    assert small.ask("GET", "/livez", headers={"X-Request-Id": "abc-2"}).headers["X-Request-Id"] == "abc-2"
