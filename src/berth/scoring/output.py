"""Where answers go: a file that is continued when it is there already, or standard output.

Every row of the input has one line, in the input's order, so the number of whole lines says where to go on. Beside
OUTPUT lies OUTPUT.origin, which says what the rows were made from: an input or a model that has changed since is
refused, so that no file mixes two. batch.py writes here; `dockyard batch` does so outside the container.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from berth.errors import InputError

STDOUT = "-"
SUFFIX = ".origin"
_MEND = "--restart begins anew and overwrites it, or name another output"


class Origin(msgspec.Struct, frozen=True):
    """What an output is made from: how the input is read, its size (bytes, or files) and digest, and the model."""

    reading: str
    size: int
    digest: str
    model: str


class Output(Protocol):
    """Lines of answers; `rows` and `failed` are what was there before."""

    rows: int
    failed: int

    def write(self, data: bytes) -> None:
        """Write whole lines; InputError when that fails."""

    def close(self) -> None:
        """Make sure that what was written stays."""


class Stream:
    """Standard output, or a pipe: it begins with the first row."""

    rows = 0
    failed = 0

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name

    def write(self, data: bytes) -> None:
        """See `Output.write`."""
        _write(self._descriptor, data, self._name)

    def close(self) -> None:
        """See `Output.close`."""
        os.close(self._descriptor)


class Resumable:
    """A file that grows row by row."""

    def __init__(self, path: Path, origin: Origin | None, *, restart: bool) -> None:
        self._path = path
        self._beside = path.with_name(path.name + SUFFIX)
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from error
        try:
            found = self._begin(origin, restart=restart)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.rows, self.failed = found.rows, found.failed

    def write(self, data: bytes) -> None:
        """See `Output.write`."""
        _write(self._descriptor, data, str(self._path))

    def close(self) -> None:
        """See `Output.close`."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise InputError(f"{self._path} cannot be written: {error.strerror}") from error
        finally:
            os.close(self._descriptor)

    def _begin(self, origin: Origin | None, *, restart: bool) -> _Found:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{self._path} is being written by another batch; wait for it, or stop it") from error
        found = _Found(0, 0, 0)
        if not restart and os.fstat(self._descriptor).st_size:
            if origin is None:
                raise InputError(f"{self._path} has rows, and what comes through a pipe cannot be continued; {_MEND}")
            _compare(self._origin_there(), origin, self._path)
            found = _scan(self._path)
        os.ftruncate(self._descriptor, found.size)
        if origin is None:
            self._beside.unlink(missing_ok=True)
        elif not found.rows:
            self._keep(origin)
        return found

    def _origin_there(self) -> Origin:
        try:
            return msgspec.json.decode(self._beside.read_bytes(), type=Origin)
        except FileNotFoundError as error:
            raise InputError(
                f"{self._path} has rows, and {self._beside.name}, which says from what, is not beside it; {_MEND}"
            ) from error
        except (OSError, msgspec.DecodeError) as error:
            raise InputError(f"{self._beside} cannot be read: {error}; {_MEND}") from error

    def _keep(self, origin: Origin) -> None:
        draft = self._beside.with_name(self._beside.name + ".new")
        try:
            with draft.open("wb") as file:
                file.write(msgspec.json.encode(origin) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._beside)
        except OSError as error:
            raise InputError(f"{self._beside} cannot be written: {error.strerror}") from error


def open_output(path: str, origin: Origin | None, *, restart: bool) -> Output:
    """A file, continued where there is an origin to compare with, or a stream; InputError says why neither goes."""
    if path == STDOUT:
        return Stream(os.dup(1), "standard output")
    place = Path(path)
    if place.exists() and not place.is_file():
        if place.is_dir():
            raise InputError(f"{path} is a folder; name a file in it for the answers")
        try:
            return Stream(os.open(path, os.O_WRONLY | os.O_CLOEXEC), path)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from error
    return Resumable(place, origin, restart=restart)


def origin_of(path: Path, reading: str, files: Iterable[str] | None, model: str) -> Origin:
    """What an input is at this moment: the digest of a file's bytes, or of all files' paths, sizes and times."""
    try:
        if files is None:
            with path.open("rb") as file:
                return Origin(
                    reading, os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest(), model
                )
        digest, count = hashlib.sha256(), 0
        for name in files:
            status = (path / name).stat()
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
            count += 1
        return Origin(reading, count, digest.hexdigest(), model)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def is_pipe(path: str) -> bool:
    """Whether an input can be read only once."""
    return path == "-" or not (Path(path).is_file() or Path(path).is_dir())


class _Found(msgspec.Struct):
    """What an output has: whole lines, how many of them failed, and their bytes."""

    rows: int
    failed: int
    size: int


class _Line(msgspec.Struct):
    row: int
    error: str | None = None


def _scan(path: Path) -> _Found:
    found = _Found(0, 0, 0)
    decode = msgspec.json.Decoder(_Line).decode
    with path.open("rb") as file:
        for text in file:
            if not text.endswith(b"\n"):
                break  # torn: the process ended while it wrote
            try:
                line = decode(text)
            except msgspec.DecodeError:
                line = _Line(-1)
            found.rows += 1
            if line.row != found.rows:
                raise InputError(f"line {found.rows} of {path} is not row {found.rows} of a batch; {_MEND}")
            found.failed += line.error is not None
            found.size += len(text)
    return found


def _compare(there: Origin, now: Origin, path: Path) -> None:
    changed = ""
    if there.model != now.model:
        changed = f"it was begun with {there.model}, and this is {now.model}"
    elif there.reading != now.reading:
        changed = f"its input was read as {there.reading}, and now as {now.reading}"
    elif (there.size, there.digest) != (now.size, now.digest):
        sizes = "of the same size" if there.size == now.size else f"size {there.size} then, {now.size} now"
        changed = f"the input has changed since it was begun ({sizes})"
    if changed:
        raise InputError(f"{path} cannot be continued: {changed}; {_MEND}")


def _write(descriptor: int, data: bytes, name: str) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        raise InputError(f"{name} cannot be written: {error.strerror}") from error
