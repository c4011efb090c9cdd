"""Callers that ask again at once, thousands of them, over plain sockets: quick enough that the server is the limit.

They are a ring: with so many connections and so many answers a second, each is answered after the one divided by the
other, however that time is shared between server and client. An event loop with a task per caller spends more on an
answer than berth does, so here there is nothing but epoll, one read and one write. Not wrk: its percentiles are of all
statuses together, and corrected by what is missing, of which answers that take a second make most. `overload` calls.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from time import perf_counter

MAX_KNOWN = 4096  # answers that are recognised by their bytes
SETTLE_S = 0.5
AT_ONCE = 256


class Overload:
    """What many connections got."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.in_time = 0  # of the good answers, those before the run's end: the queue is emptied after it
        self.times: dict[int, list[float]] = {}
        self.resets: list[str] = []
        self.unanswered = 0.0  # seconds that the oldest question at the end has waited


def ask_again(connect: Callable[[], socket.socket], request: bytes, connections: int, seconds: float) -> Overload:
    """Keep one request under way on each of so many connections; refused ones are sent again without a pause."""
    found = Overload()
    with ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        callers: dict[int, socket.socket] = {}
        for _ in range(connections):
            caller = stack.enter_context(connect())
            caller.setblocking(False)
            callers[caller.fileno()] = caller
            poll.register(caller, select.EPOLLIN)
        time.sleep(SETTLE_S)  # until all are accepted
        _turn(poll, callers, request, perf_counter() + seconds, found)
    return found


def _turn(poll: select.epoll, callers: dict[int, socket.socket], request: bytes, end: float, found: Overload) -> None:
    sent: dict[int, float] = {}
    for number, caller in callers.items():
        sent[number] = perf_counter()
        caller.send(request)
    known: dict[bytes, tuple[int, bool]] = {}
    pieces: dict[int, bytes] = {}
    times, statuses = found.times, found.statuses
    while callers and perf_counter() < end:
        for number, _ in poll.poll(0.1, AT_ONCE):
            caller = callers[number]
            try:
                data = caller.recv(4096)
                if not data:
                    raise ConnectionResetError("closed without an answer")
                answer = known.get(data)
                if answer is None:
                    data = pieces.pop(number, b"") + data
                    answer = whole_answer(data)
                    if answer is None:
                        pieces[number] = data
                        continue
                    if len(known) >= MAX_KNOWN:
                        known.clear()
                    known[data] = answer
                status, last = answer
                now = perf_counter()
                statuses[status] += 1
                times.setdefault(status, []).append(now - sent[number])
                if last:
                    poll.unregister(caller)
                    del callers[number], sent[number]
                    continue
                sent[number] = now
                caller.send(request)
            except ConnectionError as error:
                found.resets.append(repr(error))
                poll.unregister(caller)
                del callers[number], sent[number]
    found.in_time = statuses[200]
    found.unanswered = perf_counter() - min(sent.values(), default=perf_counter())


def whole_answer(data: bytes) -> tuple[int, bool] | None:
    """The status of an answer, and whether it is the connection's last; None while there is more to come."""
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return None
    head = head.lower()
    length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
    return (int(head[9:12]), b"\r\nconnection: close" in head) if len(body) >= length else None
