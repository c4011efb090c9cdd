"""Large bodies side by side: each arrives whole, slow senders hold nobody up, and memory grows with what has come."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from berth.http_bodies import LEAST, LOOK_S, MOST_DIRECT, TURNS, Buffers, Turns
from tests.berth.support import DEADLINE_S, Answer, Berth, read_answers, serving

MIB = 1024 * 1024
SLOW = 40  # senders that stop in the middle, many more than have a turn
FLOAT_BYTES = 4


@pytest.fixture(scope="module")
def wide(weights: Path) -> Iterator[Berth]:
    """y = 2x for float32 of any two dimensions."""
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "wide.onnx")) as server:
        yield server


def question(first: float, numbers: int, path: str = "/v2/models/model/infer") -> bytes:
    """A whole request with so many numbers from `first` on, as a binary tensor."""
    values = np.arange(numbers, dtype=np.float32) + np.float32(first)
    item = {"name": "x", "shape": [1, numbers], "datatype": "FP32", "parameters": {"binary_data_size": values.nbytes}}
    head = json.dumps({"inputs": [item], "parameters": {"binary_data_output": True}}).encode()
    lines = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: {len(head)}\r\n"
        f"Content-Length: {len(head) + values.nbytes}\r\n\r\n"
    )
    return lines.encode() + head + values.tobytes()


def is_right(answer: Answer, first: float, numbers: int) -> bool:
    assert answer.status == 200, answer.body[:300]
    values = np.frombuffer(answer.body[int(answer.headers["Inference-Header-Content-Length"]) :], np.float32)
    return np.array_equal(values, 2 * (np.arange(numbers, dtype=np.float32) + np.float32(first)))


def ask(connection: socket.socket, first: float, numbers: int) -> bool:
    connection.sendall(question(first, numbers))
    (answer,) = read_answers(connection, 1)
    return is_right(answer, first, numbers)


@contextlib.contextmanager
def stalled(server: Berth, count: int, request: bytes, sent: int) -> Iterator[list[socket.socket]]:
    """So many connections that have sent so much of a request."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(count)]
        for connection in connections:
            connection.sendall(request[:sent])
        yield connections


def test_many_at_once_are_answered_with_their_own_numbers(wide: Berth) -> None:
    sizes = (100_000, 150_000, 150_001, 170_000, 20_000, 700_000, 3)

    def client(number: int) -> int:
        right = 0
        with wide.connect() as connection:
            for turn, size in enumerate(sizes[number % 3 :] * 2):
                right += ask(connection, 1000 * number + turn, size)
        return right

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(client, range(12)))
    assert found == [2 * len(sizes[number % 3 :]) for number in range(12)]


@pytest.mark.parametrize("piece", [70_000, 700_000])
def test_a_body_may_come_in_pieces_on_a_connection_that_had_one_before(wide: Berth, piece: int) -> None:
    with wide.connect() as connection:
        for number in range(3):
            request = question(number, 500_000)
            for at in range(0, len(request), piece):
                connection.sendall(request[at : at + piece])
                time.sleep(0.005)
            (answer,) = read_answers(connection, 1)
            assert is_right(answer, number, 500_000)
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_answers(connection, 1)[0].json == {"live": True}


def test_first_lines_and_the_body_of_a_known_request_may_come_apart(wide: Berth) -> None:
    request = question(5, 300_000)
    split = request.index(b"\r\n\r\n") + 4
    with wide.connect() as connection:
        for at in (split, 17, split + 1, split + 70_000, len(request) - 1):
            connection.sendall(request[:at])
            time.sleep(0.02)
            connection.sendall(request[at:])
            (answer,) = read_answers(connection, 1)
            assert is_right(answer, 5, 300_000)


def test_a_pipeline_goes_on_behind_a_large_body(wide: Berth) -> None:
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    requests = live + question(1, 300_000) + live + question(2, 400_000) + question(3, 4) + live
    for _ in range(2):  # once parsed, and once known
        with wide.connect() as connection, ThreadPoolExecutor(1) as pool:
            pool.submit(connection.sendall, requests)
            answers = read_answers(connection, 6)
            assert [answer.status for answer in answers] == [200] * 6
            assert is_right(answers[1], 1, 300_000)
            assert is_right(answers[3], 2, 400_000)
            assert is_right(answers[4], 3, 4)


