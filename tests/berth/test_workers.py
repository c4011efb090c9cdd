"""Worker processes: real ones, forked, killed, hung, grown and starved."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import functools
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import uvloop

import berth
from berth.errors import ModelError
from berth.executor import Failed, FailureKind, Finished, Outcome
from berth.model import Model, PredictorModel, TensorModel
from berth.predictors import load_predictor, wait_here
from berth.tensors import TensorBatch, TensorRows, TensorSpec
from berth.workers.crew import PoolSettings
from berth.workers.messages import RAN, pack
from berth.workers.pool import WorkerPool
from berth.workers.quarantine import KEPT_S, Quarantine
from berth.workers.remote import RemotePredictor, RemoteTensors
from berth.workers.shared_memory import INLINE, Arena, Inbox, Outbox, create
from berth.workers.template import Template
from berth.workers.worker import State
from tests.support.processes import children, command_lines, lives

DEADLINE_S = 30.0
Floats = Annotated[np.ndarray, berth.Tensor("float32", (-1,))]  # type: ignore[type-arg]

# What the workers load.


class Add:
    """x + 1 and the process that computed it; some numbers are poison."""

    @berth.batched
    def predict(self, x: list[int]) -> list[dict[str, int]]:
        for value in x:
            _misbehave(value)
        return [{"y": value + 1, "pid": os.getpid(), "batch": len(x)} for value in x]


KILLED, CRASHED, EXITS, HANGS, NO_PICKLE, FORGES, STARTS, BUSY = -1, -2, -3, -4, -5, -6, -7, -8


def _misbehave(value: int) -> None:
    if value == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    elif value == CRASHED:
        faulthandler.disable()  # pytest's own would print a report of what is meant to happen
        ctypes.string_at(0)
    elif value == EXITS:
        sys.exit(3)
    elif value == HANGS:
        time.sleep(DEADLINE_S)
    elif value == FORGES:
        _forge()
        time.sleep(1)
    elif value == STARTS:
        subprocess.Popen(["sleep", "61.5"])
    elif value == BUSY:
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            sum(range(1000))


def _forge() -> None:
    """Say on the worker's own socket what an earlier question would have been answered."""
    memory = create(1 << 20)
    message = pack(RAN, 4711, ([[{"y": 0}]], 0.0, 0.0, 1), Outbox(Arena(memory, 1 << 20).answers))
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(path.readlink()).startswith("socket:"):
                os.write(int(path.name), b"".join(message.frame([])))


class Unpicklable:
    def predict(self, x: int) -> Any:
        return (lambda: x) if x == NO_PICKLE else x


class Scale:
    """Doubles an array in place, and keeps the first one that it was given."""

    kept: Any = None

    def predict(self, x: Floats) -> dict[str, Any]:
        if self.kept is None:
            self.kept = x
        x *= 2
        return {"y": x, "first": float(self.kept[0]), "private": bool(x.flags.writeable)}


class Leaks:
    """Grows by 8 MB with each call."""

    def __init__(self) -> None:
        self.leak: list[bytes] = []

    def predict(self, x: int) -> dict[str, int]:
        self.leak.append(os.urandom(1 << 20) * 8)
        return {"x": x, "pid": os.getpid()}


class Counts:
    """Yields as many numbers as it is told, then may misbehave; says when its generator was closed."""

    closed = 0

    def predict(self, x: int, then: int = 0, size: int = 1) -> Iterator[Any]:
        try:
            for number in range(x):
                yield {"number": number, "closed": self.closed, "array": np.full(size, number, np.float32)}
                if then == NO_PICKLE:
                    yield lambda: None
            if then == EXITS:
                raise berth.InputError("so many, and no more")
            _misbehave(then)
        finally:
            Counts.closed += 1


class CountsAsync:
    async def predict(self, x: int, size: int = 1) -> AsyncIterator[Any]:
        for number in range(x):
            await asyncio.sleep(0)
            yield {"number": number, "array": np.full(size, number, np.float32)}


class AddAsync:
    async def load(self) -> None:
        self.one = 1

    async def predict(self, x: int) -> dict[str, int]:
        await asyncio.sleep(0.001)
        return {"y": x + self.one}


class Spins:
    def predict(self, seconds: float) -> float:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sum(range(100))
        return seconds


