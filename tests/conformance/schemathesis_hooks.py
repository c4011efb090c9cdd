"""Requests that schemathesis should not make; test_openapi.py names this module to it."""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis import GenerationMode


@schemathesis.hook
def filter_case(_: Any, case: Any) -> bool:
    """No forms that are wrong on purpose: everything in a form is text, so `5` is a number and a string alike.

    Nor JSON that a header calls the bytes of a tensor.
    """
    if (case.headers or {}).get("Inference-Header-Content-Length") == "0":
        return False
    if case.media_type != "multipart/form-data":
        return True
    return case.meta is None or case.meta.generation.mode is not GenerationMode.NEGATIVE


@schemathesis.hook
def map_body(_: Any, body: Any) -> Any:
    """No whole numbers written as 300.0: JSON Schema takes them for integers, and berth does not."""
    return _whole(body)


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value
