"""A real berth process and a plain client, shared by the tests in this folder."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from berth.log import ACCESSES_PER_TICK

HERE = Path(__file__).parent
DEADLINE_S = 20.0
_MANY = 50
_CACHE = tempfile.mkdtemp(prefix="berth-pyc-")


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(self._path)


@dataclass
class Berth:
    """A serving process; `lines` are its log so far."""

    process: subprocess.Popen[bytes]
    socket_path: str
    log_path: Path
    requests: int = field(default=0)

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """One request on a connection of its own; a body that is not bytes is sent as JSON."""
        connection = _UnixConnection(self.socket_path)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, None, headers)

    def post(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        return self.ask("POST", path, body, headers)

    def predict(self, **inputs: Any) -> Answer:
        return self.post("/predict", inputs)

    def connect(self) -> socket.socket:
        """A bare connection."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(DEADLINE_S)
        connection.connect(self.socket_path)
        return connection

    def log(self) -> str:
        return self.log_path.read_text()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    def wait_for_event(self, message: str, **fields: Any) -> dict[str, Any]:
        """The first log line with this message and these fields; logs are written a moment after the answer."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            for event in self.events():
                if event["message"] == message and all(event.get(key) == value for key, value in fields.items()):
                    return event
            time.sleep(0.01)
        raise AssertionError(f"no {message!r} in the log:\n{self.log()}")

    def wait_for_pending(self, model: str, count: int) -> None:
        """Until so many requests for a model are in flight."""
        deadline = time.monotonic() + DEADLINE_S
        line = re.compile(rf'^berth_pending_requests{{model="{re.escape(model)}",.*}} {count}$', re.MULTILINE)
        while not line.search(self.get("/metrics").body.decode()):
            assert time.monotonic() < deadline, self.get("/metrics").body.decode()
            time.sleep(0.01)

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)


def environment(**settings: str) -> dict[str, str]:
    """A clean environment with these BERTH_* settings (without the prefix)."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("BERTH_", "PORT", "AIP_"))}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return {
        **kept,
        "PYTHONPATH": str(HERE),
        "PYTHONPYCACHEPREFIX": _CACHE,
        "PYTHONWARNINGS": "error",
        "BERTH_ACTIVATION_SOCKET": "",
        **{f"BERTH_{key}": value for key, value in settings.items()},
    }


def run(
    *arguments: str, stdin: bytes = b"", cwd: Path | None = None, **settings: str
) -> subprocess.CompletedProcess[str]:
    """`python -m berth` to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "berth", *arguments],
        input=stdin,
        env=environment(**settings),
        cwd=cwd,
        capture_output=True,
        timeout=DEADLINE_S * 2,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def predictor(name: str, **settings: str) -> dict[str, str]:
    """Settings that serve a class of models.py."""
    return {"PREDICTOR": f"models:{name}", **settings}


@contextmanager
def serving(cwd: Path | None = None, variables: Mapping[str, str] | None = None, **settings: str) -> Iterator[Berth]:
    """A berth that is ready, on a unix socket; its log is shown when it does not end with code 0.

    `variables` are set as they are, `settings` with BERTH_ before their names.
    """
    with tempfile.TemporaryDirectory(prefix="berth-") as folder:
        path, log_path = str(Path(folder) / "http.sock"), Path(folder) / "log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "berth"],
                env={**environment(**{"SOCKET": path, **settings}), **(variables or {})},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        server = Berth(process, path, log_path)
        try:
            server.wait_for_event("ready") if process.poll() is None else None
            yield server
        finally:
            code = process.poll()
            if code is None:
                process.terminate()
                try:
                    code = process.wait(DEADLINE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            if code != 0:
                sys.stderr.write(log_path.read_text())


def form(fields: Mapping[str, bytes | tuple[str, str, bytes]], boundary: str = "x-boundary-x") -> tuple[bytes, str]:
    """A multipart/form-data body and its Content-Type; a field is its bytes, or (file name, type, bytes)."""
    pieces = []
    for name, value in fields.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
        if isinstance(value, tuple):
            head += f'; filename="{value[0]}"\r\nContent-Type: {value[1]}'
            value = value[2]  # noqa: PLW2901
        pieces += [head.encode() + b"\r\n\r\n" + value + b"\r\n"]
    return b"".join(pieces) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def read_answers(connection: socket.socket, count: int) -> list[Answer]:
    """So many answers from a bare connection, in the order in which they come."""
    stream = connection.makefile("rb")
    answers = []
    for _ in range(count):
        status = int(stream.readline().split()[1])
        headers: dict[str, str] = {}
        while (line := stream.readline()) not in (b"\r\n", b""):
            key, _, value = line.decode().partition(":")
            headers[key.strip()] = value.strip()
        answers.append(Answer(status, headers, stream.read(int(headers.get("Content-Length", 0)))))
    return answers


def use_up_log(connection: socket.socket, request: bytes) -> None:
    """Ask as often as requests are logged one by one in half a second; until it ends, the express lane is open.

    They are sent many at a time, which is quick enough on any machine.
    """
    for _ in range(ACCESSES_PER_TICK // _MANY):
        connection.sendall(request * _MANY)
        assert {answer.status for answer in read_answers(connection, _MANY)} == {200}
