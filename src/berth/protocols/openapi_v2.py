"""What `/openapi.json` says of the Open Inference Protocol: its routes for one model, and the schemas they name.

A schema cannot say that `data` has as many elements as `shape` asks for, nor which shapes a free dimension may take;
everything else that V2 checks is in it. openapi.py is the only caller.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from berth.model import Model
from berth.protocols.openapi_parts import Schema, answer, errors, event_stream, operation, reference
from berth.tensors import TensorSpec

_TEXT = {"type": "string"}
_NAME = {"type": ["string", "null"]}
_COUNT = {"type": "integer", "minimum": 0}
_MAYBE_COUNT = {"type": ["integer", "null"], "minimum": 0}
_DATA_KINDS = {"BOOL": "boolean", "BYTES": "string", "FP32": "number", "FP64": "number"}
_REFUSED = ("400", "404", "413", "415", "429", "500", "501", "503", "504")


def model_paths(model: Model, name: str) -> dict[str, Any]:
    """The routes of one model, with and without its version."""
    base = f"/v2/models/{quote(name)}"
    return {**_paths_below(model, base, ""), **_paths_below(model, f"{base}/versions/{{version}}", "Version")}


def server_paths() -> dict[str, Any]:
    """The routes that belong to no model."""
    name = {"name": "name", "in": "path", "required": True, "schema": _TEXT, "description": "A model's name."}
    body = {"required": False, "content": {"application/json": {"schema": reference("RepositoryRequest")}}}
    index = {"required": False, "content": {"application/json": {"schema": reference("RepositoryIndexRequest")}}}
    changed = {"200": answer("Done.", {"type": "object"}), **errors("400", "403", "404", "413", "415", "500", "501")}
    listed = {"200": answer("Every model.", reference("RepositoryIndex"))}
    asked = errors("400", "413", "415")
    return {
        "/v2": {"get": operation("server", "The server", {"200": answer("What it is.", reference("Server"))})},
        "/v2/models": {"get": operation("models", "The models' names", {"200": answer("All.", reference("Models"))})},
        "/v2/models/stats": {
            "get": operation("allStatistics", "What was counted", {"200": answer("All.", reference("Statistics"))})
        },
        "/v2/repository/index": {
            "get": operation("index", "The models that the server was given", listed),
            "post": {**operation("postIndex", "As GET", listed | asked), "requestBody": index},
        },
        "/v2/repository/models/{name}/load": {
            "parameters": [name],
            "post": {**operation("load", "Load a model, or load it anew", changed), "requestBody": body},
        },
        "/v2/repository/models/{name}/unload": {
            "parameters": [name],
            "post": {**operation("unload", "Take a model out", changed), "requestBody": body},
        },
    }


def schemas(model: Model, name: str, version: str) -> dict[str, Schema]:
    """The components that the paths refer to."""
    tensor = _closed(name=_TEXT, datatype=_TEXT, shape={"type": "array", "items": {"type": "integer"}})
    tensor["properties"]["optional"] = {"type": "boolean"}
    state = {"enum": ["READY", "UNAVAILABLE"]}
    return {
        "InferRequest": _infer_request(model),
        "InferResponse": _infer_response(model, name, version),
        "Server": _closed(name=_TEXT, version=_TEXT, extensions=_list(_TEXT)),
        "Models": _closed(models=_list(_TEXT)),
        "Metadata": _closed(
            name={"const": name},
            versions=_list(_TEXT),
            platform=_TEXT,
            inputs=_list(reference("TensorMetadata")),
            outputs=_list(reference("TensorMetadata")),
        ),
        "TensorMetadata": tensor,
        "ModelReady": _closed({"error": _TEXT}, name={"const": name}, ready={"type": "boolean"}),
        "Statistics": _closed(model_stats=_list(reference("ModelStatistics"))),
        "ModelStatistics": {
            "type": "object",
            "properties": {"name": _TEXT, "version": _TEXT, "inference_count": _COUNT, "execution_count": _COUNT},
            "required": ["name", "version", "inference_count", "execution_count"],
        },
        "Configuration": {
            "type": "object",
            "properties": {"name": {"const": name}, "platform": _TEXT, "backend": _TEXT, "max_batch_size": _COUNT},
            "required": ["name", "platform", "backend", "max_batch_size", "input", "output"],
        },
        "RepositoryIndex": _list(_closed(name=_TEXT, version=_TEXT, state=state, reason=_TEXT)),
        "RepositoryIndexRequest": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
        "RepositoryRequest": {"type": "object", "properties": {"parameters": {"type": ["object", "null"]}}},
    }


def _paths_below(model: Model, base: str, suffix: str) -> dict[str, Any]:
    parameters: list[Any] = []
    if suffix:
        where = {"name": "version", "in": "path", "required": True, "schema": _TEXT}
        parameters = [{**where, "description": "A version that is loaded."}]

    def ask(identity: str, summary: str, request: str, found: Schema) -> Any:
        body = {"required": True, "content": {"application/json": {"schema": reference(request)}}}
        described = operation(identity + suffix, summary, {"200": found, **errors(*_REFUSED)})
        return {"parameters": parameters, "post": {**described, "requestBody": body}}

    def tell(identity: str, summary: str, schema: str, *others: str) -> Any:
        found = {"200": answer(summary + ".", reference(schema)), **errors("404", *others)}
        return {"parameters": parameters, "get": operation(identity + suffix, summary, found)}

    ready = tell("ready", "Whether the model answers", "ModelReady")
    ready["get"]["responses"]["503"] = answer("Not now; the text says why.", reference("ModelReady"))
    infer = ask("infer", "Ask the model with tensors (Open Inference Protocol, V2)", "InferRequest", _answers())
    infer["post"]["description"] = _BINARY
    infer["post"]["parameters"] = [_LENGTH]
    return {
        f"{base}/infer": infer,
        f"{base}/infer_stream": ask("inferStream", "The same, an event for each item", "InferRequest", event_stream()),
        f"{base}/generate": ask("generate", "Ask the model with plain JSON", "GenerateRequest", _generated()),
        f"{base}/generate_stream": ask(
            "generateStream", "The same, an event for each item", "GenerateRequest", event_stream()
        ),
        base: tell("metadata", "The model's tensors", "Metadata"),
        f"{base}/ready": ready,
        f"{base}/config": tell("configuration", "How the model is served", "Configuration"),
        f"{base}/stats": tell("statistics", "What was counted for the model", "Statistics"),
    }


_BINARY = (
    "Tensors may travel as bytes: the JSON comes first, `Inference-Header-Content-Length` says how long it is, and an "
    "input that is sent so has `binary_data_size` in its parameters in place of `data`."
)
_LENGTH = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "required": False,
    "description": "Bytes of JSON, where tensors follow it. 0: the body is nothing but the only input, one row of it.",
    "schema": _COUNT,
}


def _answers() -> Schema:
    binary = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
    return {
        "description": "Output tensors: JSON, or JSON with binary tensors behind it where they were asked for.",
        "headers": {_LENGTH["name"]: {"description": "Bytes of JSON, where tensors follow it.", "schema": _COUNT}},
        "content": {"application/json": {"schema": reference("InferResponse")}, "application/octet-stream": binary},
    }


def _generated() -> Schema:
    named = {"type": "object", "properties": {"model_name": _TEXT, "model_version": _TEXT}}
    return answer("The output's fields beside the model's name.", {**named, "required": ["model_name"]})


def _infer_request(model: Model) -> Schema:
    tensors = ", ".join(f"{item.name} ({item.datatype}, {list(item.shape)})" for item in model.inputs)
    outputs = {
        "type": "object",
        "properties": {"name": {"enum": [item.name for item in model.outputs]}, "parameters": _output_parameters()},
        "required": ["name"],
    }
    return {
        "type": "object",
        "description": f"Inputs: {tensors}",
        "properties": {
            "id": _NAME,
            "parameters": _parameters(),
            "inputs": {
                "type": "array",
                "items": {"oneOf": [_input(item, rowwise=model.rowwise) for item in model.inputs]},
                "minItems": sum(not item.optional for item in model.inputs),
                "maxItems": len(model.inputs),
            },
            "outputs": {"type": ["array", "null"], "items": outputs},
        },
        "required": ["inputs"],
    }


def _input(item: TensorSpec, *, rowwise: bool) -> Schema:
    """One input. FP16 and BF16 travel as bytes alone; rows of one number each may be [N, 1] as well as [N]."""
    sizes: list[Schema] = [_COUNT if size < 0 else {"const": size} for size in item.shape]
    more: list[Schema] = [{"const": 1}] if rowwise and len(sizes) == 1 else []
    shape = {"prefixItems": [*sizes, *more], "minItems": len(sizes), "maxItems": len(sizes) + len(more)}
    schema: Schema = {
        "type": "object",
        "properties": {
            "name": {"const": item.name},
            "datatype": {"const": item.datatype},
            "shape": {"type": "array", **shape},
            "parameters": {"type": ["object", "null"], "properties": {"binary_data_size": _MAYBE_COUNT}},
        },
        "required": ["name", "datatype", "shape"],
    }
    if item.datatype in ("FP16", "BF16"):
        return schema
    kind = _DATA_KINDS.get(item.datatype, "integer")
    element = {"anyOf": [{"type": kind}, {"type": "array"}]}
    schema["properties"]["data"] = {"type": "array", "description": "row-major, flat or nested", "items": element}
    return schema


def _infer_response(model: Model, name: str, version: str) -> Schema:
    shape = {"type": "array", "items": _COUNT}
    parameters = {"type": "object", "properties": {"binary_data_size": _COUNT}}
    output = _closed(
        {"data": {"type": "array"}, "parameters": parameters},
        name={"enum": [item.name for item in model.outputs]},
        datatype={"enum": sorted({item.datatype for item in model.outputs})},
        shape=shape,
    )
    return _closed(
        {"id": _TEXT},
        model_name={"const": name},
        model_version=_TEXT if not version else {"const": version},
        outputs=_list(output),
    )


def _parameters() -> Schema:
    return {
        "type": ["object", "null"],
        "properties": {
            "binary_data_output": {"type": "boolean", "description": "All outputs as bytes behind the JSON."},
            "priority": {**_COUNT, "description": "1 goes first, then 2 and so on; 0 after all."},
            "timeout": {**_MAYBE_COUNT, "description": "The caller's own deadline in microseconds; 0: none."},
        },
    }


def _output_parameters() -> Schema:
    return {"type": ["object", "null"], "properties": {"binary_data": {"type": "boolean"}}}


def _closed(optional: dict[str, Schema] | None = None, **required: Schema) -> Schema:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}
