"""What model authors import and what serves inside the image.

A predictor is an ordinary class: `load()` once, `predict(...)` with type hints, which are the schema. `python -m berth`
serves it; see `berth.config` for the settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Meta

from berth.calls import ModelHandle, trace_headers, use_model
from berth.errors import CallError, InputError
from berth.files import File
from berth.predictors import batched
from berth.tensors import Tensor

if TYPE_CHECKING:
    from berth.image import Image

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


def __getattr__(name: str) -> Any:
    # Image needs Pillow, which models without pictures do not carry.
    if name == "Image":
        import berth.image  # noqa: PLC0415

        return berth.image.Image
    raise AttributeError(f"module 'berth' has no attribute {name!r}")
