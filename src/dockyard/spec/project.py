"""The project: what `dockyard.toml` says, as one frozen, validated value.

Field names are the keys of the file; `spec.load` reads it, `build` turns it into an image. Unknown keys and wrong
types are refused with their path (`serve.max_batch_size`), by msgspec's strict conversion.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

Codec = Literal["gzip", "zstd"]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9]+(?:[._-][a-z0-9]+)*\Z", max_length=100)]

CLASS_REFERENCE = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of dockyard.toml: a key that is not a field is an error."""


class AnyModel(Table, frozen=True, kw_only=True):
    """What is served: a predictor class of the project, or a model file in a known format."""

    name: Name
    version: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\Z", max_length=100)] = "1"
    """The image's tag, so it has only what tags may have."""
    description: str = ""
    predictor: str = ""
    """`module:Class`, when the project has code."""
    format: Literal["", "onnx", "sklearn"] = ""
    """The backend that loads `weights`, when it has none."""
    weights: tuple[str, ...] | str = ()
    """Files or globs, relative to the project; they get layers of their own."""
    options: dict[str, Any] = field(default_factory=dict)
    """Passed to the backend as they are."""

    @property
    def weight_patterns(self) -> tuple[str, ...]:
        """The weights as a tuple, whichever way they were written."""
        return (self.weights,) if isinstance(self.weights, str) else self.weights

    def entry(self, file: str) -> dict[str, Any]:
        """What BERTH_MODELS says of it; `file` is the path that its format loads."""
        own: dict[str, Any] = {"name": self.name, "version": self.version}
        if self.description:
            own["description"] = self.description
        if self.predictor:
            return own | {"predictor": self.predictor}
        return own | {"format": self.format, "weights": file, "options": self.options}


class Model(AnyModel, frozen=True, kw_only=True):
    """The model that requests without a name mean, and that gives the image its name."""

    license: str = ""
    """Of the model itself, as an SPDX expression such as `Apache-2.0`; shown in its card and bill of materials."""
    card: str = "MODEL_CARD.md"
    """A text about the model for people: what it is for, what it was trained on. Attached to the image if it exists."""
    goldens: str = "goldens"
    """Folder of inputs with their expected outputs, relative to the project."""


class FurtherModel(AnyModel, frozen=True, kw_only=True):
    """Another model in the same image; keys of [serve] that it repeats are its own."""

    at_start: bool = True
    """Whether it is loaded before the server is ready, or only when a caller asks for that."""
    max_batch_size: Annotated[int, Meta(ge=1, le=65536)] | None = None
    batch_sizes: tuple[Annotated[int, Meta(ge=1, le=65536)], ...] | None = None
    max_batch_delay_ms: Annotated[float, Meta(ge=0, le=60_000)] | None = None
    max_queue: Annotated[int, Meta(ge=1)] | None = None
    max_queue_bytes: Annotated[int, Meta(ge=1)] | None = None
    max_concurrency: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    request_timeout_s: Annotated[float, Meta(gt=0)] | None = None
    workers: Annotated[int, Meta(ge=0, le=1024)] | None = None
    worker_memory_bytes: Annotated[int, Meta(ge=0)] | None = None
    cache_bytes: Annotated[int, Meta(ge=0)] | None = None
    cache_ttl_s: Annotated[float, Meta(gt=0)] | None = None
    threads: Annotated[int, Meta(ge=1, le=1024)] | None = None

    def entry(self, file: str) -> dict[str, Any]:
        """What BERTH_MODELS says of it."""
        own = [name for name in self.__struct_fields__ if name not in AnyModel.__struct_fields__]
        given = {name: getattr(self, name) for name in own}
        return super().entry(file) | {name: value for name, value in given.items() if value is not None}