def load(name: str, broken: str = "") -> Model:
    """A predictor of this file; raises while the file `broken` is there."""
    if broken and Path(broken).exists():
        raise LookupError("the weights are gone")
    return PredictorModel(load_predictor(f"{__name__}:{name}", wait_here))


def dies_while_loading() -> Model:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class Doubler:
    """A backend."""

    platform = "test"
    inputs: Sequence[TensorSpec] = (TensorSpec("x", "FP32", (-1, 2)),)
    outputs: Sequence[TensorSpec] = (TensorSpec("y", "FP32", (-1, 2)),)
    joins_rows = True

    def infer(self, arrays: Any) -> Any:
        return {"y": arrays["x"] * 2}


def load_doubler() -> Model:
    return TensorModel(Doubler())


# How they are started.


@pytest.fixture(scope="module")
def template() -> Iterator[Template]:
    template = Template()
    yield template
    template.close()
    assert not Path(f"/proc/{template.pid}").exists()


Log = list[tuple[str, str, dict[str, Any]]]


class Pool:
    """A pool with its log, and a coroutine instead of a callback."""

    def __init__(self, template: Template, load: Callable[[], Model], **settings: Any) -> None:
        self.log: Log = []
        self.pool = WorkerPool(template, load, PoolSettings(**{"workers": 2, **settings}), self._event)

    def _event(self, level: str, message: str, **fields: Any) -> None:
        self.log.append((level, message, fields))

    async def finish(self, groups: Sequence[list[Any]], wanted: Callable[[int], bool] | None = None) -> Finished:
        future: asyncio.Future[Finished] = asyncio.get_running_loop().create_future()
        self.pool.submit(groups, future.set_result, wanted)
        assert not future.done()
        async with asyncio.timeout(DEADLINE_S):
            return await future

    async def outcomes(self, *values: int) -> list[Outcome]:
        """Each value a request of its own, all in one batch."""
        return (await self.finish([[{"x": value}] for value in values])).outcomes

    async def pids(self) -> set[int]:
        # A worker may have loaded before its parent's word of it has come; kill(0) would end the whole test run.
        await self.until(lambda: all(worker.pid for worker in self.pool.workers))
        return {worker.pid for worker in self.pool.workers}

    def busy_pids(self) -> list[int]:
        return [worker.pid for worker in self.pool.workers if worker.state is State.BUSY and worker.pid]

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not holds():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(template: Template, load: Callable[[], Model], **settings: Any) -> AsyncIterator[Pool]:
    pool = Pool(template, load, **settings)
    await pool.pool.start()
    pids = await pool.pids()
    try:
        yield pool
    finally:
        pids |= await pool.pids()
        await pool.pool.close(5.0)
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """On the server's own kind of loop."""

    async def whole() -> None:
        async with asyncio.timeout(2 * DEADLINE_S):
            await scenario()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


def answers(outcomes: Sequence[Outcome]) -> list[Any]:
    return [outcome if isinstance(outcome, Failed) else outcome[0]["y"] for outcome in outcomes]


add = functools.partial(load, "Add")
counts = functools.partial(load, "Counts")


# What they do.


def test_batches_run_in_several_processes_and_answers_find_their_requests(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, add) as pool:
            pids = set()

            async def ask(start: int) -> None:
                for offset in range(0, 3000, 3):
                    base = start + offset
                    groups = [[{"x": base}], [{"x": base + 1}, {"x": base + 2}]]
                    first, second = (await pool.finish(groups)).outcomes
                    assert not isinstance(first, Failed)
                    assert not isinstance(second, Failed)
                    assert [answer["y"] for answer in first + second] == [base + 1, base + 2, base + 3]
                    pids.add(first[0]["pid"])

            await asyncio.gather(*(ask(number * 10_000) for number in range(4)))
            assert pids == await pool.pids()
            assert os.getpid() not in pids

    run(scenario)


def test_a_failure_fails_only_itself_and_sys_exit_is_a_failure_like_others(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, add) as pool:
            first, guilty, last = answers(await pool.outcomes(1, EXITS, 3))
            assert (first, last) == (2, 4)
            assert isinstance(guilty, Failed)
            assert "SystemExit" in guilty.trace
            assert pool.pool.counts["ended"] == 0

    run(scenario)


