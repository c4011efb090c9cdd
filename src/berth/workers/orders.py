"""What the server and the template say to each other, one packet each; descriptors travel beside a Fork."""

from __future__ import annotations

import signal
from typing import Any

import msgspec

LIMIT = 4096  # bytes of a packet


class Fork(msgspec.Struct, tag=True, frozen=True):
    """Start worker `number` with the two descriptors that come along: its socket and its arena."""

    number: int


class End(msgspec.Struct, tag=True, frozen=True):
    """Kill a worker and all that it has started."""

    number: int


class Forked(msgspec.Struct, tag=True, frozen=True):
    """A worker has started."""

    number: int
    pid: int


class Exited(msgspec.Struct, tag=True, frozen=True):
    """A worker is gone. `status` is its exit code, or the negative number of the signal that killed it."""

    number: int
    status: int | None
    text: str = ""

    @property
    def reason(self) -> str:
        """How it ended, in words."""
        if self.status is None:
            return self.text
        if self.status >= 0:
            return f"exited with code {self.status}"
        try:
            return f"was killed by {signal.Signals(-self.status).name}"
        except ValueError:
            return f"was killed by signal {-self.status}"


encode = msgspec.msgpack.Encoder().encode
decode_order: Any = msgspec.msgpack.Decoder(Fork | End).decode
decode_news: Any = msgspec.msgpack.Decoder(Forked | Exited).decode
