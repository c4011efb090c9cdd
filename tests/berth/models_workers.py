"""Predictors for worker processes and for servers of several models."""

import os
import pathlib
import signal
import time

import berth


class Spin:
    def predict(self, seconds: float, value: int = 0) -> dict[str, int]:
        """Pure Python for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass
        return {"value": value, "pid": os.getpid()}


class Fragile:
    @berth.batched
    def predict(self, value: list[int]) -> list[dict[str, int]]:
        """Ends its process at 13."""
        if 13 in value:
            os.kill(os.getpid(), signal.SIGKILL)
        return [{"value": item, "pid": os.getpid()} for item in value]


class Versioned:
    def load(self) -> None:
        self.text = pathlib.Path(os.environ["VERSION_FILE"]).read_text()

    def predict(self, x: int) -> str:
        return f"{self.text} {x}"


class Sleepy:
    def load(self) -> None:
        self.runs = 0

    def predict(self, seconds: float, value: int = 0, text: str = "") -> dict[str, int]:
        """One at a time, each so long."""
        if seconds < 0:
            raise berth.InputError("seconds: expected 0 or more")
        self.runs += 1
        time.sleep(seconds)
        return {"value": value, "run": self.runs}


class Computes:
    def predict(self, value: int) -> int:
        """20 ms of processor time."""
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        return value


class Leaks:
    def load(self) -> None:
        self.kept: list[bytes] = []

    def predict(self, value: int) -> dict[str, int]:
        """Keeps 256 KiB of each call for ever."""
        self.kept.append(bytes([value % 255 + 1]) * 256 * 1024)
        time.sleep(0.002)
        return {"value": value, "pid": os.getpid()}