def test_an_answer_that_cannot_travel_fails_only_itself(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, functools.partial(load, "Unpicklable")) as pool:
            good, bad = await pool.outcomes(1, NO_PICKLE)
            assert good == [1]
            assert isinstance(bad, Failed)
            assert "cannot leave its worker process" in bad.text

    run(scenario)


def test_no_request_is_lost_when_workers_are_killed_twenty_times_under_load(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, add) as pool:
            asked = 0
            stop = False

            async def ask(start: int) -> None:
                nonlocal asked
                number = start
                while not stop:
                    number += 4
                    assert answers(await pool.outcomes(number, number + 1)) == [number + 1, number + 2]
                    asked += 1

            asking = [asyncio.create_task(ask(start)) for start in range(4)]
            for killed in range(20):
                await pool.until(pool.busy_pids)
                os.kill(pool.busy_pids()[0], signal.SIGKILL)
                await pool.until(lambda: pool.pool.counts["ended"] > killed)  # noqa: B023
                before = asked
                await pool.until(lambda: asked > before + 50)  # noqa: B023
            stop = True
            await asyncio.gather(*asking)
            assert pool.pool.counts["ended"] == 20
            assert pool.pool.counts["quarantined"] == 0
            await pool.until(lambda: len([worker for worker in pool.pool.workers if worker.state is State.IDLE]) == 2)

    run(scenario)


@pytest.mark.parametrize(("poison", "name"), [(KILLED, "SIGKILL"), (CRASHED, "SIGSEGV")])
def test_an_input_that_ends_two_workers_is_kept_out_and_the_innocent_are_answered(
    template: Template, poison: int, name: str
) -> None:
    async def scenario() -> None:
        async with running(template, add) as pool:
            outcomes = answers(await pool.outcomes(1, 2, poison, 4, 5))
            failed = outcomes.pop(2)
            assert outcomes == [2, 3, 5, 6]
            assert isinstance(failed, Failed)
            assert failed.kind is FailureKind.MODEL
            assert failed.error_id
            assert f"ended 2 worker processes (the last one was killed by {name})" in failed.text
            assert pool.pool.counts["ended"] == 2

            again = answers(await pool.outcomes(7, poison))
            assert again[0] == 8
            assert isinstance(again[1], Failed)
            assert "before" in again[1].text
            assert pool.pool.counts["ended"] == 2
            assert [message for _, message, _ in pool.log].count("worker ended") == 2

    run(scenario)


def test_a_batch_that_hangs_costs_two_workers_and_only_the_guilty_fails(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, add, workers=1, batch_timeout=0.3) as pool:
            good, bad = answers(await pool.outcomes(1, HANGS))
            assert good == 2
            assert isinstance(bad, Failed)
            assert "took longer than 0.3 s" in bad.text
            assert pool.pool.counts["ended"] == 2

    run(scenario)


def test_a_hanging_input_whose_caller_has_gone_is_not_tried_again_but_remembered(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, add, workers=1, batch_timeout=0.3) as pool:
            for _ in range(3):
                patience = time.monotonic() + 0.1
                (outcome,) = (
                    await pool.finish([[{"x": HANGS}]], lambda _, end=patience: time.monotonic() < end)
                ).outcomes
                assert isinstance(outcome, Failed)
            assert pool.pool.counts["ended"] == 2

    run(scenario)


def test_an_answer_to_another_question_is_not_believed(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, add) as pool:
            good, bad = answers(await pool.outcomes(1, FORGES))
            assert good == 2
            assert isinstance(bad, Failed)
            assert "answered 4711 when asked" in bad.text

    run(scenario)


def test_a_worker_that_grows_past_its_limit_is_replaced_without_a_dropped_request(template: Template) -> None:
    async def scenario() -> None:
        leaks = functools.partial(load, "Leaks")
        async with running(template, leaks, workers=1, max_memory=150 << 20) as pool:
            pids = []
            for number in range(200):
                (outcome,) = await pool.outcomes(number)
                assert not isinstance(outcome, Failed)
                assert outcome[0]["x"] == number
                pids.append(outcome[0]["pid"])
                if pool.pool.counts["replaced"] and pids[-1] != pids[0]:
                    break
                await asyncio.sleep(0.05)
            assert len(set(pids)) == 2
            assert pool.pool.counts["replaced"] == 1
            await pool.until(lambda: len(pool.pool.workers) == 1)
            assert not [entry for entry in pool.log if entry[0] == "error"]

    run(scenario)


