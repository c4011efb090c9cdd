"""multipart/form-data (RFC 7578) over a body that is whole in memory.

Small and strict: a bounded number of parts and of header bytes, every part named, the closing boundary required.
native.py calls it; every error is a 400 that says what was expected.
"""

from __future__ import annotations

import re

import msgspec

from berth.protocols.base import Refusal

MAX_PARTS = 256
MAX_HEADER_BYTES = 8192
MAX_BOUNDARY = 70  # RFC 2046, section 5.1.1

_PARAMETER = re.compile(rb';\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;"]*)\s*')
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")


class Part(msgspec.Struct, frozen=True):
    """One field of a form; `filename` is None for a field that is not a file."""

    name: str
    filename: str | None
    content_type: str
    data: bytes


def parse_boundary(content_type: bytes) -> bytes:
    """The boundary parameter of a multipart/form-data Content-Type."""
    boundary = _parameters(content_type).get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise Refusal(400, "multipart/form-data: expected a boundary of 1 to 70 characters in Content-Type")
    return boundary


def parse_parts(body: bytes, boundary: bytes) -> list[Part]:
    """Every part, in order; Refusal (400) when the body is not well-formed."""
    delimiter = b"--" + boundary
    if body.startswith(delimiter):
        at = len(delimiter)
    else:
        start = body.find(b"\r\n" + delimiter)
        if start < 0:
            raise Refusal(400, "multipart/form-data: the boundary of Content-Type does not occur in the body")
        at = start + 2 + len(delimiter)
    parts: list[Part] = []
    while not body.startswith(b"--", at):
        at = _line_end(body, at)
        stop = body.find(b"\r\n" + delimiter, max(at - 2, 0))
        if stop < 0:
            raise Refusal(400, "multipart/form-data: the body ends before the closing boundary")
        if len(parts) == MAX_PARTS:
            raise Refusal(400, f"multipart/form-data: expected at most {MAX_PARTS} parts")
        parts.append(_part(body, at, max(stop, at)))
        at = stop + 2 + len(delimiter)
    return parts


def _line_end(body: bytes, at: int) -> int:
    """Past the white space and CRLF that end a boundary's line."""
    end = body.find(b"\r\n", at, at + 256)
    if end < 0 or body[at:end].strip(b" \t"):
        raise Refusal(400, "multipart/form-data: expected CRLF or -- after a boundary")
    return end + 2


def _part(body: bytes, start: int, stop: int) -> Part:
    if body.startswith(b"\r\n", start):
        head, data_at = b"", start + 2
    else:
        head_end = body.find(b"\r\n\r\n", start, min(stop, start + MAX_HEADER_BYTES))
        if head_end < 0:
            raise Refusal(400, f"multipart/form-data: a part's headers do not end within {MAX_HEADER_BYTES} bytes")
        head, data_at = body[start:head_end], head_end + 4
    headers = _headers(head)
    disposition = headers.get(b"content-disposition", b"")
    parameters = _parameters(disposition)
    if not disposition.lower().startswith(b"form-data") or b"name" not in parameters:
        raise Refusal(400, 'multipart/form-data: expected Content-Disposition: form-data; name="..." in every part')
    if headers.get(b"content-transfer-encoding", b"binary").lower() not in (b"binary", b"8bit", b"7bit"):
        raise Refusal(400, "multipart/form-data: Content-Transfer-Encoding must be binary")
    filename = parameters.get(b"filename")
    return Part(
        name=_text(parameters[b"name"]),
        filename=None if filename is None else _text(filename),
        content_type=headers.get(b"content-type", b"application/octet-stream").decode("latin-1"),
        data=body[data_at:stop],
    )


def _headers(head: bytes) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n") if head else ():
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise Refusal(400, "multipart/form-data: a part has a header line without a name and a colon")
        headers[name.lower()] = value.strip()
    return headers


def _parameters(value: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name, text in _PARAMETER.findall(value):
        if text.startswith(b'"'):
            text = re.sub(rb"\\(.)", rb"\1", text[1:-1])  # noqa: PLW2901
        found.setdefault(name.lower(), text)
    return found


def _text(value: bytes) -> str:
    # Browsers send UTF-8, with quotes and line ends percent-encoded (the HTML standard's form-data rules).
    text = value.decode("utf-8", "replace")
    return text.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")
