"""Tracebacks as `dockyard dev` shows them, from what Python really prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dockyard.dev.speech import Speech
from dockyard.dev.traces import parse, readable


def printed(folder: Path, code: str) -> list[str]:
    (folder / "main.py").write_text(code)
    done = subprocess.run([sys.executable, str(folder / "main.py")], capture_output=True, text=True, check=False)
    return done.stderr.splitlines()


def heard(folder: Path, lines: list[str], *, raw: bool = False) -> list[str]:
    said: list[str] = []
    speech = Speech(folder, lambda _, line: said.append(line), lambda: None, whole=False, raw=raw)
    for line in lines:
        speech.hear(line)
    speech.end()
    return said


def test_only_the_users_frames_are_shown(tmp_path: Path) -> None:
    lines = printed(tmp_path, "import json\n\ndef f():\n    json.loads('{')\n\nf()\n")
    assert (
        readable(parse(lines), tmp_path)
        == [
            "  main.py:6",
            "      f()",
            "  main.py:4 in f",
            "      json.loads('{')",
            "json.decoder.JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
            "  (3 frames outside the project are left out; --traceback shows them)",
        ]
        or readable(parse(lines), tmp_path)[0] == "  main.py:6 in <module>"
    )
    assert any("json/decoder.py" in line for line in readable(parse(lines), tmp_path, whole=True))


def test_all_frames_are_shown_when_none_is_the_users(tmp_path: Path) -> None:
    lines = printed(tmp_path, "import json\njson.loads('{')\n")
    shown = readable(parse(lines), tmp_path / "elsewhere")
    assert any("json/decoder.py" in line for line in shown)
    assert "left out" not in "".join(shown)


def test_a_chain_of_errors_is_shown_from_its_first_cause(tmp_path: Path) -> None:
    code = "try:\n    {}['a']\nexcept KeyError as error:\n    raise ValueError('two\\nlines') from error\n"
    said = heard(tmp_path, printed(tmp_path, code))
    assert said.index("KeyError: 'a'") < said.index("ValueError: two")
    assert "lines" in said
    assert "The above exception was the direct cause of the following exception:" in said
    event = {"level": "error", "message": "predict failed", "traceback": "\n".join(printed(tmp_path, code))}
    from_log = heard(tmp_path, [json.dumps(event)])
    assert from_log.index("KeyError: 'a'") < from_log.index("ValueError: two")


@pytest.mark.parametrize("line", ["{not json", "[1]", '{"a": 1}', "plain text", "  indented", ""])
def test_what_a_model_prints_passes_as_it_is(tmp_path: Path, line: str) -> None:
    assert heard(tmp_path, [line]) == [line]


def test_lines_after_a_traceback_are_no_part_of_it(tmp_path: Path) -> None:
    said = heard(tmp_path, [*printed(tmp_path, "1 / 0\n"), "  next", "last"])
    assert said[-3:] == ["ZeroDivisionError: division by zero", "  next", "last"]
    assert heard(tmp_path, ['{"level":"info","message":"x"}'], raw=True) == ['{"level":"info","message":"x"}']
