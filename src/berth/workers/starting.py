"""The start of a model in worker processes. loading.py imports this when a model wants workers, and not before: the
pool and all below it would be a tenth of every other server's start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from berth.calls import Target
from berth.config import ModelSettings
from berth.metrics import ModelMetrics
from berth.model import Model
from berth.workers.crew import Event, PoolSettings
from berth.workers.pool import WorkerPool
from berth.workers.remote import remote_model
from berth.workers.template import Template


async def start_pool(
    settings: ModelSettings, template: Template, load: Callable[[], Model], event: Event, ask: Any
) -> tuple[WorkerPool, Model, Sequence[Target]]:
    """Workers that have all loaded the model; raises what `load` raises. `event` hears of them, `ask` takes calls."""
    serving = settings.serving
    pool_settings = PoolSettings(serving.workers, serving.request_timeout, serving.worker_memory)
    pool = WorkerPool(template, load, pool_settings, event, ask)
    description = await pool.start()
    try:
        return pool, remote_model(settings, description), description.targets
    except BaseException:
        await pool.close(0.0)
        raise


def measure(executor: Any, metrics: ModelMetrics) -> None:
    """Let the metrics of a model ask its workers."""
    assert isinstance(executor, WorkerPool)
    metrics.workers, metrics.processes = executor.counts, executor.facts
