"""The comparison with other servers: it measures what answers rightly, and says why it did not measure the rest."""

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving import compare, processes, report, trial
from benchmarks.serving.asking import Answer, own_json, v2_binary, v2_grpc, v2_json
from benchmarks.serving.models import Model
from benchmarks.serving.peers import ROOT, Peer, discover
from tests.support.processes import children, command_lines, lives

CORES = sorted(os.sched_getaffinity(0))
CONSTANT = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"outputs": [{"data": [0.25, 0.75]}]}')
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
PLAN = trial.Plan(("json",), (1,), 1.0, 1.0, CORES[0], CORES[-1])


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model("tiny", "a model", tmp_path, np.ones((1, 4), np.float32), np.array([[0.25, 0.75]], np.float32))


def peer(*command: str) -> Peer:
    return Peer(
        "other", "Other", "", asks=lambda model: [v2_json(model)], command=lambda site: [*command, str(site.port)]
    )


@pytest.mark.slow
def test_berth_is_measured_from_the_command_line(tmp_path: Path) -> None:
    words = ["--peers", "berth", "--models", "tiny", "--protocols", "json", "--connections", "2", "--passes", "1"]
    cores = ["--seconds", "1", "--server-core", str(CORES[0]), "--client-core", str(CORES[-1])]
    command = [sys.executable, "-m", "benchmarks.run", "compare", *words, *cores, "--output", str(tmp_path / "page")]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=120, capture_output=True)
    result = json.loads((tmp_path / "page.json").read_text())
    [load], [start] = result["loads"], result["starts"]
    assert (load["peer"], load["connections"], load["errors"]) == ("berth", 2, 0)
    assert load["requests_per_second"] > 0
    assert load["cpu_s_per_1000"] > 0
    assert start["start_s"] > 0
    assert start["idle_mib"] > 10
    assert result["not_run"] == []
    page = (tmp_path / "page.md").read_text()
    assert "| berth | V2 JSON | 1.00 |" in page
    assert "nginx" not in page


def test_a_wrong_answer_is_not_measured(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "START_DEADLINE_S", 3.0)
    wrong = Model("tiny", "", tmp_path, model.question, model.answer[:, ::-1])
    found = trial.measure(peer(sys.executable, "-c", CONSTANT), Path(sys.executable), wrong, PLAN, tmp_path)
    assert not found.loads
    [missed] = found.not_run
    assert "wrong answer to V2 JSON: [0.25, 0.75], expected [0.75, 0.25]" in missed["reason"]


def test_a_right_answer_is_measured(model: Model, tmp_path: Path) -> None:
    found = trial.measure(peer(sys.executable, "-c", CONSTANT), Path(sys.executable), model, PLAN, tmp_path)
    assert [row["connections"] for row in found.loads] == [1], found.not_run
    assert found.loads[0]["requests"] > 0


def test_a_server_that_ends_is_listed_with_its_last_words(model: Model, tmp_path: Path) -> None:
    command = peer("sh", "-c", "echo no such port >&2; exit 3")
    found = trial.measure(command, Path(sys.executable), model, PLAN, tmp_path)
    assert (found.starts, found.loads) == ([], [])
    assert found.not_run[0]["reason"].startswith("did not start: ended with code 3: no such port")


