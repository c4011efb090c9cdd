"""Small pieces that many of Envoy's messages are made of. Called by `clusters`, `routes`, `listener` and `bootstrap`.

Envoy's messages are written as its documentation shows them: the outer one by its class, what is inside as
dictionaries, which protobuf checks name by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy.config.core.v3.base_pb2 import Metadata
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

NAMESPACE = "dockyard"
"""Under it our own metadata stand in Envoy's messages: the access log and the texts of errors read them."""

ADS: Mapping[str, Any] = {"resource_api_version": "V3", "ads": {}}
"""Where to ask: on the one stream that all kinds share, so that their order is ours."""


def packed(message: Message) -> AnyMessage:
    """The message with its type beside it. The bytes are the same each time, so that versions can be compared."""
    result = AnyMessage()
    result.Pack(message, deterministic=True)
    return result


def extension(name: str, message: Message) -> dict[str, Any]:
    """A named extension with its configuration."""
    return {"name": name, "typed_config": packed(message)}


def seconds(value: float) -> dict[str, int]:
    """A Duration."""
    whole = int(value)
    return {"seconds": whole, "nanos": round((value - whole) * 1e9)}


def metadata(values: Mapping[str, str]) -> Metadata:
    """Our own words about a resource."""
    result = Metadata()
    result.filter_metadata[NAMESPACE].update(dict(values))
    return result


def header(name: str, value: str) -> dict[str, Any]:
    """A header to set, in place of one of that name."""
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
