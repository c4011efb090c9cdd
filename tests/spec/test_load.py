"""dockyard.toml: what it may say, and that each mistake is told with its path and its mend."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from berth import config_settings
from dockyard.errors import ProjectError
from dockyard.spec.load import load_project
from dockyard.spec.project import Serve

MINIMAL = '[model]\nname = "m"\npredictor = "p:Q"\n'


def error_of(tmp_path: Path, text: str) -> str:
    (tmp_path / "dockyard.toml").write_text(text)
    with pytest.raises(ProjectError) as caught:
        load_project(tmp_path)
    assert caught.value.remedy
    return f"{caught.value.what}\n{caught.value.remedy}"


def test_a_minimal_project_has_defaults(tmp_path: Path) -> None:
    (tmp_path / "dockyard.toml").write_text(MINIMAL)
    project = load_project(tmp_path).project
    assert (project.model.version, project.build.base, project.serve.environment()) == ("1", "debian", {})


def test_serve_settings_become_variables_of_berth(tmp_path: Path) -> None:
    (tmp_path / "dockyard.toml").write_text(MINIMAL + '[serve]\nmax_batch_size = 8\nlog_level = "debug"\n')
    environment = load_project(tmp_path).project.serve.environment()
    assert environment == {"BERTH_MAX_BATCH_SIZE": "8", "BERTH_LOG_LEVEL": "debug"}


# What a project does not say: these are set by the build, by the engine, or by who serves several models.
OF_OTHERS = {
    *("model_name", "model_version", "model_description", "predictor", "format", "weights", "options", "goldens"),
    *("models", "model_control", "host", "socket", "activation_socket", "image_digest", "selftest"),
}


def test_every_setting_of_how_berth_serves_can_be_written_in_a_project() -> None:
    settings = {name.removeprefix("BERTH_").lower() for name in config_settings.SETTINGS}
    assert set(Serve.__struct_fields__) == settings - OF_OTHERS


@pytest.mark.parametrize("key", Serve.__struct_fields__)
def test_what_a_project_may_say_berth_accepts(key: str) -> None:
    """The ends of a key's range, as they arrive in the container: nothing that builds is refused at the start."""
    kind = next(field.type for field in msgspec.inspect.type_info(Serve).fields if field.name == key)
    bounds = [part for part in kind.types if isinstance(part, msgspec.inspect.IntType | msgspec.inspect.FloatType)]
    ends = [end for bound in bounds for end in (bound.ge, bound.le)]
    assert None not in ends
    for end in ends:
        (name, text), *_ = Serve(**{key: end}).environment().items()
        config_settings.SETTINGS[name].parse(text)


def test_a_missing_file_names_init(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="does not exist") as caught:
        load_project(tmp_path)
    assert "dockyard init" in caught.value.remedy


def test_what_is_not_toml_is_told_with_its_line(tmp_path: Path) -> None:
    assert "line 2" in error_of(tmp_path, "[model]\nname = \n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + "[serve]\nmax_batch_sise = 3\n", ["serve.max_batch_sise", "`max_batch_size`"]),
        (MINIMAL + '[serve]\nmax_batch_size = "3"\n', ["serve.max_batch_size", "expected `int", "'3'"]),
        (MINIMAL + "[serve]\nmax_batch_size = 0\n", ["serve.max_batch_size", ">= 1"]),
        (MINIMAL + '[build]\npackages = ["ok1", "Not OK"]\n', ["build.packages[1]", "'Not OK'"]),
        (MINIMAL + '[run]\nmemory = "lots"\n', ["run.memory", "'lots'"]),
        (MINIMAL + "[serve]\nrequest_timeout_s = inf\n", ["serve.request_timeout_s", "<= 86400"]),
        (MINIMAL + "[serve]\nrequest_timeout_s = nan\n", ["serve.request_timeout_s"]),
        (MINIMAL + "[serve]\nbatch_sizes = [8, 4]\n", ["serve.batch_sizes", "smallest first"]),
        ("serve = 3\n" + MINIMAL, ["`serve`", "object"]),
        (MINIMAL.replace('"m"', '"M y"'), ["model.name", "'M y'"]),
        (MINIMAL + 'version = "1 beta"\n', ["model.version", "'1 beta'"]),
        (MINIMAL + 'weigths = "w"\n', ["model.weigths", "`weights`"]),
        (MINIMAL + "[run]\ncpus = 0\n", ["run.cpus", "> 0"]),
        (MINIMAL + "[environment]\nCOUNT = 3\n", ["environment", "expected `str"]),
        (MINIMAL + "[bild]\n", ["bild", "`build`"]),
        ('[model]\npredictor = "p:Q"\n', ["model.name", "missing"]),
        ("", ["model", "missing"]),
        ('[model]\nname = "m"\n', ["either `predictor` or `format`", "neither"]),
        ('[model]\nname = "m"\npredictor = "p:Q"\nformat = "onnx"\nweights = "w"\n', ["both"]),
        ('[model]\nname = "m"\npredictor = "p.Q"\n', ["model.predictor", "module:Class"]),
        ('[model]\nname = "m"\nformat = "onnx"\n', ["loads one file", "names 0"]),
        ('[model]\nname = "m"\nformat = "onyx"\nweights = "w"\n', ["model.format", "'onyx'"]),
        (MINIMAL + '[[models]]\nname = "a"\npredictor = "p:Q"\nworker = 1\n', ["models[0].worker", "`workers`"]),
        (MINIMAL + '[[models]]\nname = "a"\npredictor = "p:Q"\nworkers = -1\n', ["models[0].workers", "-1"]),
        (MINIMAL + '[[models]]\nname = "a"\n', ["[models[0]] must have either", "neither"]),
        (MINIMAL + '[[models]]\nname = "a"\nformat = "onnx"\n', ["models[0].weights names 0"]),
        (MINIMAL + '[[models]]\nname = "m"\npredictor = "p:Q"\n', ["models[0] has the name and version", "'m', '1'"]),
        (MINIMAL + '[[models]]\npredictor = "p:Q"\n', ["models[0].name", "missing"]),
        (MINIMAL + '[environment]\nBERTH_PORT = "1"\n', ["BERTH_PORT", "[serve]"]),
    ],
)
def test_each_mistake_names_its_path(tmp_path: Path, text: str, said: list[str]) -> None:
    error = error_of(tmp_path, text)
    assert [part for part in said if part not in error] == [], error
