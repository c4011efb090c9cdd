"""Every error that berth raises on purpose, in one tree.

    BerthError
    ├── ConfigError      a BERTH_* setting is unknown or bad; the start stops with exit code 2
    ├── ModelError       the model cannot be found, loaded or run
    │   ├── SignatureError   the type hints of `predict` cannot be turned into a schema
    │   └── CallError        another model, which a predictor called, gave no answer
    ├── GoldenError      a golden cannot be read, or differs before the server is ready
    └── InputError       what the caller sent cannot be used; a predictor may raise it too, and the caller gets 422

Each text says what failed, where, and how to mend it.
"""

from __future__ import annotations


class BerthError(Exception):
    """The root: anything that berth raises on purpose."""


class ConfigError(BerthError):
    """A BERTH_* setting is unknown, missing or bad."""


class ModelError(BerthError):
    """The model cannot be found, loaded or run."""


class SignatureError(ModelError):
    """The type hints of `predict` cannot be turned into a schema."""


class CallError(ModelError):
    """Another model, which a predictor called, gave no answer.

    `status` says why, as it would to a caller from outside: 503 overloaded or not there, 504 too late, 500 failed.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status

    def __reduce__(self) -> tuple[type[CallError], tuple[str, int]]:
        return CallError, (str(self), self.status)


class GoldenError(BerthError):
    """A golden cannot be read, or differs before the server is ready."""


class InputError(BerthError, ValueError):
    """What the caller sent cannot be used; raise it in `predict` to answer 422 with this text."""