@pytest.mark.parametrize("seed", range(4))
def test_however_a_pipeline_is_cut_the_answers_are_the_same(wide: Berth, seed: int) -> None:
    chance = random.Random(seed)
    sizes = [chance.choice((3, 16_000, 16_400, 20_000, 100_000, 600_000, MOST_DIRECT // 4)) for _ in range(6)]
    data = b"".join(question(number, size) for number, size in enumerate(sizes))

    def send() -> None:
        at = 0
        while at < len(data):
            size = chance.choice((1, 300, 16_384, 65_536, 250_000, 2_500_000))
            connection.sendall(data[at : at + size])
            at += size
            time.sleep(chance.choice((0, 0, 0.002, LOOK_S)))

    for _ in range(2):
        with wide.connect() as connection, ThreadPoolExecutor(1) as pool:
            sending = pool.submit(send)
            for number, (answer, size) in enumerate(zip(read_answers(connection, len(sizes)), sizes, strict=True)):
                assert is_right(answer, number, size)
            sending.result()


def test_a_chunked_body_follows_one_of_known_length(wide: Berth) -> None:
    lines, _, body = question(7, 200_000).partition(b"\r\n\r\n")
    chunked = re.sub(rb"\r\nContent-Length: \d+", b"\r\nTransfer-Encoding: chunked", lines) + b"\r\n\r\n"
    pieces = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
    chunked += b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    with wide.connect() as connection:
        for _ in range(2):
            assert ask(connection, 7, 200_000)
            connection.sendall(chunked)
            assert is_right(read_answers(connection, 1)[0], 7, 200_000)


def test_senders_that_stop_in_the_middle_hold_up_nobody_and_may_go_on(wide: Berth) -> None:
    request = question(9, 400_000)
    with stalled(wide, SLOW, request, 300_000) as slow:
        with ThreadPoolExecutor(8) as pool:

            def client(number: int) -> bool:
                with wide.connect() as connection:
                    return all(ask(connection, number + turn, 300_000) for turn in range(5))

            assert all(pool.map(client, range(8)))
        for connection in slow:
            connection.sendall(request[300_000:])
            (answer,) = read_answers(connection, 1)
            assert is_right(answer, 9, 400_000)


def test_senders_that_go_away_in_the_middle_hold_up_nobody(wide: Berth) -> None:
    for sent in (80_000, 300_000, 1_000_000):
        with stalled(wide, SLOW, question(9, 400_000), sent):
            pass
        with wide.connect() as connection:
            assert ask(connection, 1, 400_000)


def test_a_thousand_announcements_take_no_memory(wide: Berth) -> None:
    def resident() -> int:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{wide.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    lines = b"POST /v2/models/model/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (60 * MIB)
    before = resident()
    with stalled(wide, 1000, lines + b" " * 20_000, len(lines) + 20_000), wide.connect() as connection:
        assert ask(connection, 1, 300_000)
        time.sleep(5 * LOOK_S)
        assert ask(connection, 1, 300_000)
        assert resident() - before < 150 * MIB  # 20 of them are what was sent


@pytest.mark.parametrize("count", [1, 3 * TURNS])
def test_who_does_not_send_its_body_in_time_is_408(weights: Path, count: int) -> None:
    limits = {"REQUEST_TIMEOUT_S": "1.5", "HEADER_TIMEOUT_S": "1"}
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "wide.onnx"), cwd=None, variables=None, **limits) as server:
        with stalled(server, count, question(9, 400_000), 300_000) as slow:
            for connection in slow:
                (answer,) = read_answers(connection, 1)
                assert answer.status == 408
                with contextlib.suppress(OSError):
                    connection.sendall(b"x" * 100_000)
        with server.connect() as connection:
            assert ask(connection, 1, 300_000)


def test_a_body_that_has_begun_is_answered_by_a_server_that_stops(weights: Path) -> None:
    request = question(9, 400_000)
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "wide.onnx")) as server:
        with stalled(server, 2 * TURNS, request, 300_000) as slow:
            assert server.get("/v2/health/live").status == 200
            server.process.terminate()
            server.wait_for_event("draining")
            for connection in slow:
                connection.sendall(request[300_000:])
                (answer,) = read_answers(connection, 1)
                assert is_right(answer, 9, 400_000)
                assert answer.headers["Connection"] == "close"
        assert server.process.wait(DEADLINE_S) == 0


