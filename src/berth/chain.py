"""Calls between the models of one server: from a predictor's handle into the other model's queue, and back.

A call is a request like any other from there on: admitted, batched, expired, counted and logged as route `chain`. The
loader says who calls whom (`link`), and a circle is refused there; so every call ends in a model that calls nobody, and
none can wait for itself. Models in the server's process call through `caller`, worker pools through `ask`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import functools
import itertools
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import msgspec
import numpy as np

from berth.answers import Exchange
from berth.calls import Question, Target, Told, current_deadline
from berth.config import ModelSettings
from berth.errors import InputError, ModelError
from berth.protocols.base import Head, Headers, Refusal, Response, Route
from berth.repository import Repository
from berth.served import ServedModel
from berth.tensors import TensorRows
from berth.tracing import CALL, Tracer, read_trace_context
from berth.work import Work

_INPUT_STATUS = 422
_GRACE_S = 5.0  # beyond the deadline, which the other model's queue keeps
_FIRST_NUMBER = 1 << 32  # request ids of their own
Node = tuple[str, str]


class _Asked(Exchange):
    """A question in the place of a request; `done` hears the answer, once."""

    done: Callable[[Told], None] | None = None
    value: Any = None

    def keep(self, served: ServedModel, answers: list[Any]) -> Response:
        """In the place of encoding: the answers as they are."""
        values = [answer.arrays() if isinstance(answer, TensorRows) else answer for answer in answers]
        self.value = values if served.model.streams else values[0]
        if served.remembers:  # what the cache gives again must not be changed
            self.value = copy.deepcopy(self.value)
        return Response(b"")

    def answer(self, response: Response) -> None:
        """Pass the answer on."""
        done, self.done = self.done, None
        if done is None:
            return
        if response.status == 200:
            done(Told(self.value))
        else:
            done(Told(None, response.status, response.body.decode()))


def _plain_error(status: int, text: str, _: Headers = ()) -> Response:
    return Response(text.encode(), status)


class Chain:
    """Who calls whom among the models of a server, and the calls themselves. On the event loop, but for callers."""

    def __init__(self, repository: Repository, models: Sequence[ModelSettings], tracer: Tracer | None = None) -> None:
        self._repository = repository
        self._tracer = tracer
        self._models = [(model.name, model.version) for model in models]
        self._calls: dict[Node, list[Target]] = {}
        self._numbers = itertools.count(_FIRST_NUMBER)
        self._route = Route("", "chain", {}, error=_plain_error)

    def link(self, node: Node, targets: Sequence[Target]) -> None:
        """A model that is about to serve calls these; ModelError for one that there is not, or for a circle."""
        known = ", ".join(sorted({repr(name) for name, _ in self._models}))
        for name, version in targets:
            if not self._meant((name, version)):
                what = f"{name!r}" if version is None else f"version {version!r} of {name!r}"
                raise ModelError(f"model {node[0]!r} calls {what}, which this server was not given; it has {known}")
        calls = {**self._calls, node: list(targets)}
        circle = self._circle(calls, (node,))
        if circle:
            path = " -> ".join(f"{name} (version {version})" for name, version in circle)
            raise ModelError(f"models call each other in a circle: {path}; every request would wait for itself")
        self._calls = calls

    def unlink(self, node: Node) -> None:
        """A model that is gone calls nobody."""
        self._calls.pop(node, None)

    def missing(self, targets: Sequence[Target]) -> str:
        """Why one of these cannot be called at the moment; nothing when all can."""
        for name, version in targets:
            try:
                why = self._repository.find(name, version).why_unready
            except Refusal:
                why = f"model {name!r}, which it calls, is not loaded"
            if why:
                return why
        return ""

    def ask(self, question: Question, deadline: float, done: Callable[[Told], None]) -> None:
        """Ask a model; `done` is called once, perhaps before this returns."""
        now = perf_counter()
        timeout = deadline - now
        try:
            if timeout <= 0:
                raise Refusal(504, "nobody waits for the answer any more")
            served = self._repository.find(question.name, question.version)
            calls = [served.model.prepare(_call(served, question))]
            exchange = self._asked(question, functools.partial(_named, question.name, done))
            exchange.started = now
            encode = functools.partial(exchange.keep, served)
            work = Work(served, calls, encode, _INPUT_STATUS, timeout if timeout < float("inf") else None)
            exchange.work, work.exchange = work, exchange
            served.submit(work)
            if exchange.span is not None:
                exchange.span.arrived = work.arrived
        except Refusal as refusal:
            status = 503 if refusal.status == 404 else refusal.status
            _named(question.name, done, Told(None, status, refusal.text))
        except InputError as error:
            _named(question.name, done, Told(None, _INPUT_STATUS, str(error)))

    def _asked(self, question: Question, done: Callable[[Told], None]) -> _Asked:
        """A question as a request of the trace that the caller runs in, and a span in it if it is recorded."""
        headers = {name.encode(): value.encode() for name, value in question.trace.items()}
        head = Head(CALL, question.name.encode(), b"", headers, route=self._route)
        exchange = _Asked(head, b"", done=done)
        exchange.number = next(self._numbers)
        head.trace = read_trace_context(headers)
        if self._tracer is not None and head.trace is not None:
            exchange.span = self._tracer.begin(head.trace, for_model=True)
        return exchange

    def caller(self) -> LoopCaller:
        """For a model in the server's process; called on the event loop."""
        return LoopCaller(self, asyncio.get_running_loop())

    def _meant(self, target: Target) -> list[Node]:
        return [node for node in self._models if node[0] == target[0] and target[1] in (None, node[1])]

    def _circle(self, calls: dict[Node, list[Target]], path: tuple[Node, ...]) -> tuple[Node, ...]:
        """A path that comes back to where it began, if there is one."""
        for target in calls.get(path[-1], []):
            for node in self._meant(target):
                if node == path[0]:
                    return (*path, node)
                if node not in path and (found := self._circle(calls, (*path, node))):
                    return found
        return ()


class LoopCaller:
    """Calls from a thread, or from another event loop, of the server's process."""

    def __init__(self, chain: Chain, loop: asyncio.AbstractEventLoop) -> None:
        self.targets: list[Target] = []
        self._chain = chain
        self._loop = loop

    def call(self, question: Question) -> Any:
        """Ask and wait."""
        deadline = current_deadline()
        patience = deadline - perf_counter() + _GRACE_S if deadline < float("inf") else None
        try:
            return self._ask(question, deadline).result(patience).unwrap()
        except TimeoutError:
            raise ModelError(f"model {question.name!r}: the server's event loop did not answer") from None

    async def call_async(self, question: Question) -> Any:
        """Ask and go on with other coroutines."""
        told = await asyncio.wrap_future(self._ask(question, current_deadline()))
        return told.unwrap()

    def _ask(self, question: Question, deadline: float) -> concurrent.futures.Future[Told]:
        future: concurrent.futures.Future[Told] = concurrent.futures.Future()

        def tell(told: Told) -> None:
            if not future.done():
                future.set_result(told)

        self._loop.call_soon_threadsafe(self._chain.ask, question, deadline, tell)
        return future


def _call(served: ServedModel, question: Question) -> Any:
    """The keyword arguments as the other model's signature wants them."""
    inputs = question.inputs
    if served.model.rowwise:  # a predictor may write into its input, which is the caller's
        inputs = {name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in inputs.items()}
    return served.model.signature.convert(inputs)


def _named(name: str, done: Callable[[Told], None], told: Told) -> None:
    """Tell, and say in errors whose they are."""
    done(told if told.status == 200 else msgspec.structs.replace(told, error=f"model {name!r}: {told.error}"))
