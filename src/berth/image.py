"""`Image`: a picture that arrives with a request or leaves with an answer. Needs Pillow.

Only models that name `berth.Image` import this module (`berth/__init__.py` finds it on first use), so that every other
image stays small. The header is checked when the request arrives; pixels are decoded when the predictor asks for them.
"""

from __future__ import annotations

import io
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from berth.errors import InputError
from berth.files import File

try:
    import PIL.Image
except ImportError as error:
    raise ImportError("berth.Image needs Pillow: add `pillow` to your project's requirements") from error


class Image(File):
    """Encoded picture bytes (PNG, JPEG, ...), with their pixels on demand."""

    width: int
    height: int

    def check(self) -> None:
        """ValueError when the bytes are no picture, or by its header one of more than `max_pixels`."""
        own = PIL.Image.MAX_IMAGE_PIXELS
        if own is not None and own < self.max_pixels:
            PIL.Image.MAX_IMAGE_PIXELS = self.max_pixels  # whoever runs the server allows more than Pillow would
        try:
            with PIL.Image.open(io.BytesIO(self.data)) as picture:
                self.width, self.height = picture.size
                self.content_type = picture.get_format_mimetype() or self.content_type
        except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
            raise ValueError(f"Expected an image of at most {self.max_pixels} pixels: {error}") from error
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError("Expected an image, got bytes that no known format explains") from error
        if self.width * self.height > self.max_pixels:
            got = f"{self.width} x {self.height} (BERTH_MAX_IMAGE_PIXELS)"
            raise ValueError(f"Expected an image of at most {self.max_pixels} pixels, got {got}")

    def pil(self, mode: str = "RGB") -> PIL.Image.Image:
        """The decoded picture in a Pillow mode; InputError (422) when the data is truncated or damaged."""
        try:
            with PIL.Image.open(io.BytesIO(self.data)) as picture:
                return picture.convert(mode)
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"the image cannot be decoded: {error}") from error

    def array(self, mode: str = "RGB") -> npt.NDArray[np.uint8]:
        """Pixels as uint8, shape (height, width, channels), or (height, width) for mode "L"."""
        return np.asarray(self.pil(mode), dtype=np.uint8)

    @classmethod
    def from_pil(cls, picture: PIL.Image.Image, format: str = "PNG", **options: Any) -> Self:  # noqa: A002
        """Encode a Pillow picture, for an answer."""
        buffer = io.BytesIO()
        picture.save(buffer, format=format, **options)
        image = cls(buffer.getvalue(), "", f"image/{format.lower()}")
        image.width, image.height = picture.size
        return image

    @classmethod
    def from_array(cls, pixels: npt.NDArray[np.uint8], format: str = "PNG", **options: Any) -> Self:  # noqa: A002
        """Encode uint8 pixels of shape (height, width) or (height, width, 3 or 4), for an answer."""
        return cls.from_pil(PIL.Image.fromarray(np.ascontiguousarray(pixels)), format, **options)
