"""The pieces that the OpenAPI document is made of: answers, errors, operations, examples.

openapi.py and openapi_v2.py call this; nothing here knows of a route.
"""

from __future__ import annotations

import math
from typing import Any

Schema = dict[str, Any]

EVENT = {
    "type": "object",
    "properties": {"data": {"type": "string", "description": "JSON"}, "event": {"type": "string"}},
    "required": ["data"],
}
PREFIX = "#/components/schemas/"
MAX_ELEMENTS = 64  # an example that is longer explains nothing
_MAX_DEPTH = 4
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
_ERRORS = {
    "400": "The body is not valid JSON, or not a valid form; in V2, any input that does not fit the model.",
    "403": "The server does not allow it.",
    "404": "No such model, or no such version of it.",
    "413": "The body is larger than this server takes.",
    "415": "A Content-Encoding other than gzip, deflate or identity.",
    "422": "A field is missing, unknown or of another type; the text names its path.",
    "429": "Too many requests; Retry-After says when to come back.",
    "500": "The model failed; the log has the traceback under the error id.",
    "501": "An extension that this server does not offer.",
    "503": "The queue is full, or the server is stopping; Retry-After says when to come back.",
    "504": "No answer within the deadline.",
}
_RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}}}


def reference(name: str) -> Schema:
    """A component by its name."""
    return {"$ref": PREFIX + name}


def answer(text: str, schema: Schema, kind: str = "application/json") -> Schema:
    """An answer with one content type."""
    return {"description": text, "content": {kind: {"schema": schema}}}


def event_stream() -> Schema:
    """Server-Sent Events."""
    return answer("An event for each item, then the end.", EVENT, "text/event-stream")


def errors(*statuses: str) -> dict[str, Schema]:
    """The errors that a route may answer with."""
    found = {status: answer(_ERRORS[status], reference("Error")) for status in statuses}
    for status in found.keys() & {"429", "503"}:
        found[status]["headers"] = _RETRY
    return found


def operation(identity: str, summary: str, responses: dict[str, Schema]) -> Schema:
    """What one method of a path does."""
    return {"operationId": identity, "summary": summary, "responses": responses}


def is_file(schema: Schema) -> bool:
    """Whether a schema is that of a File or an Image."""
    return any("b64" in member.get("properties", {}) for member in schema.get("anyOf", ()))


def resolved(schema: Schema, components: dict[str, Schema]) -> Schema:
    """A schema with its reference followed."""
    if "$ref" not in schema:
        return schema
    return {**components[schema["$ref"].removeprefix(PREFIX)], **{k: v for k, v in schema.items() if k != "$ref"}}


def example_of(schema: Schema, components: dict[str, Schema], depth: int = 0) -> Any:
    """A small value that fits a schema; ValueError where none is found."""
    schema = resolved(schema, components)
    if depth > _MAX_DEPTH:
        raise ValueError("too deep")
    if is_file(schema):
        return {"b64": _PIXEL}
    if schema.get("default") is not None:
        return schema["default"]
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0], components, depth + 1)
    kind = schema["type"][0] if isinstance(schema.get("type"), list) else schema.get("type")
    if kind == "object":
        required = schema.get("required", ())
        properties = schema.get("properties", {})
        return {name: example_of(properties[name], components, depth + 1) for name in required}
    if kind == "array":
        return _example_list(schema, components, depth)
    return _example_scalar(schema, str(kind))


def small_number(schema: Schema) -> float:
    """Nought, or the number next to it that a schema's bounds allow."""
    low: float = schema.get("minimum", math.floor(schema.get("exclusiveMinimum", -1)) + 1)
    high: float = schema.get("maximum", math.inf)
    return min(max(low, 0), high)


def _example_list(schema: Schema, components: dict[str, Schema], depth: int) -> list[Any]:
    if "prefixItems" in schema:
        return [example_of(item, components, depth + 1) for item in schema["prefixItems"]]
    count = schema.get("minItems", min(1, schema.get("maxItems", 1)))
    if count > MAX_ELEMENTS:
        raise ValueError("too long")
    return [example_of(schema.get("items", {}), components, depth + 1)] * count


def _example_scalar(schema: Schema, kind: str) -> Any:
    if kind in ("integer", "number"):
        return small_number(schema)
    if kind == "string":
        short = "text"[: schema.get("maxLength", 4)]
        return short.ljust(schema.get("minLength", 0), "x")
    return {"boolean": False, "null": None}.get(kind)