class Build(Table, frozen=True, kw_only=True):
    """What goes into the image around the model."""

    requirements: tuple[str, ...] | str = ()
    """Python requirements as a list, or the name of a requirements.txt or pyproject.toml."""
    packages: tuple[Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9+.-]+\Z")], ...] = ()
    """Debian packages."""
    base: str = "debian"
    """`debian`, `oci:FOLDER[:NAME]`, `archive:FILE`, or an image in a registry (`localhost:5000/base@sha256:...`)."""
    mirror: str = ""
    """A Debian mirror to use in place of this machine's configured sources."""
    suite: str = ""
    """The Debian release, such as `bookworm`; by default this machine's own."""
    exclude: tuple[str, ...] = ()
    """Globs of project files that stay out of the image."""
    allow_secrets: tuple[str, ...] = ()
    """Globs of files (and `environment.NAME`) that look like secrets and may be in the image all the same."""
    compression: Codec = "gzip"
    trim: bool = True
    """Leave out of wheels what no server reads: tests, sources in C, debug information."""
    leave_out: tuple[str, ...] = ()
    """Globs of installed files of wheels, such as `pkg/data/*`, that stay out of the image too."""


class Serve(Table, frozen=True, kw_only=True):
    """How berth serves the model; each key is the BERTH_* variable of the same name."""

    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    max_batch_size: Annotated[int, Meta(ge=1, le=65536)] | None = None
    batch_sizes: tuple[Annotated[int, Meta(ge=1, le=65536)], ...] | None = None
    max_batch_delay_ms: Annotated[float, Meta(ge=0, le=60_000)] | None = None
    max_body_bytes: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    max_decompression_ratio: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    max_image_pixels: Annotated[int, Meta(ge=1, le=2**40)] | None = None
    min_body_rate: Annotated[int, Meta(ge=0, le=2**30)] | None = None
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    max_queue: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    max_queue_bytes: Annotated[int, Meta(ge=1, le=2**40)] | None = None
    max_concurrency: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    request_timeout_s: Annotated[float, Meta(ge=0.001, le=86_400)] | None = None
    hang_timeout_s: Annotated[float, Meta(ge=0, le=86_400)] | None = None
    keep_alive_s: Annotated[float, Meta(ge=0.1, le=86_400)] | None = None
    header_timeout_s: Annotated[float, Meta(ge=0.1, le=3_600)] | None = None
    drain_timeout_s: Annotated[float, Meta(ge=0, le=3_600)] | None = None
    workers: Annotated[int, Meta(ge=0, le=1024)] | None = None
    worker_memory_bytes: Annotated[int, Meta(ge=0, le=2**40)] | None = None
    cache_bytes: Annotated[int, Meta(ge=0, le=2**40)] | None = None
    cache_ttl_s: Annotated[float, Meta(ge=0.001, le=31_536_000)] | None = None
    threads: Annotated[int, Meta(ge=1, le=1024)] | None = None
    log_level: Literal["debug", "info", "warning", "error"] | None = None
    answer_info: Literal["on", "off"] | None = None

    def environment(self) -> dict[str, str]:
        """The BERTH_* variables of the keys that were given."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {f"BERTH_{name.upper()}": _text(value) for name, value in values.items() if value is not None}


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


class Run(Table, frozen=True, kw_only=True):
    """The limits of a container of this model; `dockyard run` reads them from the image's labels."""

    memory: Annotated[str, Meta(pattern=r"^\d+(\.\d+)?\s*([KMG]i?B?|B)?\Z")] = "2GiB"
    cpus: Annotated[float, Meta(gt=0, le=1024)] = 1.0
    pids: Annotated[int, Meta(ge=16, le=100_000)] = 256


class Project(Table, frozen=True, kw_only=True):
    """The whole of dockyard.toml."""

    model: Model
    models: tuple[FurtherModel, ...] = ()
    build: Build = field(default_factory=Build)
    serve: Serve = field(default_factory=Serve)
    run: Run = field(default_factory=Run)
    environment: dict[Annotated[str, Meta(pattern=r"^[A-Za-z_]\w*\Z")], str] = field(default_factory=dict)
    """Variables of the predictor's own; BERTH_* ones belong in [serve]."""

    @property
    def every_model(self) -> tuple[AnyModel, ...]:
        """The model, and those further ones."""
        return (self.model, *self.models)
