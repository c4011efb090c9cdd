"""Requests that nobody sent, answered by the whole server before it is ready: so the first callers find it warm.

A process that has just loaded answers its first requests many times slower than later ones: the interpreter has
specialised none of the code between socket and model, pages of program files were given back, a runtime allocates. This
happens when a rollout gives all traffic to new replicas at once. So server.py has a second set of the server's parts
(connections, application, protocols, queue, metrics, log) answer some requests, and throws it away with all
that it counted. The model itself is asked only where warmup.py has asked it, with what it took. Elsewhere nothing but
the goldens may be asked, and these only once: what they brought in the self-test is the answer to every request.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import os
import re
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from berth.answers import Answers
from berth.application import Application
from berth.config import Config
from berth.executor import Executor, ThreadExecutor
from berth.health import Health, State
from berth.http import Connection
from berth.http_server import Server
from berth.info import Info
from berth.log import Log
from berth.metrics import Metrics
from berth.model import Model
from berth.protocols.site import Site, mount
from berth.repository import Repository
from berth.selftest import Proven
from berth.served import ServedModel
from berth.warmup import zeros_for

MAX_REQUESTS = 96
"""For all models together: 13 ms of a small model. More of them change nothing that could be measured."""
SLOW_S = 0.01
"""A model that takes longer for one run is not asked: there, the way to it is not what a caller waits for."""
MAX_BODY = 32_768  # bytes of a request
_AT_ONCE = 4
_FACES = ("native", "v2")
_HEAD = re.compile(
    rb"HTTP/1\.1 200 .*?\r\n(?:Content-Length: (\d+)|Transfer-Encoding: chunked)(?:\r\n.*?)?\r\n\r\n", re.DOTALL
)
_LAST_CHUNK = b"0\r\n\r\n"


async def rehearse(config: Config, site: Site, proven: Sequence[Proven]) -> int:
    """Answer at most MAX_REQUESTS requests, for at most `config.rehearsal` seconds; returns how many were answered.

    `proven` is what the goldens brought for the configuration's first model. Nothing of it shows in the site.
    """
    if not config.rehearsal:
        return 0
    plays = [play for served in site.repository if (play := _play_of(served, config, proven)) is not None]
    answered = 0
    with contextlib.suppress(TimeoutError, OSError):  # a start never fails for it
        async with asyncio.timeout(config.rehearsal):
            for play in plays:
                async with _stage(play, config, site) as stage:
                    async for _ in stage.ask(play.questions, MAX_REQUESTS // len(plays)):
                        answered += 1
    return answered


@dataclass(frozen=True)
class _Question:
    """One request, but for its first lines."""

    path: str
    body: bytes
    headers: str = ""


@dataclass(frozen=True)
class _Play:
    """What is asked for one served model, and what answers; without an executor a thread of its own."""

    served: ServedModel
    model: Model
    executor: Executor | None
    questions: tuple[_Question, ...]


def _play_of(served: ServedModel, config: Config, proven: Sequence[Proven]) -> _Play | None:
    """None where no request is known that is harmless and small."""
    model = served.model
    quick = model.warmed is not None and model.warmed < SLOW_S
    if quick and isinstance(served.executor, ThreadExecutor):
        play = _Play(served, model, served.executor, tuple(_about_zeros(model, served.name)))
    elif proven and (served.name, served.version) == (config.model.name, config.model.version):
        path = f"/models/{served.name}/predict"
        questions = tuple(_Question(path, each.body, "Accept: application/json\r\n") for each in proven)
        play = _Play(served, _repeating(model, proven[0].answer), None, questions)
    else:
        return None
    questions = tuple(each for each in play.questions if len(each.body) <= MAX_BODY)
    return replace(play, questions=questions) if questions else None


def _about_zeros(model: Model, name: str) -> Iterator[_Question]:
    """The row that the model has been warmed with: as V2's JSON, as V2's bytes, and as native JSON."""
    zeros = zeros_for(model, 1)
    if zeros is None:
        return
    infer = f"/v2/models/{name}/infer"
    shapes = {name: list(array.shape) for name, array in zeros.items()}
    tensors: list[dict[str, Any]] = [
        {"name": spec.name, "shape": shapes[spec.name], "datatype": spec.datatype}
        for spec in model.inputs
        if spec.name in zeros
    ]
    if all(np.prod(shape) <= MAX_BODY for shape in shapes.values()):
        values = [tensor | {"data": zeros[tensor["name"]].ravel().tolist()} for tensor in tensors]
        yield _Question(infer, msgspec.json.encode({"inputs": values}))
        lists = {name: array.tolist() for name, array in zeros.items()}
        yield _Question(f"/models/{name}/predict", msgspec.json.encode(lists))
    sized = [tensor | {"parameters": {"binary_data_size": zeros[tensor["name"]].nbytes}} for tensor in tensors]
    head = msgspec.json.encode({"inputs": sized, "parameters": {"binary_data_output": True}})
    blobs = b"".join(array.tobytes() for array in zeros.values())
    yield _Question(infer, head + blobs, f"Inference-Header-Content-Length: {len(head)}\r\n")


def _repeating(model: Model, answer: Any) -> Model:
    """The model's face, behind which everything is answered with this and nothing is called."""
    face: Any = copy.copy(model)
    face.run = lambda calls: [answer] * len(calls)
    face.stream = lambda _: (item for item in answer)  # which can be closed
    face.steady, face.packing = False, None
    return face  # type: ignore[no-any-return]


