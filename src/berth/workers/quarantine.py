"""Inputs that ended worker processes, remembered for a while, so that a caller who repeats one ends no more of them.

Kept are digests, a bounded number of them. While nothing is remembered, which is nearly always, asking costs nothing;
otherwise a sample of the input tells nearly all others apart, because hashing large arrays would hold up the event
loop. pool.py asks before it runs a request.
"""

from __future__ import annotations

import hashlib
import pickle
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

LIMIT = 1024
KEPT_S = 600.0
ENOUGH = 2  # workers that one input may end
_SAMPLE = 4096  # bytes of each buffer


class _Suspect(msgspec.Struct, frozen=True):
    """An input: how many workers it has ended, when last, and its sample."""

    ended: int
    at: float
    sample: bytes


class Quarantine:
    """How many workers each suspicious request has ended while it ran alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._suspects: OrderedDict[bytes, _Suspect] = OrderedDict()  # by digest, oldest first
        self._samples: set[bytes] = set()

    def __bool__(self) -> bool:
        if self._suspects:
            self._forget_old()
        return bool(self._suspects)

    def ended_by(self, group: Any) -> int:
        """How many workers this request is known to have ended."""
        if not self:
            return 0
        buffers = _buffers(group)
        if _sample(buffers) not in self._samples:
            return 0
        suspect = self._suspects.get(_digest(buffers))
        return suspect.ended if suspect else 0

    def blame(self, group: Any, ended: int) -> None:
        """Remember that the request has ended so many workers."""
        buffers = _buffers(group)
        digest = _digest(buffers)
        self._suspects.pop(digest, None)
        self._suspects[digest] = _Suspect(ended, self._clock(), _sample(buffers))
        if len(self._suspects) > LIMIT:
            self._suspects.popitem(last=False)
        self._note_samples()

    def clear(self, group: Any) -> None:
        """It was answered after all: whatever ended a worker, this was not it."""
        if self._suspects and (digest := _digest(_buffers(group))) in self._suspects:
            del self._suspects[digest]
            self._note_samples()

    def _forget_old(self) -> None:
        limit = self._clock() - KEPT_S
        while self._suspects and next(iter(self._suspects.values())).at <= limit:
            self._suspects.popitem(last=False)
            self._note_samples()

    def _note_samples(self) -> None:
        self._samples = {suspect.sample for suspect in self._suspects.values()}


def _buffers(group: Any) -> list[memoryview]:
    """All that a request consists of; the same for requests of the same content that were decoded in the same way."""
    large: list[pickle.PickleBuffer] = []
    payload = pickle.dumps(group, protocol=5, buffer_callback=large.append)
    return [memoryview(payload), *(buffer.raw() for buffer in large)]


def _sample(buffers: Sequence[memoryview]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for buffer in buffers:
        digest.update(b"%d " % len(buffer))
        digest.update(bytes(buffer[:: max(1, len(buffer) // _SAMPLE)]))
    return digest.digest()


def _digest(buffers: Sequence[memoryview]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for buffer in buffers:
        digest.update(b"%d " % len(buffer))
        digest.update(buffer)
    return digest.digest()
