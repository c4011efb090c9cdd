"""BERTH_* environment -> one validated value.

Few, grouped, frozen values; an unknown or bad setting stops the start with a line that names it. `__main__` reads the
environment once and hands parts of the result to whoever needs them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from berth.errors import ConfigError
from berth.tracing import TraceSettings, read_trace_settings

MIB = 1024 * 1024
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class ServingSettings:
    """How one model is served: batches, its queue, where it runs, what is remembered. Times in seconds.

    0 `hang_timeout`: without. 0 `workers`: in the server's own process. 0 bytes of `worker_memory`: no watermark.
    0 `cache_bytes`: no cache.
    """

    max_batch_size: int = 64
    batch_sizes: tuple[int, ...] = ()
    max_batch_delay: float = 0.0
    max_queue: int = 1024
    max_queue_bytes: int = 256 * MIB
    max_concurrency: int = 64
    request_timeout: float = 60.0
    hang_timeout: float = 300.0
    workers: int = 0
    worker_memory: int = 0
    cache_bytes: int = 0
    cache_ttl: float = 60.0


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
    serving: ServingSettings = field(default_factory=ServingSettings)
    at_start: bool = True


@dataclass(frozen=True)
class ListenSettings:
    """Where requests arrive; an answered activation socket replaces host, port and socket."""

    host: str
    port: int
    socket: str
    activation: str


@dataclass(frozen=True)
class HostedSettings:
    """The paths that Vertex AI has chosen; empty elsewhere."""

    health_route: str = ""
    predict_route: str = ""


@dataclass(frozen=True)
class Limits:
    """Every bound of the server that is not a model's: bytes, connections and seconds."""

    max_body_bytes: int
    max_connections: int
    request_timeout: float
    keep_alive: float
    header_timeout: float
    drain_timeout: float
    min_body_rate: int = 0  # bytes a second, once the header timeout has passed
    max_ratio: int = 200  # of a compressed body
    max_pixels: int = 64_000_000  # of a picture


@dataclass(frozen=True)
class Config:
    """Everything that the environment says."""

    models: tuple[ModelSettings, ...]
    listen: ListenSettings
    limits: Limits
    goldens: Path
    log_level: str
    model_control: bool
    image_digest: str = ""
    answer_info: bool = False
    selftest: bool = False
    tracing: TraceSettings = field(default_factory=TraceSettings)
    hosted: HostedSettings = field(default_factory=HostedSettings)

    @property
    def model(self) -> ModelSettings:
        """The first model: what a request without a name means, and what the commands ask."""
        return self.models[0]


@dataclass(frozen=True)
class _Setting:
    default: str
    parse: Callable[[str], Any] = str


def read_config(environment: Mapping[str, str]) -> Config:
    """The configuration; ConfigError names the setting, what is wrong with it and what would be right."""
    _refuse_unknown(environment)
    values = {name: _value(name, setting, environment) for name, setting in _SETTINGS.items()}
    serving = _serving(values)
    if values["BERTH_MODELS"]:
        models = _several(values["BERTH_MODELS"], environment, serving)
    else:
        models = (_only(values, serving),)
    return Config(
        models=models,
        listen=ListenSettings(
            host=values["BERTH_HOST"],
            port=_port(environment, values["BERTH_PORT"]),
            socket=values["BERTH_SOCKET"],
            activation=values["BERTH_ACTIVATION_SOCKET"],
        ),
        limits=Limits(
            max_body_bytes=values["BERTH_MAX_BODY_BYTES"],
            max_connections=values["BERTH_MAX_CONNECTIONS"],
            request_timeout=values["BERTH_REQUEST_TIMEOUT_S"],
            keep_alive=values["BERTH_KEEP_ALIVE_S"],
            header_timeout=values["BERTH_HEADER_TIMEOUT_S"],
            drain_timeout=values["BERTH_DRAIN_TIMEOUT_S"],
            min_body_rate=values["BERTH_MIN_BODY_RATE"],
            max_ratio=values["BERTH_MAX_DECOMPRESSION_RATIO"],
            max_pixels=values["BERTH_MAX_IMAGE_PIXELS"],
        ),
        goldens=Path(values["BERTH_GOLDENS"]),
        log_level=values["BERTH_LOG_LEVEL"],
        model_control=values["BERTH_MODEL_CONTROL"],
        image_digest=values["BERTH_IMAGE_DIGEST"],
        answer_info=values["BERTH_ANSWER_INFO"],
        selftest=values["BERTH_SELFTEST"],
        tracing=read_trace_settings(environment),
        hosted=HostedSettings(_route("AIP_HEALTH_ROUTE", environment), _route("AIP_PREDICT_ROUTE", environment)),
    )


