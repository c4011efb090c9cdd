"""What model authors import and what serves inside the image.

A predictor is an ordinary class: `load()` once, `predict(...)` with type hints, which are the schema. `python -m berth`
serves it; see `berth.config` for the settings. Each name is imported when it is first used, so that whoever needs one
waits for that one alone: `Meta` needs no arrays, and `Image` needs Pillow, which few models carry.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msgspec import Meta

    from berth.calls import ModelHandle, trace_headers, use_model
    from berth.errors import CallError, InputError
    from berth.files import File
    from berth.image import Image
    from berth.predictors import batched
    from berth.tensors import Tensor

__all__ = [
    "CONTRACT",
    "CallError",
    "File",
    "Image",
    "InputError",
    "Meta",
    "ModelHandle",
    "Tensor",
    "__version__",
    "batched",
    "trace_headers",
    "use_model",
]

__version__ = "0.1.0"
CONTRACT = "1"  # what an image's label dev.dockyard.berth.contract says: the settings and the activation handshake
_PLACES = {
    "CallError": "berth.errors",
    "File": "berth.files",
    "Image": "berth.image",
    "InputError": "berth.errors",
    "Meta": "msgspec",
    "ModelHandle": "berth.calls",
    "Tensor": "berth.tensors",
    "batched": "berth.predictors",
    "trace_headers": "berth.calls",
    "use_model": "berth.calls",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'berth' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_PLACES[name]), name)
    return value
