"""wrk as a load that goes on until it is told to stop, and what it saw. Used by `rollouts`, `kills` and `peers`.

With a rate it is an open load: requests are sent at fixed times, whatever the answers take, for the script takes from
one schedule the time of each connection's next request. wrk sends what is late at once, and adds to its latencies the
waiting that a connection's stall hid (the correction for coordinated omission, by the mean interval between requests
of a connection). So the rate holds through a stall, and the stall counts. Without a rate it is as fast as answers come.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

LONGEST_S = 3600
_STOP_DEADLINE_S = 30.0
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
_REQUESTS = re.compile(r"(\d+) requests in ")
_STATUS = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_SOCKET = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_SHARE = re.compile(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s|m)$", re.MULTILINE)
_LATE = re.compile(r"^late (\d+), by at most ([\d.]+) ms$", re.MULTILINE)
_FIRST = ("chrt", "--rr", "1") if os.geteuid() == 0 else ()
"""A load at a rate stands for other machines, so what starts here takes nothing from it: real-time priority."""
_SCRIPT = """\
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
{close}
wrk.body = '{body}'
"""
_AT_A_RATE = """
local ffi = require("ffi")
ffi.cdef[[
  typedef struct {{ long seconds; long nanoseconds; }} dockyard_time;
  int clock_gettime(int clock, dockyard_time *time);
]]
local time, due, threads = ffi.new("dockyard_time"), nil, {{}}
late, worst = 0, 0

function delay()
  ffi.C.clock_gettime(1, time)
  local now = tonumber(time.seconds) * 1e3 + tonumber(time.nanoseconds) / 1e6
  due = (due or now) + {interval_ms}
  if now - due > 1 then
    late, worst = late + 1, math.max(worst, now - due)
  end
  return math.max(0, math.floor(due - now + 0.5))
end

function setup(thread) table.insert(threads, thread) end

function done()
  for _, one in ipairs(threads) do
    print(string.format("late %d, by at most %.1f ms", one:get("late"), one:get("worst")))
  end
end
"""


@dataclass(frozen=True)
class Seen:
    """What one load saw. `failed`: answers that were not 2xx, and connections that broke. Latency in milliseconds.

    `late`: requests that were sent more than 1 ms after their time, for every connection waited; at a rate only.
    """

    requests: int
    failed: int
    p50_ms: float
    p99_ms: float
    late: int = 0
    latest_ms: float = 0.0

    @classmethod
    def read(cls, text: str) -> Seen:
        """wrk's own report."""
        requests, status, sockets = _REQUESTS.search(text), _STATUS.search(text), _SOCKET.search(text)
        assert requests is not None, text
        shares = {share: float(number) * _UNITS[unit] for share, number, unit in _SHARE.findall(text)}
        broken = sum(map(int, sockets.groups())) if sockets else 0
        failed = broken + (int(status[1]) if status else 0)
        late = _LATE.search(text)
        behind = (int(late[1]), float(late[2])) if late else (0, 0.0)
        return cls(int(requests[1]), failed, shares.get("50", 0.0), shares.get("99", 0.0), *behind)


class Wrk:
    """A load, from the block's begin to its end. `fresh`: each request on a connection of its own.

    `rate`: requests a second, over all `connections`; 0 for as many as are answered.
    """

    def __init__(self, url: str, body: str, *, connections: int, fresh: bool = False, rate: float = 0) -> None:
        close = 'wrk.headers["Connection"] = "close"' if fresh else ""
        with tempfile.NamedTemporaryFile("w", suffix=".lua", delete=False) as script:
            script.write(_SCRIPT.format(close=close, body=body))
            if rate:
                script.write(_AT_A_RATE.format(interval_ms=1000 / rate))
        self._script = Path(script.name)
        words = ["wrk", "-t1", f"-c{connections}", f"-d{LONGEST_S}", "--latency", "-s", script.name, url]
        self._process = subprocess.Popen(
            [*_FIRST, *words] if rate else words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def stop(self) -> Seen:
        """End it, and tell."""
        self._process.send_signal(signal.SIGINT)
        text, _ = self._process.communicate(timeout=_STOP_DEADLINE_S)
        self._script.unlink()
        return Seen.read(text)


@dataclass(frozen=True)
class Mix:
    """A load of two parts: connections that are kept, and connections that are made anew for every request.

    Rates are requests a second; 0 for as many as are answered.
    """

    kept: int
    fresh: int
    kept_rate: float = 0
    fresh_rate: float = 0

    @property
    def rate(self) -> float:
        """Of both parts."""
        return self.kept_rate + self.fresh_rate


SATURATING = Mix(kept=16, fresh=4)
"""As much as the machine gives: what starts beside it takes from it."""


FRESH = 0.07
"""The share of a steady load's requests that have a connection of their own."""


def steady(rate: float) -> Mix:
    """So many requests a second, over connections of both kinds."""
    return Mix(kept=64, fresh=16, kept_rate=rate * (1 - FRESH), fresh_rate=rate * FRESH)


@dataclass
class Both:
    """What the parts of a mix saw; filled when the load has ended."""

    kept: Seen | None = None
    fresh: Seen | None = None

    def told(self) -> dict[str, dict[str, float]]:
        """Both, as JSON says it."""
        assert self.kept is not None
        assert self.fresh is not None
        return {"kept": asdict(self.kept), "fresh": asdict(self.fresh)}

    @property
    def requests(self) -> int:
        """Requests that were answered."""
        return sum(each.requests for each in (self.kept, self.fresh) if each)

    @property
    def failed(self) -> int:
        """Requests that failed."""
        return sum(each.failed for each in (self.kept, self.fresh) if each)


@contextmanager
def under(url: str, body: str, mix: Mix) -> Iterator[Both]:
    """A load for as long as the body takes. What it saw is known after that."""
    seen = Both()
    kept = Wrk(url, body, connections=mix.kept, rate=mix.kept_rate)
    fresh = Wrk(url, body, connections=mix.fresh, fresh=True, rate=mix.fresh_rate)
    try:
        yield seen
    finally:
        seen.kept, seen.fresh = kept.stop(), fresh.stop()


def loaded(url: str, body: str, seconds: float, mix: Mix) -> Both:
    """A load of a fixed time, as a quiet measure to compare with."""
    with under(url, body, mix) as seen:
        time.sleep(seconds)
    return seen