def _serving(values: Mapping[str, Any]) -> ServingSettings:
    sizes = values["BERTH_BATCH_SIZES"]
    return ServingSettings(
        max_batch_size=sizes[-1] if sizes else values["BERTH_MAX_BATCH_SIZE"],
        batch_sizes=sizes,
        max_batch_delay=values["BERTH_MAX_BATCH_DELAY_MS"] / 1000,
        max_queue=values["BERTH_MAX_QUEUE"],
        max_queue_bytes=values["BERTH_MAX_QUEUE_BYTES"],
        max_concurrency=values["BERTH_MAX_CONCURRENCY"],
        request_timeout=values["BERTH_REQUEST_TIMEOUT_S"],
        hang_timeout=values["BERTH_HANG_TIMEOUT_S"],
        workers=values["BERTH_WORKERS"],
        worker_memory=values["BERTH_WORKER_MEMORY_BYTES"],
        cache_bytes=values["BERTH_CACHE_BYTES"],
        cache_ttl=values["BERTH_CACHE_TTL_S"],
    )


def _only(values: Mapping[str, Any], serving: ServingSettings) -> ModelSettings:
    model = ModelSettings(
        name=values["BERTH_MODEL_NAME"],
        version=values["BERTH_MODEL_VERSION"],
        description=values["BERTH_MODEL_DESCRIPTION"],
        predictor=values["BERTH_PREDICTOR"],
        format=values["BERTH_FORMAT"],
        weights=values["BERTH_WEIGHTS"],
        options=values["BERTH_OPTIONS"],
        threads=values["BERTH_THREADS"],
        serving=serving,
    )
    _check_model(model)
    return model


def _several(path: str, environment: Mapping[str, str], serving: ServingSettings) -> tuple[ModelSettings, ...]:
    """The models of a file, or of the JSON itself where the setting begins with a bracket.

    The keys are the settings' names, in lower case, without BERTH_ and BERTH_MODEL_. What an entry leaves out is as the
    environment says.
    """
    for name in _OF_ONE_MODEL:
        if name in environment:
            raise ConfigError(f"{name} and BERTH_MODELS: set one of them, not both")
    inline = path.lstrip().startswith("[")
    where = "BERTH_MODELS" if inline else f"BERTH_MODELS: {path}"
    try:
        text = path.encode() if inline else Path(path).read_bytes()
        entries = msgspec.json.decode(text, type=list[dict[str, Any]])
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: expected a JSON array of models: {error}") from error
    if not entries:
        raise ConfigError(f"{where} names no model")
    models = tuple(_entry(f"{where}: [{index}]", entry, serving) for index, entry in enumerate(entries))
    if len({(model.name, model.version) for model in models}) < len(models):
        raise ConfigError(f"{where}: two models have the same name and version")
    return models


def _entry(where: str, entry: Mapping[str, Any], serving: ServingSettings) -> ModelSettings:
    values: dict[str, Any] = {name: setting.parse(setting.default) for name, setting in _OF_ONE_MODEL.items()}
    given: dict[str, Any] = {}
    at_start = entry.get("at_start", True)
    if not isinstance(at_start, bool):
        raise ConfigError(f"{where}.at_start: expected true or false, got {at_start!r}")
    for key, value in entry.items():
        if key == "at_start":
            continue
        name, known = _KEYS.get(key, ("", None))
        if known is None:
            near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{where}.{key}: no such key; did you mean {near}?")
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        try:
            given[name] = known.parse(text)
        except ValueError as error:
            raise ConfigError(f"{where}.{key}: {error}, got {text!r}") from error
    try:
        model = _only(values | given, serving)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    overrides = _serving({**_as_values(serving), **given})
    return replace(model, serving=overrides, at_start=at_start)


def _as_values(serving: ServingSettings) -> dict[str, Any]:
    """The settings that a `ServingSettings` was made from."""
    return {
        "BERTH_MAX_BATCH_SIZE": serving.max_batch_size,
        "BERTH_BATCH_SIZES": serving.batch_sizes,
        "BERTH_MAX_BATCH_DELAY_MS": serving.max_batch_delay * 1000,
        "BERTH_MAX_QUEUE": serving.max_queue,
        "BERTH_MAX_QUEUE_BYTES": serving.max_queue_bytes,
        "BERTH_MAX_CONCURRENCY": serving.max_concurrency,
        "BERTH_REQUEST_TIMEOUT_S": serving.request_timeout,
        "BERTH_HANG_TIMEOUT_S": serving.hang_timeout,
        "BERTH_WORKERS": serving.workers,
        "BERTH_WORKER_MEMORY_BYTES": serving.worker_memory,
        "BERTH_CACHE_BYTES": serving.cache_bytes,
        "BERTH_CACHE_TTL_S": serving.cache_ttl,
    }


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
    """BERTH_PORT, or the port that the platform has chosen: Vertex AI's, then Cloud Run's."""
    name = next((name for name in ("BERTH_PORT", "AIP_HTTP_PORT", "PORT") if name in environment), "BERTH_PORT")
    if name == "BERTH_PORT":
        return port
    try:
        return _whole(1, 65535)(environment[name])
    except ValueError as error:
        raise ConfigError(f"{name}: {error}, got {environment[name]!r}") from error