def test_answers_that_are_remembered_are_those_of_the_question(weights: Path) -> None:
    settings = {"FORMAT": "onnx", "WEIGHTS": str(weights / "wide.onnx"), "CACHE_BYTES": str(64 * MIB)}
    with serving(None, None, **settings) as server, server.connect() as connection:
        for first in (1, 2, 1, 3, 2):
            assert ask(connection, first, 200_000)


# -- turns ------------------------------------------------------------------------------------------------------------


class Body:
    """A body that is counted rather than read."""

    def __init__(self, begun: list[Body]) -> None:
        self.received = 0
        self.direct: bool | None = None
        self.ended = False
        self._begun = begun

    def begin_turn(self, *, direct: bool) -> None:
        self.direct = direct
        self._begun.append(self)

    def end_turn(self) -> None:
        self.ended = True


def bodies(turns: Turns, count: int) -> tuple[list[Body], list[Body]]:
    """So many that have joined, and those whose turn has begun, in its order."""
    begun: list[Body] = []
    joined = [Body(begun) for _ in range(count)]
    for body in joined:
        turns.join(body)
    return joined, begun


def test_a_few_are_read_at_a_time_in_the_order_in_which_they_came() -> None:
    async def scenario() -> None:
        turns = Turns()
        joined, begun = bodies(turns, 3 * TURNS)
        assert begun == joined[:TURNS]
        turns.leave(joined[TURNS + 1])  # gave up while it waited
        del joined[TURNS + 1]
        for count, body in enumerate(joined, TURNS + 1):
            turns.leave(body)
            assert begun == joined[:count]

    asyncio.run(scenario())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(LOOK_S / 4)


def test_who_delivers_keeps_its_turn_and_who_does_not_loses_it() -> None:
    async def scenario() -> None:
        turns = Turns()
        joined, begun = bodies(turns, TURNS + 1)
        diligent = joined[0]

        def others_ended() -> bool:
            diligent.received += LEAST
            return all(body.ended for body in joined[1:TURNS])

        await until(others_ended)
        assert not diligent.ended
        assert begun == joined

    asyncio.run(scenario())


def test_who_delivers_for_long_gives_its_turn_back_to_those_who_wait() -> None:
    async def scenario() -> None:
        turns = Turns()
        joined, begun = bodies(turns, 2 * TURNS)

        def all_begun() -> bool:
            for body in joined[:TURNS]:
                body.received += LEAST
            return begun == joined

        await until(all_begun)
        assert all(body.ended for body in joined[:TURNS])

    asyncio.run(scenario())


def test_any_number_of_silent_senders_is_let_in_within_a_few_looks() -> None:
    async def scenario() -> None:
        turns = Turns()
        joined, begun = bodies(turns, 1000)
        await until(lambda: len(begun) == len(joined))
        assert begun == joined
        assert all(body.direct for body in joined[:TURNS])
        assert not all(body.direct for body in joined)

    asyncio.run(scenario())


# -- buffers ----------------------------------------------------------------------------------------------------------


def taken(buffers: Buffers, lengths: Sequence[int]) -> list[bytearray]:
    return [buffers.take(length) for length in lengths]


def test_a_buffer_is_used_again_when_nobody_refers_to_it() -> None:
    buffers = Buffers()
    address = id(buffers.take(600_000))
    for length in (600_000, 590_001, 600_000, 620_000):
        again = buffers.take(length)
        assert (id(again), len(again)) == (address, length)
        del again


def test_a_buffer_or_a_view_that_somebody_has_is_nobody_elses() -> None:
    buffers = Buffers()
    first = buffers.take(600_000)
    array = np.frombuffer(memoryview(buffers.take(600_000))[100:], np.uint8)
    others = taken(buffers, [600_000] * 50)
    assert len({id(first), *map(id, others)}) == 51
    for other in others:
        other[:] = b"x" * len(other)
    assert not array.any()
    assert not any(first)


def test_buffers_are_of_the_length_that_was_asked_for() -> None:
    buffers = Buffers()
    for length in (65_537, 70_000, 131_072, 131_071, 65_537, MOST_DIRECT, 100_000, 2_000_000, 1_200_000):
        assert len(buffers.take(length)) == length
