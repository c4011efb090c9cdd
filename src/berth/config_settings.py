"""The BERTH_* variables: names, defaults, and how each one's text becomes a value.

A parser raises ValueError with what it expected. config.py groups the values, and says which variable was wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

MIB = 1024 * 1024
LOG_LEVELS = ("debug", "info", "warning", "error")


class Setting(msgspec.Struct, frozen=True):
    """A variable's default, as text, and what makes its text a value."""

    default: str
    parse: Callable[[str], Any] = str


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("expected a text that is not empty")
    return text


def whole(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers within bounds."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise ValueError(f"expected a whole number from {low} to {high}") from error
        if not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return value

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """A parser of numbers within bounds."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError as error:
            raise ValueError(f"expected a number from {low:g} to {high:g}") from error
        if not low <= value <= high:
            raise ValueError(f"expected a number from {low:g} to {high:g}")
        return value

    return parse


def _predictor(text: str) -> str:
    module, colon, name = text.partition(":")
    if text and not (colon and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise ValueError('expected "module:Class"')
    return text


def _format(text: str) -> str:
    if text and not text.isidentifier():
        raise ValueError('expected the name of a backend, for example "onnx"')
    return text


def _options(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ValueError(f"expected a JSON object ({error})") from error


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.strip("[]").split(",")) if text.strip("[] ") else ()
    except ValueError as error:
        raise ValueError("expected whole numbers, smallest first, for example 1,8,64") from error
    if any(size < 1 for size in sizes) or list(sizes) != sorted(set(sizes)):
        raise ValueError("expected whole numbers, smallest first, for example 1,8,64")
    return sizes


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError("expected on or off")
    return text == "on"


def _digest(text: str) -> str:
    if text and not re.fullmatch("sha256:[0-9a-f]{64}", text):
        raise ValueError("expected sha256: and 64 hexadecimal digits")
    return text


def _log_level(text: str) -> str:
    if text not in LOG_LEVELS:
        raise ValueError(f"expected one of {', '.join(LOG_LEVELS)}")
    return text


OF_ONE_MODEL: dict[str, Setting] = {
    "BERTH_MODEL_NAME": Setting("model", _text),
    "BERTH_MODEL_VERSION": Setting("1", _text),
    "BERTH_MODEL_DESCRIPTION": Setting(""),
    "BERTH_PREDICTOR": Setting("", _predictor),
    "BERTH_FORMAT": Setting("", _format),
    "BERTH_WEIGHTS": Setting(""),
    "BERTH_OPTIONS": Setting("{}", _options),
    "BERTH_THREADS": Setting("1", whole(1, 1024)),
}
OF_SERVING: dict[str, Setting] = {
    "BERTH_MAX_BATCH_SIZE": Setting("64", whole(1, 1_000_000)),
    "BERTH_BATCH_SIZES": Setting("", _sizes),
    "BERTH_MAX_BATCH_DELAY_MS": Setting("0", number(0, 60_000)),
    "BERTH_MAX_QUEUE": Setting("1024", whole(1, 1_000_000)),
    "BERTH_MAX_QUEUE_BYTES": Setting(str(256 * MIB), whole(1, 2**40)),
    "BERTH_MAX_CONCURRENCY": Setting("64", whole(1, 100_000)),
    "BERTH_REQUEST_TIMEOUT_S": Setting("60", number(0.001, 86_400)),
    "BERTH_HANG_TIMEOUT_S": Setting("300", number(0, 86_400)),
    "BERTH_WORKERS": Setting("0", whole(0, 1024)),
    "BERTH_WORKER_MEMORY_BYTES": Setting("0", whole(0, 2**40)),
    "BERTH_CACHE_BYTES": Setting("0", whole(0, 2**40)),
    "BERTH_CACHE_TTL_S": Setting("60", number(0.001, 31_536_000)),
}
KEYS = {
    name.removeprefix("BERTH_").removeprefix("MODEL_").lower(): (name, setting)
    for name, setting in (OF_ONE_MODEL | OF_SERVING).items()
}
SETTINGS: dict[str, Setting] = {
    **OF_ONE_MODEL,
    **OF_SERVING,
    "BERTH_MODELS": Setting(""),
    "BERTH_GOLDENS": Setting("goldens", _text),
    "BERTH_HOST": Setting("0.0.0.0", _text),  # noqa: S104  a container's own network, or none
    "BERTH_PORT": Setting("8080", whole(0, 65535)),
    "BERTH_SOCKET": Setting(""),
    "BERTH_ACTIVATION_SOCKET": Setting("/run/berth/activate.sock"),
    "BERTH_MAX_BODY_BYTES": Setting(str(64 * MIB), whole(1, 2**31 - 1)),
    "BERTH_MAX_DECOMPRESSION_RATIO": Setting("200", whole(1, 1_000_000)),
    "BERTH_MAX_IMAGE_PIXELS": Setting("64000000", whole(1, 2**40)),
    "BERTH_MIN_BODY_RATE": Setting("240", whole(0, 2**30)),
    "BERTH_MAX_CONNECTIONS": Setting("10000", whole(1, 1_000_000)),
    "BERTH_KEEP_ALIVE_S": Setting("620", number(0.1, 86_400)),
    "BERTH_HEADER_TIMEOUT_S": Setting("10", number(0.1, 3_600)),
    "BERTH_DRAIN_TIMEOUT_S": Setting("25", number(0, 3_600)),
    "BERTH_MODEL_CONTROL": Setting("off", _switch),
    "BERTH_LOG_LEVEL": Setting("info", _log_level),
    "BERTH_ANSWER_INFO": Setting("off", _switch),
    "BERTH_SELFTEST": Setting("off", _switch),
    "BERTH_IMAGE_DIGEST": Setting("", _digest),
}
