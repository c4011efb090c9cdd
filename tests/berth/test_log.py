"""What the log says of requests, and what nobody can make it say."""

from __future__ import annotations

import io
import json
import os
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from berth.log import MAX_LINES, MAX_TEXT, Access, Log, complain
from tests.berth.support import Berth, predictor, read_answers, run, serving

EVIL = 'a\r\n{"level":"forged"}\x1b[31mred\x7f\x9b2J\u202egnp.exe\u2066\u200b\u2028\ufeff\U000e0041é漢'


@pytest.fixture(scope="module")
def server() -> Iterator[Berth]:
    with serving(**predictor("RaisesInPredict", MODEL_NAME="rai\x1bs\u202eer", MODEL_VERSION="2")) as running:
        yield running


def is_harmless(text: str) -> bool:
    """Whether a terminal shows every character of it as itself."""
    return all(unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp", "Co", "Cs") for character in text)


def written(tmp_path: Path, *events: dict[str, Any]) -> list[str]:
    """Lines of a log with these events, through a real descriptor."""
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    log = Log("debug", descriptor)
    log.start()
    for event in events:
        log.event("info", "tested", **event)
    log.close()
    os.close(descriptor)
    return path.read_text(encoding="utf-8").splitlines()


def test_a_line_says_who_asked_what_of_which_model_and_how_much_it_was(server: Berth) -> None:
    answer = server.post("/predict", b'{"x": 5}', {"X-Request-Id": "mine-1"})
    assert answer.headers["X-Request-Id"] == "mine-1"
    line = server.wait_for_event("request", request_id="mine-1")
    seconds, at = line.pop("seconds"), line.pop("time")
    assert 0 < seconds < 10
    assert at.endswith("Z")
    assert line == {
        "level": "info",
        "message": "request",
        "request_id": "mine-1",
        "method": "POST",
        "route": "predict",
        "status": 200,
        "model": "rai\x1bs\u202eer",
        "version": "2",
        "bytes_in": 8,
        "bytes_out": 1,
    }


def test_a_request_without_an_id_gets_one_that_no_other_has(server: Berth) -> None:
    for _ in range(3):
        assert server.post("/predict", {"x": 1}).status == 500
    server.wait_for_event("request", status=500)
    ids = [server.post("/predict", {"x": 1}).headers["X-Request-Id"] for _ in range(5)]
    assert len(set(ids)) == 5
    for given in ids:
        assert server.wait_for_event("request", request_id=given)["status"] == 500
        assert server.wait_for_event("predict failed", request_id=given)["error_id"]


@pytest.mark.parametrize(
    "given", [b"a\x1b[31m", b"a\tb", b"\xe2\x80\xaegnp", b"x" * 129, b"x" * 60_000, b"caf\xe9", b"a\x7f"]
)
def test_an_id_that_is_not_plain_and_short_is_replaced(server: Berth, given: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\nX-Request-Id: " + given + b"\r\n\r\n")
        (answer,) = read_answers(connection, 1)
    if answer.status == 400:  # bytes that no header may have
        return
    assert answer.status == 404
    own = answer.headers["X-Request-Id"]
    assert own.isascii()
    assert len(own) < 40
    assert server.wait_for_event("request", request_id=own)


def test_bodies_are_never_logged(server: Berth) -> None:
    mark = "0123456789-secret"
    server.post("/predict", {"x": mark}, {"X-Request-Id": "secret-1"})
    server.post("/predict", mark.encode(), {"X-Request-Id": "secret-2"})
    server.ask("POST", f"/nothing/{mark}?q={mark}", mark.encode(), {"X-Request-Id": "secret-3"})
    for number in (1, 2, 3):
        server.wait_for_event("request", request_id=f"secret-{number}")
    assert mark not in server.log()


def test_the_log_of_a_server_with_an_evil_name_is_harmless(server: Berth) -> None:
    server.post("/predict", {"x": 1}, {"X-Request-Id": "evil"})
    assert "broken\nby\x1bdesign" in server.wait_for_event("predict failed", request_id="evil")["traceback"]
    assert all(is_harmless(line) for line in server.log().splitlines())


def test_controls_and_marks_of_direction_are_escaped_and_read_back_whole(tmp_path: Path) -> None:
    lines = written(tmp_path, {"name": EVIL, "traceback": EVIL, "listeners": [EVIL]})
    (line,) = lines
    assert is_harmless(line)
    assert "é漢" in line  # what can be read stays readable
    event = json.loads(line)
    assert event["name"] == event["traceback"] == event["listeners"][0] == EVIL
    assert event["level"] == "info"


def test_an_access_line_is_as_harmless(tmp_path: Path) -> None:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    log = Log("info", descriptor, prefix="p")
    log.access(Access(EVIL, (EVIL.encode("utf-8"), "route", 200, EVIL, EVIL), 0.5, 1, 2, "ab"))
    log.access(Access(10, (b"GET", "route", 200, "", ""), 0.25, 0, 3, ""))
    log.close()
    os.close(descriptor)
    first, second = path.read_text(encoding="utf-8").splitlines()
    assert is_harmless(first)
    event = json.loads(first)
    assert (event["request_id"], event["model"], event["trace_id"]) == (EVIL, EVIL, "ab")
    event = json.loads(second)
    assert (event["request_id"], event["bytes_out"], "model" in event, "trace_id" in event) == ("p-a", 3, False, False)


def test_a_name_of_a_megabyte_loses_its_middle(tmp_path: Path) -> None:
    name = "begin" + "x" * 1_000_000 + "end"
    (line,) = written(tmp_path, {"name": name, "traceback": name})
    event = json.loads(line)
    assert event["name"].startswith("begin")
    assert event["name"].endswith("end")
    assert "characters left out" in event["name"]
    assert len(event["name"]) < MAX_TEXT + 100
    assert len(event["traceback"]) < 4 * MAX_TEXT + 100


def test_half_a_character_does_not_end_the_log(tmp_path: Path) -> None:
    lines = written(tmp_path, {"name": "half \ud800"}, {"name": "whole"})
    assert json.loads(lines[0])["name"] == "half \\ud800"
    assert json.loads(lines[1])["name"] == "whole"


def test_many_different_methods_take_no_memory_for_ever(tmp_path: Path) -> None:
    log = Log("info", os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT))
    for number in range(3000):
        log.access(Access(1, (b"M%d" % number, "route", 405, "", ""), 0.1, 0, 0, ""))
    log.close()
    assert len(log._middles) <= 1024


def test_a_bad_setting_is_told_without_its_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("serve", PREDICTOR="\x1b]0;owned\x07\u202e:A")
    assert done.returncode == 2
    assert "BERTH_PREDICTOR" in done.stderr
    assert all(is_harmless(line) for line in done.stderr.splitlines())
    monkeypatch.setattr(sys, "stderr", caught := io.StringIO())
    complain("one\ntwo\x1b" + "y" * 1_000_000)
    assert caught.getvalue().startswith("berth: one\ntwo\\u001b")
    assert len(caught.getvalue()) < MAX_TEXT + 100


def test_lines_beyond_the_bound_are_dropped_and_counted(tmp_path: Path) -> None:
    log = Log("info", os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT))
    for number in range(MAX_LINES + 5):  # nobody writes them yet
        log.event("info", "many", number=number)
    log.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == MAX_LINES + 1
    last = json.loads(lines[-1])
    assert (last["message"], last["count"]) == ("log lines dropped", 5)
