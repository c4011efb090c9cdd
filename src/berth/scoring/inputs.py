"""From a record to a call of the model: decoded and checked by the signature, as a request would be.

batch.py asks for the function that fits the source and the model before the first row is run, so that a column or an
input that can never fit is told at once.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec

from berth.errors import InputError
from berth.files import File
from berth.model import Model
from berth.scoring.sources import Record
from berth.signature import Call, Parameter, Signature

Decode = Callable[[Record], Call]


def decoder(model: Model, kind: str, header: Sequence[str], ignored: Iterable[str]) -> Decode:
    """What turns records of this kind into calls; it raises InputError for one that does not fit."""
    signature = model.signature
    if kind == "csv":
        decode = _of_cells(signature, header, frozenset(ignored))
    elif kind == "jsonl":
        decode = _of_lines(signature)
    else:
        decode = _of_files(signature)
    return lambda record: model.prepare(decode(record))


def _of_lines(signature: Signature) -> Decode:
    def decode(record: Record) -> Call:
        try:
            return signature.decode(record.content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"not valid JSON: {error}") from error

    return decode


def _of_cells(signature: Signature, header: Sequence[str], ignored: frozenset[str]) -> Decode:
    known = {item.name: item for item in signature.inputs}
    _check_columns(header, ignored, known)
    wanted = [(index, name) for index, name in enumerate(header) if name not in ignored]
    optional = {name for name, item in known.items() if not item.required}

    def decode(record: Record) -> Call:
        cells = [(name, record.content[index]) for index, name in wanted]
        given = {name: signature.parse_text(name, text) for name, text in cells if text or name not in optional}
        return signature.convert(given)

    return decode


def _check_columns(header: Sequence[str], ignored: frozenset[str], known: dict[str, Parameter]) -> None:
    columns = set(header) - ignored
    if absent := sorted(ignored - set(header)):
        raise InputError(f"--ignore {absent[0]}: the CSV has no such column; it has {', '.join(header)}")
    for name in sorted(columns - set(known)):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}."
        raise InputError(f"column {name!r}: the model has no such input; {hint} --ignore {name} leaves a column out")
    missing = [name for name, item in known.items() if item.required and name not in columns]
    if missing:
        raise InputError(f"the CSV has no column for {', '.join(map(repr, missing))}, which the model needs")


def _of_files(signature: Signature) -> Decode:
    name, raw = _file_input(signature)

    def decode(record: Record) -> Call:
        return signature.convert({name: record.content if raw else File(record.content, record.file)})

    return decode


def _file_input(signature: Signature) -> tuple[str, bool]:
    """The one input that takes a file, and whether it wants bare bytes."""
    needed = [item for item in signature.inputs if item.required]
    takers = [item for item in needed or signature.inputs if _file_kind(item.type) is not None]
    if len(takers) != 1 or len(needed) > 1:
        inputs = ", ".join(item.name for item in signature.inputs)
        raise InputError(
            "a folder of files needs a model with one input that is a File, an Image or bytes, and defaults for "
            f"all others; this one takes {inputs}. Give the rows as JSON lines or CSV instead"
        )
    return takers[0].name, _file_kind(takers[0].type) is bytes


def _file_kind(hint: Any) -> type | None:
    """`File` or `bytes` when the hint is one, or may be."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _file_kind(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return next((kind for kind in map(_file_kind, get_args(hint)) if kind is not None), None)
    if isinstance(hint, type):
        return File if issubclass(hint, File) else bytes if hint is bytes else None
    return None
