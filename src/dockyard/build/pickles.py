"""Reads what a pickle will import, and which scikit-learn wrote it, without executing any of it.

The opcodes run on a machine of our own that knows only strings, numbers, tuples and dictionaries, and makes no object.
joblib's files are read too, with the arrays that lie between their opcodes, compressed or not; so are PyTorch's
archives. Called by `contents_check`. Sources: pickletools (the opcodes), joblib's numpy_pickle (arrays).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickletools
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from dockyard.build.estimators import Made, estimator_of
from dockyard.build.pickle_facts import PickleFacts

_STEPS_LIMIT = 2_000_000
_KEPT = 1 << 20
_NESTED_LIMIT = 50
_LIST_LIMIT = 1000
# Names of Python 2, as pickles of protocol 2 and older have them.
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}
_UNKNOWN: Any = object()
_MARK: Any = object()
_MAGICS: Mapping[bytes, Any] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZ": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
    b"\x5d\x00": lzma.LZMAFile,
}


def read_pickle(file: Path) -> PickleFacts:
    """The facts of a pickle; what comes after a damaged or unknown place stays unread."""
    machine = _Machine()
    whole = True
    try:
        with file.open("rb") as stream:
            for part in _streams(stream):
                machine.run(_Reader(part))
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, OSError, zlib.error, lzma.LZMAError):
        whole = False
    except (zipfile.BadZipFile, RecursionError, NotImplementedError, OverflowError):
        whole = False
    packages, versions = tuple(sorted(machine.packages)), tuple(sorted(machine.versions))
    return PickleFacts(packages, versions, whole, estimator_of(machine.result) if whole else None)


def _streams(stream: BinaryIO) -> list[BinaryIO]:
    """The pickles of a file: itself, unpacked if need be, or those in an archive of PyTorch's."""
    head = stream.read(6)
    stream.seek(0)
    if head.startswith(b"PK"):
        archive = zipfile.ZipFile(stream)
        return [cast(BinaryIO, archive.open(name)) for name in archive.namelist() if name.endswith(".pkl")]
    for magic, kind in _MAGICS.items():
        if head.startswith(magic):
            return [cast(BinaryIO, kind(stream))]
    if head[:1] == b"\x78" and len(head) > 1 and (head[0] * 256 + head[1]) % 31 == 0:
        return [cast(BinaryIO, io.BufferedReader(_Inflated(stream)))]
    return [stream]


class _Inflated(io.RawIOBase):
    """The content of a zlib stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._inflater = zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._inflater.eof:
            data = self._inflater.unconsumed_tail or self._stream.read(1 << 16)
            if not data:
                raise EOFError
            if content := self._inflater.decompress(data, len(buffer)):
                buffer[: len(content)] = content
                return len(content)
        return 0


class _Skipped:
    """Bytes that were passed over: only their number is known."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


