"""Signed notes and checkpoints: a few lines of text that say how long a log is and what its root is, signed.

Anyone who keeps a checkpoint can prove later that the log was changed. `yard.audit` signs them, `backup` and tests read
them; the stand-alone `audit_verifier` reads them on its own. Pure. Sources: C2SP signed-note and tlog-checkpoint.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from dockyard.errors import AuditError
from dockyard.supply.keys import LogKey, LogPublicKey

_LIMIT = 1 << 20
_MARK = "\N{EM DASH} "


@dataclass(frozen=True)
class Checkpoint:
    """How long the log named `origin` was at some moment, and its root then."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode('ascii')}\n"


def sign_checkpoint(checkpoint: Checkpoint, key: LogKey) -> str:
    """The checkpoint as a signed note."""
    text = checkpoint.text
    signature = base64.b64encode(key.public.hint + key.sign(text.encode())).decode("ascii")
    return f"{text}\n{_MARK}{key.public.name} {signature}\n"


def open_checkpoint(note: str, keys: tuple[LogPublicKey, ...]) -> Checkpoint:
    """The checkpoint in a note that one of these keys has signed; AuditError when none has, or it is none."""
    text, separator, signatures = note.rpartition("\n\n")
    if not separator or len(note) > _LIMIT:
        raise _no("is not a signed note")
    text += "\n"
    if not any(_signed_by(key, text, signatures) for key in keys):
        raise _no("is not signed by a key that is known here")
    return _read(text)


def _signed_by(key: LogPublicKey, text: str, signatures: str) -> bool:
    for line in signatures.splitlines():
        name, _, encoded = line.removeprefix(_MARK).partition(" ")
        if not line.startswith(_MARK) or name != key.name:
            continue
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            continue
        if data[:4] == key.hint and key.verifies(data[4:], text.encode()):
            return True
    return False


def _read(text: str) -> Checkpoint:
    lines = text.split("\n")
    try:
        origin, size, root = lines[0], lines[1], base64.b64decode(lines[2], validate=True)
    except (IndexError, binascii.Error, ValueError) as error:
        raise _no("does not say a size and a root") from error
    if not origin or not size.isascii() or not size.isdigit() or str(int(size)) != size or len(root) != 32:
        raise _no("does not say a size and a root")
    return Checkpoint(origin, int(size), root)


def _no(what: str) -> AuditError:
    return AuditError(
        f"the checkpoint {what}", remedy="Take the checkpoint that you kept, whole, and the log's own key."
    )
