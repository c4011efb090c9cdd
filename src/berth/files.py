"""`File`: bytes that arrive with a request or leave with an answer, and the base of `berth.Image`.

In JSON a file is `{"b64": "..."}` or a `data:` URL; in multipart it is a file part; in V2 it is one BYTES element.
signature.py calls `receive` for parameters of this type; it knows nothing of what subclasses do with the bytes.
"""

from __future__ import annotations

import binascii
import io
from typing import Any, ClassVar, Self
from urllib.parse import unquote_to_bytes

DEFAULT_CONTENT_TYPE = "application/octet-stream"


class File:
    """Bytes with a name and a content type (both may be empty)."""

    max_pixels: ClassVar[int] = 64_000_000  # of a picture, once for the process: BERTH_MAX_IMAGE_PIXELS

    def __init__(self, data: bytes, name: str = "", content_type: str = DEFAULT_CONTENT_TYPE) -> None:
        self.data = data
        self.name = name
        self.content_type = content_type

    def read(self) -> bytes:
        """All the bytes."""
        return self.data

    def open(self) -> io.BytesIO:
        """A binary stream over the bytes, for libraries that want one."""
        return io.BytesIO(self.data)

    def check(self) -> None:
        """Raise ValueError when the bytes are not what this type promises; any bytes are a File."""

    @classmethod
    def receive(cls, value: Any) -> Self:
        """From a File, bytes, `{"b64": ...}` or a `data:` URL; ValueError says what was expected."""
        if isinstance(value, File):
            file = cls(value.data, value.name, value.content_type)
        elif isinstance(value, bytes | bytearray | memoryview):
            file = cls(bytes(value))
        elif isinstance(value, dict):
            file = cls._from_object(value)
        elif isinstance(value, str) and value.startswith("data:"):
            file = cls._from_data_url(value)
        else:
            raise ValueError('Expected {"b64": "..."} or a data: URL')
        file.check()
        return file

    @classmethod
    def _from_object(cls, value: dict[str, Any]) -> Self:
        unknown = sorted(set(value) - {"b64", "name", "content_type"})
        if unknown or not isinstance(value.get("b64"), str):
            raise ValueError('Expected {"b64": "..."}, with "name" and "content_type" if you like')
        name, content_type = value.get("name", ""), value.get("content_type", DEFAULT_CONTENT_TYPE)
        if not isinstance(name, str) or not isinstance(content_type, str):
            raise ValueError('Expected strings in "name" and "content_type"')
        return cls(_decode_base64(value["b64"]), name, content_type)

    @classmethod
    def _from_data_url(cls, url: str) -> Self:
        head, comma, payload = url[len("data:") :].partition(",")
        if not comma:
            raise ValueError("Expected data:<type>;base64,<data>, got a data: URL without a comma")
        content_type, *parameters = head.split(";")
        encoded = "base64" in parameters
        data = _decode_base64(payload) if encoded else unquote_to_bytes(payload)
        return cls(data, "", content_type or "text/plain")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.data)} bytes, name={self.name!r}, content_type={self.content_type!r})"


def _decode_base64(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (ValueError, UnicodeEncodeError) as error:
        raise ValueError(f"Expected base64: {error}") from error
