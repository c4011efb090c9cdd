"""Content-Encoding: gzip and deflate, both ways, with a bound on what a body may unfold to.

application.py calls `decompress` before a protocol sees the body and `compress` after it has answered.
"""

from __future__ import annotations

import zlib

from berth.protocols.base import Refusal

SMALLEST = 1024  # below this, compressing costs more than it saves
LARGEST = 1024 * 1024  # above this, compressing would hold the event loop for too long
MAX_RATIO = 200  # text and real tensors stay below 100, a bomb is near 1,000
HARMLESS = 1024 * 1024  # what may always be unfolded, however small it was
_WINDOW = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


def decompress(body: bytes, encoding: bytes, limit: int, ratio: int = MAX_RATIO) -> bytes:
    """The body as it was meant; 415 for another encoding, 413 when it unfolds to more than `limit` bytes.

    413 too when it unfolds to more than 1 MiB and more than `ratio` times itself; no more than that is ever unfolded.
    """
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        return body
    if name not in _WINDOW:
        raise Refusal(415, f"Content-Encoding: expected gzip, deflate or identity, got {name.decode('latin-1')!r}")
    stream = zlib.decompressobj(_WINDOW[name])
    try:
        allowed = min(limit, max(HARMLESS, len(body) * ratio))
        data = stream.decompress(body, allowed + 1)
    except zlib.error as error:
        raise Refusal(400, f"the body is not valid {name.decode('latin-1')}: {error}") from error
    if len(data) > allowed and allowed < limit:
        text = f"the body unfolds to more than {ratio} times its size (BERTH_MAX_DECOMPRESSION_RATIO)"
        raise Refusal(413, f"{text}: {len(body)} bytes to more than {allowed}")
    if len(data) > limit:
        raise Refusal(413, f"the body unfolds to more than {limit} bytes (BERTH_MAX_BODY_BYTES)")
    if not stream.eof or stream.unused_data:
        raise Refusal(400, f"the body is not valid {name.decode('latin-1')}: it is cut short or goes on after its end")
    return data


def choose(accepted: bytes, size: int) -> bytes | None:
    """The encoding for an answer of this size, or None to leave it as it is."""
    if not SMALLEST <= size <= LARGEST:
        return None
    for part in accepted.lower().split(b","):
        name, _, weight = part.partition(b";")
        if name.strip() in (b"gzip", b"deflate") and weight.replace(b" ", b"") not in (b"q=0", b"q=0.0", b"q=0.00"):
            return name.strip()
    return None


def compress(body: bytes, encoding: bytes) -> bytes:
    """The body in this encoding, quickly rather than tightly."""
    stream = zlib.compressobj(1, zlib.DEFLATED, _WINDOW[encoding])
    return stream.compress(body) + stream.flush()
