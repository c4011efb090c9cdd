"""`/openapi.json` (OpenAPI 3.1) and `/docs`, a page that needs no internet.

Both are made from the signature at the start. The page is files beside this one (docs.html, docs.css, docs.js); what
the signature says is written into it here, so it reads without JavaScript, which only drives the try-it form.
site.py mounts it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from berth.errors import InputError
from berth.model import Model
from berth.protocols import openapi_v2
from berth.protocols.base import HTML, Handler, Response, Route, json_response
from berth.protocols.openapi_parts import (
    EVENT,
    Schema,
    answer,
    errors,
    example_of,
    is_file,
    operation,
    reference,
    resolved,
)
from berth.protocols.page import content_security_policy, render_page
from berth.protocols.site import Site
from berth.repository import Repository
from berth.served import ServedModel

PREDICT = "/predict"


def face(site: Site) -> OpenApi:
    """The face of a server."""
    return OpenApi(site.repository)


class OpenApi:
    """The description of a model's HTTP interface: at `/` for the first model, below `/models/{name}` for any."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def routes(self) -> list[Route]:
        """None: every path depends on what is loaded."""
        return []

    def resolve(self, path: str) -> Route | None:
        """The document and the page of a model."""
        if path in ("/", "/docs", "/openapi.json"):
            served, action, predict = self._repository.find(), path, PREDICT
        elif path.startswith("/models/"):
            served, action = self._repository.split(path[len("/models/") :])
            predict = quote(path.removesuffix(action)) + PREDICT
        else:
            return None
        if action == "/openapi.json":
            return Route(path, "openapi", {"GET": self._document(served, predict)})
        if path == "/":
            return Route(path, "root", {"GET": self._root(served, predict)})
        return Route(path, "docs", {"GET": self._page(served, predict)}) if action in ("/", "/docs") else None

    def _document(self, served: ServedModel, predict: str) -> Handler:
        response = Response(msgspec.json.encode(self._describe(served, predict)))
        return lambda _: response

    def _page(self, served: ServedModel, predict: str) -> Handler:
        headers = ((b"Content-Security-Policy", content_security_policy()),)
        response = Response(render_page(self._describe(served, predict)), 200, HTML, headers)
        return lambda _: response

    def _root(self, served: ServedModel, predict: str) -> Handler:
        """The page for people; for programs, the word by which KServe's V1 clients know a live server."""
        page, alive = self._page(served, predict), json_response({"status": "alive"})
        return lambda request: page(request) if b"html" in request.headers.get(b"accept", b"html") else alive

    def _describe(self, served: ServedModel, predict: str) -> dict[str, Any]:
        return describe_model(served.model, served.name, served.version, served.settings.description, predict)


def describe_model(model: Model, name: str, version: str, description: str, predict: str = PREDICT) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a model, as plain values; `predict` is the path of its native route."""
    components = _components(model, name, version)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": name,
            "version": version,
            "description": description or model.signature.description,
        },
        "paths": {
            predict: {"post": _predict(model, components)},
            **openapi_v2.model_paths(model, name),
            **openapi_v2.server_paths(),
            "/v2/health/live": {"get": _health("live", "Whether the server lives")},
            "/v2/health/ready": {"get": _health("ready", "Whether the server wants requests")},
            "/metrics": {"get": _metrics()},
        },
        "components": {"schemas": components},
    }


def _components(model: Model, name: str, version: str) -> dict[str, Schema]:
    schemas = model.signature.schemas()
    error = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    spoken = {"id": {}, "parameters": {"type": ["object", "null"]}}
    asked = schemas["Input"]
    return {
        **schemas,
        "Form": _form(asked, schemas),
        "GenerateRequest": {**asked, "title": "GenerateRequest", "properties": {**spoken, **asked["properties"]}},
        "Error": error,
        **openapi_v2.schemas(model, name, version),
    }


def _predict(model: Model, components: dict[str, Schema]) -> dict[str, Any]:
    body: dict[str, Any] = {"schema": reference("Input")}
    form: dict[str, Any] = {"schema": reference("Form"), "encoding": _form_encoding(components)}
    example = _example(model, components)
    if example is not None:
        body["example"] = example
    found = answer("The model's answer.", reference("Output"))
    if model.streams:
        found = _stream()
    responses = {"200": found, **errors("400", "404", "413", "415", "422", "429", "500", "503", "504")}
    return {
        **operation("predict", "Ask the model", responses),
        "description": model.signature.description,
        "requestBody": {"required": True, "content": {"application/json": body, "multipart/form-data": form}},
    }


def _example(model: Model, components: dict[str, Schema]) -> dict[str, Any] | None:
    """An example that the signature itself takes, or none."""
    try:
        example: dict[str, Any] = example_of(components["Input"], components)
        model.prepare(model.signature.decode(msgspec.json.encode(example)))
    except (ValueError, InputError, msgspec.MsgspecError):
        return None
    return example


def _stream() -> Schema:
    items = {"type": "array", "items": reference("Output")}
    kinds = {"text/event-stream": EVENT, "application/jsonl": {"type": "string"}}
    content = {kind: {"schema": schema} for kind, schema in {**kinds, "application/json": items}.items()}
    return {"description": "The model's answers, one after the other, as `Accept` asks.", "content": content}


def _form(schema: Schema, components: dict[str, Schema]) -> Schema:
    """The inputs as a form has them: files as parts, everything else as text."""
    fields = {name: _field(field, components) for name, field in schema["properties"].items()}
    return {**schema, "title": "Form", "properties": fields}


def _field(schema: Schema, components: dict[str, Schema]) -> Schema:
    members = [resolved(member, components) for member in [schema, *resolved(schema, components).get("anyOf", ())]]
    if not any(map(is_file, members)):
        return schema
    return {"type": "string", "contentMediaType": "application/octet-stream"}


def _form_encoding(components: dict[str, Schema]) -> dict[str, Any]:
    """Objects and nested lists are JSON; scalars are text, and a list of them is a field for each."""
    fields = {name: resolved(field, components) for name, field in components["Form"]["properties"].items()}
    return {name: {"contentType": "application/json"} for name, field in fields.items() if _nested(field, components)}


def _nested(field: Schema, components: dict[str, Schema]) -> bool:
    if field.get("type") == "array":
        field = resolved(field.get("items", {}), components)
        return field.get("type", "array") in ("array", "object")
    return field.get("type", "object") == "object" and "enum" not in field


def _health(word: str, summary: str) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {word: {"type": "boolean"}, "error": {"type": "string"}},
        "required": [word],
        "additionalProperties": False,
    }
    responses = {"200": answer(summary + ".", schema), "503": answer("Not now; the text says why.", schema)}
    return operation(word, summary, responses)


def _metrics() -> dict[str, Any]:
    text = answer("Prometheus text.", {"type": "string"}, "text/plain")
    return operation("metrics", "Counters and histograms", {"200": text})
