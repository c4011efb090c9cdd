"""Configuration, socket activation, and what stops a start."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from berth.config import read_config
from berth.errors import ConfigError
from tests.berth.support import DEADLINE_S, environment, predictor, read_answers, run, serving

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"PREDICTR": "models:Slow"}, ["BERTH_PREDICTR", "BERTH_PREDICTOR"]),
        ({"X": "1"}, ["BERTH_X", "did you mean"]),
        ({}, ["BERTH_PREDICTOR", "no model"]),
        ({"PREDICTOR": "models:Slow", "FORMAT": "onnx"}, ["not both"]),
        ({"FORMAT": "onnx"}, ["BERTH_WEIGHTS"]),
        ({"PREDICTOR": "models"}, ["BERTH_PREDICTOR", "module:Class"]),
        ({"PREDICTOR": "models:Slow", "OPTIONS": "[1]"}, ["BERTH_OPTIONS", "JSON object"]),
        ({"PREDICTOR": "models:Slow", "WEIGHTS": "a"}, ["BERTH_WEIGHTS"]),
        ({"PREDICTOR": "models:Slow", "PORT": "http"}, ["BERTH_PORT", "0 to 65535", "'http'"]),
        ({"PREDICTOR": "models:Slow", "PORT": "65536"}, ["BERTH_PORT"]),
        ({"PREDICTOR": "models:Slow", "MAX_QUEUE": "0"}, ["BERTH_MAX_QUEUE"]),
        ({"PREDICTOR": "models:Slow", "REQUEST_TIMEOUT_S": "nan"}, ["BERTH_REQUEST_TIMEOUT_S"]),
        ({"PREDICTOR": "models:Slow", "KEEP_ALIVE_S": "long"}, ["BERTH_KEEP_ALIVE_S"]),
        ({"PREDICTOR": "models:Slow", "LOG_LEVEL": "loud"}, ["BERTH_LOG_LEVEL", "warning"]),
        ({"PREDICTOR": "models:Slow", "MODEL_NAME": " "}, ["BERTH_MODEL_NAME"]),
    ],
)
def test_a_bad_setting_is_refused_by_name(settings: dict[str, str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config({f"BERTH_{key}": value for key, value in settings.items()})
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"PREDICTR": "models:Slow"}, "did you mean BERTH_PREDICTOR?"),
        ({"PREDICTOR": "models:Slow", "SOCKET": "/nowhere/at/all.sock"}, "/nowhere/at/all.sock"),
    ],
)
def test_a_bad_setting_stops_the_start_with_one_clear_line(settings: dict[str, str], words: str) -> None:
    done = run("serve", **settings)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_every_setting_has_a_default_that_is_valid() -> None:
    config = read_config({"BERTH_PREDICTOR": "models:Slow", "PORT": "9000", "HOME": "/"})
    assert config.listen.port == 9000
    assert config.listen.activation == "/run/berth/activate.sock"
    assert config.limits.keep_alive == 620
    assert config.limits.max_body_bytes == 64 * 1024 * 1024
    assert config.model.serving.max_batch_delay == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"PREDICTOR": "nowhere:Slow"}, ["no module 'nowhere'"]),
        ({"PREDICTOR": "models:Nothing"}, ["no class 'Nothing'", "Typed"]),
        ({"PREDICTOR": "models:Colour"}, ["no predict method"]),
        ({"PREDICTOR": "models:NoHints"}, ["parameter 'x'", "type hint"]),
        ({"PREDICTOR": "models:BareArray"}, ["parameter 'x'", "Tensor"]),
        ({"PREDICTOR": "models:Stream"}, ["yields", "Iterator"]),
        ({"FORMAT": "tensorflow", "WEIGHTS": "."}, ["no backend 'tensorflow'", "onnx, sklearn"]),
        ({"FORMAT": "onnx", "WEIGHTS": "nothing.onnx"}, ["no such file: nothing.onnx"]),
    ],
)
def test_a_model_that_cannot_be_served_stops_the_start(settings: dict[str, str], words: list[str]) -> None:
    done = run("serve", **settings)
    assert done.returncode == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_model_stops_the_start_with_a_reason(weights: Path) -> None:
    for name, words in (("broken.onnx", "onnxruntime cannot load it"), ("dict.joblib", "holds a dict")):
        kind = "onnx" if name.endswith("onnx") else "sklearn"
        done = run("serve", FORMAT=kind, WEIGHTS=str(weights / name))
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    done = run("serve", FORMAT="onnx", WEIGHTS=str(weights / "double.onnx"), OPTIONS='{"speed": 1}')
    assert "unknown option 'speed'" in done.stderr


def test_port_nought_is_any_free_port_and_the_log_says_which() -> None:
    with serving(**predictor("Slow", SOCKET="", HOST="127.0.0.1", PORT="0")) as server:
        (url,) = server.wait_for_event("ready")["listeners"]
        port = int(url.rpartition(":")[2])
        assert port > 0
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_answers(connection, 1)[0].status == 200


def test_a_tcp_port_is_served_and_a_taken_one_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.listen()
        done = run("serve", **predictor("Slow", HOST="127.0.0.1", PORT=str(port)))
        assert done.returncode == 2
        assert f"127.0.0.1 port {port}" in done.stderr
    settings = environment(**predictor("Slow", HOST="127.0.0.1")) | {"PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-m", "berth"], env=settings, stderr=subprocess.DEVNULL)
    try:
        assert _ask_tcp(port) == {"live": True}
    finally:
        process.terminate()
        assert process.wait(DEADLINE_S) == 0


def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    with serving(**predictor("Slow")) as server:
        stale = Path(server.socket_path)
        server.process.kill()
        server.process.wait()
        assert stale.is_socket()
        second = subprocess.Popen(
            [sys.executable, "-m", "berth"],
            env=environment(SOCKET=str(stale), **predictor("Slow")),
            stderr=subprocess.PIPE,
        )
        assert second.stderr is not None
        assert b"ready" in second.stderr.readline()
        assert server.get("/livez").status == 200
        second.terminate()
        assert second.wait(DEADLINE_S) == 0
        second.stderr.close()


class Engine:
    """The host side of socket activation: listeners, and the socket on which they are handed over."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "activate.sock")
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.control.bind(self.path)
        self.control.listen(1)
        self.control.settimeout(DEADLINE_S)
        self.unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.unix_path = str(folder / "http.sock")
        self.unix.bind(self.unix_path)
        self.unix.listen(128)
        self.tcp = socket.socket()
        self.tcp.bind(("127.0.0.1", 0))
        self.tcp.listen(128)

    def start(self, **settings: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "berth"],
            env=environment(**settings) | {"BERTH_ACTIVATION_SOCKET": self.path},
            stderr=subprocess.PIPE,
        )

    def hand_over(self, message: bytes | None = None) -> socket.socket:
        peer, _ = self.control.accept()
        peer.settimeout(DEADLINE_S)
        if message is None:
            message = json.dumps({"listeners": [{"kind": "unix"}, {"kind": "tcp"}]}).encode() + b"\n"
        socket.send_fds(peer, [message], [self.unix.fileno(), self.tcp.fileno()])
        return peer

    def close(self) -> None:
        for item in (self.control, self.unix, self.tcp):
            item.close()