def _route(name: str, environment: Mapping[str, str]) -> str:
    path = environment.get(name, "")
    if path and not path.startswith("/"):
        raise ConfigError(f"{name}: expected a path that begins with /, got {path!r}")
    return path


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


_OF_ONE_MODEL: dict[str, _Setting] = {
    "BERTH_MODEL_NAME": _Setting("model", _text),
    "BERTH_MODEL_VERSION": _Setting("1", _text),
    "BERTH_MODEL_DESCRIPTION": _Setting(""),
    "BERTH_PREDICTOR": _Setting("", _predictor),
    "BERTH_FORMAT": _Setting("", _format),
    "BERTH_WEIGHTS": _Setting(""),
    "BERTH_OPTIONS": _Setting("{}", _options),
    "BERTH_THREADS": _Setting("1", _whole(1, 1024)),
}
_OF_SERVING: dict[str, _Setting] = {
    "BERTH_MAX_BATCH_SIZE": _Setting("64", _whole(1, 1_000_000)),
    "BERTH_BATCH_SIZES": _Setting("", _sizes),
    "BERTH_MAX_BATCH_DELAY_MS": _Setting("0", _number(0, 60_000)),
    "BERTH_MAX_QUEUE": _Setting("1024", _whole(1, 1_000_000)),
    "BERTH_MAX_QUEUE_BYTES": _Setting(str(256 * MIB), _whole(1, 2**40)),
    "BERTH_MAX_CONCURRENCY": _Setting("64", _whole(1, 100_000)),
    "BERTH_REQUEST_TIMEOUT_S": _Setting("60", _number(0.001, 86_400)),
    "BERTH_HANG_TIMEOUT_S": _Setting("300", _number(0, 86_400)),
    "BERTH_WORKERS": _Setting("0", _whole(0, 1024)),
    "BERTH_WORKER_MEMORY_BYTES": _Setting("0", _whole(0, 2**40)),
    "BERTH_CACHE_BYTES": _Setting("0", _whole(0, 2**40)),
    "BERTH_CACHE_TTL_S": _Setting("60", _number(0.001, 31_536_000)),
}
_KEYS = {
    name.removeprefix("BERTH_").removeprefix("MODEL_").lower(): (name, setting)
    for name, setting in (_OF_ONE_MODEL | _OF_SERVING).items()
}
_SETTINGS: dict[str, _Setting] = {
    **_OF_ONE_MODEL,
    **_OF_SERVING,
    "BERTH_MODELS": _Setting(""),
    "BERTH_GOLDENS": _Setting("goldens", _text),
    "BERTH_HOST": _Setting("0.0.0.0", _text),  # noqa: S104  a container's own network, or none
    "BERTH_PORT": _Setting("8080", _whole(0, 65535)),
    "BERTH_SOCKET": _Setting(""),
    "BERTH_ACTIVATION_SOCKET": _Setting("/run/berth/activate.sock"),
    "BERTH_MAX_BODY_BYTES": _Setting(str(64 * MIB), _whole(1, 2**31 - 1)),
    "BERTH_MAX_DECOMPRESSION_RATIO": _Setting("200", _whole(1, 1_000_000)),
    "BERTH_MAX_IMAGE_PIXELS": _Setting("64000000", _whole(1, 2**40)),
    "BERTH_MIN_BODY_RATE": _Setting("240", _whole(0, 2**30)),
    "BERTH_MAX_CONNECTIONS": _Setting("10000", _whole(1, 1_000_000)),
    "BERTH_KEEP_ALIVE_S": _Setting("620", _number(0.1, 86_400)),
    "BERTH_HEADER_TIMEOUT_S": _Setting("10", _number(0.1, 3_600)),
    "BERTH_DRAIN_TIMEOUT_S": _Setting("25", _number(0, 3_600)),
    "BERTH_MODEL_CONTROL": _Setting("off", _switch),
    "BERTH_LOG_LEVEL": _Setting("info", _log_level),
    "BERTH_ANSWER_INFO": _Setting("off", _switch),
    "BERTH_SELFTEST": _Setting("off", _switch),
    "BERTH_IMAGE_DIGEST": _Setting("", _digest),
}
