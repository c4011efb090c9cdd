"""Predictors that yield and predictors that await: items as they come, in every shape, and what ends them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.berth.support import DEADLINE_S, Answer, Berth, run, serving

NAMES = ("Tokens", "AsyncTokens")


@pytest.fixture(scope="module", params=NAMES)
def tokens(request: pytest.FixtureRequest) -> Iterator[Berth]:
    with serving(PREDICTOR=f"models_streams:{request.param}", REQUEST_TIMEOUT_S="2") as server:
        yield server


def events(answer: Answer) -> list[tuple[str, dict[str, object]]]:
    """Server-Sent Events as (event, data)."""
    found = []
    for block in answer.body.decode().removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


def wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not (path.exists() and path.read_text() == text):
        assert time.monotonic() < deadline
        time.sleep(0.01)


THREE = [{"text": "a", "index": index} for index in range(3)]


def test_items_are_server_sent_events(tokens: Berth) -> None:
    answer = tokens.predict(text="a", count=3)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert events(answer) == [("message", item) for item in THREE]


@pytest.mark.parametrize("accept", ["application/jsonl", "application/x-ndjson"])
def test_items_are_json_lines_where_asked_for(tokens: Berth, accept: str) -> None:
    answer = tokens.post("/predict", {"text": "a", "count": 3}, {"Accept": accept})
    assert [json.loads(line) for line in answer.body.splitlines()] == THREE


def test_items_are_one_array_for_callers_that_take_only_json(tokens: Berth) -> None:
    answer = tokens.post("/predict", {"text": "a", "count": 3}, {"Accept": "application/json"})
    assert answer.json == THREE
    assert answer.headers["Content-Length"] == str(len(answer.body))


def test_an_item_arrives_before_the_next_is_made(tokens: Berth) -> None:
    body = json.dumps({"text": "a", "count": 3, "pause": 0.3}).encode()
    with tokens.connect() as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nAccept: application/jsonl\r\nContent-Length: {len(body)}\r\n\r\n"
        started = time.monotonic()
        connection.sendall(head.encode() + body)
        stream = connection.makefile("rb")
        times = []
        while line := stream.readline():
            if line.startswith(b"{"):
                times.append(time.monotonic() - started)
            if line == b"0\r\n":
                break
    assert len(times) == 3
    assert times[2] - times[1] > 0.2
    assert times[1] - times[0] > 0.2


def test_a_stream_that_breaks_off_says_so(tokens: Berth) -> None:
    found = events(tokens.predict(text="break", count=5))
    assert [kind for kind, _ in found] == ["message", "message", "error"]
    error = str(found[-1][1]["error"])
    assert "secret" not in error
    logged = tokens.wait_for_event("predict failed", error_id=error.rsplit(maxsplit=1)[-1])
    assert "a secret of the model" in logged["traceback"]
    assert tokens.predict(text="a", count=1).status == 200


def test_what_fails_before_the_first_item_has_its_own_status(tokens: Berth) -> None:
    assert tokens.predict(text="a", count="three").status == 422
    assert events_or_none(tokens.predict(text="a", count=0)) == []


def events_or_none(answer: Answer) -> list[tuple[str, dict[str, object]]]:
    assert answer.status == 200
    return events(answer) if answer.body else []


def test_a_refusal_of_the_predictor_is_422() -> None:
    with serving(PREDICTOR="models_streams:Tokens") as server:
        answer = server.predict(text="refuse", count=1)
        assert answer.status == 422
        assert answer.json == {"error": "text: not this one"}


def test_a_caller_that_hangs_up_ends_the_generator(tokens: Berth, tmp_path: Path) -> None:
    note = tmp_path / "note"
    body = json.dumps({"text": "a", "count": 1000, "pause": 0.02, "note": str(note)}).encode()
    with tokens.connect() as connection:
        connection.sendall(f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        connection.recv(100)
    wait_for(note, "closed")
    assert tokens.predict(text="a", count=1).status == 200


@pytest.mark.parametrize("note", ["closed", "../closed", "/tmp/closed", "\0", "/" * 5000 + "x"])
def test_the_tests_own_predictor_writes_nothing_outside_the_temporary_folder(tmp_path: Path, note: str) -> None:
    with serving(cwd=tmp_path, PREDICTOR="models_streams:Tokens") as server:
        assert server.predict(text="a", count=1, note=note).status == 422
    assert not list(tmp_path.iterdir())


def test_the_deadline_is_for_the_next_item(tokens: Berth) -> None:
    assert len(events(tokens.predict(text="a", count=4, pause=0.9))) == 4
    late = tokens.predict(text="a", count=2, pause=2.5)
    assert late.status == 504 or events(late)[-1][0] == "error"


def test_v2_answers_with_a_row_per_item(tokens: Berth) -> None:
    inputs = [
        {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]},
        {"name": "count", "shape": [1], "datatype": "INT64", "data": [2]},
    ]
    answer = tokens.post("/v2/models/model/infer", {"inputs": inputs})
    data = {item["name"]: item["data"] for item in answer.json["outputs"]}
    assert data == {"text": ["a", "a"], "index": [0, 1]}
    streamed = events(tokens.post("/v2/models/model/infer_stream", {"inputs": inputs}))
    assert [event["outputs"][1]["data"] for _, event in streamed] == [[0], [1]]  # type: ignore[index]


def test_generate(tokens: Berth) -> None:
    question = {"text": "a", "count": 2, "id": "7", "parameters": {"timeout": 10_000_000}}
    whole = tokens.post("/v2/models/model/generate", question).json
    name = {"model_name": "model", "model_version": "1"}
    assert whole == {**name, "outputs": [{"text": "a", "index": 0}, {"text": "a", "index": 1}]}
    streamed = events(tokens.post("/v2/models/model/generate_stream", question))
    assert [event for _, event in streamed] == [{**name, "text": "a", "index": index} for index in range(2)]
    bad = tokens.post("/v2/models/model/generate", {"text": "a", "count": 2, "what": 1})
    assert bad.status == 400
    assert "what" in bad.json["error"]


def test_http_1_0_gets_the_items_and_the_end_of_the_connection(tokens: Berth) -> None:
    body = b'{"text": "a", "count": 2}'
    with tokens.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        answer = b"".join(iter(lambda: connection.recv(10_000), b""))
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert rest == b'data: {"text":"a","index":0}\n\ndata: {"text":"a","index":1}\n\n'


def test_a_predictor_does_not_run_far_ahead_of_a_caller_that_reads_slowly(tmp_path: Path) -> None:
    note = tmp_path / "note"
    with serving(PREDICTOR="models_streams:Bulky") as server, server.connect() as connection:
        body = json.dumps({"count": 500, "note": str(note)}).encode()
        connection.sendall(f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        connection.recv(10)
        time.sleep(0.5)
        assert int(note.read_text()) < 100
        received = 0
        while received < 500 * 100_000:
            received += len(connection.recv(1_000_000))
        assert note.read_text() == "500"


def test_coroutines_run_side_by_side() -> None:
    with serving(PREDICTOR="models_streams:Sleeper") as server, ThreadPoolExecutor(8) as pool:
        started = time.monotonic()
        answers = list(pool.map(lambda _: server.predict(seconds=0.5), range(8)))
        assert [answer.json for answer in answers] == [0.5] * 8
        assert time.monotonic() - started < 2
        assert server.predict(seconds=-1).status == 422


def test_a_stream_in_flight_is_finished_at_the_stop() -> None:
    with serving(PREDICTOR="models_streams:Tokens") as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.predict, text="a", count=5, pause=0.2)
        time.sleep(0.3)
        assert server.terminate() == 0
        assert len(events(answer.result())) == 5


@pytest.mark.parametrize("name", NAMES)
def test_the_command_line_collects(name: str) -> None:
    done = run("predict", "-i", "text=a", "-i", "count=2", PREDICTOR=f"models_streams:{name}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"text": "a", "index": 0}, {"text": "a", "index": 1}]
