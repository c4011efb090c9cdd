"""Type hints of `predict` -> types that msgspec decodes, with arrays and files among them.

msgspec knows scalars, containers, enums and structs; arrays and files it hands to a hook. `translate` puts one small
generated class in the place of every array hint, so that the hook knows which dtype and shape was asked for and every
error keeps its path. Called by signature.py only.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from berth.errors import SignatureError
from berth.files import File
from berth.tensors import DATATYPES, DTYPES, Shape, Tensor, coerce

_STRUCT_MARKS = ("__dataclass_fields__", "__struct_fields__", "__total__", "_fields")


class _ArrayMeta(type):
    """Makes every ndarray an instance of the marker classes, which is what msgspec asks after the hook."""

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, np.ndarray)


class ArrayInput(metaclass=_ArrayMeta):
    """Stands for one array hint; subclasses carry its dtype, V2's name for it, and its shape."""

    dtype: ClassVar[np.dtype[Any]]
    datatype: ClassVar[str]
    shape: ClassVar[Shape | None]


def array_type(datatype: str, shape: Shape | None) -> type[ArrayInput]:
    """The marker class for arrays of one of V2's datatypes and this shape (None: any shape)."""
    members = {"dtype": DTYPES[datatype], "datatype": datatype, "shape": shape}
    return cast(type[ArrayInput], _ArrayMeta("array", (ArrayInput,), members))


def translate(hint: Any, where: str) -> Any:
    """The hint with every array in it replaced by a marker class; SignatureError names `where`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _translate_annotated(arguments[0], arguments[1:], where)
    if hint is np.ndarray:
        raise SignatureError(f'{where}: say which array: Annotated[np.ndarray, Tensor("float32", (-1, 4))]')
    if origin is np.ndarray:
        return array_type(_datatype_of(_dtype_of(arguments, where)), None)
    if origin in (Union, types.UnionType):
        return Union[tuple(translate(member, where) for member in arguments)]  # noqa: UP007
    if origin in (list, tuple, set, dict) and arguments:
        return origin[tuple(member if member is Ellipsis else translate(member, where) for member in arguments)]
    return hint


def _translate_annotated(hint: Any, extras: tuple[Any, ...], where: str) -> Any:
    tensors = [extra for extra in extras if isinstance(extra, Tensor)]
    metas = tuple(extra for extra in extras if isinstance(extra, msgspec.Meta))
    if not tensors:
        inner = translate(hint, where)
        return Annotated[(inner, *metas)] if metas else inner
    if hint is not np.ndarray and get_origin(hint) is not np.ndarray:
        raise SignatureError(f"{where}: Tensor(...) describes np.ndarray, not {hint!r}")
    marker = array_type(_datatype_named(tensors[0].dtype, where), tensors[0].dimensions())
    return Annotated[(marker, *metas)] if metas else marker


def _datatype_named(name: str, where: str) -> str:
    if name == "bfloat16":  # not one of numpy's, unless somebody has taught it
        return "BF16"
    try:
        dtype = np.dtype(name)
    except TypeError as error:
        raise SignatureError(f"{where}: {name!r} is no dtype that numpy knows") from error
    return _datatype_of(np.dtype(object) if dtype.kind in "US" else dtype)


def _datatype_of(dtype: np.dtype[Any]) -> str:
    if dtype not in DATATYPES:
        known = ", ".join(sorted([*map(str, DATATYPES), "bfloat16"]))
        raise SignatureError(f"arrays of {dtype} cannot travel; use one of {known}")
    return DATATYPES[dtype]


def _dtype_of(arguments: tuple[Any, ...], where: str) -> np.dtype[Any]:
    scalar = get_args(arguments[1])[0] if len(arguments) == 2 and get_args(arguments[1]) else Any
    if isinstance(scalar, type) and issubclass(scalar, np.generic) and not scalar.__subclasses__():
        return np.dtype(scalar)
    raise SignatureError(f'{where}: say the dtype: Annotated[np.ndarray, Tensor("float32", (-1, 4))]')


def translate_output(hint: Any) -> Any:
    """As `translate`; a struct whose fields hold arrays becomes one that says which, for the schema and for V2."""
    where = "the return value of predict"
    fields = fields_of(hint)
    if not has_arrays(fields):
        return translate(hint, where)
    translated = [(name, translate(field, f"field {name!r} of {where}")) for name, field in fields.items()]
    return msgspec.defstruct(hint.__name__, translated, namespace={"__doc__": hint.__doc__})


def fields_of(hint: Any) -> dict[str, Any]:
    """The hints of a struct's fields (dataclass, msgspec Struct, NamedTuple, TypedDict); none for anything else."""
    if isinstance(hint, type) and any(hasattr(hint, mark) for mark in _STRUCT_MARKS):
        return get_type_hints(hint, include_extras=True)
    return {}


