"""A server whose workers grow past the watermark, under load: they are replaced, and nobody notices."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.berth.support import Answer, Berth, read_answers, serving

CLIENTS = 6
ROUNDS = 3
DEADLINE_S = 90.0
WATERMARK = 96 << 20


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_grow_are_replaced_under_load_without_a_dropped_request(workers: int) -> None:
    settings = {"PREDICTOR": "models_workers:Leaks", "WORKERS": str(workers), "MAX_BATCH_SIZE": "4"}
    with serving(WORKER_MEMORY_BYTES=str(WATERMARK), **settings) as server:
        done = threading.Event()
        with ThreadPoolExecutor(CLIENTS) as pool:
            asking = [pool.submit(ask_until, server, client, done) for client in range(CLIENTS)]
            try:
                replaced = wait_for_replacements(server, ROUNDS * workers)
            finally:
                done.set()
            answers = [answer for future in asking for answer in future.result()]
        assert server.get("/readyz").status == 200
        events = server.events()
        assert server.terminate() == 0
    assert len({event["worker"] for event in replaced}) == len(replaced)
    assert len({answer.json["pid"] for answer in answers}) >= ROUNDS * workers
    assert [event for event in events if event["level"] == "error"] == []


def ask_until(server: Berth, client: int, done: threading.Event) -> list[Answer]:
    """One request after the other on one connection; every one has its own answer, and the connection stays."""
    answers = []
    with server.connect() as connection:
        while not done.is_set():
            value = client + CLIENTS * len(answers)
            body = json.dumps({"value": value}).encode()
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            (answer,) = read_answers(connection, 1)
            assert (answer.status, answer.json["value"]) == (200, value)
            assert "Connection" not in answer.headers
            answers.append(answer)
    return answers


def wait_for_replacements(server: Berth, count: int) -> list[dict[str, str]]:
    """The log's lines of so many workers that were replaced."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        found = [event for event in server.events() if event["message"] == "worker replaced"]
        if len(found) >= count:
            return found
        time.sleep(0.1)
    raise AssertionError(server.log())
