"""`berth batch`: rows in, JSON lines out; failures, resuming, signals, limits."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from berth.scoring.progress import Progress
from tests.berth.support import environment, predictor, run
from tests.berth.test_native import png

DEADLINE_S = 30.0


def batch(*words: str, model: str, stdin: bytes = b"", cwd: Path | None = None, **settings: str) -> Any:
    return run("batch", *words, stdin=stdin, cwd=cwd, PREDICTOR=f"models_batch:{model}", **settings)


def lines(values: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def numbers(values: Iterable[int]) -> bytes:
    return lines({"x": value} for value in values)


def rows(text: str | bytes | Path) -> list[dict[str, Any]]:
    content = text.read_text() if isinstance(text, Path) else text
    return [json.loads(line) for line in content.splitlines()]


def test_rows_run_together_and_come_out_in_their_order(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(numbers(range(1000, 1500)))
    done = batch(str(source), "-o", str(tmp_path / "out.jsonl"), model="Doubles", MAX_BATCH_SIZE="100")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    answers = rows(tmp_path / "out.jsonl")
    assert [answer["row"] for answer in answers] == list(range(1, 501))
    assert [answer["output"]["double"] for answer in answers] == [2 * value for value in range(1000, 1500)]
    assert {answer["output"]["batch"] for answer in answers} == {100}
    assert "500 rows (100%), 0 failed" in done.stderr


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_bad_row_fails_alone_and_the_exit_code_says_that_some_did(workers: str) -> None:
    values = [*range(12), 13, 14, 666, 15]
    stdin = numbers(values) + b'{"x": "no"}\n{"x": \n[]\n{"y": 1}\n' + numbers([16])
    done = batch("-", model="Doubles", stdin=stdin, WORKERS=workers)
    assert done.returncode == 3
    answers = rows(done.stdout)
    assert [answer["row"] for answer in answers] == list(range(1, len(values) + 6))
    errors = {answer["row"]: answer["error"] for answer in answers if "error" in answer}
    assert errors[13] == "RuntimeError: thirteen"
    assert errors[15] == "x: not this number"
    assert "Expected `int`, got `str`" in errors[17]
    assert "not valid JSON" in errors[18]
    assert "Expected `object`" in errors[19]
    assert "unknown field `y`" in errors[20]
    assert len(errors) == 6
    assert answers[-1]["output"]["double"] == 32
    assert "6 rows failed" in done.stderr
    assert "RuntimeError: thirteen" in done.stderr


def test_rows_run_in_worker_processes_when_they_are_asked_for() -> None:
    done = batch("-", model="Doubles", stdin=numbers(range(1000, 2000)), WORKERS="2", MAX_BATCH_SIZE="50")
    pids = {answer["output"]["pid"] for answer in rows(done.stdout)}
    assert done.returncode == 0
    assert 1 <= len(pids) <= 2


def test_a_row_that_kills_its_worker_fails_alone() -> None:
    done = batch("-", model="Deadly", stdin=numbers(range(30)), WORKERS="2")
    assert done.returncode == 3, done.stderr
    answers = rows(done.stdout)
    assert [answer["row"] for answer in answers if "error" in answer] == [14]
    assert "SIGKILL" in answers[13]["error"]
    assert [answer["output"] for answer in answers if "error" not in answer] == [x for x in range(30) if x != 13]


def test_predictors_that_await_or_yield_are_batched_too() -> None:
    waited = run("batch", "-", stdin=lines({"seconds": 0.2} for _ in range(100)), PREDICTOR="models_streams:Sleeper")
    assert [answer["output"] for answer in rows(waited.stdout)] == [0.2] * 100
    for model in ("Tokens", "AsyncTokens"):
        asked = [{"text": "a", "count": 2}, {"text": "break", "count": 5}, {"text": "b", "count": 0}]
        done = run("batch", "-", stdin=lines(asked), PREDICTOR=f"models_streams:{model}")
        assert done.returncode == 3
        first, second, third = rows(done.stdout)
        assert first["output"] == [{"text": "a", "index": 0}, {"text": "a", "index": 1}]
        assert second["error"] == "RuntimeError: a secret of the model"
        assert third["output"] == []


def test_blank_lines_are_no_rows_and_the_last_line_needs_no_end() -> None:
    done = batch("-", model="Doubles", stdin=b'\xef\xbb\xbf{"x": 1}\r\n\n  \n{"x": 2}')
    assert [(answer["row"], answer["output"]["double"]) for answer in rows(done.stdout)] == [(1, 2), (2, 4)]
    assert batch("-", model="Doubles").returncode == 0


def test_what_a_predictor_prints_does_not_come_between_the_answers() -> None:
    for workers in ("0", "1"):
        done = batch("-", model="Chatty", stdin=numbers([1, 2]), WORKERS=workers)
        assert rows(done.stdout) == [{"row": 1, "output": 1}, {"row": 2, "output": 2}]
        assert "predicting" in done.stderr


# CSV.


def test_csv_cells_are_parsed_by_the_signature(tmp_path: Path) -> None:
    table = tmp_path / "people.csv"
    table.write_text('name,age,tags,ratio\n"Ada, ""the first""",36,"[""a""]",0.5\n42,7,,\n"two\nlines",1,,2\n')
    done = batch(str(table), model="Person")
    assert done.returncode == 0, done.stderr
    assert [answer["output"] for answer in rows(done.stdout)] == [
        ['Ada, "the first"', 36, ["a"], 0.5],
        ["42", 7, [], None],
        ["two\nlines", 1, [], 2],
    ]


