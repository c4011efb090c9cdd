"""Live and ready tell the truth: about a model that hangs, a thread that has ended, workers that do not come back."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from berth.async_executor import AsyncExecutor
from tests.berth.support import Answer, Berth, predictor, serving

DEADLINE_S = 15.0
LIVE, READY = "/v2/health/live", "/v2/health/ready"

FRAGILE = """
import os, pathlib
class Fragile:
    def load(self):
        if not pathlib.Path("weights").exists():
            raise RuntimeError("the weights are gone")
    def predict(self, x: int) -> int:
        return os.getpid()
"""

MORTAL = """
import sys
class Mortal:
    def predict(self, x: int) -> int:
        frame = sys._getframe()
        while frame.f_code.co_name != "_work":
            frame = frame.f_back
        frame.f_locals["self"]._jobs.put(None)  # after this one the thread has nothing more to do, and ends
        return x
"""

BLOCKING = """
import asyncio, time
class Blocking:
    async def predict(self, seconds: float, block: bool) -> float:
        if block:
            time.sleep(seconds)
        else:
            await asyncio.sleep(seconds)
        return seconds
"""

HANGING_STREAM = """
import time
from collections.abc import Iterator
class Yields:
    def predict(self, pause: float, count: int) -> Iterator[int]:
        for index in range(count):
            time.sleep(pause)
            yield index
"""


def wait_for(ask: Callable[[], Answer], status: int) -> Answer:
    deadline = time.monotonic() + DEADLINE_S
    while (answer := ask()).status != status:
        assert time.monotonic() < deadline, (answer.status, answer.body)
        time.sleep(0.05)
    return answer


def start(server: Berth, **inputs: object) -> threading.Thread:
    thread = threading.Thread(target=server.predict, kwargs=inputs)
    thread.start()
    return thread


@pytest.mark.parametrize("busy", [False, True])
def test_a_model_that_hangs_is_dead_until_it_comes_to_an_end(busy: bool) -> None:
    with serving(**predictor("Slow", HANG_TIMEOUT_S="0.5")) as server:
        assert server.get(LIVE).json == {"live": True}
        thread = start(server, seconds=2.5, busy=busy)
        dead = wait_for(lambda: server.get(LIVE), 503)
        assert dead.json["live"] is False
        assert "BERTH_HANG_TIMEOUT_S" in dead.json["error"]
        ready = server.get(READY)
        assert (ready.status, ready.json["ready"]) == (503, False)
        assert server.get("/v2/models/model/ready").status == 503
        thread.join()
        wait_for(lambda: server.get(LIVE), 200)
        assert server.get(READY).status == 200


def test_many_quick_runs_are_no_hang() -> None:
    with serving(**predictor("Slow", HANG_TIMEOUT_S="3")) as server:
        threads = [start(server, seconds=0.1) for _ in range(50)]
        while any(thread.is_alive() for thread in threads):
            assert server.get(LIVE).status == 200
            time.sleep(0.02)


def test_a_thread_that_has_ended_is_dead_for_good(tmp_path: Path) -> None:
    (tmp_path / "mortal.py").write_text(MORTAL)
    settings = {"PREDICTOR": "mortal:Mortal", "REQUEST_TIMEOUT_S": "1"}
    with serving(cwd=tmp_path, **settings, HANG_TIMEOUT_S="0") as server:
        assert server.predict(x=1).status == 200
        deadline = time.monotonic() + DEADLINE_S
        while server.get(LIVE).status == 200:
            time.sleep(0.01)
            assert time.monotonic() < deadline
        assert "thread has ended" in server.get(LIVE).json["error"]
        assert server.get(READY).status == 503


def test_an_event_loop_of_a_model_that_is_held_up_is_dead_and_one_that_waits_is_not(tmp_path: Path) -> None:
    (tmp_path / "blocking.py").write_text(BLOCKING)
    settings = {"PREDICTOR": "blocking:Blocking", "HANG_TIMEOUT_S": "1.5", "MAX_CONCURRENCY": "4"}
    with serving(cwd=tmp_path, **settings) as server:
        thread = start(server, seconds=2.5, block=False)
        while thread.is_alive():
            assert server.get(LIVE).status == 200  # there is room for three more calls
            time.sleep(0.05)
        thread = start(server, seconds=5, block=True)
        wait_for(lambda: server.get(LIVE), 503)
        thread.join()
        wait_for(lambda: server.get(LIVE), 200)
        threads = [start(server, seconds=5, block=False) for _ in range(4)]
        assert "has not come to an end" in wait_for(lambda: server.get(LIVE), 503).json["error"]
        for thread in threads:
            thread.join()
        wait_for(lambda: server.get(LIVE), 200)


def test_an_event_loop_may_answer_in_the_middle_of_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = AsyncExecutor(1, patience=1.5)
    monkeypatch.setattr(executor, "_running", SimpleNamespace(call_soon_threadsafe=lambda answer: answer()))
    assert executor.why_dead == ""


def test_a_stream_hangs_by_its_items_and_not_by_its_caller(tmp_path: Path) -> None:
    (tmp_path / "yields.py").write_text(HANGING_STREAM)
    with serving(cwd=tmp_path, PREDICTOR="yields:Yields", HANG_TIMEOUT_S="2") as server:
        thread = start(server, pause=0.3, count=10)
        while thread.is_alive():
            assert server.get(LIVE).status == 200
            time.sleep(0.05)
        thread = start(server, pause=5, count=1)
        wait_for(lambda: server.get(LIVE), 503)
        thread.join()
        wait_for(lambda: server.get(LIVE), 200)


def test_workers_that_do_not_come_back_are_dead_after_a_while_and_live_again(tmp_path: Path) -> None:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    (tmp_path / "weights").touch()
    with serving(cwd=tmp_path, PREDICTOR="fragile:Fragile", WORKERS="1", HANG_TIMEOUT_S="1.5") as server:
        pid = server.predict(x=1).json
        (tmp_path / "weights").unlink()
        os.kill(pid, signal.SIGKILL)
        unready = wait_for(lambda: server.get(READY), 503)
        assert unready.json["ready"] is False
        dead = wait_for(lambda: server.get(LIVE), 503)
        assert "the weights are gone" in dead.json["error"]
        (tmp_path / "weights").touch()
        wait_for(lambda: server.get(LIVE), 200)
        assert wait_for(lambda: server.predict(x=1), 200).json != pid


def test_without_models_it_lives_and_is_not_ready(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    path.write_text(json.dumps([{"name": "a", "predictor": "models:Slow", "at_start": False}]))
    with serving(MODELS=str(path), MODEL_CONTROL="on") as server:
        assert server.get(LIVE).status == 200
        assert server.get(READY).json == {"ready": False, "error": "no model is loaded"}
        assert server.get(READY).status == 503
        server.post("/v2/repository/models/a/load")
        assert server.get(READY).status == 200
        server.post("/v2/repository/models/a/unload")
        assert server.get(READY).status == 503
