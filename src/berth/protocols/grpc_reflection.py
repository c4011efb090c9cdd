"""Server reflection, `v1` and `v1alpha`: the descriptors that this server itself uses, for grpcurl and its like.

grpc.py mounts it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

from berth.protocols.base import Request, Response, Route
from berth.protocols.grpc_base import answer_of, call_route, parsed
from berth.protocols.protobuf import FILES, File, Method, register

_NOT_FOUND, _UNIMPLEMENTED = 5, 12
_VERSIONS = ("v1", "v1alpha")
_ASKED = (
    "file_by_filename:string=3 message_request/file_containing_symbol:string=4"
    " message_request/file_containing_extension:ExtensionRequest=5"
    " message_request/all_extension_numbers_of_type:string=6 message_request/list_services:string=7"
)
_ANSWERED = (
    "file_descriptor_response:FileDescriptorResponse=4"
    " message_response/all_extension_numbers_response:ExtensionNumberResponse=5"
    " message_response/list_services_response:ListServiceResponse=6 message_response/error_response:ErrorResponse=7"
)
_MESSAGES = {
    "ServerReflectionRequest": f"host:string=1 message_request/{_ASKED}",
    "ExtensionRequest": "containing_type:string=1 extension_number:int32=2",
    "ServerReflectionResponse": (
        f"valid_host:string=1 original_request:ServerReflectionRequest=2 message_response/{_ANSWERED}"
    ),
    "FileDescriptorResponse": "file_descriptor_proto:bytes*=1",
    "ExtensionNumberResponse": "base_type_name:string=1 extension_number:int32*=2",
    "ListServiceResponse": "service:ServiceResponse*=1",
    "ServiceResponse": "name:string=1",
    "ErrorResponse": "error_code:int32=1 error_message:string=2",
}
_METHOD = Method(
    "ServerReflectionInfo", "ServerReflectionRequest", "ServerReflectionResponse", streams_in=True, streams_out=True
)
_CLASSES = {
    version: register(
        File(
            name=f"grpc/reflection/{version}/reflection.proto",
            package=f"grpc.reflection.{version}",
            messages=_MESSAGES,
            services={"ServerReflection": [_METHOD]},
            enums={},
        )
    )
    for version in _VERSIONS
}


class Reflection:
    """Both versions of the service, which differ in their names only."""

    def __init__(self) -> None:
        self._symbols: dict[str, FileDescriptorProto] = {}
        for proto in FILES.values():
            self._add(proto)

    def routes(self) -> list[Route]:
        """One call each."""
        return [
            call_route(
                f"grpc.reflection.{version}.ServerReflection",
                _METHOD.name,
                "grpc.reflection",
                self._handler(_CLASSES[version]),
                streams_in=True,
            )
            for version in _VERSIONS
        ]

    def resolve(self, _: str) -> None:
        """All its paths are fixed."""

    def _handler(self, classes: dict[str, Any]) -> Callable[[Request], Response]:
        def handler(request: Request) -> Response:
            asked = parsed(classes["ServerReflectionRequest"], request.body)
            answer = classes["ServerReflectionResponse"](valid_host=asked.host, original_request=asked)
            self._fill(asked, answer)
            return answer_of(answer)

        return handler

    def _fill(self, asked: Any, answer: Any) -> None:
        kind = asked.WhichOneof("message_request")
        if kind == "list_services":
            names = sorted(f"{proto.package}.{each.name}" for proto in FILES.values() for each in proto.service)
            for name in names:
                answer.list_services_response.service.add(name=name)
        elif kind == "file_by_filename":
            _give(answer, FILES.get(asked.file_by_filename), asked.file_by_filename)
        elif kind == "file_containing_symbol":
            _give(answer, self._symbols.get(asked.file_containing_symbol), asked.file_containing_symbol)
        elif kind == "file_containing_extension":
            _give(answer, None, f"extension of {asked.file_containing_extension.containing_type}")
        elif kind == "all_extension_numbers_of_type":
            name = asked.all_extension_numbers_of_type
            if name in self._symbols:
                answer.all_extension_numbers_response.base_type_name = name
            else:
                _give(answer, None, name)
        else:
            answer.error_response.error_code = _UNIMPLEMENTED
            answer.error_response.error_message = "expected one of reflection's requests"

    def _add(self, proto: FileDescriptorProto) -> None:
        """Know what is in a file: messages and their fields, enums and their values, services and their methods."""
        package = proto.package
        for message in proto.message_type:
            self._add_message(proto, package, message)
        for enum in proto.enum_type:
            self._symbols[f"{package}.{enum.name}"] = proto
        for service in proto.service:
            self._symbols[f"{package}.{service.name}"] = proto
            for method in service.method:
                self._symbols[f"{package}.{service.name}.{method.name}"] = proto

    def _add_message(self, proto: FileDescriptorProto, scope: str, message: DescriptorProto) -> None:
        name = f"{scope}.{message.name}"
        self._symbols[name] = proto
        for nested in message.nested_type:
            self._add_message(proto, name, nested)
        for name in [*(f.name for f in message.field), *(e.name for e in message.enum_type)]:
            self._symbols[f"{scope}.{message.name}.{name}"] = proto


def _give(answer: Any, proto: FileDescriptorProto | None, name: str) -> None:
    if proto is None:
        answer.error_response.error_code = _NOT_FOUND
        answer.error_response.error_message = f"this server has no {name}"
    else:
        answer.file_descriptor_response.file_descriptor_proto.append(proto.SerializeToString())
