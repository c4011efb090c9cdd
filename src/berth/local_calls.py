"""Calls between models where there is no server: `berth predict` and `berth selftest` on a predictor that calls others.

Every model that is called is loaded in this process, the first time. commands.py is the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from berth.calls import Question, Target, loading
from berth.config import ModelSettings
from berth.errors import CallError, InputError, ModelError
from berth.model import Model, load_model
from berth.tensors import TensorRows


class LocalCaller:
    """Loads and calls the models of a configuration; `path` are the names of those that are being loaded."""

    def __init__(self, models: Sequence[ModelSettings], path: tuple[str, ...] = ()) -> None:
        self.targets: list[Target] = []
        self._settings = models
        self._path = path
        self._loaded: dict[Target, Model] = {}

    def load(self, settings: ModelSettings) -> Model:
        """Load a model whose handles speak through this; ModelError for a circle."""
        with loading(self):
            model = load_model(settings)
        for name, version in self.targets:
            if name in self._path:
                raise ModelError(f"models call each other in a circle: {' -> '.join((*self._path, name))}")
            if (name, version) not in self._loaded:
                wanted = self._wanted(name, version)
                self._loaded[name, version] = LocalCaller(self._settings, (*self._path, name)).load(wanted)
        return model

    def call(self, question: Question) -> Any:
        """Run the other model here and now."""
        model = self._loaded[question.name, question.version]
        try:
            call = model.prepare(model.signature.convert(question.inputs))
            answer = model.run([call])[0]
        except InputError as error:
            raise InputError(f"model {question.name!r}: {error}") from error
        except Exception as error:
            raise CallError(f"model {question.name!r}: {error}", 500) from error
        return answer.arrays() if isinstance(answer, TensorRows) else answer

    async def call_async(self, question: Question) -> Any:
        """The same in a thread, because another loop may have to run."""
        return await asyncio.to_thread(self.call, question)

    def _wanted(self, name: str, version: str | None) -> ModelSettings:
        for settings in reversed(self._settings):
            if settings.name == name and version in (None, settings.version):
                return settings
        known = ", ".join(sorted({repr(settings.name) for settings in self._settings}))
        raise ModelError(f"no model {name!r} to call; BERTH_MODELS names {known}")


def load_with_others(models: Sequence[ModelSettings]) -> Model:
    """The first of the models, with all that it calls."""
    return LocalCaller(models, (models[0].name,)).load(models[0])