def receive(wanted: type, value: Any) -> Any:
    """msgspec's decoding hook: arrays and files from what JSON or another protocol carried."""
    if issubclass(wanted, ArrayInput):
        return coerce(value, wanted.dtype, wanted.shape)
    if issubclass(wanted, File):
        return wanted.receive(value)
    raise NotImplementedError(f"berth cannot decode {wanted.__name__}")


def give(value: Any) -> Any:
    """msgspec's encoding hook: arrays as nested lists, numpy scalars as numbers, files as base64."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, File):
        return value.data
    raise TypeError(f"a value of type {type(value).__name__} cannot be written as JSON")


def describe(wanted: type) -> dict[str, Any]:
    """msgspec's schema hook: what an array or a file looks like in JSON."""
    if issubclass(wanted, ArrayInput):
        return _describe_array(wanted.datatype, wanted.dtype, wanted.shape)
    if issubclass(wanted, File):
        encoded = {
            "type": "object",
            "properties": {"b64": {"type": "string", "contentEncoding": "base64"}, "name": {"type": "string"}},
            "required": ["b64"],
        }
        url = {"type": "string", "format": "uri", "pattern": "^data:"}
        return {"description": f"{wanted.__name__.lower()}: base64 or a data: URL", "anyOf": [encoded, url]}
    if issubclass(wanted, np.ndarray):
        return {"type": "array"}
    if issubclass(wanted, np.bool_):
        return {"type": "boolean"}
    if issubclass(wanted, np.generic):
        return {"type": "integer" if issubclass(wanted, np.integer) else "number"}
    raise NotImplementedError(f"berth has no schema for {wanted.__name__}")


def _describe_array(datatype: str, dtype: np.dtype[Any], shape: Shape | None) -> dict[str, Any]:
    kinds = {"b": "boolean", "i": "integer", "u": "integer", "f": "number"}
    kind = kinds.get(dtype.kind, "string")
    name = "bfloat16" if datatype == "BF16" else "string" if kind == "string" else dtype.name
    if shape is None:
        return {"type": "array", "description": f"array of {name}"}
    schema: dict[str, Any] = {"type": [kind, "null"] if kind == "number" else kind, **_limits(dtype)}
    for index, size in reversed(list(enumerate(shape))):
        schema = {"type": "array", "items": schema}
        if size >= 0:
            schema |= {"minItems": size, "maxItems": size}
        elif index < len(shape) - 1:
            schema["minItems"] = 1  # an empty list says nothing of the dimensions below it
    text = " x ".join("any" if size < 0 else str(size) for size in shape) or "scalar"
    return schema | {"title": f"{name} array", "description": f"array of {name}, {text}"}


def _limits(dtype: np.dtype[Any]) -> dict[str, Any]:
    """The smallest and the largest number that an element can be."""
    if dtype.kind in "iu":
        return {"minimum": int(np.iinfo(dtype).min), "maximum": int(np.iinfo(dtype).max)}
    if dtype.kind == "f" and dtype.itemsize < 8:
        info = np.finfo(dtype)
        beyond = (2 - 2.0 ** -(info.nmant + 1)) * 2.0 ** (info.maxexp - 1)  # from here on, rounding gives infinity
        return {"exclusiveMinimum": -beyond, "exclusiveMaximum": beyond}
    return {}


def has_arrays(fields: Mapping[str, Any]) -> bool:
    """Whether any of these hints holds a bare ndarray (arrays inside a struct carry no checked shape)."""
    return any(hint is np.ndarray or get_origin(hint) is np.ndarray for hint in map(_unwrap, fields.values()))


def _unwrap(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint
