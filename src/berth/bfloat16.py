"""BF16, which numpy does not know: float32 in the process, the upper two bytes of it on the wire.

Every BF16 value is a float32, so widening loses nothing; narrowing rounds to the nearest value, ties to even, as
processors do. protocols/v2_inputs.py and backends/onnx.py call this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

ITEM_BYTES = 2
_HALF = np.uint32(0x7FFF)
_QUIET = np.uint16(0x40)  # keeps a NaN whose upper bits are all zero from turning into infinity


def widen(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """The numbers that these upper halves stand for."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrow(values: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """The upper halves of the nearest BF16 values; NaN stays NaN."""
    whole = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (whole + _HALF + ((whole >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    upper = (whole >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), upper | _QUIET, rounded.astype(np.uint16))
