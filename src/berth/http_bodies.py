"""Large bodies over HTTP/1.1: whose is read now, and where its bytes go.

When many large bodies come side by side, each is cold by the time it is whole: the others have been through the
processor's caches meanwhile. So a few are read at a time, in the order in which they began; the rest waits in the
kernel, whose socket buffers have a bound of their own. Who has a turn is read straight into one buffer of the body's
length, and buffers that nobody refers to any more are used again, because new memory costs a page fault for every
4 KiB. A sender that does not deliver, or goes on for long, gives its turn back and is read as it sends; where that
happens, more are let in at once, so that slow senders hold nobody up for long. http_server.py makes one `Turns` and one
`Buffers` per server, http_large.py asks them.
"""

from __future__ import annotations

import asyncio
from sys import getrefcount
from typing import Protocol

TURNS = 16  # bodies that are read at once: while some senders are waited for, there is another
LOOK_S = 0.05  # how often it is looked who delivers, while anybody waits; acknowledgements may be 0.04 late
LEAST = 65_536  # bytes that keep a turn for another look
MOST_LOOKS = 4  # that a turn can last: a body that takes longer does not profit from it
MOST_DIRECT = 4 * 1024 * 1024  # bytes of a body that gets a buffer before they have come
MOST_BUFFERS = TURNS  # that are read into at once; as many are kept
_ROUND = 65_536  # sizes of buffers, so that bodies of slightly different length can have the same one


class Reader(Protocol):
    """A connection in the middle of a large body."""

    @property
    def received(self) -> int:
        """Bytes of the body so far."""

    def begin_turn(self, *, direct: bool) -> None:
        """Read on; `direct`: into a buffer of the body's own."""

    def end_turn(self) -> None:
        """Read on as it comes, and without a buffer of one's own."""


class _Turn:
    """What was seen of one at the last look; nothing if it came since."""

    __slots__ = ("looks", "received")

    def __init__(self) -> None:
        self.looks = 0
        self.received = 0

    def is_over(self, received: int) -> bool:
        """Look at it once more.

        The loop has read since the last look whatever had come, however long it took, so it is never us who were slow.
        """
        silent = bool(self.looks) and received < self.received + LEAST
        self.looks += 1
        self.received = received
        return silent or self.looks > MOST_LOOKS


class Turns:
    """Who is read, and who waits for that. Callers leave when the body is whole, refused or given up."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Reader, None] = {}
        self._reading: dict[Reader, _Turn] = {}
        self._width = TURNS  # how many may be read at once: twice as many after each look that ended turns
        self._look_later: asyncio.TimerHandle | None = None

    def join(self, reader: Reader) -> None:
        """One more, whose turn may begin at once."""
        self._waiting[reader] = None
        self._admit()
        if self._waiting and self._look_later is None:
            self._look_later = self._loop.call_later(LOOK_S, self._look)

    def leave(self, reader: Reader) -> None:
        """It has no turn any more, nor waits for one."""
        if self._reading.pop(reader, None) is None:
            self._waiting.pop(reader, None)
        else:
            self._width = max(TURNS, self._width - 1)
            self._admit()

    def _admit(self) -> None:
        while self._waiting and len(self._reading) < self._width:
            reader = next(iter(self._waiting))
            del self._waiting[reader]
            self._reading[reader] = _Turn()
            reader.begin_turn(direct=len(self._reading) <= MOST_BUFFERS)

    def _look(self) -> None:
        """End the turns that others should not wait for."""
        self._look_later = None
        over = [reader for reader, turn in self._reading.items() if turn.is_over(reader.received)]
        for reader in over:
            del self._reading[reader]
            reader.end_turn()
        if over:
            self._width = min(2 * self._width, TURNS + len(self._reading) + len(self._waiting))
        self._admit()
        if self._waiting:
            self._look_later = self._loop.call_later(LOOK_S, self._look)


def _references(buffers: list[bytearray], index: int) -> int:
    return getrefcount(buffers[index])


_UNUSED = _references([bytearray()], 0)  # what is counted for a buffer that only the list refers to


class Buffers:
    """Buffers for bodies. Whoever refers to one, or to a view of it, has it; there is no giving back."""

    def __init__(self) -> None:
        self._kept: list[bytearray] = []
        self._asked = False
        self.scratch = memoryview(bytearray(16_384))  # for the first bytes of requests that are likely to be large

    def take(self, length: int) -> bytearray:
        """A buffer of so many bytes, whatever they are."""
        self._asked = True
        kept = self._kept
        for index in range(len(kept)):
            if length < kept[index].__alloc__() <= 2 * length and _references(kept, index) == _UNUSED:
                return _resized(kept[index], length)
        buffer = _resized(bytearray(-(-length // _ROUND) * _ROUND), length)
        kept.append(buffer)
        if len(kept) > MOST_BUFFERS:  # the first may be one that somebody keeps
            del kept[0]
        return buffer

    def tick(self) -> None:
        """Twice a second: keep none for whom nobody asks."""
        if not self._asked:
            self._kept.clear()
        self._asked = False


def _resized(buffer: bytearray, length: int) -> bytearray:
    """The same memory, which is large enough: only the difference is written."""
    if len(buffer) > length:
        del buffer[length:]
    else:
        buffer += bytes(length - len(buffer))
    return buffer
