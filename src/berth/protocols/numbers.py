"""Large JSON bodies without holding up everybody else: arrays of numbers are cut out and decoded piece by piece.

A decoder in C keeps Python's lock from the first byte to the last, for a second where there are 100 MB, and makes an
object of every number. Here long runs of numbers are found by their brackets and decoded 64 KiB at a time straight into
an array, so that the event loop gets its turn in between and memory holds the text and the array. What remains, the
skeleton, is decoded as usual. Arrays that simdjson reads in a few milliseconds are left to it whole (floats.py). From
2 MiB on, or 1 without simdjson, it runs in a thread (application.py); v2_inputs.py and native.py are the callers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import msgspec
import numpy as np

from berth.floats import MOST_BYTES, read_floats
from berth.tensors import Array, coerce

LARGE = 1024 * 1024  # bytes of a body from which this is worth it
_RUN = 64 * 1024  # bytes without a quote that are taken for a run of numbers, and how many are decoded at once
_MANY_QUOTES = 20_000  # a body of texts is none of ours
_ARRAY = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*(?=\[)")
_ENDS = (b'"', b"{", b"}")
_MARK = "\0numbers "
_ONLY_STRUCTURE = bytes(set(range(256)) - set(b"[],"))
_NO_BRACKETS = bytes.maketrans(b"[]", b"  ")
_decode_floats = msgspec.json.Decoder(list[float]).decode
_decode_any = msgspec.json.Decoder().decode
Body = bytes | bytearray


class Numbers:
    """One array of a body, as text between two places of it."""

    def __init__(self, body: Body, start: int, stop: int) -> None:
        self._all, self._start, self._stop = body, start, stop
        self._body = memoryview(body)[start:stop]

    def array(self, dtype: np.dtype[np.generic]) -> Array:
        """The array in its own shape; ValueError as from `coerce`, or where the text is no array of numbers."""
        if dtype.kind == "f" and len(self._body) <= MOST_BYTES:
            floats = read_floats(self._body)
            if floats is not None:
                array = coerce(floats, dtype, None)
                flat = self._all.find(b"[", self._start + 1, self._stop) < 0
                return array if flat else array.reshape(_shape(self.text().translate(None, _ONLY_STRUCTURE)))
        pieces: list[Array] = []
        structure: list[bytes] = []
        for text in self._pieces():
            structure.append(text.translate(None, _ONLY_STRUCTURE))
            pieces.append(_decoded(b"[%b]" % text.translate(_NO_BRACKETS).strip(b" ,\t\r\n"), dtype))
        return np.concatenate(pieces).reshape(_shape(b"".join(structure)))

    def text(self) -> bytes:
        """All of it."""
        return bytes(self._body)

    def _pieces(self) -> Iterator[bytes]:
        at, end = 0, len(self._body)
        while at < end:
            text = bytes(self._body[at : at + _RUN])
            if at + len(text) < end:
                text = text[: text.rfind(b",") + 1]
                if not text:
                    raise ValueError("expected nested lists of numbers")
            at += len(text)
            yield text


def _decoded(text: bytes, dtype: np.dtype[np.generic]) -> Array:
    if dtype.kind == "f":
        try:
            return coerce(np.array(_decode_floats(text)), dtype, None)
        except msgspec.MsgspecError:
            pass
    try:
        values = _decode_any(text)
    except msgspec.DecodeError:
        values = json.loads(text)  # NaN and infinities as bare tokens; JSONDecodeError is a ValueError
    return coerce(values, dtype, None)


def _shape(structure: bytes) -> tuple[int, ...]:
    """The lengths of nested lists, from their brackets and commas alone; ValueError where they are not all equal."""
    depth = len(structure) - len(structure.lstrip(b"["))
    lengths: list[int] = []
    pattern = b""
    for level in range(1, depth + 1):
        end = structure.find(b"]" * level) + level
        size = end - (depth - level)
        count = (size - 1) // (len(pattern) + 1)
        lengths.insert(0, count)
        # Without a list of ten million times nothing for the innermost level.
        pattern = b"[%b]" % (b",".join([pattern] * count) if pattern else b"," * (count - 1))
    if not depth or pattern != structure:
        raise ValueError("expected nested lists of equal length, got ragged ones")
    return tuple(lengths)


def cut_numbers(body: Body) -> tuple[bytes, list[Numbers]]:
    """The body with a mark in the place of each long array of numbers, and these arrays."""
    kept: list[bytes] = []
    found: list[Numbers] = []
    at = done = quotes = 0
    while (quote := _find(body, at)) >= 0 and quotes < _MANY_QUOTES:
        quotes += 1
        at = quote + 1
        if (key := _ARRAY.match(body, at)) is None or body.find(b'"', at, at + _RUN) >= 0:
            continue
        start, stop = key.end(), _end_of_array(body, key.end())
        if stop - start < _RUN:
            continue
        kept += (bytes(body[done:start]), msgspec.json.encode(f"{_MARK}{len(found)}"))
        found.append(Numbers(body, start, stop))
        at = done = stop
    kept.append(bytes(body[done:]))
    return b"".join(kept), found


def which(value: object) -> int | None:
    """The number of the array that a decoded mark stands for."""
    if isinstance(value, str) and value.startswith(_MARK) and value[len(_MARK) :].isdigit():
        return int(value[len(_MARK) :])
    return None


def _find(body: Body, at: int) -> int:
    """The next quote; looking a megabyte at a time lets other threads run."""
    while at < len(body):
        found = body.find(b'"', at, at + LARGE)
        if found >= 0:
            return found
        at += LARGE
    return -1


def _end_of_array(body: Body, at: int) -> int:
    """Behind the last bracket before the next quote or brace: an array of numbers has neither in it."""
    limit = at
    while limit < len(body):
        stop = limit + _RUN
        found = [place for mark in _ENDS if (place := body.find(mark, limit, stop)) >= 0]  # far quicker than a pattern
        if found:
            limit = min(found)
            break
        limit = stop
    return max(body.rfind(b"]", max(at, limit - _RUN), limit) + 1, at)
