"""Names that the yard gives to images in the store, so that they are not swept: nobody else's begin like these.

`changing` keeps the image of each revision by one, `receiving` an image that was just sent; `pruning` takes them back.
"""

from __future__ import annotations

from dockyard.oci.digest import Digest, hex_of

PREFIX = "yard.dockyard/"
RECEIVED = f"{PREFIX}_received:"
"""No deployment's name begins with an underscore."""


def image_name(deployment: str, revision: int) -> str:
    """The name that keeps a revision's image."""
    return f"{PREFIX}{deployment}:{revision}"


def received_name(digest: Digest) -> str:
    """The name that keeps an image which was sent, until a revision does."""
    return RECEIVED + hex_of(digest)
