"""How deep a JSON body may nest: 100, as Triton has it.

Typed fields bound their own depth; what may hold anything (parameters, nested tensor data, a predictor's `Any`) does
not, and decoders recurse. Faces call `check_nesting` on bytes before they decode them into anything, or `check_depth`
on what was decoded already.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from berth.errors import InputError

MAX_NESTING = 100
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def check_nesting(body: bytes) -> None:
    """InputError when arrays and objects are nested more than 100 deep. A third of a nanosecond a byte."""
    if len(body) <= MAX_NESTING * 2:
        return
    brackets = body.translate(None, _NO_BRACKETS)
    if len(brackets) <= MAX_NESTING:
        return
    if b'"' in body:  # brackets in texts do not count
        brackets = _TEXT.sub(b"", body).translate(None, _NO_BRACKETS)
    kinds = np.frombuffer(brackets, np.uint8) & 6  # [ and ] are 5B and 5D, { and } 7B and 7D
    steps = np.where(kinds == 2, 1, -1)
    if np.cumsum(steps).max(initial=0) > MAX_NESTING:
        raise _too_deep()


def check_depth(value: Any, left: int = MAX_NESTING) -> None:
    """The same for a decoded value, which is nested `MAX_NESTING - left` deep itself."""
    if not isinstance(value, dict | list):
        return
    if not left:
        raise _too_deep()
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict | list):
            check_depth(item, left - 1)


def _too_deep() -> InputError:
    return InputError(f"the JSON is nested too deeply: expected at most {MAX_NESTING} levels")