@pytest.fixture
def engine(tmp_path: Path):  # type: ignore[no-untyped-def]
    engine = Engine(tmp_path)
    yield engine
    engine.close()


def test_listeners_that_are_handed_over_are_all_served(engine: Engine) -> None:
    process = engine.start(**predictor("SlowLoad"))
    peer = engine.hand_over()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as early:
        early.settimeout(DEADLINE_S)
        early.connect(engine.unix_path)  # the model is still loading: the connection waits in the kernel
        early.sendall(LIVE)
        assert peer.recv(100) == b"ready\n"
        assert peer.recv(100) == b""
        assert read_answers(early, 1)[0].json == {"live": True}
    assert _ask_tcp(engine.tcp.getsockname()[1]) == {"live": True}
    peer.close()
    _end(process)


def test_a_listener_outlives_the_server_that_served_it(engine: Engine) -> None:
    first = engine.start(**predictor("Slow"))
    with engine.hand_over() as peer:
        assert peer.recv(100) == b"ready\n"
    _end(first)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waiting:
        waiting.settimeout(DEADLINE_S)
        waiting.connect(engine.unix_path)
        waiting.sendall(LIVE)
        second = engine.start(**predictor("Slow"))
        with engine.hand_over():
            assert read_answers(waiting, 1)[0].json == {"live": True}
    _end(second)


def test_a_load_that_fails_ends_the_hand_over_without_ready(engine: Engine) -> None:
    process = engine.start(**predictor("RaisesInLoad"))
    with engine.hand_over() as peer:
        assert peer.recv(100) == b""
    assert process.wait(DEADLINE_S) == 1
    assert process.stderr is not None
    assert b"the weights are gone" in process.stderr.read()
    process.stderr.close()


@pytest.mark.parametrize(
    "message",
    [b"hello\n", b'{"listeners":[{"kind":"unix"}]}\n', b'{"listeners":[{"kind":"udp"},{"kind":"tcp"}]}\n'],
)
def test_a_hand_over_that_breaks_the_contract_stops_the_start(engine: Engine, message: bytes) -> None:
    process = engine.start(**predictor("Slow"))
    with engine.hand_over(message):
        assert process.wait(DEADLINE_S) == 2
    assert process.stderr is not None
    assert engine.path.encode() in process.stderr.read()
    process.stderr.close()


def test_without_an_answer_on_the_activation_socket_the_port_is_used(tmp_path: Path) -> None:
    dead = str(tmp_path / "activate.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as nobody:
        nobody.bind(dead)  # bound, and nobody listens: connecting is refused
    started = time.monotonic()
    with serving(**predictor("Slow", ACTIVATION_SOCKET=dead)) as server:
        assert server.get("/livez").status == 200
        assert time.monotonic() - started < 15


def test_sigterm_while_the_model_loads_ends_at_once(engine: Engine) -> None:
    process = engine.start(**predictor("SlowLoad"))
    with engine.hand_over() as peer:
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) in (0, -signal.SIGTERM)
        assert peer.recv(100) == b""
    assert process.stderr is not None
    process.stderr.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    assert process.wait(DEADLINE_S) == 0
    assert process.stderr is not None
    process.stderr.close()


def _ask_tcp(port: int) -> object:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
                connection.sendall(LIVE)
                return read_answers(connection, 1)[0].json
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
