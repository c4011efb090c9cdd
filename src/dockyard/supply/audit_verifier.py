"""Checks an exported audit log, alone: this one file, Python and `cryptography` are all that it needs.

An auditor copies it to a machine of their own and runs `python audit_verifier.py LOG --key KEY --checkpoint KEPT`; the
command `dockyard audit verify` and the yard itself call `check`. It imports nothing of Dockyard and shares no code with
what writes the log, so a mistake there is not made here again.

A log is one entry a line, an empty line, and the checkpoint: a signed note with the number of entries and the root of
their Merkle tree. Sources: RFC 6962 (hashes), C2SP signed-note and tlog-checkpoint.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LINE_LIMIT = 1 << 20
_ED25519 = b"\x01"
_MARK = "\N{EM DASH} "


class DoesNotHoldError(Exception):
    """What was found, in a sentence."""


@dataclass(frozen=True)
class Head:
    """What a checkpoint says: the log's name, how many entries it has, and their root."""

    origin: str
    size: int
    root: bytes


@dataclass(frozen=True)
class Report:
    """What holds: the log's name, its entries, its root, and how many kept checkpoints it was held against."""

    origin: str
    entries: int
    root: bytes
    kept: int


def check(lines: Iterable[bytes], keys: Sequence[str], kept: Sequence[str] = ()) -> Report:
    """Check a log against its checkpoint and those that were kept; DoesNotHoldError says what is wrong.

    `lines`: of the file, with or without their ends. `keys`: `NAME+HINT+KEY`, one of which must have signed every
    checkpoint. `kept`: signed notes from earlier; without any, the removal of the newest entries cannot be noticed if
    an old checkpoint was put back with them.
    """
    reading = iter(lines)
    tree = _Tree()
    roots = {0: tree.root()}
    heads = [_head(note, keys, "a kept checkpoint") for note in kept]
    wanted = {head.size for head in heads}
    for number, line in enumerate(_entries(reading)):
        _check_number(line, number)
        tree.add(line)
        if number + 1 in wanted:
            roots[number + 1] = tree.root()
    roots[tree.size] = tree.root()
    own = _head(_text(b"\n".join(line.rstrip(b"\n") for line in reading)) + "\n", keys, "the log's own checkpoint")
    if own.size > tree.size:
        raise DoesNotHoldError(f"the last {own.size - tree.size} of {own.size} entries are missing")
    if own.size < tree.size:
        raise DoesNotHoldError(f"{tree.size - own.size} entries were added after the checkpoint was signed")
    if own.root != roots[own.size]:
        raise DoesNotHoldError(_changed(heads, roots, own.size))
    for head in heads:
        _hold(head, own, roots)
    return Report(own.origin, own.size, own.root, len(heads))


def _hold(head: Head, own: Head, roots: dict[int, bytes]) -> None:
    """Hold the log against one kept checkpoint."""
    if head.origin != own.origin:
        raise DoesNotHoldError(f"the kept checkpoint is of another log, {head.origin!r}, not {own.origin!r}")
    if head.size > own.size:
        raise DoesNotHoldError(
            f"the log ends at {own.size} entries, and the kept checkpoint proves {head.size}: an older copy was put in "
            "its place, or its end was cut off"
        )
    if head.root != roots[head.size]:
        raise DoesNotHoldError(f"the first {head.size} entries are not those of the kept checkpoint: it was rewritten")


def _changed(heads: Sequence[Head], roots: dict[int, bytes], size: int) -> str:
    """Where an entry was changed, as closely as the kept checkpoints tell."""
    sound = max((head.size for head in heads if roots.get(head.size) == head.root), default=0)
    broken = min((head.size for head in heads if head.size in roots and roots[head.size] != head.root), default=size)
    return f"an entry was changed after it was written: it is between number {sound} and {broken - 1}"


def _entries(reading: Iterator[bytes]) -> Iterator[bytes]:
    """The entries' bytes, up to the empty line."""
    for line in reading:
        data = line.rstrip(b"\n")
        if not data:
            return
        yield data
    raise DoesNotHoldError("the file has no checkpoint at its end: it was cut off")


