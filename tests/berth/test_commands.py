"""`python -m berth predict | schema | selftest | version`, and how goldens are compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import berth
from berth.errors import GoldenError
from berth.goldens import Tolerance, difference, read_goldens
from tests.berth.support import predictor, run
from tests.berth.test_native import png


def test_version() -> None:
    assert run("version").stdout.strip() == berth.__version__


def test_predict_reads_inputs_from_its_arguments(tmp_path: Path) -> None:
    done = run("predict", "-i", "x=3", "-i", "label=7", **predictor("Structured"))
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"label": "7", "score": 1.5, "vector": [3, 3, 3]}
    (tmp_path / "a.png").write_bytes(png())
    picture = run("predict", "-i", f"image=@{tmp_path}/a.png", **predictor("Pictures"))
    assert json.loads(picture.stdout)["shape"] == [3, 4, 3]


def test_predict_reads_json_from_standard_input() -> None:
    done = run("predict", stdin=b'{"x": 4}', **predictor("Structured"))
    assert json.loads(done.stdout)["score"] == 2


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        (["-i", "x=three"], b"", "$.x"),
        (["-i", "x"], b"", "NAME=VALUE"),
        (["-i", "x=@/no/such/file"], b"", "cannot be read"),
        ([], b"{", "not valid JSON"),
        ([], b"{}", "missing required field `x`"),
    ],
)
def test_predict_says_what_is_wrong_with_its_input(arguments: list[str], stdin: bytes, words: str) -> None:
    done = run("predict", *arguments, stdin=stdin, **predictor("Structured"))
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_predict_shows_the_traceback_of_a_predictor_that_raises() -> None:
    done = run("predict", "-i", "x=1", **predictor("RaisesInPredict"))
    assert done.returncode == 1
    assert "RuntimeError: broken" in done.stderr


def test_an_unknown_command_is_refused() -> None:
    assert run("fly").returncode == 2


def test_schema_prints_tensors_and_json_schema() -> None:
    done = run("schema", **predictor("Structured", MODEL_NAME="m", MODEL_VERSION="9"))
    schema = json.loads(done.stdout)
    assert schema["name"] == "m"
    assert schema["version"] == "9"
    assert schema["contract"] == berth.CONTRACT
    assert [item["name"] for item in schema["outputs"]] == ["label", "score", "vector"]
    assert schema["openapi"]["components"]["schemas"]["Input"]["required"] == ["x"]


def golden(folder: Path, file: str, **content: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{file}.json").write_text(json.dumps(content))


def test_selftest_passes_when_every_golden_holds(tmp_path: Path) -> None:
    folder = tmp_path / "goldens"
    golden(folder, "one", inputs={"x": 3}, outputs={"label": "a", "score": 1.5000001, "vector": [3, 3, 3]})
    golden(folder, "two", name="by name", inputs={"x": 1}, outputs={"label": "a", "score": 0.5, "vector": [1, 1, 1]})
    done = run("selftest", cwd=tmp_path, **predictor("Structured"))
    assert done.returncode == 0, done.stdout
    assert "2 of 2 goldens hold" in done.stdout
    assert "by name" in done.stdout


def test_selftest_fails_naming_the_path_that_differs(tmp_path: Path) -> None:
    golden(tmp_path, "one", inputs={"x": 3}, outputs={"label": "a", "score": 1.5, "vector": [3, 3, 4]})
    golden(tmp_path, "two", inputs={"y": 3}, outputs=None)
    near = {"label": "a", "score": 1.6, "vector": [3, 3, 3]}
    golden(tmp_path, "three", inputs={"x": 3}, outputs=near, tolerance={"absolute": 0.2})
    done = run("selftest", **predictor("Structured", GOLDENS=str(tmp_path)))
    assert done.returncode == 1
    assert "$.vector[2]: expected 4, got 3.0" in done.stdout
    assert "1 of 3 goldens hold" in done.stdout


def test_selftest_takes_files_beside_the_golden(tmp_path: Path) -> None:
    (tmp_path / "grey.png").write_bytes(png(2, 2))
    expected = {"shape": [2, 2, 3], "mean": 100, "type": "image/png", "extra": None}
    golden(tmp_path, "picture", inputs={"image": "@grey.png"}, outputs=expected)
    done = run("selftest", **predictor("Pictures", GOLDENS=str(tmp_path)))
    assert done.returncode == 0, done.stdout + done.stderr


def test_selftest_reports_a_predictor_that_raises(tmp_path: Path) -> None:
    golden(tmp_path, "one", inputs={"x": 1}, outputs=1)
    done = run("selftest", **predictor("RaisesInPredict", GOLDENS=str(tmp_path)))
    assert done.returncode == 1
    assert "predict failed: broken" in done.stdout


def test_selftest_without_goldens_is_a_failure(tmp_path: Path) -> None:
    done = run("selftest", cwd=tmp_path, **predictor("Structured"))
    assert done.returncode == 1
    assert "no goldens" in done.stderr


BAD_GOLDENS = ["{", "{}", '{"inputs": [], "outputs": 1}', '{"inputs": {}, "outputs": 1, "tolerence": {}}']


@pytest.mark.parametrize("content", BAD_GOLDENS)
def test_a_file_that_is_no_golden_is_an_error_that_names_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(GoldenError, match=r"bad\.json"):
        read_goldens(tmp_path)


@pytest.mark.parametrize("path", ["@../secret", "@/etc/passwd", "@nothing.png"])
def test_a_golden_may_not_reach_outside_its_folder(tmp_path: Path, path: str) -> None:
    golden(tmp_path / "goldens", "one", inputs={"image": path}, outputs=1)
    (tmp_path / "secret").write_text("s")
    with pytest.raises(GoldenError):
        read_goldens(tmp_path / "goldens")


@pytest.mark.parametrize(
    ("expected", "got", "words"),
    [
        (1, 1.0000001, ""),
        (1, 1.1, "$: expected 1, got 1.1"),
        (1_000_000, 1_000_000.5, ""),
        (True, 1, "$: expected true, got 1"),
        (None, None, ""),
        (None, 0, "$: expected null, got 0"),
        ("a", "b", '$: expected "a", got "b"'),
        ([1, [2, 3]], [1, [2, 4]], "$[1][1]: expected 3, got 4"),
        ([1], [1, 2], "$: expected 1 items, got 2"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "$.a.b: expected 1, got 2"),
        ({"a": 1}, {}, "$.a: expected 1, got nothing"),
        ({}, {"a": 1}, "$.a: expected nothing, got 1"),
        ({"a": 1}, [1], '$: expected {"a":1}, got [1]'),
    ],
)
def test_answers_are_compared_with_tolerance_and_by_path(expected: Any, got: Any, words: str) -> None:
    assert difference(expected, got, Tolerance()) == words


def test_the_program_berth_finds_the_predictor_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text("class P:\n    def predict(self, a: int) -> int:\n        return a + 1\n")
    program = Path(sys.executable).with_name("berth")
    done = subprocess.run(
        [program, "predict", "-i", "a=1"],
        cwd=tmp_path, env={**os.environ, "BERTH_PREDICTOR": "here:P"}, capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