class _Reader:
    """A stream for pickletools that keeps no large value in memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.readline = stream.readline

    def read(self, size: int) -> Any:
        return self.skip(size) if size > _KEPT else self._stream.read(size)

    def skip(self, size: int) -> _Skipped:
        """Pass over bytes; EOFError when there are fewer."""
        left = size
        while left:
            data = self._stream.read(min(left, _KEPT))
            if not data:
                raise EOFError
            left -= len(data)
        return _Skipped(size)


class _Machine:
    """Follows the opcodes of pickles, and notes what they name."""

    def __init__(self) -> None:
        self.packages: set[str] = set()
        self.versions: set[str] = set()
        self.result: Any = None
        """What the last pickle would make."""
        self._steps = 0

    def run(self, reader: _Reader, depth: int = 0) -> None:
        """Read one pickle to its end, and those inside it."""
        if depth > _NESTED_LIMIT:
            raise ValueError("nested too deeply")
        stack: list[Any] = []
        memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(cast(Any, reader)):
            self._steps += 1
            if self._steps > _STEPS_LIMIT:
                raise ValueError("too long to be read to its end")
            if opcode.name == "STOP":
                self.result = stack[-1]
            self._step(opcode, argument, stack, memo)
            if opcode.name == "BUILD" and stack[-1] is not _UNKNOWN:
                self._pass_array(stack[-1], reader, depth)

    def _step(self, opcode: Any, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
        name = opcode.name
        if name == "MARK":
            stack.append(_MARK)
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument, stack)
        elif pickletools.markobject in opcode.stack_before:
            _to_mark(stack)
            stack.extend([_UNKNOWN] * (len(opcode.stack_after) - opcode.stack_before.index(pickletools.markobject)))
        else:
            del stack[len(stack) - len(opcode.stack_before) :]
            known = isinstance(argument, str | int) and len(opcode.stack_after) == 1
            stack.extend([argument if known else _UNKNOWN] * len(opcode.stack_after))

    def named(self, module: str, name: str) -> Made:
        """Note a global."""
        package = module.partition(".")[0]
        self.packages.add(_RENAMED.get(package, package))
        return Made(f"{module}.{name}")

    def build(self, _: Any, stack: list[Any]) -> None:
        """Note the version in an estimator's state, and keep the state of joblib's arrays."""
        state = stack.pop()
        if isinstance(state, dict):
            if isinstance(version := state.get("_sklearn_version"), str):
                self.versions.add(version)
            if isinstance(stack[-1], Made):
                stack[-1].arguments = state
        elif isinstance(state, tuple) and len(state) > 2 and _made(stack[-1], "._reconstruct"):
            stack[-1].arguments = {"shape": state[1], "dtype": state[2]}

    def _pass_array(self, made: Any, reader: _Reader, depth: int) -> None:
        """Pass over an array that joblib wrote after the opcodes of its description."""
        if not _made(made, ".NumpyArrayWrapper"):
            return
        state = made.arguments
        kind = str(state["dtype"].arguments[0])
        if kind.startswith("O"):
            self.run(reader, depth + 1)
            return
        if state.get("numpy_array_alignment_bytes") is not None:
            reader.skip(reader.read(1)[0])
        size = int(kind[1:]) * (4 if kind.startswith("U") else 1)
        for length in state["shape"]:
            size *= length
        reader.skip(size)


def _made(value: Any, ending: str) -> bool:
    return isinstance(value, Made) and value.name.endswith(ending)


def _to_mark(stack: list[Any]) -> list[Any]:
    """Take off the stack what lies above the last mark, and the mark."""
    place = len(stack) - 1
    while stack[place] is not _MARK:
        place -= 1
        if place < 0:
            raise ValueError("no mark")
    items = stack[place + 1 :]
    del stack[place:]
    return items


def _global(machine: _Machine, argument: Any, stack: list[Any]) -> None:
    module, name = argument.split(" ", 1)
    stack.append(machine.named(module, name))


def _stack_global(machine: _Machine, _: Any, stack: list[Any]) -> None:
    name, module = stack.pop(), stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise ValueError("a global whose name is made at run time")
    stack.append(machine.named(module, name))


def _instance(machine: _Machine, argument: Any, stack: list[Any]) -> None:
    _to_mark(stack)
    _global(machine, argument, stack)


def _called(_: _Machine, __: Any, stack: list[Any]) -> None:
    arguments, what = stack.pop(), stack.pop()
    stack.append(Made(what.name, arguments) if isinstance(what, Made) else _UNKNOWN)


def _called_with_names(machine: _Machine, argument: Any, stack: list[Any]) -> None:
    stack.pop()
    _called(machine, argument, stack)


def _tuple(_: _Machine, __: Any, stack: list[Any]) -> None:
    stack.append(tuple(_to_mark(stack)))


def _short_tuple(size: int) -> Any:
    def make(_: _Machine, __: Any, stack: list[Any]) -> None:
        items = tuple(stack[len(stack) - size :])
        del stack[len(stack) - size :]
        stack.append(items)

    return make


def _set_items(_: _Machine, __: Any, stack: list[Any]) -> None:
    items = _to_mark(stack)
    if isinstance(stack[-1], dict):
        stack[-1].update(_texts(items))


def _set_item(_: _Machine, __: Any, stack: list[Any]) -> None:
    value, key = stack.pop(), stack.pop()
    if isinstance(stack[-1], dict) and isinstance(key, str):
        stack[-1][key] = value


def _dictionary(_: _Machine, __: Any, stack: list[Any]) -> None:
    items = _to_mark(stack)
    stack.append(_texts(items))


def _texts(items: list[Any]) -> dict[str, Any]:
    """The pairs of keys and values whose key is a text."""
    return {key: value for key, value in zip(items[::2], items[1::2], strict=True) if isinstance(key, str)}


def _append(_: _Machine, __: Any, stack: list[Any]) -> None:
    _extend(stack, [stack.pop()])


def _appends(_: _Machine, __: Any, stack: list[Any]) -> None:
    _extend(stack, _to_mark(stack))


def _extend(stack: list[Any], items: list[Any]) -> None:
    """Long lists are data, and stay short."""
    if isinstance(stack[-1], list) and len(stack[-1]) + len(items) <= _LIST_LIMIT:
        stack[-1].extend(items)


def _drop_items(_: _Machine, __: Any, stack: list[Any]) -> None:
    _to_mark(stack)


_ACTIONS: Mapping[str, Any] = {
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "INST": _instance,
    "REDUCE": _called,
    "NEWOBJ": _called,
    "NEWOBJ_EX": _called_with_names,
    "BUILD": _Machine.build,
    "EMPTY_DICT": lambda _, __, stack: stack.append({}),
    "DICT": _dictionary,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "EMPTY_LIST": lambda _, __, stack: stack.append([]),
    "LIST": lambda _, __, stack: stack.append(_to_mark(stack)),
    "APPEND": _append,
    "EMPTY_TUPLE": lambda _, __, stack: stack.append(()),
    "TUPLE": _tuple,
    "TUPLE1": _short_tuple(1),
    "TUPLE2": _short_tuple(2),
    "TUPLE3": _short_tuple(3),
    "NEWTRUE": lambda _, __, stack: stack.append(True),
    "NEWFALSE": lambda _, __, stack: stack.append(False),
    "DUP": lambda _, __, stack: stack.append(stack[-1]),
    "APPENDS": _appends,
    "ADDITEMS": _drop_items,
    "POP_MARK": _drop_items,
}
