"""Cutting what a container wrote into lines of text, with bounded memory. Both engines' logs pass here."""

from __future__ import annotations

from collections.abc import Iterator

LINE_LIMIT = 1 << 20


class Lines:
    """Takes bytes as they come and gives lines; one over 1 MiB is cut. Bytes that are not UTF-8 are replaced."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        """The lines that are complete now."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            yield _text(line)
        while len(self._rest) > LINE_LIMIT:
            yield _text(self._rest[:LINE_LIMIT])
            self._rest = self._rest[LINE_LIMIT:]

    def end(self) -> Iterator[str]:
        """What is left, once nothing more comes."""
        if self._rest:
            yield _text(self._rest)
            self._rest = b""


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode("utf-8", "replace")
