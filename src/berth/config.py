"""BERTH_* environment -> one validated value.

Few, grouped, frozen values; an unknown or bad setting stops the start with a line that names it. `__main__` reads the
environment once and hands parts of the result to whoever needs them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from berth.config_settings import KEYS, MIB, OF_ONE_MODEL, SETTINGS, Setting, whole
from berth.errors import ConfigError
from berth.tracing import TraceSettings, read_trace_settings


class ServingSettings(msgspec.Struct, frozen=True):
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


class ModelSettings(msgspec.Struct, frozen=True):
    """Which model is served: a predictor ("module:Class"), or a backend's format with its weights."""

    name: str
    version: str
    description: str
    predictor: str
    format: str
    weights: str
    options: Mapping[str, Any]
    threads: int
    serving: ServingSettings = msgspec.field(default_factory=ServingSettings)
    at_start: bool = True


class ListenSettings(msgspec.Struct, frozen=True):
    """Where requests arrive; an answered activation socket replaces host, port and socket."""

    host: str
    port: int
    socket: str
    activation: str


class HostedSettings(msgspec.Struct, frozen=True):
    """The paths that Vertex AI has chosen; empty elsewhere."""

    health_route: str = ""
    predict_route: str = ""


class Limits(msgspec.Struct, frozen=True):
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


class Config(msgspec.Struct, frozen=True):
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
    tracing: TraceSettings = msgspec.field(default_factory=TraceSettings)
    hosted: HostedSettings = msgspec.field(default_factory=HostedSettings)

    @property
    def model(self) -> ModelSettings:
        """The first model: what a request without a name means, and what the commands ask."""
        return self.models[0]


def read_config(environment: Mapping[str, str]) -> Config:
    """The configuration; ConfigError names the setting, what is wrong with it and what would be right."""
    _refuse_unknown(environment)
    values = {name: _value(name, setting, environment) for name, setting in SETTINGS.items()}
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
    for name in OF_ONE_MODEL:
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
    values: dict[str, Any] = {name: setting.parse(setting.default) for name, setting in OF_ONE_MODEL.items()}
    given: dict[str, Any] = {}
    at_start = entry.get("at_start", True)
    if not isinstance(at_start, bool):
        raise ConfigError(f"{where}.at_start: expected true or false, got {at_start!r}")
    for key, value in entry.items():
        if key == "at_start":
            continue
        name, known = KEYS.get(key, ("", None))
        if known is None:
            near = _nearest(key, KEYS)
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
    return msgspec.structs.replace(model, serving=overrides, at_start=at_start)


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
        if name.startswith("BERTH_") and name not in SETTINGS:
            near = _nearest(name, SETTINGS)
            raise ConfigError(f"{name}: no such setting; did you mean {near}?")


def _nearest(name: str, known: Iterable[str]) -> str:
    difflib = importlib.import_module("difflib")  # for mistakes only
    nearest: str = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return nearest


def _value(name: str, setting: Setting, environment: Mapping[str, str]) -> Any:
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
        return whole(1, 65535)(environment[name])
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
