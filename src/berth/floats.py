"""JSON text of numbers straight into an array, where simdjson is installed: no Python object for each number.

A tensor of 150,000 numbers costs 2 ms this way and 6 or more through a list. simdjson is loaded when the first such
body comes, so who has none pays nothing; without it (it has no wheel for every Python) numbers.py goes its own way. It
keeps Python's lock meanwhile, so bodies that would take long are not for it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import threading
from typing import Any

import numpy as np

from berth.tensors import Array

MOST_BYTES = 8 * 1024 * 1024  # of text at once: some 15 ms
_KEPT_BYTES = 4 * 1024 * 1024  # a parser that has read more is not kept, with the memory that it took
_parsers = threading.local()


def can_read_floats() -> bool:
    """Whether simdjson is there; it is not loaded for that."""
    return importlib.util.find_spec("simdjson") is not None


def read_floats(text: bytes | memoryview) -> Array | None:
    """All numbers of an array, nested or not, as float64 in one row; None when there are others in it, or too many."""
    make_parser = _simdjson()
    if make_parser is None or len(text) > MOST_BYTES:
        return None
    parser = getattr(_parsers, "own", None) or make_parser()
    _parsers.own = parser if len(text) <= _KEPT_BYTES else None
    try:
        return np.frombuffer(parser.parse(text).as_buffer(of_type="d"), np.float64)
    except (ValueError, TypeError):
        return None


@functools.cache
def _simdjson() -> Any:
    try:
        return importlib.import_module("simdjson").Parser
    except ImportError:
        return None
