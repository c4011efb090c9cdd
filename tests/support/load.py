"""Requests as fast as they go from a few threads, with every failure kept. For journeys, and for the demo."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections import Counter
from types import TracebackType


class Load:
    """Threads that ask the same thing as fast as they can, on connections kept alive and on fresh ones."""

    def __init__(self, port: int, path: str, body: object, *, kept: int = 3, fresh: int = 1) -> None:
        self._port, self._path = port, path
        self._body = None if body is None else json.dumps(body)
        self._over = threading.Event()
        kinds = [True] * kept + [False] * fresh
        self._threads = [threading.Thread(target=self._work, args=(keeps,)) for keeps in kinds]
        self.failures: list[str] = []
        self.answers: Counter[str] = Counter()

    @property
    def answered(self) -> int:
        """How many were answered well."""
        return sum(self.answers.values())

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _work(self, keeps: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        headers = {"Content-Type": "application/json"} | ({} if keeps else {"Connection": "close"})
        while not self._over.is_set():
            try:
                connection.request("GET" if self._body is None else "POST", self._path, self._body, headers)
                answer = connection.getresponse()
                text = answer.read().decode()
                if answer.status == 200:
                    self.answers[text] += 1
                else:
                    self.failures.append(f"{answer.status} {text[:200]}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
        connection.close()


def free_port() -> int:
    """A TCP port that nobody uses now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
