"""What an answer says of itself, for those who want it: the model, its version, and the image that it came from.

Off unless BERTH_ANSWER_INFO turns it on for every answer, or a caller asks with `Prefer: model-info` (RFC 7240). An
image cannot hold its own digest, so whoever starts the container says it, in BERTH_IMAGE_DIGEST. answers.py calls.
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from berth.metrics import ModelMetrics
from berth.protocols.base import Response

PREFERENCE = b"model-info"


class Info(msgspec.Struct, frozen=True):
    """What this server says: `always` or only to callers who ask; an empty digest is not said."""

    always: bool = False
    image_digest: str = ""

    def wanted(self, prefer: bytes) -> bool:
        """Whether it is said to a caller with this Prefer header."""
        if self.always or not prefer:
            return self.always
        return any(part.partition(b";")[0].strip() == PREFERENCE for part in prefer.lower().split(b","))

    def add(self, response: Response, of: ModelMetrics | None, *, asked: bool) -> Response:
        """The answer with the headers; `of` is whose answer it is, None for one of no model."""
        headers = response.headers
        if of is not None:  # names may be any text, and headers may not
            headers += ((b"Model-Name", quote(of.model).encode()), (b"Model-Version", quote(of.version).encode()))
        if self.image_digest:
            headers += ((b"Image-Digest", self.image_digest.encode()),)
        if asked:
            headers += ((b"Preference-Applied", PREFERENCE),)
        return msgspec.structs.replace(response, headers=headers)


NOTHING = Info()
