"""`dockyard init`: what it writes is a project that builds."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from dockyard.spec.load import load_project
from tests.support.projects import CommandLine


def test_an_empty_folder_becomes_a_project_that_answers(dockyard: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "greeter"
    assert dockyard("init", str(folder)).returncode == 0
    built = dockyard("build", cwd=folder)
    assert built.returncode == 0, built.stderr
    answer = dockyard("predict", "greeter", "-i", "name=Ada", "-i", "times=2", "--engine", "runc")
    assert answer.stdout.strip() == '"Hello, Ada! Hello, Ada!"'


def test_text_that_looks_like_a_number_stays_text_where_the_schema_wants_text(
    dockyard: CommandLine, tmp_path: Path
) -> None:
    folder = tmp_path / "greeter"
    dockyard("init", str(folder))
    dockyard("build", cwd=folder)
    answer = dockyard("predict", "greeter", "-i", "name=42", "--engine", "runc")
    assert answer.stdout.strip() == '"Hello, 42!"'


def test_a_model_file_is_enough(dockyard: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"")
    assert dockyard("init", cwd=tmp_path).returncode == 0
    model = load_project(tmp_path).project.model
    assert (model.format, model.weight_patterns, model.predictor) == ("onnx", ("net.onnx",), "")


def test_several_model_files_are_several_models(dockyard: CommandLine, tmp_path: Path) -> None:
    for name in ("a.onnx", "Second One.onnx"):
        (tmp_path / name).write_bytes(b"")
    done = dockyard("init", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    project = load_project(tmp_path).project
    assert project.model.weight_patterns == ("Second One.onnx",)
    assert [(model.name, model.weight_patterns) for model in project.models] == [("a", ("a.onnx",))]
    assert not (tmp_path / "predictor.py").exists()


def test_every_table_is_explained(dockyard: CommandLine, tmp_path: Path) -> None:
    dockyard("init", str(tmp_path))
    text = (tmp_path / "dockyard.toml").read_text()
    assert set(tomllib.loads(text)) == {"model", "build", "serve", "run"}
    assert text.count("#") > 10


@pytest.mark.parametrize("text", ["def broken(:\n", "class A:\n    pass\n"])
def test_a_predictor_that_cannot_be_used_is_told_and_kept(dockyard: CommandLine, tmp_path: Path, text: str) -> None:
    (tmp_path / "predictor.py").write_text(text)
    done = dockyard("init", str(tmp_path))
    assert done.returncode == 1
    assert "predictor.py has no class with a method `predict`" in done.stderr
    assert (tmp_path / "predictor.py").read_text() == text
    assert not (tmp_path / "dockyard.toml").exists()


def test_a_broken_module_beside_the_predictor_does_not_stop_init(dockyard: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "predictor.py").write_text(
        "import helper\n\n\nclass A:\n    def predict(self, x: int) -> int:\n        return x\n"
    )
    (tmp_path / "helper.py").write_text("def broken(:\n")
    done = dockyard("init", str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_a_project_that_is_there_is_not_overwritten(dockyard: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "dockyard.toml").write_text("mine")
    done = dockyard("init", str(tmp_path))
    assert done.returncode == 1
    assert "--force" in done.stderr
    assert (tmp_path / "dockyard.toml").read_text() == "mine"


def test_verbs_are_listed_and_unknown_ones_refused(dockyard: CommandLine) -> None:
    listed = dockyard("--help").stdout
    assert all(verb in listed for verb in ("init", "build", "run", "predict", "ps", "logs", "stop"))
    wrong = dockyard("bild")
    assert wrong.returncode == 2
    assert "No such command" in wrong.stderr
