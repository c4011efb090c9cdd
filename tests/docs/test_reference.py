"""The reference says what the code does: keys, defaults, options, settings, routes, statuses, metrics, the image."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from berth import config, config_settings, http_server, server
from berth import grpc as berth_grpc
from berth.application import Application
from berth.log import Log
from berth.metrics import Metrics
from berth.protocols import v2
from berth.protocols.protobuf import FILES
from dockyard.build import content
from dockyard.build.builder import Built
from dockyard.spec.project import Build, FurtherModel, Model, Project, Run, Serve, Table
from tests.docs.pages import DOCS, rows, unquoted

REFERENCE = DOCS / "reference"
TOML, BERTH, IMAGE = (REFERENCE / f"{name}.md" for name in ("dockyard-toml", "berth", "image"))
TABLES: dict[str, type[Table]] = {
    "[model]": Model,
    "[[models]]": FurtherModel,
    "[build]": Build,
    "[serve]": Serve,
    "[run]": Run,
}
KINDS = {str: "text", int: "integer", float: "number", list: "list", dict: "table", bool: "boolean"}


@pytest.mark.parametrize(("name", "table"), TABLES.items())
def test_the_keys_of_a_table_are_all_there_with_their_defaults(name: str, table: type[Table]) -> None:
    documented = {unquoted(row[0]): row for row in rows(TOML, name)}
    fields = {field.name: field for field in msgspec.structs.fields(table)}
    assert list(documented) == list(fields)
    for key, (_, kind, default, _) in documented.items():
        assert default == shown_default(fields[key]).replace("True", "true"), key
        if default.startswith("`"):
            value = tomllib.loads(f"value = {unquoted(default)}")["value"]
            assert KINDS[type(value)] in kind, key


def test_what_stays_out_of_an_image_is_named() -> None:
    page = TOML.read_text()
    assert [name for name in (*content._EXCLUDED, *content._MARKERS) if f"`{name}`" not in page] == []


def test_every_table_is_there() -> None:
    sections = re.findall(r"^## \[+(\w+)\]+$", TOML.read_text(), re.M)
    assert sections == [field.name for field in msgspec.structs.fields(Project)]


def shown_default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "*required*"
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if default is None:
        return "*berth's*"
    if isinstance(default, str):
        return f'`"{default}"`'
    return {(): "`[]`"}.get(default, f"`{default}`") if isinstance(default, tuple) else f"`{default}`"


def test_the_command_line_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.TARGET.read_text() == generate.page(), "run python docs/generate.py"


def test_berths_settings_are_all_there_with_their_defaults() -> None:
    documented = {unquoted(row[0]): unquoted(row[1]) for row in rows(BERTH, "Settings")}
    assert documented == {name: setting.default for name, setting in config_settings.SETTINGS.items()}


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Application]:
    """A server's routes, with one model in it; no sockets."""
    (tmp_path / "routes_predictor.py").write_text("class P:\n    def predict(self, x: int) -> int:\n        return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"BERTH_PREDICTOR": "routes_predictor:P", "BERTH_MODEL_NAME": "NAME", "BERTH_MODEL_VERSION": "VERSION"}

    async def load() -> Application:
        parts = server._assemble(config.read_config(settings), server._Outside(Log("error")))
        await parts.loader.load_at_start()
        loaded.append(parts)
        return parts.application

    loaded: list[server._Parts] = []
    yield asyncio.run(load())
    asyncio.run(loaded[0].loader.close(1.0))


def test_berths_routes_are_all_there(application: Application) -> None:
    documented = {(row[0], unquoted(row[1])) for row in rows(BERTH, "Routes")}
    application._resolve(b"/docs")  # nobody has asked for this before, so now all protocols are there
    always = {(method, path) for path, route in application._faces._fixed.items() for method in route.handlers}
    assert always <= documented
    for method, path in documented:
        real = path.replace("{name}", "NAME").replace("{version}", "VERSION")
        assert method in application._resolve(real.encode()).handlers, path
    for action, (_, method, _) in v2._ACTIONS.items():
        assert {(method, f"/v2/models/{{name}}{part}{action}") for part in ("", "/versions/{version}")} <= documented


def test_berths_calls_are_all_there() -> None:
    assert berth_grpc.make_grpc  # its import has registered every service
    services = [(file.package, service) for file in FILES.values() for service in file.service]
    calls = {f"{package}.{service.name}/{method.name}" for package, service in services for method in service.method}
    assert {unquoted(row[0]) for row in rows(BERTH, "gRPC") if "/" in row[0]} == calls


def test_berths_statuses_are_those_that_it_has_words_for() -> None:
    assert {int(row[0]) for row in rows(BERTH, "Status codes")} <= set(http_server.REASONS)


@dataclass
class Hits:
    """What a cache counts."""

    hits: int
    misses: int


def test_berths_metrics_are_all_there() -> None:
    metrics = Metrics()
    metrics.traces = {"exported": 1}
    model = metrics.of("m", "1")
    model.workers["started"] += 1
    model.cache = Hits(1, 1)
    found = re.findall(r"^# TYPE (\S+) (\w+)$", metrics.text().decode(), re.M)
    assert [(unquoted(row[0]), row[1]) for row in rows(BERTH, "Metrics")] == found


@pytest.mark.slow
def test_an_image_keeps_what_its_page_promises(adder: Built) -> None:
    image = adder.image.config
    documented = {unquoted(row[0]): unquoted(row[1]) for row in rows(IMAGE, "Environment")}
    variables = dict(entry.split("=", 1) for entry in image.environment)
    assert {name: value for name, value in variables.items() if not name.startswith("BERTH_")} == documented
    labels = {unquoted(row[0]) for row in rows(IMAGE, "Labels") if "models with a `format`" not in row[1]}
    assert labels == set(image.labels)
    fields = {row[0]: unquoted(row[1]) for row in rows(IMAGE, "Configuration")}
    assert fields == {
        "Entrypoint": " ".join(image.entrypoint),
        "Cmd": " ".join(image.command),
        "User": image.user,
        "WorkingDir": image.working_dir,
        "ExposedPorts": " ".join(image.exposed_ports),
        "StopSignal": image.stop_signal,
    }
    titles = re.findall(r"\*\*([^*]+)\*\*", IMAGE.read_text().partition("\n## Layers\n")[2])
    assert "Python: NAME" in titles
    assert {layer.title for layer in adder.layers if not layer.title.startswith("Python: ")} <= set(titles)