@asynccontextmanager
async def _stage(play: _Play, config: Config, site: Site) -> AsyncIterator[_Stage]:
    """The second set of parts, for as long as the block takes."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    log = Log(config.log_level, nowhere)
    executor = play.executor or _own_thread(play.model)
    server = _second_server(play, executor, config, site, log)
    callers: list[_Caller] = []
    try:
        while len(callers) < _AT_ONCE:
            callers.append(await _Caller.connected(server))
        yield _Stage(callers, log)
    finally:
        for caller in callers:
            caller.close()
        server.abort_all()
        if play.executor is None:
            await executor.close(0.0)
        log.close()
        os.close(nowhere)


def _second_server(play: _Play, executor: Executor, config: Config, site: Site, log: Log) -> Server:
    metrics, repository, health = Metrics(config.image_digest), Repository(), Health()
    health.state = State.READY
    answers = Answers(metrics, log, None, Info(config.answer_info, config.image_digest))
    settings = play.served.settings
    settings = replace(settings, serving=replace(settings.serving, cache_bytes=0, max_batch_delay=0.0))
    counts = metrics.of(settings.name, settings.version)
    repository.add(ServedModel(settings, play.model, executor, answers, counts))
    faces = mount(replace(site, repository=repository, health=health, metrics=metrics), _FACES)
    return Server(Application(faces, answers, config.limits), config.limits)


def _own_thread(model: Model) -> ThreadExecutor:
    executor = ThreadExecutor()
    executor.load(lambda: model)
    executor.attach()
    return executor


@dataclass(frozen=True)
class _Stage:
    """Callers that are connected to the second set of parts, and its log."""

    callers: Sequence[_Caller]
    log: Log

    async def ask(self, questions: Sequence[_Question], most: int) -> AsyncIterator[None]:
        """Ask so many requests at most, several at once; once for each that is answered well, ends at one that is not.

        Half of them come directly, half through a proxy that numbers requests; of either, half are logged one by one.
        """
        rounds = most // len(self.callers)
        numbers = itertools.count(1)
        for turn, question in enumerate(itertools.islice(itertools.cycle(questions), rounds)):
            if turn == rounds // 2:
                self.log.access_budget = 0
            for caller in self.callers:
                number = next(numbers)
                await caller.send(question, f"X-Request-Id: rehearsal-{number}\r\n" if number % 2 else "")
            for caller in self.callers:
                if not await caller.hears():
                    return
                yield None


class _Caller:
    """The other end of a connection."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connected(cls, server: Server) -> _Caller:
        """A caller with a connection of its own."""
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: Connection(server), theirs)
        return cls(ours)

    async def send(self, question: _Question, identity: str) -> None:
        """One request."""
        head = (
            f"POST {question.path} HTTP/1.1\r\nHost: localhost\r\n{identity}{question.headers}"
            f"Content-Type: application/json\r\nContent-Length: {len(question.body)}\r\n\r\n"
        )
        await self._loop.sock_sendall(self._end, head.encode() + question.body)

    async def hears(self) -> bool:
        """Whether its answer is 200, read to its end."""
        heard = b""
        while data := await self._loop.sock_recv(self._end, 65_536):
            heard += data
            head = _HEAD.match(heard)
            if head is None and b"\r\n\r\n" in heard:
                return False
            if head is not None and (
                len(heard) >= head.end() + int(head[1]) if head[1] else heard.endswith(_LAST_CHUNK)
            ):
                return True
        return False

    def close(self) -> None:
        """Hang up."""
        self._end.close()
