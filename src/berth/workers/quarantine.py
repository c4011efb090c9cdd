"""Inputs that ended worker processes, remembered for a while, so that a caller who repeats one ends no more of them.

Kept are digests, a bounded number of them. pool.py asks before it runs a request; while nothing is remembered, which is
nearly always, that costs nothing.
"""

from __future__ import annotations

import hashlib
import pickle
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

LIMIT = 1024
KEPT_S = 600.0
ENOUGH = 2  # workers that one input may end


class Quarantine:
    """How many workers each suspicious request has ended while it ran alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended: OrderedDict[bytes, tuple[int, float]] = OrderedDict()  # oldest first

    def __bool__(self) -> bool:
        if self._ended:
            self._forget_old()
        return bool(self._ended)

    def ended_by(self, group: Any) -> int:
        """How many workers this request is known to have ended."""
        return self._ended.get(_digest(group), (0, 0.0))[0] if self else 0

    def blame(self, group: Any, ended: int) -> None:
        """Remember that the request has ended so many workers."""
        digest = _digest(group)
        self._ended.pop(digest, None)
        self._ended[digest] = (ended, self._clock())
        if len(self._ended) > LIMIT:
            self._ended.popitem(last=False)

    def clear(self, group: Any) -> None:
        """It was answered after all: whatever ended a worker, this was not it."""
        if self._ended:
            self._ended.pop(_digest(group), None)

    def _forget_old(self) -> None:
        limit = self._clock() - KEPT_S
        while self._ended:
            digest, (_, at) = next(iter(self._ended.items()))
            if at > limit:
                return
            del self._ended[digest]


def _digest(group: Any) -> bytes:
    """The same for requests with the same content that were decoded in the same way."""
    buffers: list[pickle.PickleBuffer] = []
    digest = hashlib.blake2b(digest_size=16)
    digest.update(pickle.dumps(group, protocol=5, buffer_callback=buffers.append))
    for buffer in buffers:
        digest.update(buffer.raw())
    return digest.digest()
