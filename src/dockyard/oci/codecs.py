"""Compression of layers, always to the same bytes; and decompression with bounded memory.

gzip is libdeflate in members of 4 MiB (docs/decisions/0002-gzip-in-members.md): fast, the same on every machine, and
each member is compressed on its own, so on several threads. zstd is the library's streaming mode with at least one
worker, whose bytes do not depend on the number of threads. Called by `layer.py`, `unpack.py` and `archive.py`.
Sources: RFC 1952 (gzip, section 2.2: members are concatenated), RFC 8878 (zstd).
"""

from __future__ import annotations

import io
import os
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, Protocol, cast

import deflate
import zstandard

from dockyard.errors import ImageError
from dockyard.oci.media import Codec

MEMBER = 4 << 20
GZIP_LEVEL = 6
ZSTD_LEVEL = 3
_ZSTD_WINDOW_LIMIT = 128 << 20
_THREADS_LIMIT = 8
_CHUNK = 1 << 18
_GZIP = 16 + zlib.MAX_WBITS


def codec_version(codec: Codec) -> str:
    """What, besides the tar, decides the bytes of a blob: for the keys of caches."""
    if codec == "gzip":
        return f"libdeflate-{deflate.__version__}-{GZIP_LEVEL}-{MEMBER}"
    if codec == "zstd":
        return f"zstd-{'.'.join(map(str, zstandard.ZSTD_VERSION))}-{ZSTD_LEVEL}"
    return "tar"


def usable_threads() -> int:
    """How many threads compress: the cores that this process may use, at most 8."""
    return min(len(os.sched_getaffinity(0)), _THREADS_LIMIT)


class Compressor(Protocol):
    """Takes tar bytes in members of `MEMBER` bytes (the last may be shorter), gives compressed bytes in order."""

    def feed(self, member: bytearray) -> Iterator[bytes | bytearray]:
        """Hand over one member, which must not change after; gives whatever is ready."""
        ...

    def finish(self) -> Iterator[bytes | bytearray]:
        """Give the rest."""
        ...

    def close(self) -> None:
        """Give up the threads."""
        ...


def compressor(codec: Codec, threads: int | None = None) -> Compressor:
    """A compressor of one blob. Its bytes do not depend on `threads`."""
    count = max(1, threads or usable_threads())
    if codec == "gzip":
        return _Gzip(count)
    if codec == "zstd":
        return _Zstd(count)
    return _Plain()


class _Plain:
    def feed(self, member: bytearray) -> Iterator[bytes | bytearray]:
        yield member

    def finish(self) -> Iterator[bytes | bytearray]:
        return iter(())

    def close(self) -> None:
        """Nothing to give up."""


def _gzip_member(data: bytearray) -> bytearray:
    return deflate.gzip_compress(data, GZIP_LEVEL)


class _Gzip:
    """One gzip member for each tar member. At most two per thread are waiting, so memory is bounded.

    Threads start with the second member: a small layer needs none.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._held: bytearray | None = None
        self._waiting: deque[Future[bytearray]] = deque()

    def feed(self, member: bytearray) -> Iterator[bytes | bytearray]:
        if self._pool is None and self._held is None:
            self._held = member
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "gzip")
            assert self._held is not None
            self._waiting.append(self._pool.submit(_gzip_member, self._held))
            self._held = None
        self._waiting.append(self._pool.submit(_gzip_member, member))
        while len(self._waiting) > 2 * self._threads or (self._waiting and self._waiting[0].done()):
            yield self._waiting.popleft().result()

    def finish(self) -> Iterator[bytes | bytearray]:
        if self._held is not None:
            yield _gzip_member(self._held)
        while self._waiting:
            yield self._waiting.popleft().result()

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)


class _Zstd:
    def __init__(self, threads: int) -> None:
        self._stream = zstandard.ZstdCompressor(level=ZSTD_LEVEL, threads=threads, write_checksum=True).compressobj()

    def feed(self, member: bytearray) -> Iterator[bytes | bytearray]:
        yield self._stream.compress(member)

    def finish(self) -> Iterator[bytes | bytearray]:
        yield self._stream.flush()

    def close(self) -> None:
        """The library ends its threads with the stream."""


def decompressed(stream: BinaryIO, codec: Codec, what: str) -> BinaryIO:
    """A stream of the plain bytes of `stream`, with flat memory; reading raises ImageError when it is damaged."""
    if codec == "gzip":
        return cast(BinaryIO, io.BufferedReader(_Gunzip(stream, what), _CHUNK))
    if codec == "zstd":
        return cast(BinaryIO, io.BufferedReader(_Unzstd(stream, what), _CHUNK))
    return stream


def _damaged(what: str, why: str) -> ImageError:
    return ImageError(f"{what} is damaged: {why}", remedy="Build or pull the image again.")


class _Gunzip(io.RawIOBase):
    """All members of a gzip stream, one after the other."""

    def __init__(self, stream: BinaryIO, what: str) -> None:
        super().__init__()
        self._stream = stream
        self._what = what
        self._member = zlib.decompressobj(_GZIP)
        self._input = b""
        self._begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        while True:
            if not self._input:
                self._input = self._stream.read(_CHUNK)
                if not self._input:
                    return self._end()
            if self._member.eof:
                self._member = zlib.decompressobj(_GZIP)
                self._begun = False
            data = self._step(len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)

    def _step(self, limit: int) -> bytes:
        try:
            data = self._member.decompress(self._input, limit)
        except zlib.error as error:
            raise _damaged(self._what, str(error)) from error
        self._begun = True
        self._input = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        return data

    def _end(self) -> int:
        if not self._member.eof:
            raise _damaged(self._what, "it is cut off" if self._begun else "it is empty")
        return 0


class _Unzstd(io.RawIOBase):
    """All frames of a zstd stream. A frame that asks for a window over 128 MiB is refused."""

    def __init__(self, stream: BinaryIO, what: str) -> None:
        super().__init__()
        self._what = what
        inner = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_LIMIT)
        self._stream = inner.stream_reader(stream, read_across_frames=True, closefd=False)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        try:
            return self._stream.readinto(buffer)
        except zstandard.ZstdError as error:
            raise _damaged(self._what, str(error)) from error