def _check_number(line: bytes, expected: int) -> None:
    """Entries say their own number, so that what is missing or moved is named."""
    if len(line) > LINE_LIMIT:
        raise DoesNotHoldError(f"entry {expected} is too long to be one")
    try:
        number = json.loads(line)["number"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DoesNotHoldError(f"line {expected + 1} is not an entry") from error
    if number != expected:
        raise DoesNotHoldError(f"entry {number} stands where {expected} belongs: entries were removed, added or moved")


class _Tree:
    """The Merkle tree of what was added so far, as the roots of its complete subtrees, largest first."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []

    def add(self, data: bytes) -> None:
        running = hashlib.sha256(b"\x00" + data).digest()
        left = self.size
        while left & 1:
            running = hashlib.sha256(b"\x01" + self._peaks.pop() + running).digest()
            left >>= 1
        self._peaks.append(running)
        self.size += 1

    def root(self) -> bytes:
        if not self._peaks:
            return hashlib.sha256(b"").digest()
        running = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            running = hashlib.sha256(b"\x01" + peak + running).digest()
        return running


def _head(note: str, keys: Sequence[str], what: str) -> Head:
    """What a signed note says, once its signature is checked."""
    text, separator, signatures = note.rpartition("\n\n")
    text += "\n"
    if not separator:
        raise DoesNotHoldError(f"{what} is missing, or is not a signed note")
    if not any(_signed(text, signatures, key) for key in keys):
        raise DoesNotHoldError(f"{what} is not signed with the log's key")
    lines = text.split("\n")
    try:
        origin, size, root = lines[0], int(lines[1]), base64.b64decode(lines[2], validate=True)
    except (IndexError, ValueError, binascii.Error) as error:
        raise DoesNotHoldError(f"{what} does not say a size and a root") from error
    if size < 0 or len(root) != 32:
        raise DoesNotHoldError(f"{what} does not say a size and a root")
    return Head(origin, size, root)


def _signed(text: str, signatures: str, key: str) -> bool:
    name, hint, public = _key(key)
    for line in signatures.splitlines():
        signer, _, encoded = line.removeprefix(_MARK).partition(" ")
        if not line.startswith(_MARK) or signer != name:
            continue
        try:
            data = base64.b64decode(encoded, validate=True)
            if data[:4] == hint:
                Ed25519PublicKey.from_public_bytes(public).verify(data[4:], text.encode())
                return True
        except (ValueError, InvalidSignature):
            continue
    return False


def _key(text: str) -> tuple[str, bytes, bytes]:
    """A key's name, its hint, its 32 bytes; the hint is worked out, not believed."""
    name, _, rest = text.strip().partition("+")
    try:
        data = base64.b64decode(rest.partition("+")[2], validate=True)
    except (ValueError, binascii.Error):
        data = b""
    if len(data) != 33 or data[:1] != _ED25519:
        raise DoesNotHoldError(f"{text.strip()[:80]!r} is not the public key of a log")
    return name, hashlib.sha256(name.encode() + b"\n" + data).digest()[:4], data[1:]


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DoesNotHoldError("the checkpoint is not text") from error


def keys_in(text: str) -> list[str]:
    """The keys in a file, one a line; lines that begin with # are comments."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def main(words: Sequence[str] | None = None) -> int:
    """The command line; 0 when the log holds, 1 when it does not, 2 when something cannot be read."""
    parser = argparse.ArgumentParser(description="Check an exported audit log.")
    parser.add_argument("log", type=Path, help="the exported log")
    parser.add_argument("--key", type=Path, required=True, help="the yard's audit.pub, kept since it was set up")
    parser.add_argument(
        "--checkpoint", type=Path, action="append", default=[], help="a checkpoint kept from earlier; may be repeated"
    )
    given = parser.parse_args(words)
    try:
        keys, kept = keys_in(given.key.read_text()), [path.read_text() for path in given.checkpoint]
        with given.log.open("rb") as file:
            report = check(iter(lambda: file.readline(LINE_LIMIT + 2), b""), keys, kept)
    except (OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"cannot be read: {error}\n")
        return 2
    except DoesNotHoldError as error:
        sys.stderr.write(f"DOES NOT HOLD: {error}\n")
        return 1
    sys.stdout.write(said(report) + "\n")
    return 0


def said(report: Report) -> str:
    """The report for people."""
    line = f"holds: {report.entries} entries of {report.origin}, root {base64.b64encode(report.root).decode('ascii')}"
    if report.kept:
        return f"{line}, and nothing that {report.kept} kept checkpoints prove is missing"
    return f"{line}\nnot known: whether newer entries were removed; keep checkpoints elsewhere and name them"


if __name__ == "__main__":
    sys.exit(main())
