"""Memory that the server and one worker both map: large buffers cross in it without passing through the socket.

An arena is a memfd, so it has no name that could be left behind, and the 64 MB that containers give to /dev/shm do not
count: only the memory limit does, for the pages that were touched. Its first half carries requests, its second half
answers. The sender of a half copies buffers in; the receiver reads them in place. A buffer's place is used again when
nothing at the receiver refers to it any more: every message says which places are still held. messages.py calls this.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from collections.abc import Sequence

import numpy as np

from berth.tensors import Array

ALIGNMENT = 64
INLINE = -1  # the offset of a buffer that found no room: it travels through the socket
KEPT_BYTES = 8 * 1024 * 1024  # of each half, kept between messages; what lies beyond is given back when idle


class Arena:
    """One mapping, its two halves `size` bytes each."""

    def __init__(self, descriptor: int, size: int) -> None:
        memory = mmap.mmap(descriptor, 2 * size)
        self.requests = (memory, 0, size)
        self.answers = (memory, size, size)


def create(size: int) -> int:
    """The descriptor of a memfd with two halves of `size` bytes; nobody can shrink it under another's feet."""
    descriptor = os.memfd_create("berth-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 2 * size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return descriptor


class _Half:
    """One direction of an arena as one side sees it; `_end` is how far it has been used."""

    def __init__(self, half: tuple[mmap.mmap, int, int]) -> None:
        self._memory, self._start, self._size = half
        self._end = self._start

    def _carrier(self, offset: int, length: int) -> Array:
        return np.frombuffer(self._memory, np.uint8, length, offset)

    def _give_back(self, used_until: int) -> None:
        start = -(-max(used_until, self._start + KEPT_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE
        if start < self._end:
            self._memory.madvise(mmap.MADV_REMOVE, start, self._end - start)
            self._end = start


class Outbox(_Half):
    """The half that this side writes. One message at a time: the next is placed after the answer to the last."""

    def __init__(self, half: tuple[mmap.mmap, int, int]) -> None:
        super().__init__(half)
        self._placed: dict[int, int] = {}  # offset -> length

    def place(self, sizes: Sequence[int]) -> list[int]:
        """An offset for each buffer; INLINE for those that find no room."""
        gaps = self._gaps()
        offsets = []
        for size in sizes:
            room = -(-size // ALIGNMENT) * ALIGNMENT
            gap = next((gap for gap in gaps if gap[1] - gap[0] >= room), None)
            if gap is None:
                offsets.append(INLINE)
                continue
            offset = gap[0]
            gap[0] += room
            offsets.append(offset)
            self._placed[offset] = room
            self._end = max(self._end, offset + room)
        return offsets

    def _gaps(self) -> list[list[int]]:
        at = self._start
        gaps = []
        for offset in sorted(self._placed):
            gaps.append([at, offset])
            at = offset + self._placed[offset]
        gaps.append([at, self._start + self._size])
        return gaps

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Copy a buffer to its place; numpy lets other threads run meanwhile."""
        self._carrier(offset, len(data))[:] = np.frombuffer(data, np.uint8)

    def keep_only(self, offsets: Sequence[int]) -> None:
        """What the receiver still holds; all other places are free."""
        if self._placed:
            self._placed = {offset: self._placed[offset] for offset in offsets if offset in self._placed}

    def give_back(self) -> None:
        """Return memory to the system that a large message left behind. Only while no message is on its way."""
        self._give_back(max((offset + length for offset, length in self._placed.items()), default=0))


class Inbox(_Half):
    """The half that this side reads."""

    def __init__(self, half: tuple[mmap.mmap, int, int], *, writable: bool) -> None:
        super().__init__(half)
        self._writable = writable
        self._open: dict[int, tuple[weakref.ref[Array], int]] = {}

    def view(self, offset: int, length: int) -> Array:
        """The buffer at a place. The place stays held as long as the view or anything made from it lives."""
        if not self._start <= offset <= offset + length <= self._start + self._size:
            raise ValueError(f"a buffer of {length} bytes at {offset} lies outside of its half of the arena")
        carrier = self._carrier(offset, length)
        carrier.flags.writeable = self._writable
        self._open[offset] = (weakref.ref(carrier), offset + length)
        self._end = max(self._end, offset + length)
        return carrier

    def held(self) -> list[int]:
        """The places that something still refers to."""
        if self._open:
            self._open = {offset: entry for offset, entry in self._open.items() if entry[0]() is not None}
        return list(self._open)

    def give_back(self) -> None:
        """Return memory to the system that a large message left behind. Only while no message is on its way."""
        self.held()
        self._give_back(max((end for _, end in self._open.values()), default=0))
