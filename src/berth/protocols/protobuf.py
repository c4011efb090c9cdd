"""Protobuf messages from a table in code: descriptors in a pool of their own, and the classes made of them.

There are no generated files, so nothing depends on the version of a generator, and nothing clashes with a client
library in the same process that registers the same names. Reflection hands out these very descriptors. The tables are
in v2_protobuf.py, grpc_health.py and grpc_reflection.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

POOL = DescriptorPool()
FILES: dict[str, FileDescriptorProto] = {}
_FIELD = re.compile(r"(?:(?P<oneof>\w+)/)?(?P<name>\w+):(?P<kind>[\w.<>]+)(?P<repeated>\*?)=(?P<number>\d+)")


@dataclass(frozen=True)
class Method:
    """One call of a service; its messages are named without their package."""

    name: str
    takes: str
    gives: str
    streams_in: bool = False
    streams_out: bool = False


@dataclass(frozen=True)
class File:
    """What a .proto file says.

    `messages`: name (nested ones with a dot) -> fields, each `name:type=number`. A star after the type says repeated,
    `map<type>` is a map from strings, `choice/` before the name puts the field into a oneof. `enums`: name -> its
    values, from 0 on.
    """

    name: str
    package: str
    messages: Mapping[str, str]
    services: Mapping[str, Iterable[Method]]
    enums: Mapping[str, str]


def register(file: File) -> dict[str, Any]:
    """Put a file into the pool; the classes of its messages by name."""
    proto = FileDescriptorProto(name=file.name, package=file.package, syntax="proto3")
    made: dict[str, DescriptorProto] = {}
    for name, fields in file.messages.items():
        parent, _, own = name.rpartition(".")
        message = made[parent].nested_type.add(name=own) if parent else proto.message_type.add(name=own)
        made[name] = message
        _add_fields(message, fields, f".{file.package}.", name, file.enums)
    for name, values in file.enums.items():
        parent, _, own = name.rpartition(".")
        _add_values(made[parent].enum_type.add(name=own) if parent else proto.enum_type.add(name=own), values)
    for name, methods in file.services.items():
        service = proto.service.add(name=name)
        service.method.extend(_method(method, f".{file.package}.") for method in methods)
    POOL.Add(proto)
    FILES[file.name] = proto
    return {name: GetMessageClass(POOL.FindMessageTypeByName(f"{file.package}.{name}")) for name in file.messages}


def _add_fields(message: DescriptorProto, fields: str, package: str, path: str, enums: Mapping[str, str]) -> None:
    for word in fields.split():
        found = _FIELD.fullmatch(word)
        assert found is not None, word
        name, kind, repeated = found["name"], found["kind"], bool(found["repeated"])
        field = message.field.add(name=name, number=int(found["number"]), label=3 if repeated else 1)
        if kind.startswith("map<"):
            kind = _add_entry(message, name, kind[4:-1], package, path, enums)
            field.label = FieldDescriptorProto.LABEL_REPEATED
        _set_type(field, kind, package, enums)
        if found["oneof"]:
            if found["oneof"] not in [oneof.name for oneof in message.oneof_decl]:
                message.oneof_decl.add(name=found["oneof"])
            field.oneof_index = [oneof.name for oneof in message.oneof_decl].index(found["oneof"])


def _add_entry(
    message: DescriptorProto, field: str, kind: str, package: str, path: str, enums: Mapping[str, str]
) -> str:
    """The message that a map's entries are; its name."""
    name = "".join(part.capitalize() for part in field.split("_")) + "Entry"
    entry = message.nested_type.add(name=name)
    entry.options.map_entry = True
    _add_fields(entry, f"key:string=1 value:{kind}=2", package, f"{path}.{name}", enums)
    return f"{path}.{name}"


def _set_type(field: FieldDescriptorProto, kind: str, package: str, enums: Mapping[str, str]) -> None:
    scalar = f"TYPE_{kind.upper()}"
    if scalar in FieldDescriptorProto.Type.keys():  # noqa: SIM118  it is no dict
        field.type = FieldDescriptorProto.Type.Value(scalar)
        return
    field.type = FieldDescriptorProto.TYPE_ENUM if kind in enums else FieldDescriptorProto.TYPE_MESSAGE
    field.type_name = package + kind


def _add_values(enum: EnumDescriptorProto, values: str) -> None:
    for number, name in enumerate(values.split()):
        enum.value.add(name=name, number=number)


def _method(method: Method, package: str) -> MethodDescriptorProto:
    return MethodDescriptorProto(
        name=method.name,
        input_type=package + method.takes,
        output_type=package + method.gives,
        client_streaming=method.streams_in,
        server_streaming=method.streams_out,
    )
