"""BERTH_* environment -> one validated value.

Few, grouped, frozen values; an unknown or bad setting stops the start with a line that names it. `__main__` reads the
environment once and hands parts of the result to whoever needs them.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from berth.errors import ConfigError

MIB = 1024 * 1024
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class ModelSettings:
    """Which model is served: a predictor ("module:Class"), or a backend's format with its weights."""

    name: str
    version: str
    description: str
    predictor: str
    format: str
    weights: str
    options: Mapping[str, Any]
    threads: int


@dataclass(frozen=True)
class ListenSettings:
    """Where requests arrive; an answered activation socket replaces host, port and socket."""

    host: str
    port: int
    socket: str
    activation: str


@dataclass(frozen=True)
class Limits:
    """Every bound of the server: bytes, rows, requests and seconds."""

    max_body_bytes: int
    max_batch_size: int
    max_batch_delay: float
    max_queue: int
    max_concurrency: int
    request_timeout: float
    keep_alive: float
    header_timeout: float
    drain_timeout: float


@dataclass(frozen=True)
class Config:
    """Everything that the environment says."""

    model: ModelSettings
    listen: ListenSettings
    limits: Limits
    goldens: Path
    log_level: str


@dataclass(frozen=True)
class _Setting:
    default: str
    parse: Callable[[str], Any] = str


def read_config(environment: Mapping[str, str]) -> Config:
    """The configuration; ConfigError names the setting, what is wrong with it and what would be right."""
    _refuse_unknown(environment)
    values = {name: _value(name, setting, environment) for name, setting in _SETTINGS.items()}
    model = ModelSettings(
        name=values["BERTH_MODEL_NAME"],
        version=values["BERTH_MODEL_VERSION"],
        description=values["BERTH_MODEL_DESCRIPTION"],
        predictor=values["BERTH_PREDICTOR"],
        format=values["BERTH_FORMAT"],
        weights=values["BERTH_WEIGHTS"],
        options=values["BERTH_OPTIONS"],
        threads=values["BERTH_THREADS"],
    )
    _check_model(model)
    return Config(
        model=model,
        listen=ListenSettings(
            host=values["BERTH_HOST"],
            port=_port(environment, values["BERTH_PORT"]),
            socket=values["BERTH_SOCKET"],
            activation=values["BERTH_ACTIVATION_SOCKET"],
        ),
        limits=Limits(
            max_body_bytes=values["BERTH_MAX_BODY_BYTES"],
            max_batch_size=values["BERTH_MAX_BATCH_SIZE"],
            max_batch_delay=values["BERTH_MAX_BATCH_DELAY_MS"] / 1000,
            max_queue=values["BERTH_MAX_QUEUE"],
            max_concurrency=values["BERTH_MAX_CONCURRENCY"],
            request_timeout=values["BERTH_REQUEST_TIMEOUT_S"],
            keep_alive=values["BERTH_KEEP_ALIVE_S"],
            header_timeout=values["BERTH_HEADER_TIMEOUT_S"],
            drain_timeout=values["BERTH_DRAIN_TIMEOUT_S"],
        ),
        goldens=Path(values["BERTH_GOLDENS"]),
        log_level=values["BERTH_LOG_LEVEL"],
    )


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    for name in environment:
        if name.startswith("BERTH_") and name not in _SETTINGS:
            near = difflib.get_close_matches(name, _SETTINGS, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{name}: no such setting; did you mean {near}?")


def _value(name: str, setting: _Setting, environment: Mapping[str, str]) -> Any:
    text = environment.get(name, setting.default)
    try:
        return setting.parse(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}, got {text!r}") from error


def _port(environment: Mapping[str, str], port: int) -> int:
    if "BERTH_PORT" in environment or "PORT" not in environment:
        return port
    try:
        return _whole(1, 65535)(environment["PORT"])
    except ValueError as error:
        raise ConfigError(f"PORT: {error}, got {environment['PORT']!r}") from error


def _check_model(model: ModelSettings) -> None:
    if model.predictor and model.format:
        raise ConfigError("BERTH_PREDICTOR and BERTH_FORMAT: set one of them, not both")
    if not model.predictor and not model.format:
        raise ConfigError(
            'BERTH_PREDICTOR: no model to serve; set it to "module:Class", or set BERTH_FORMAT and BERTH_WEIGHTS'
        )
    if model.format and not model.weights:
        raise ConfigError(f"BERTH_WEIGHTS: BERTH_FORMAT={model.format} needs the path of a file")
    if model.predictor and (model.weights or model.options):
        raise ConfigError("BERTH_WEIGHTS and BERTH_OPTIONS belong to BERTH_FORMAT; a predictor loads its own files")


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("expected a text that is not empty")
    return text


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise ValueError(f"expected a whole number from {low} to {high}") from error
        if not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return value

    return parse


def _number(low: float, high: float) -> Callable[[str], float]:
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


def _log_level(text: str) -> str:
    if text not in LOG_LEVELS:
        raise ValueError(f"expected one of {', '.join(LOG_LEVELS)}")
    return text


_SETTINGS: dict[str, _Setting] = {
    "BERTH_MODEL_NAME": _Setting("model", _text),
    "BERTH_MODEL_VERSION": _Setting("1", _text),
    "BERTH_MODEL_DESCRIPTION": _Setting(""),
    "BERTH_PREDICTOR": _Setting("", _predictor),
    "BERTH_FORMAT": _Setting("", _format),
    "BERTH_WEIGHTS": _Setting(""),
    "BERTH_OPTIONS": _Setting("{}", _options),
    "BERTH_GOLDENS": _Setting("goldens", _text),
    "BERTH_HOST": _Setting("0.0.0.0", _text),  # noqa: S104  a container's own network, or none
    "BERTH_PORT": _Setting("8080", _whole(1, 65535)),
    "BERTH_SOCKET": _Setting(""),
    "BERTH_ACTIVATION_SOCKET": _Setting("/run/berth/activate.sock"),
    "BERTH_MAX_BODY_BYTES": _Setting(str(64 * MIB), _whole(1, 2**31 - 1)),
    "BERTH_MAX_BATCH_SIZE": _Setting("64", _whole(1, 1_000_000)),
    "BERTH_MAX_BATCH_DELAY_MS": _Setting("0", _number(0, 60_000)),
    "BERTH_MAX_QUEUE": _Setting("1024", _whole(1, 1_000_000)),
    "BERTH_MAX_CONCURRENCY": _Setting("64", _whole(1, 100_000)),
    "BERTH_REQUEST_TIMEOUT_S": _Setting("60", _number(0.001, 86_400)),
    "BERTH_KEEP_ALIVE_S": _Setting("620", _number(0.1, 86_400)),
    "BERTH_HEADER_TIMEOUT_S": _Setting("10", _number(0.1, 3_600)),
    "BERTH_DRAIN_TIMEOUT_S": _Setting("25", _number(0, 3_600)),
    "BERTH_THREADS": _Setting("1", _whole(1, 1024)),
    "BERTH_LOG_LEVEL": _Setting("info", _log_level),
}