@pytest.mark.parametrize("arena_bytes", [64 << 20, 1 << 20])
def test_large_arrays_arrive_whole_private_and_writable(template: Template, arena_bytes: int) -> None:
    async def scenario() -> None:
        scale = functools.partial(load, "Scale")
        async with running(template, scale, workers=1, arena_bytes=arena_bytes) as pool:
            for size in (10, 150_528, 12_500_000, 150_528, 10):
                given = np.arange(7, 7 + size, dtype=np.float32)
                (outcome,) = (await pool.finish([[{"x": given}]])).outcomes
                assert not isinstance(outcome, Failed)
                assert np.array_equal(outcome[0]["y"], given * 2)
                assert given[0] == 7  # what the model writes does not come back
                assert outcome[0]["first"] == 14.0  # an array that it keeps is not written over
                assert outcome[0]["private"]

    run(scenario)


def test_answers_may_be_kept_while_others_come(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, functools.partial(load, "Scale"), workers=1) as pool:
            kept = []
            for number in range(20):
                array = np.full(100_000, number, dtype=np.float32)
                outcome: Any = (await pool.finish([[{"x": array}], [{"x": array + 1}]])).outcomes
                kept.append((number, outcome))
            for number, (first, second) in kept:
                assert (first[0]["y"] == 2 * number).all()
                assert (second[0]["y"] == 2 * number + 2).all()

    run(scenario)


def test_memory_of_large_messages_is_given_back_when_idle(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, functools.partial(load, "Scale"), workers=1) as pool:
            await pool.finish([[{"x": np.ones(1, dtype=np.float32)}]])
            await pool.finish([[{"x": np.ones(12_500_000, dtype=np.float32)}]])
            assert _arena_bytes() > 80 << 20
            await pool.until(lambda: _arena_bytes() <= 20 << 20)

    run(scenario)


def _arena_bytes() -> int:
    """What the arenas of this process hold in memory."""
    total = 0
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if "berth-arena" in str(path.readlink()):
                total += path.stat().st_blocks * 512
    return total


class Taken:
    """A sink that takes what comes, at most `room` at once."""

    def __init__(self, room: int = 1000, listens_until: int = 1000) -> None:
        self.items: list[Any] = []
        self.closed = asyncio.Event()
        self.failed: Failed | None = None
        self.room = threading.Semaphore(room)
        self._loop = asyncio.get_running_loop()
        self._listens_until = listens_until

    @property
    def full(self) -> bool:
        return self.room._value == 0

    def item(self, value: Any) -> bool:
        assert self.room.acquire(timeout=DEADLINE_S)
        self.items.append(value)
        return len(self.items) < self._listens_until

    def close(self, failed: Failed | None) -> None:
        self.failed = failed
        self._loop.call_soon_threadsafe(self.closed.set)


def numbers(taken: Taken) -> list[int]:
    return [item["number"] for item in taken.items]


@pytest.mark.parametrize("name", ["Counts", "CountsAsync"])
def test_items_of_a_stream_come_in_order_and_arrays_are_whole(template: Template, name: str) -> None:
    async def scenario() -> None:
        async with running(template, functools.partial(load, name)) as pool:
            sinks = [Taken() for _ in range(4)]
            for sink in sinks:
                pool.pool.stream({"x": 50, "size": 100_000}, sink)
            for sink in sinks:
                await asyncio.wait_for(sink.closed.wait(), DEADLINE_S)
                assert sink.failed is None
                assert numbers(sink) == list(range(50))
                assert all((item["array"] == number).all() for number, item in enumerate(sink.items))

    run(scenario)


def test_a_stream_waits_for_a_slow_caller_and_the_loop_does_not(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, counts, workers=1, batch_timeout=0.3) as pool:
            sink = Taken(room=3)
            pool.pool.stream({"x": 10}, sink)
            await asyncio.sleep(0.8)  # more than the time limit, which is the model's and not the caller's
            assert numbers(sink) == [0, 1, 2]
            for _ in range(10):
                sink.room.release()
            await asyncio.wait_for(sink.closed.wait(), DEADLINE_S)
            assert numbers(sink) == list(range(10))
            assert sink.failed is None

    run(scenario)


