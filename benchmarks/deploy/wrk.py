"""wrk as a constant load that goes on until it is told to stop, and what it saw. Used by `rollouts` and `kills`."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

LONGEST_S = 3600
_STOP_DEADLINE_S = 30.0
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
_REQUESTS = re.compile(r"(\d+) requests in ")
_STATUS = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_SOCKET = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_SHARE = re.compile(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s|m)$", re.MULTILINE)
_SCRIPT = """\
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
{close}
wrk.body = '{body}'
"""


@dataclass(frozen=True)
class Seen:
    """What one load saw. `failed`: answers that were not 2xx, and connections that broke. Latency in milliseconds."""

    requests: int
    failed: int
    p50_ms: float
    p99_ms: float

    @classmethod
    def read(cls, text: str) -> Seen:
        """wrk's own report."""
        requests, status, sockets = _REQUESTS.search(text), _STATUS.search(text), _SOCKET.search(text)
        assert requests is not None, text
        shares = {share: float(number) * _UNITS[unit] for share, number, unit in _SHARE.findall(text)}
        broken = sum(map(int, sockets.groups())) if sockets else 0
        failed = broken + (int(status[1]) if status else 0)
        return cls(int(requests[1]), failed, shares.get("50", 0.0), shares.get("99", 0.0))


class Wrk:
    """A load, from the block's begin to its end. `fresh`: each request on a connection of its own."""

    def __init__(self, url: str, body: str, *, connections: int, fresh: bool = False) -> None:
        close = 'wrk.headers["Connection"] = "close"' if fresh else ""
        with tempfile.NamedTemporaryFile("w", suffix=".lua", delete=False) as script:
            script.write(_SCRIPT.format(close=close, body=body))
        self._script = Path(script.name)
        words = ["wrk", "-t1", f"-c{connections}", f"-d{LONGEST_S}", "--latency", "-s", script.name, url]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def stop(self) -> Seen:
        """End it, and tell."""
        self._process.send_signal(signal.SIGINT)
        text, _ = self._process.communicate(timeout=_STOP_DEADLINE_S)
        self._script.unlink()
        return Seen.read(text)


def loaded(url: str, body: str, seconds: float, *, connections: int) -> Seen:
    """A load of a fixed time, as a quiet measure to compare with."""
    load = Wrk(url, body, connections=connections)
    time.sleep(seconds)
    return load.stop()
