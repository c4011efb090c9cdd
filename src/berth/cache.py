"""The response cache of one model: equal inputs are answered once. Off unless it is given bytes.

The key is a hash of what the model would be called with, so the same question from JSON, binary tensors or gRPC is the
same entry; what is kept are the model's answers, which each protocol encodes for itself. A question that is being
answered is not asked again meanwhile: those who ask it too wait for the first. A cache lives and dies with one loaded
version of a model. served.py is the only caller.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from berth.executor import Outcome
from berth.files import File
from berth.model import Model
from berth.tensors import TensorBatch, TensorRows
from berth.work import Work

_OVERHEAD = 256  # bytes that an entry costs beside its answer
Key = bytes


class Entry(msgspec.Struct, frozen=True):
    """Answers, the time when they were given, and their bytes."""

    answers: list[Any]
    stored: float
    size: int


class ResponseCache:
    """At most `budget` bytes of answers, none older than `ttl` seconds; the clock is the caller's."""

    def __init__(self, model: Model, budget: int, ttl: float) -> None:
        self._model = model
        self._budget = budget
        self.ttl = ttl
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._bytes = 0
        self._leaders: dict[Key, Work] = {}
        self._followers: dict[Key, list[Work]] = {}
        self.hits = 0
        self.misses = 0

    def key(self, calls: list[Any]) -> Key | None:
        """The key of a question; None for one that has no canonical form."""
        digest = hashlib.blake2b(digest_size=20)
        try:
            for call in calls:
                _digest_call(digest.update, self._model, call)
        except (TypeError, ValueError):
            return None
        return digest.digest()

    def find(self, key: Key, now: float) -> Entry | None:
        """What is remembered, if it is young enough."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now - entry.stored > self.ttl:
            self._forget(key)
            return None
        self._entries.move_to_end(key)
        self.hits += 1
        return entry

    def join(self, key: Key, work: Work) -> bool:
        """Whether the same question is being answered; the work then waits for that, otherwise others wait for it."""
        if key in self._leaders:
            self._followers.setdefault(key, []).append(work)
            self.hits += 1
            return True
        self._leaders[key] = work
        self.misses += 1
        return False

    def settle(self, key: Key, outcome: Outcome, now: float) -> list[Work]:
        """A question has its outcome: remember answers, and say who else waits for it."""
        self._leaders.pop(key, None)
        if isinstance(outcome, list):
            self._store(key, Entry(*_kept(self._model, outcome, now)))
        return self._followers.pop(key, [])

    def abandon(self, key: Key, work: Work) -> Work | None:
        """Nobody waits for a leader any more: who of its followers has to be asked for, if anybody."""
        if self._leaders.get(key) is not work:
            return None
        del self._leaders[key]
        followers = [each for each in self._followers.pop(key, []) if not each.done]
        if not followers:
            return None
        self._leaders[key] = followers[0]
        self._followers[key] = followers[1:]
        return followers[0]

    def _store(self, key: Key, entry: Entry) -> None:
        self._forget(key)
        if entry.size > self._budget:
            return
        self._entries[key] = entry
        self._bytes += entry.size
        while self._bytes > self._budget:
            self._forget(next(iter(self._entries)))

    def _forget(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.size


def _kept(model: Model, answers: list[Any], now: float) -> tuple[list[Any], float, int]:
    """Answers without the batch that they are rows of, and their size."""
    kept: list[Any] = []
    size = _OVERHEAD
    for answer in answers:
        if isinstance(answer, TensorRows):
            arrays = {name: np.array(array) for name, array in answer.arrays().items()}
            size += sum(array.nbytes for array in arrays.values())
            kept.append(TensorRows(TensorBatch(arrays), 0, None))
        else:
            size += len(model.encode(answer))
            kept.append(answer)
    return kept, now, size


def _digest_call(update: Callable[[bytes], None], model: Model, call: Any) -> None:
    """Packed rows and the array that they would be have one digest."""
    if isinstance(call, bytes):
        assert model.packing is not None
        _digest_array(update, model.packing.name, model.packing.array([call]))
        return
    _digest_mapping(update, call)


def _digest_mapping(update: Callable[[bytes], None], values: Mapping[str, Any]) -> None:
    for name in sorted(values):
        value = values[name]
        if isinstance(value, np.ndarray):
            _digest_array(update, name, value)
        else:
            text = msgspec.json.encode([name, value], enc_hook=_plain, order="sorted")
            update(b"v%d:" % len(text))
            update(text)


def _digest_array(update: Callable[[bytes], None], name: str, array: np.ndarray[Any, np.dtype[Any]]) -> None:
    data = msgspec.json.encode(array.tolist(), enc_hook=_plain) if array.dtype.kind == "O" else array.tobytes()
    update(b"a%b:%b:%b:%d:" % (name.encode(), array.dtype.str.encode(), repr(array.shape).encode(), len(data)))
    update(data)


def _plain(value: Any) -> Any:
    if isinstance(value, File):
        return [value.name, value.data]
    if isinstance(value, np.ndarray):
        return [value.dtype.str, value.shape, value.tobytes()]
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no canonical form")