def test_a_stream_stops_when_nobody_listens_and_its_generator_is_closed(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, counts, workers=1) as pool:
            first, second = Taken(listens_until=3), Taken()
            pool.pool.stream({"x": 10_000_000}, first)
            pool.pool.stream({"x": 1}, second)
            await asyncio.wait_for(second.closed.wait(), DEADLINE_S)
            assert numbers(first) == [0, 1, 2]
            assert second.items[0]["closed"] == 1

    run(scenario)


def test_a_stream_that_fails_says_so_after_its_items(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, counts) as pool:
            raises, lambdas = Taken(), Taken()
            pool.pool.stream({"x": 2, "then": EXITS}, raises)
            pool.pool.stream({"x": 2, "then": NO_PICKLE}, lambdas)
            for sink in (raises, lambdas):
                await asyncio.wait_for(sink.closed.wait(), DEADLINE_S)
            assert numbers(raises) == [0, 1]
            assert raises.failed is not None
            assert (raises.failed.kind, raises.failed.text) == (FailureKind.INPUT, "so many, and no more")
            assert numbers(lambdas) == [0]
            assert lambdas.failed is not None
            assert pool.pool.counts["ended"] == 0

    run(scenario)


def test_a_stream_is_begun_again_only_when_nothing_of_it_has_gone_out(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, counts) as pool:
            before, after = Taken(), Taken()
            pool.pool.stream({"x": 0, "then": KILLED}, before)
            await asyncio.wait_for(before.closed.wait(), DEADLINE_S)
            assert before.failed is not None
            assert "ended 2 worker processes" in before.failed.text
            pool.pool.stream({"x": 3, "then": KILLED}, after)
            await asyncio.wait_for(after.closed.wait(), DEADLINE_S)
            assert after.failed is not None
            assert "was killed by SIGKILL" in after.failed.text
            assert numbers(after) == [0, 1, 2]
            assert pool.pool.counts["ended"] == 3

    run(scenario)


def test_a_backend_runs_remotely_and_its_face_stays_here(template: Template) -> None:
    async def scenario() -> None:
        pool = Pool(template, load_doubler)
        model = RemoteTensors(await pool.pool.start())
        assert (model.platform, model.joins, model.steady) == ("test", True, False)
        assert model.packing is not None
        packed = model.packing.pack([1.0, 2.0])
        call = model.calls_of({"x": np.ones((3, 2), np.float32)})[0]
        assert model.key(packed) == model.key(call)
        first, second = (await pool.finish([[packed], [call]])).outcomes
        assert not isinstance(first, Failed)
        assert not isinstance(second, Failed)
        assert model.tensors_of(first)["y"].tolist() == [[2.0, 4.0]]
        assert model.tensors_of(second)["y"].shape == (3, 2)
        assert isinstance(first[0], TensorRows)
        assert first[0].batch is second[0].batch
        assert isinstance(first[0].batch, TensorBatch)
        with pytest.raises(RuntimeError, match="worker processes"):
            model.run([call])
        await pool.pool.close(5.0)

    run(scenario)


def test_a_predictor_keeps_its_face_without_being_made() -> None:
    model = RemotePredictor(Add)
    assert model.joins
    assert [item.name for item in model.inputs] == ["x"]
    assert model.calls_of({"x": np.array([1, 2])}) == [{"x": 1}, {"x": 2}]
    with pytest.raises(RuntimeError, match="worker processes"):
        model.run([{"x": 1}])


def test_predict_may_be_a_coroutine(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, functools.partial(load, "AddAsync")) as pool:
            assert answers(await pool.outcomes(1, 2, 3)) == [2, 3, 4]

    run(scenario)


def test_what_load_raises_is_raised_here_with_its_traceback(template: Template, tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "broken").touch()
        pool = Pool(template, functools.partial(load, "Add", str(tmp_path / "broken")))
        with pytest.raises(LookupError, match="the weights are gone") as caught:
            await pool.pool.start()
        assert "in load\n" in str(caught.value.__cause__)
        assert await pool.pids() == set()

        pool = Pool(template, dies_while_loading)
        with pytest.raises(ModelError, match="was killed by SIGKILL while it loaded"):
            await pool.pool.start()

    run(scenario)


