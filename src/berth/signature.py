"""The signature of a model: its inputs and outputs, from type hints or from a backend's tensors.

The type hints of `predict` are the schema. This module turns them into one value that decodes and checks a native
request, encodes a native answer, and describes both as JSON Schema. Protocols and models call it; `dockyard` reads it
through `berth schema`.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from berth.errors import InputError, SignatureError
from berth.hints import array_type, describe, fields_of, give, has_arrays, receive, translate, translate_output
from berth.tensors import TensorSpec

Call = dict[str, Any]
_MISSING = inspect.Parameter.empty
_REFERENCE = "#/components/schemas/{name}"


class Parameter(msgspec.Struct, frozen=True):
    """One named input: its translated type and its default (`inspect.Parameter.empty` when it is required)."""

    name: str
    type: Any
    default: Any = _MISSING

    @property
    def required(self) -> bool:
        """Whether a request must carry it."""
        return self.default is _MISSING


class Signature:
    """Inputs and output of a model; `decode`, `convert` and `encode` are its native JSON."""

    def __init__(self, inputs: Sequence[Parameter], output: Any, description: str = "") -> None:
        self.inputs = tuple(inputs)
        self._names = tuple(item.name for item in inputs)
        self.output = output
        self.description = description
        try:
            fields = [_field(*pair) for pair in enumerate(inputs)]
            self._struct = msgspec.defstruct("Input", fields, forbid_unknown_fields=True)
            self._decoder = msgspec.json.Decoder(self._struct, dec_hook=receive)
        except (TypeError, ValueError) as error:
            raise SignatureError(f"predict: {error}; change that type hint") from error
        self._encoder = msgspec.json.Encoder(enc_hook=give)

    def decode(self, body: bytes) -> Call:
        """A native request as keyword arguments; InputError names the field, msgspec.DecodeError is malformed JSON."""
        try:
            return dict(zip(self._names, msgspec.structs.astuple(self._decoder.decode(body)), strict=True))
        except msgspec.ValidationError as error:
            raise InputError(str(error)) from error

    def decode_around(self, skeleton: bytes, find: Callable[[type, Any], Any]) -> Call:
        """As `decode`, for JSON in which marks stand for arrays; `find` gives the array for a mark, or None."""

        def hook(wanted: type, value: Any) -> Any:
            found = find(wanted, value)
            return receive(wanted, value if found is None else found)

        decoder = msgspec.json.Decoder(self._struct, dec_hook=hook)
        try:
            return dict(zip(self._names, msgspec.structs.astuple(decoder.decode(skeleton)), strict=True))
        except msgspec.ValidationError as error:
            raise InputError(str(error)) from error

    def convert(self, values: Mapping[str, Any]) -> Call:
        """Values that were parsed elsewhere (form fields, tensors), checked like a native request."""
        try:
            decoded = msgspec.convert(values, self._struct, dec_hook=receive)
            return dict(zip(self._names, msgspec.structs.astuple(decoded), strict=True))
        except msgspec.ValidationError as error:
            raise InputError(str(error)) from error

    def encode(self, answer: Any) -> bytes:
        """A native answer as JSON; NaN and infinities become null."""
        return self._encoder.encode(answer)

    def parse_text(self, name: str, text: str) -> Any:
        """The value of a form field or of `-i name=text`: text where text is wanted, JSON everywhere else."""
        wanted = next((item.type for item in self.inputs if item.name == name), Any)
        element = _listed(wanted)
        if element is _MISSING:
            return _parsed(wanted, text)
        whole = _parsed(list, text)
        return whole if isinstance(whole, list) else _parsed(element, text)

    def takes_list(self, name: str) -> bool:
        """Whether a parameter wants a list, so that one form field is a list of one."""
        return any(item.name == name and _listed(item.type) is not _MISSING for item in self.inputs)

    def schemas(self) -> dict[str, Any]:
        """JSON Schema of `Input`, `Output` and everything they name, as OpenAPI components."""
        wanted = [self._struct, self.output]
        try:
            (_, output), components = msgspec.json.schema_components(
                wanted, schema_hook=describe, ref_template=_REFERENCE
            )
        except TypeError as error:
            raise SignatureError(f"predict: {error}; change that type hint") from error
        for parameter in self.inputs:
            _show_default(components["Input"]["properties"][parameter.name], parameter)
        components["Input"] |= {"title": "Input"}
        return {"Output": output, **components}


def signature_of(predict: Callable[..., Any], *, rows: bool = False, streams: bool = False) -> Signature:
    """The signature of a predictor's bound `predict`.

    With `rows` every hint is a list and its element counts; with `streams` the output is what the iterator yields.
    """
    try:
        hints = get_type_hints(predict, include_extras=True)
    except (NameError, TypeError) as error:
        raise SignatureError(f"predict: a type hint cannot be read: {error}") from error
    inputs = [_parameter(item, hints, rows=rows) for item in inspect.signature(predict).parameters.values()]
    if not inputs:
        raise SignatureError("predict takes no input: give it at least one parameter with a type hint")
    output = hints.get("return", Any)
    if rows:
        output = _element(output, "the return value of predict") if output is not Any else Any
    if streams:
        output = _yielded(output)
    return Signature(inputs, translate_output(output), inspect.getdoc(predict) or "")


def signature_of_tensors(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Signature:
    """The signature of a backend: every tensor is an array parameter."""
    parameters = []
    for item in inputs:
        kind = array_type(item.datatype, item.shape)
        parameters.append(Parameter(item.name, kind | None, None) if item.optional else Parameter(item.name, kind))
    fields = [Parameter(item.name, array_type(item.datatype, item.shape)) for item in outputs]
    return Signature(parameters, msgspec.defstruct("Output", [_field(*pair) for pair in enumerate(fields)]))


def _field(index: int, item: Parameter) -> Any:
    # A tensor's name may be no Python identifier, so attributes are numbered and only the JSON name is the real one.
    attribute = f"field_{index}"
    if item.required:
        return (attribute, item.type, msgspec.field(name=item.name))
    if isinstance(item.default, list | dict | set):
        factory = functools.partial(copy.deepcopy, item.default)
        return (attribute, item.type, msgspec.field(name=item.name, default_factory=factory))
    return (attribute, item.type, msgspec.field(name=item.name, default=item.default))


def _parameter(item: inspect.Parameter, hints: Mapping[str, Any], *, rows: bool) -> Parameter:
    where = f"parameter {item.name!r} of predict"
    if item.kind in (item.VAR_POSITIONAL, item.VAR_KEYWORD, item.POSITIONAL_ONLY):
        raise SignatureError(f"{where}: name every input; *args, **kwargs and positional-only do not make a schema")
    if item.name not in hints:
        raise SignatureError(f"{where} has no type hint; write for example `{item.name}: float`")
    hint = hints[item.name]
    if rows:
        hint = _element(hint, where)
        if item.default is not _MISSING:
            raise SignatureError(f"{where}: a @batched predict takes lists, which have no default per item")
    if has_arrays(fields_of(hint)):
        raise SignatureError(f"{where}: arrays inside a struct have no checked shape; make the array its own parameter")
    return Parameter(item.name, translate(hint, where), item.default)


def _element(hint: Any, where: str) -> Any:
    if get_origin(hint) is not list or len(get_args(hint)) != 1:
        raise SignatureError(f"{where}: a @batched predict takes and returns lists; write list[...], got {hint!r}")
    return get_args(hint)[0]


def _yielded(hint: Any) -> Any:
    if hint is Any:
        return Any
    kinds = (Iterator, Iterable, Generator, AsyncIterator, AsyncIterable, AsyncGenerator)
    if get_origin(hint) not in kinds or not get_args(hint):
        raise SignatureError(f"a predict that yields returns Iterator[...] or AsyncIterator[...], got {hint!r}")
    return get_args(hint)[0]


def _listed(wanted: Any) -> Any:
    """What the elements of a list are; `_MISSING` for what is no list."""
    bare = get_args(wanted)[0] if get_origin(wanted) is Annotated else wanted
    if bare is list:
        return Any
    return get_args(bare)[0] if get_origin(bare) is list else _MISSING


def _parsed(wanted: Any, text: str) -> Any:
    """Text where text is wanted, JSON everywhere else; what is no JSON stays text."""
    if _takes(wanted, text):
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _takes(wanted: Any, text: str) -> bool:
    try:
        msgspec.convert(text, wanted, dec_hook=_no_text)
    except (msgspec.ValidationError, TypeError):
        return False
    return wanted is not Any


def _no_text(wanted: type, value: Any) -> Any:
    return receive(wanted, value) if isinstance(value, str) and value.startswith("data:") else None


def _show_default(schema: dict[str, Any], parameter: Parameter) -> None:
    if not parameter.required and "default" not in schema:
        schema["default"] = msgspec.to_builtins(parameter.default, enc_hook=give)