def test_processes_that_left_the_session_are_counted_and_ended(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    script = f"setsid sh -c 'echo $$ > {file}; exec sleep 100' & wait"
    with processes.running(["sh", "-c", script], dict(os.environ), CORES[0], tmp_path / "log") as tree:
        deadline = time.monotonic() + 20
        while not (file.exists() and file.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.02)
        left = int(file.read_text())
        assert left in {item.pid for item in tree.processes()}
        assert tree.resident_mib() > 0
    assert left not in {item.pid for item in processes.Tree(tree.root).processes()}
    assert _gone(left)


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while lives(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not lives(pid)


@pytest.mark.slow
def test_servers_end_with_the_harness(tmp_path: Path) -> None:
    words = ["--peers", "berth", "--models", "tiny", "--protocols", "json", "--connections", "1", "--seconds", "60"]
    cores = ["--server-core", str(CORES[0]), "--client-core", str(CORES[-1]), "--output", str(tmp_path / "page")]
    command = [sys.executable, "-m", "benchmarks.serving.compare", *words, *cores]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as harness:
        servers = _children(harness.pid, b"berth")
        harness.terminate()
        harness.wait(60)
    assert servers
    assert all(_gone(pid) for pid in servers)


def _children(parent: int, word: bytes) -> list[int]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        own = children(parent)
        if found := [pid for pid, words in command_lines() if pid in own and any(word in each for each in words)]:
            return found
        time.sleep(0.05)
    return []


def test_answers_over_grpc_are_read_raw_and_typed(model: Model) -> None:
    ask = v2_grpc(model)
    raw = struct.pack("<2f", 0.25, 0.75)
    name = b"\x0a\x05model"
    assert ask.read(Answer(0, {}, name + b"\x2a\x03\x0a\x01Y" + b"\x32\x08" + raw)).tolist() == [0.25, 0.75]
    contents = b"\x32\x08" + raw
    output = b"\x0a\x01Y" + b"\x2a" + bytes([len(contents)]) + contents
    assert ask.read(Answer(0, {}, name + b"\x2a" + bytes([len(output)]) + output)).tolist() == [0.25, 0.75]


def test_answers_in_binary_and_json_are_read(model: Model) -> None:
    raw = struct.pack("<2f", 0.25, 0.75)
    head = json.dumps({"outputs": [{"name": "Y", "parameters": {"binary_data_size": 8}}]}).encode()
    answer = Answer(200, {"inference-header-content-length": str(len(head))}, head + raw)
    assert v2_binary(model).read(answer).tolist() == [0.25, 0.75]
    assert own_json("/", {}, lambda given: given["y"], "").read(Answer(200, {}, b'{"y": [1, 2]}')).tolist() == [1, 2]


def load(peer: str, run: str, rate: float) -> dict[str, object]:
    row = {"peer": peer, "run": run, "model": "tiny", "protocol": "json", "connections": 64, "form": "V2 JSON"}
    figures = {
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "cpu_s_per_1000": 0.1,
        "errors": 0,
        "other_cores": 0.0,
        "client_cores": 0.5,
    }
    return row | figures | {"requests_per_second": rate, "generator": "wrk"}


def result(run: str, **rates: float) -> dict[str, object]:
    return {
        "commit": "c0ffee",
        "machine": {"cores": 2},
        "settings": {"passes": 1, "seconds": 5.0, "server_core": 0, "client_core": 1},
        "tools": {},
        "peers": {name: {"title": name, "note": "", "versions": {}} for name in rates},
        "starts": [],
        "loads": [load(name, run, rate) for name, rate in rates.items()],
        "not_run": [],
    }


def test_a_joined_ratio_is_to_the_berth_of_the_same_run() -> None:
    joined = compare.join([result("one", berth=1000, mosec=500), result("two", berth=3000, fastapi=300)])
    page = report.markdown(joined)
    assert "| mosec | V2 JSON | 2.00 | 500 |" in page
    assert "| fastapi | V2 JSON | 10.00 | 300 |" in page
    assert "litserve" not in page


def test_results_of_other_commits_are_not_joined() -> None:
    with pytest.raises(SystemExit, match="commit differs"):
        compare.join([result("one", berth=1), result("two", berth=1) | {"commit": "decade"}])


def test_what_was_not_run_stands_below_with_its_reason() -> None:
    missed = {"peer": "triton", "model": "tiny", "protocol": "grpc", "reason": "did not start"}
    page = report.markdown(result("one", berth=1) | {"not_run": [missed, missed]})
    assert page.count("- triton, tiny, grpc: did not start") == 1


def test_every_peer_pins_what_it_installs() -> None:
    peers = discover()
    assert next(iter(peers)) == "berth"
    loose = [name for each in peers.values() for name in each.requirements if "==" not in name and name != "numpy"]
    assert loose == []