def test_a_worker_that_cannot_load_again_is_told_and_tried_until_it_can(template: Template, tmp_path: Path) -> None:
    async def scenario() -> None:
        broken = tmp_path / "broken"
        async with running(template, functools.partial(load, "Add", str(broken)), workers=1) as pool:
            assert pool.pool.ready
            broken.touch()
            os.kill(*(await pool.pids()), signal.SIGKILL)
            await pool.until(lambda: pool.pool.counts["ended"] >= 4)
            assert not pool.pool.ready
            assert pool.pool.alive
            assert "could not load it: LookupError: the weights are gone" in pool.pool.why_not_ready
            (outcome,) = await pool.outcomes(1)
            assert isinstance(outcome, Failed)
            assert "the weights are gone" in outcome.text
            broken.unlink()
            await pool.until(lambda: pool.pool.ready)
            assert answers(await pool.outcomes(1)) == [2]
            assert pool.pool.why_not_ready == ""

    run(scenario)


def test_requests_wait_for_a_worker_that_restarts(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, add, workers=1) as pool:
            os.kill(*(await pool.pids()), signal.SIGKILL)
            assert answers(await pool.outcomes(1, 2)) == [2, 3]

    run(scenario)


def test_signals_to_the_group_do_not_end_workers(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, add) as pool:
            for pid in [*(await pool.pids()), template.pid]:
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGINT)
            asking = asyncio.create_task(pool.outcomes(BUSY))
            await asyncio.sleep(0.1)
            for pid in await pool.pids():
                os.kill(pid, signal.SIGTERM)
            assert answers(await asking) == [BUSY + 1]
            assert pool.pool.counts["ended"] == 0

    run(scenario)


def test_closing_lets_busy_workers_finish_and_kills_those_that_do_not(template: Template) -> None:
    async def scenario() -> None:
        pool = Pool(template, add)
        await pool.pool.start()
        busy = asyncio.create_task(pool.outcomes(BUSY))
        hanging = asyncio.create_task(pool.outcomes(HANGS))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(pool.outcomes(1))
        await asyncio.sleep(0)
        await pool.pool.close(1.0)
        assert answers(await busy) == [BUSY + 1]
        for task in (hanging, waiting):
            (outcome,) = await task
            assert isinstance(outcome, Failed)
            assert "stop" in outcome.text
        assert not pool.pool.alive

    run(scenario)


def test_what_a_worker_started_ends_with_it(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, add) as pool:
            await pool.outcomes(STARTS)
            assert _children_named("61.5")
            for pid in await pool.pids():
                os.kill(pid, signal.SIGKILL)
            await pool.until(lambda: not _children_named("61.5"))

    run(scenario)


def _children_named(text: str) -> list[int]:
    return [pid for pid, words in command_lines() if words == [b"sleep", text.encode()]]


def test_without_its_template_the_pool_is_dead_and_says_so() -> None:
    template = Template()

    async def scenario() -> None:
        pool = Pool(template, add)
        await pool.pool.start()
        asking = asyncio.create_task(pool.outcomes(BUSY))
        await asyncio.sleep(0.05)
        os.kill(template.pid, signal.SIGKILL)
        (outcome,) = await asking
        assert isinstance(outcome, Failed)
        assert not pool.pool.alive
        assert not pool.pool.ready
        assert "gone" in pool.pool.why_not_ready
        (outcome,) = await pool.outcomes(1)
        assert isinstance(outcome, Failed)
        await pool.pool.close(1.0)

    run(scenario)
    template.close()


def test_nothing_is_left_open_or_unburied_after_closing() -> None:
    gc.collect()
    before = _open_files()
    template = Template()

    async def scenario() -> None:
        async with running(template, add) as pool:
            await pool.outcomes(1, KILLED, 3)
            assert len(_open_files()) > len(before)
            assert children(template.pid)

    run(scenario)
    assert children(template.pid) == []
    template.close()
    gc.collect()
    assert _open_files() == before
    assert "berth-arena" not in Path("/proc/self/maps").read_text()
    assert not Path(f"/proc/{template.pid}").exists()


