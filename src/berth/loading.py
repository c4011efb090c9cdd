"""Models come and go: from settings to a served model, at the start and at run time, and back.

The loader picks where a model runs (a thread, a loop for coroutines, worker processes) and puts it into the repository
when it can answer. A version that is loaded again replaces the old one only then. server.py loads what is wanted at the
start, V2's repository routes the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from berth.answers import Answers
from berth.async_executor import AsyncExecutor
from berth.calls import Caller, Target, loading
from berth.chain import Chain
from berth.config import ModelSettings
from berth.errors import BerthError
from berth.executor import Executor, ThreadExecutor
from berth.log import Log
from berth.metrics import Metrics
from berth.model import Model, load_model
from berth.predictors import find_predictor, kind_of
from berth.protocols.base import Refusal
from berth.repository import Repository
from berth.served import ServedModel
from berth.warmup import warm_up

if TYPE_CHECKING:
    from berth.workers.crew import Event
    from berth.workers.template import Template

UNLOAD_S = 30.0  # how long requests in flight of a model that goes are waited for


class Loader:
    """Loads and unloads the models that the configuration names."""

    def __init__(
        self,
        models: Sequence[ModelSettings],
        repository: Repository,
        answers: Answers,
        metrics: Metrics,
        log: Log,
        template: Template | None,
    ) -> None:
        self._models = models
        self._repository = repository
        self._answers = answers
        self._metrics = metrics
        self._log = log
        self._template = template
        self._chain = Chain(repository, models, answers.tracer)
        self._busy = asyncio.Lock()
        self._going: set[asyncio.Task[None]] = set()
        self.changed: Callable[[], None] = _nothing

    @property
    def names(self) -> list[tuple[str, str]]:
        """Name and version of every model that could be loaded."""
        return [(model.name, model.version) for model in self._models]

    async def load_at_start(self) -> None:
        """Load what is wanted at the start; raises what `load` raises."""
        for settings in self._models:
            if settings.at_start:
                await self._load(settings)

    async def load(self, name: str) -> None:
        """Load every version of a name, anew where it is loaded already; Refusal says why not."""
        wanted = [settings for settings in self._models if settings.name == name]
        if not wanted:
            known = ", ".join(sorted({repr(settings.name) for settings in self._models}))
            raise Refusal(404, f"no model {name!r} to load; this server was given {known}")
        async with self._busy:
            for settings in wanted:
                try:
                    await self._load(settings)
                    self._log.event("info", "loaded", model=name, version=settings.version)
                except BerthError as error:
                    raise Refusal(400, f"model {name!r} did not load: {error}") from error
                except Exception as error:
                    self._log.event("error", "load failed", model=name, error=repr(error))
                    raise Refusal(500, f"model {name!r} did not load; the log says why") from error

    async def unload(self, name: str) -> None:
        """Take every version of a name out; requests in flight are answered. Refusal (404) when there is none."""
        self._repository.find(name)
        async with self._busy:
            for served in [served for served in self._repository if served.name == name]:
                self._retire(served)

    async def close(self, patience: float) -> None:
        """End what runs the models."""
        closing = [served.executor.close(patience) for served in self._repository]
        await asyncio.gather(*closing, *self._going)

    async def _load(self, settings: ModelSettings) -> None:
        started = await start_linked(settings, self._template, self._log.event, self._chain)
        executor, model, targets = started
        try:
            self._chain.link((settings.name, settings.version), targets)
        except BaseException:
            await executor.close(0.0)
            raise
        metrics = self._metrics.of(settings.name, settings.version)
        if settings.serving.workers:
            _workers("starting").measure(executor, metrics)
        served = ServedModel(settings, model, executor, self._answers, metrics)
        if targets:
            served.why_incomplete = functools.partial(self._chain.missing, targets)
        old = self._repository.add(served)
        self.changed()
        if old is not None:
            self._end(old)

    def _retire(self, served: ServedModel) -> None:
        self._repository.remove(served)
        self._chain.unlink((served.name, served.version))
        self.changed()
        self._end(served)
        self._log.event("info", "unloaded", model=served.name, version=served.version)

    def _end(self, served: ServedModel) -> None:
        task = asyncio.ensure_future(_finish(served))
        self._going.add(task)
        task.add_done_callback(self._going.discard)


def fork_template(models: Sequence[ModelSettings]) -> Template | None:
    """The process that forks workers, if any model wants them; before threads, loops and sockets, after imports."""
    wanted = [model for model in models if model.serving.workers]
    for model in wanted:
        if model.predictor:
            find_predictor(model.predictor)
        else:
            with contextlib.suppress(ModuleNotFoundError):  # loading says it in words
                importlib.import_module(f"berth.backends.{model.format}")
    template: Template | None = _workers("template").Template() if wanted else None
    return template


def _workers(name: str) -> Any:
    """A module of berth.workers: who wants none does not pay for their import."""
    return importlib.import_module(f"berth.workers.{name}")


async def start_model(settings: ModelSettings, template: Template | None, event: Event) -> tuple[Executor, Model]:
    """Load a model that calls no other where its settings want it to run; raises what its `load` raises.

    `event` hears of its workers.
    """
    executor, model, _ = await start_linked(settings, template, event, None)
    return executor, model


async def start_linked(
    settings: ModelSettings, template: Template | None, event: Event, chain: Chain | None
) -> tuple[Executor, Model, Sequence[Target]]:
    """The same for one that calls others, and which these are."""
    serving = settings.serving
    if serving.workers:
        assert template is not None
        load_there = functools.partial(_load_warm, settings)
        ask = None if chain is None else chain.ask
        pool: tuple[Executor, Model, Sequence[Target]] = await _workers("starting").start_pool(
            settings, template, load_there, event, ask
        )
        return pool
    caller = None if chain is None else chain.caller()
    load = functools.partial(_load_calling, caller, settings)
    if settings.predictor and kind_of(find_predictor(settings.predictor).predict).asynchronous:
        asynchronous = AsyncExecutor(serving.max_concurrency, serving.hang_timeout)
        executor, model = await _load_in(asynchronous, functools.partial(load, asynchronous.wait))
    else:
        executor, model = await _load_in(ThreadExecutor(serving.hang_timeout), load)
    return executor, model, [] if caller is None else caller.targets


async def _load_in(executor: ThreadExecutor | AsyncExecutor, load: Callable[[], Model]) -> tuple[Executor, Model]:
    try:
        model = await asyncio.to_thread(executor.load, load)
    except BaseException:
        await executor.close(0.0)
        raise
    executor.attach()
    return executor, model


def _load_calling(caller: Caller | None, settings: ModelSettings, wait: Any = None) -> Model:
    if caller is None:
        return _load_warm(settings, wait)
    with loading(caller):
        return _load_warm(settings, wait)


def _load_warm(settings: ModelSettings, wait: Any = None) -> Model:
    model = load_model(settings, wait)
    warm_up(model, settings.serving.batch_sizes)
    return model


async def _finish(served: ServedModel) -> None:
    """Let a model that is gone answer what it has, and end what runs it."""
    deadline = asyncio.get_running_loop().time() + UNLOAD_S
    # An event would cost every request a step, for what happens once in a model's life.
    while served.in_flight and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await served.executor.close(1.0)


def _nothing() -> None:
    pass