def test_a_csv_row_that_does_not_fit_fails_alone(tmp_path: Path) -> None:
    table = tmp_path / "people.tsv"
    table.write_bytes(b'name\tage\nAda\t36\nBob\nCy\tx\n"Di"x\t1\n\xff\t2\nEve\t5\t6\n\nFay\t6\n')
    done = batch(str(table), model="Person")
    assert done.returncode == 3
    found = [answer.get("output") or answer["error"] for answer in rows(done.stdout)]
    assert found[0] == ["Ada", 36, [], None]
    assert found[1] == "line 3 has 1 cells, and the header 2"
    assert "Expected `int`" in found[2]
    assert "line 5 is not CSV" in found[3]
    assert "line 6: 'utf-8'" in found[4]
    assert found[5] == "line 7 has 3 cells, and the header 2"
    assert found[6] == ["Fay", 6, [], None]


@pytest.mark.parametrize(
    ("header", "words", "said"),
    [
        ("name;nme", [], "column 'name;nme'"),
        ("name,aeg", [], "column 'aeg': the model has no such input; did you mean 'age'?"),
        ("name", [], "no column for 'age'"),
        ("name,name,age", [], "two columns have the name 'name'"),
        ("name,,age", [], "a column has no name"),
        ("name,age", ["--ignore", "id"], "--ignore id: the CSV has no such column"),
        ("", [], "the CSV is empty"),
    ],
)
def test_columns_that_can_never_fit_are_told_before_the_first_row(
    tmp_path: Path, header: str, words: list[str], said: str
) -> None:
    table = tmp_path / "people.csv"
    table.write_text(f"{header}\nAda,1\n" if header else "")
    done = batch(str(table), *words, model="Person")
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_columns_are_ignored_and_parted_as_asked() -> None:
    done = batch(
        "-", "-f", "csv", "--delimiter", ";", "--ignore", "id", model="Person", stdin=b"id;age;name\n1;2;Ada\n"
    )
    assert rows(done.stdout) == [{"row": 1, "output": ["Ada", 2, [], None]}]


# Folders.