def _open_files() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def test_workers_do_not_keep_the_servers_listener_open() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    template = Template()

    async def scenario() -> None:
        async with running(template, add):
            listener.close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)

    run(scenario)
    template.close()


_SERVER = """
import asyncio, sys
from berth.workers.crew import PoolSettings
from berth.workers.pool import WorkerPool
from berth.workers.template import Template
from berth.workers.worker import State
from tests.berth.test_workers import BUSY, HANGS, add

template = Template()

async def main():
    pool = WorkerPool(template, add, PoolSettings(2), print)
    await pool.start()
    pool.submit([[{"x": HANGS}]], print)
    print(template.pid, *(worker.pid for worker in pool.workers), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_when_the_server_ends(number: int) -> None:
    command = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        pids = [int(word) for word in server.stdout.readline().split()]
        assert len(pids) == 3
        server.send_signal(number)
        server.wait(DEADLINE_S)
    deadline = time.monotonic() + 5
    while (left := [pid for pid in pids if lives(pid)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


def test_the_loop_stays_quick_while_every_worker_computes_python(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, functools.partial(load, "Spins")) as pool:
            stop = False

            async def ask() -> None:
                while not stop:
                    await pool.finish([[{"seconds": 0.02}]])

            asking = [asyncio.create_task(ask()) for _ in range(4)]
            lags = []
            for _ in range(500):
                before = time.perf_counter()
                await asyncio.sleep(0.003)
                lags.append(time.perf_counter() - before - 0.003)
            stop = True
            await asyncio.gather(*asking)
            assert sorted(lags)[int(len(lags) * 0.99)] < 0.02

    run(scenario)


def test_the_loop_stays_quick_while_large_arrays_cross(template: Template) -> None:
    async def scenario() -> None:
        async with running(template, functools.partial(load, "Scale"), workers=1) as pool:
            given = np.ones(12_500_000, dtype=np.float32)

            async def ask() -> None:
                for _ in range(5):
                    await pool.finish([[{"x": given}]])

            asking = asyncio.create_task(ask())
            lags = []
            while not asking.done():
                before = time.perf_counter()
                await asyncio.sleep(0.001)
                lags.append(time.perf_counter() - before - 0.001)
            await asking
            assert sorted(lags)[int(len(lags) * 0.98)] < 0.02

    run(scenario)


def test_places_in_the_arena_are_used_again_only_when_nothing_refers_to_them() -> None:
    size = 1 << 20
    memory = create(size)
    arena = Arena(memory, size)
    os.close(memory)
    outbox, inbox = Outbox(arena.requests), Inbox(arena.requests, writable=True)
    offsets = outbox.place([400_000, 400_000, 400_000])
    assert offsets[2] == INLINE
    outbox.write(offsets[0], b"a" * 400_000)
    kept = np.frombuffer(inbox.view(offsets[0], 400_000), np.uint8)[10:20]
    inbox.view(offsets[1], 400_000)
    assert inbox.held() == [offsets[0]]
    outbox.keep_only(inbox.held())
    assert outbox.place([400_000, 400_000]) == [offsets[1], INLINE]
    assert bytes(kept) == b"a" * 10
    del kept
    outbox.keep_only(inbox.held())
    assert outbox.place([400_000]) == [offsets[0]]
    with pytest.raises(ValueError, match="outside"):
        inbox.view(size - 10, 20)


def test_a_quarantine_forgets_after_a_while_and_what_was_cleared() -> None:
    now = 0.0
    quarantine = Quarantine(lambda: now)
    first, second = [{"x": np.arange(10_000)}], [{"x": b"text"}]
    quarantine.blame(first, 2)
    quarantine.blame(second, 1)
    assert quarantine.ended_by([{"x": np.arange(10_000)}]) == 2
    assert quarantine.ended_by([{"x": np.arange(1, 10_001)}]) == 0
    alike = np.arange(10_000)
    alike.view(np.uint8)[1] += 1  # between the bytes of the sample
    assert quarantine.ended_by([{"x": alike}]) == 0
    quarantine.clear(second)
    assert quarantine.ended_by(second) == 0
    now = KEPT_S + 1
    assert quarantine.ended_by(first) == 0