def write_files(folder: Path) -> Path:
    (folder / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x").write_bytes(b"x")
    (folder / "b" / "two").write_bytes(b"22")
    (folder / "a.bin").write_bytes(b"1")
    (folder / "c é.bin").write_bytes(b"")
    return folder


def test_every_file_of_a_folder_is_a_row(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "files")
    done = batch(str(folder), model="Named")
    assert done.returncode == 0, done.stderr
    assert rows(done.stdout) == [
        {"row": 1, "file": "a.bin", "output": ["a.bin", 1]},
        {"row": 2, "file": "b/two", "output": ["b/two", 2]},
        {"row": 3, "file": "c é.bin", "output": ["c é.bin", 0]},
    ]
    assert [answer["output"] for answer in rows(batch(str(folder), model="Weighs").stdout)] == ["1 B", "2 B", "0 B"]


def test_a_file_that_is_no_picture_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(b"text")
    done = run("batch", str(tmp_path), **predictor("Pictures"))
    assert done.returncode == 3
    first, second = rows(done.stdout)
    assert first["output"]["shape"] == [3, 4, 3]
    assert (second["file"], second["row"]) == ("b.png", 2)
    assert "Expected an image" in second["error"]


def test_a_folder_comes_as_a_tar_through_a_pipe(tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(write_files(tmp_path / "files"), arcname="")
    done = batch("-", "-f", "tar", model="Named", stdin=content.getvalue())
    assert {answer["file"] for answer in rows(done.stdout)} == {"a.bin", "b/two", "c é.bin", ".hidden/x"}
    broken = batch("-", "-f", "tar", model="Named", stdin=content.getvalue()[:1500])
    assert broken.returncode == 1
    assert "broken" in broken.stderr


def test_a_model_without_one_file_input_is_told(tmp_path: Path) -> None:
    done = batch(str(write_files(tmp_path / "files")), model="Person")
    assert (done.returncode, done.stdout) == (1, "")
    assert "needs a model with one input that is a File" in done.stderr


# Resuming.


class Unfinished:
    """A batch of 200 slow rows that was killed on its way."""

    def __init__(self, folder: Path, number: signal.Signals) -> None:
        self.source, self.output, self.note = folder / "in.jsonl", folder / "out.jsonl", folder / "note"
        self.source.write_bytes(numbers(range(60)))
        self.settings = {"PREDICTOR": "models_batch:Paced", "DRAIN_TIMEOUT_S": "10"}
        process = subprocess.Popen(
            [sys.executable, "-m", "berth", "batch", str(self.source), "-o", str(self.output)],
            env={**environment(**self.settings), "NOTE": str(self.note)}, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            wait_for(lambda: self.output.exists() and self.output.read_bytes().count(b"\n") >= 5)
            process.send_signal(number)
            _, stderr = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
            process.wait()
        self.code, self.stderr = process.returncode, stderr.decode()

    def go_on(self, *words: str) -> Any:
        self.note.unlink()
        os.environ["NOTE"] = str(self.note)
        try:
            return run("batch", str(self.source), "-o", str(self.output), *words, **self.settings)
        finally:
            del os.environ["NOTE"]


def wait_for(condition: Any) -> None:
    give_up = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_a_batch_that_was_killed_goes_on_after_its_last_whole_row(tmp_path: Path) -> None:
    killed = Unfinished(tmp_path, signal.SIGKILL)
    assert killed.code == -signal.SIGKILL
    there = killed.output.read_bytes()
    whole = there.count(b"\n")
    assert 5 <= whole < 60
    killed.output.write_bytes(there + b'{"row":%d,"outp' % (whole + 1))
    done = killed.go_on()
    assert done.returncode == 0, done.stderr
    assert f"going on after row {whole}" in done.stderr
    assert rows(killed.output) == [{"row": number + 1, "output": number} for number in range(60)]
    assert killed.output.read_bytes().startswith(there)
    assert [int(line) for line in killed.note.read_text().split()] == list(range(whole, 60))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_after_what_runs_and_the_same_command_goes_on(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    stopped = Unfinished(tmp_path, number)
    assert stopped.code == code
    written = rows(stopped.output)
    begun = [int(line) for line in stopped.note.read_text().split()]
    assert [answer["output"] for answer in written] == begun, "what was begun was finished and written"
    assert len(written) < 60
    assert f"stopped after row {len(written)}; the same command goes on from there" in stopped.stderr
    assert stopped.go_on().returncode == 0
    assert [answer["output"] for answer in rows(stopped.output)] == list(range(60))


def test_a_row_that_takes_too_long_is_not_waited_for_beyond_the_drain_timeout() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "berth", "batch", "-"],
        env=environment(PREDICTOR="models_batch:Sleeps", DRAIN_TIMEOUT_S="0.5"), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(numbers([0, 600]))
        process.stdin.flush()
        assert json.loads(process.stdout.readline()) == {"row": 1, "output": 0}
        process.terminate()
        assert process.wait(DEADLINE_S) == 143
        assert process.stdout.read() == b""
    finally:
        process.kill()
        process.communicate()


def finished(tmp_path: Path, **settings: str) -> tuple[str, str]:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(numbers([1, 13, 3]))
    assert batch(str(source), "-o", str(output), model="Doubles", **settings).returncode == 3
    return str(source), str(output)


def test_a_batch_that_is_done_is_not_run_again_and_still_tells_its_failures(tmp_path: Path) -> None:
    source, output = finished(tmp_path)
    before = Path(output).read_bytes()
    again = batch(source, "-o", output, model="Doubles")
    assert again.returncode == 3
    assert "3 rows (100%), 1 failed" in again.stderr
    assert Path(output).read_bytes() == before


def test_an_input_or_a_model_that_has_changed_is_refused(tmp_path: Path) -> None:
    source, output = finished(tmp_path)
    before = Path(output).read_bytes()
    for content, words, settings, said in (
        (numbers([1, 13, 4]), (), {}, "the input has changed since it was begun (of the same size)"),
        (numbers([1, 13, 3, 4]), (), {}, "size 28 then, 37 now"),
        (numbers([1, 13, 3]), ("-f", "csv"), {}, "read as jsonl, and now as csv"),
        (numbers([1, 13, 3]), (), {"MODEL_VERSION": "2"}, "begun with model 1, and this is model 2"),
    ):
        Path(source).write_bytes(content)
        done = batch(source, "-o", output, *words, model="Doubles", **settings)
        assert done.returncode == 1
        assert said in done.stderr
        assert "--restart" in done.stderr
        assert Path(output).read_bytes() == before
    restarted = batch(source, "-o", output, "--restart", model="Doubles", MODEL_VERSION="2")
    assert restarted.returncode == 3
    assert batch(source, "-o", output, model="Doubles", MODEL_VERSION="2").returncode == 3


def test_a_changed_folder_is_refused(tmp_path: Path) -> None:
    folder, output = write_files(tmp_path / "files"), str(tmp_path / "out.jsonl")
    assert batch(str(folder), "-o", output, model="Named").returncode == 0
    (folder / "d").write_bytes(b"4")
    done = batch(str(folder), "-o", output, model="Named")
    assert done.returncode == 1
    assert "size 3 then, 4 now" in done.stderr
    inside = batch(str(folder), "-o", str(folder / "out.jsonl"), model="Named")
    assert inside.returncode == 1
    assert "lies in" in inside.stderr


def test_a_file_that_is_no_output_of_a_batch_is_not_touched(tmp_path: Path) -> None:
    source, output = finished(tmp_path)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    alone = batch(source, "-o", str(precious), model="Doubles")
    assert alone.returncode == 1
    assert "precious.origin" in alone.stderr
    Path(output).write_text('{"row":1,"output":1}\n{"row":3,"output":1}\n')
    gap = batch(source, "-o", output, model="Doubles")
    assert gap.returncode == 1
    assert "line 2 of" in gap.stderr
    piped = batch("-", "-o", str(precious), model="Doubles", stdin=numbers([1]))
    assert piped.returncode == 1
    assert "cannot be continued" in piped.stderr
    assert precious.read_text() == "mine"
    assert batch("-", "-o", str(precious), "--restart", model="Doubles", stdin=numbers([1])).returncode == 0
    assert len(rows(precious)) == 1


def test_two_batches_do_not_write_one_output(tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(numbers(range(2000)))
    first = subprocess.Popen(
        [sys.executable, "-m", "berth", "batch", str(source), "-o", str(output)],
        env={**environment(PREDICTOR="models_batch:Paced"), "NOTE": str(tmp_path / "note")},
    )
    try:
        wait_for(lambda: output.exists() and output.stat().st_size)
        second = batch(str(source), "-o", str(output), model="Doubles", MODEL_NAME="other")
        assert second.returncode == 1
        assert "being written by another batch" in second.stderr
    finally:
        first.kill()
        first.wait()


# Limits and words.


def test_a_line_or_file_beyond_the_limit_fails_alone(tmp_path: Path) -> None:
    long = b'{"x": 1' + b" " * 3_000_000 + b"}\n"
    done = batch("-", model="Doubles", stdin=numbers([1]) + long + numbers([2]), MAX_BODY_BYTES="1000")
    assert [answer["row"] for answer in rows(done.stdout) if "error" in answer] == [2]
    assert "more than 1000 bytes" in rows(done.stdout)[1]["error"]
    (tmp_path / "a").write_bytes(b"x" * 1001)
    (tmp_path / "b").write_bytes(b"x" * 1000)
    files = batch(str(tmp_path), model="Named", MAX_BODY_BYTES="1000")
    assert ["error" in answer for answer in rows(files.stdout)] == [True, False]
    table = b"name,age\n" + b"a" * 2000 + b",1\nAda,2\n" + b'"' + b"b\n" * 1000
    cells = batch("-", "-f", "csv", model="Person", stdin=table, MAX_BODY_BYTES="1000")
    assert ["error" in answer for answer in rows(cells.stdout)[:2]] == [True, False]
    assert cells.returncode == 3


def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    with source.open("wb") as file:
        for number in range(300):
            file.write(b'{"x": %d, "text": "%s"}\n' % (number, b"t" * 1_000_000))
    process = subprocess.Popen(
        [sys.executable, "-m", "berth", "batch", str(source)],
        env=environment(PREDICTOR="models_batch:Doubles", MAX_QUEUE_BYTES="4000000"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    status, most = Path("/proc", str(process.pid), "status"), 0
    while process.poll() is None:
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        most = max(most, int(found[1]) if found else 0)
        time.sleep(0.002)
    assert process.returncode == 3  # `text` is no input
    assert 0 < most < 150_000, "kB, for an input of 300 MB"


def test_rows_of_a_pipe_are_answered_while_it_stays_open() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "berth", "batch", "-"],
        env=environment(PREDICTOR="models_batch:Doubles"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for number in (1, 2):
            process.stdin.write(numbers([number]))
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["output"]["double"] == 2 * number
        process.terminate()
        assert process.wait(DEADLINE_S) == 143
    finally:
        process.kill()
        process.communicate()


def test_an_answer_that_cannot_be_written_ends_the_batch() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "berth", "batch", "-"], input=numbers(range(10)), stdout=full,
            stderr=subprocess.PIPE, env=environment(PREDICTOR="models_batch:Doubles"), timeout=DEADLINE_S, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert b"standard output cannot be written: No space left on device" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["/no/such/file"], 1, "/no/such/file does not exist"),
        (["."], 1, "needs a model with one input"),
        ([".", "-f", "csv"], 1, "which cannot be read as csv"),
        (["-", "-f", "folder"], 1, "standard input is no folder"),
        (["-", "-f", "xml"], 2, "invalid choice"),
        (["-", "-o", "/no/such/folder/out"], 1, "/no/such/folder/out cannot be written"),
        (["-", "-o", "/"], 1, "/ is a folder"),
        (["-", "--model", "other"], 2, "--model other: no such model"),
        (["-", "-f", "csv", "--delimiter", "ab"], 2, "expected one character"),
        (["-", "--ignore", "x"], 2, "are for CSV"),
        (["-", "--skip", "-1"], 2, "expected 0 or more"),
        ([], 2, "required: input"),
    ],
)
def test_wrong_words_are_told(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = batch(*words, model="Doubles", cwd=tmp_path)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_rows_that_were_done_elsewhere_are_left_out() -> None:
    done = batch("-", "--skip", "2", model="Doubles", stdin=numbers([1, 2, 3, 4]))
    assert [(answer["row"], answer["output"]["double"]) for answer in rows(done.stdout)] == [(3, 6), (4, 8)]


def test_one_of_several_models_is_named(tmp_path: Path) -> None:
    models = tmp_path / "models.json"
    models.write_text(json.dumps([
        {"name": "first", "predictor": "models_batch:Doubles"}, {"name": "second", "predictor": "models_batch:Deadly"},
    ]))  # fmt: skip
    done = run("batch", "-", "--model", "second", stdin=numbers([5]), MODELS=str(models))
    assert rows(done.stdout) == [{"row": 1, "output": 5}]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_model_file_takes_arrays_of_several_rows(weights: Path, workers: str) -> None:
    stdin = lines([{"x": [[1, 2]]}, {"x": [[1, 2], [3, 4]]}, {"x": [[1]]}])
    settings = {"FORMAT": "onnx", "WEIGHTS": str(weights / "double.onnx"), "WORKERS": workers}
    done = run("batch", "-", stdin=stdin, **settings)
    first, second, third = rows(done.stdout)
    assert (first["output"], second["output"]) == ({"y": [[2, 4]]}, {"y": [[2, 4], [6, 8]]})
    assert "error" in third
    table = run("batch", "-", "-f", "csv", stdin=b'x\n"[[1,2]]"\n', **settings)
    assert rows(table.stdout) == [{"row": 1, "output": {"y": [[2, 4]]}}]


def test_progress_says_how_much_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    progress = Progress("lines", 1000, lambda: now)
    progress.rows, progress.position = 50, 500
    progress.begin()
    progress.tell()
    assert capsys.readouterr().err == ""
    now += 11
    progress.rows, progress.failed, progress.position = 2250, 3, 600
    progress.tell()
    assert capsys.readouterr().err == "berth: 2,250 rows (60%), 3 failed, 200 rows/s, 44 s left\n"
    progress.tell()
    assert capsys.readouterr().err == ""
    live = Progress("live", None, lambda: now)
    now += 1
    live.rows = 3
    live.tell()
    assert capsys.readouterr().err == "\r\x1b[K3 rows, 0 failed, 3 rows/s"
    live.say("done")
    assert capsys.readouterr().err == "\r\x1b[Kberth: done\n"
