"""`/openapi.json` (OpenAPI 3.1) and `/docs`, a page that needs no internet.

Both are made from the signature at the start. The page is files beside this one (docs.html, docs.css, docs.js); what
the signature says is written into it here, so it reads without JavaScript, which only drives the try-it form.
site.py mounts it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from berth.model import Model
from berth.protocols.base import HTML, Handler, Response, Route, json_response
from berth.protocols.page import content_security_policy, render_page
from berth.protocols.site import Site
from berth.repository import Repository
from berth.served import ServedModel

_ERRORS = {
    "400": "The body is not valid JSON, or not a valid form.",
    "413": "The body is larger than this server takes.",
    "422": "A field is missing, unknown or of another type; the text names its path.",
    "500": "The model failed; the log has the traceback under the error id.",
    "503": "The queue is full, or the server is stopping; Retry-After says when to come back.",
    "504": "No answer within the deadline.",
}


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
            served, action = self._repository.find(), path
        elif path.startswith("/models/"):
            served, action = self._repository.split(path[len("/models/") :])
        else:
            return None
        if action == "/openapi.json":
            return Route(path, "openapi", {"GET": self._document(served)})
        if path == "/":
            return Route(path, "root", {"GET": self._root(served)})
        return Route(path, "docs", {"GET": self._page(served)}) if action in ("/", "/docs") else None

    def _document(self, served: ServedModel) -> Handler:
        response = Response(msgspec.json.encode(self._describe(served)))
        return lambda _: response

    def _page(self, served: ServedModel) -> Handler:
        headers = ((b"Content-Security-Policy", content_security_policy()),)
        response = Response(render_page(self._describe(served)), 200, HTML, headers)
        return lambda _: response

    def _root(self, served: ServedModel) -> Handler:
        """The page for people; for programs, the word by which KServe's V1 clients know a live server."""
        page, alive = self._page(served), json_response({"status": "alive"})
        return lambda request: page(request) if b"html" in request.headers.get(b"accept", b"html") else alive

    def _describe(self, served: ServedModel) -> dict[str, Any]:
        return describe_model(served.model, served.name, served.version, served.settings.description)


def describe_model(model: Model, name: str, version: str, description: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a model, as plain values."""
    schemas = model.signature.schemas()
    error = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    base = f"/v2/models/{name}"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": name,
            "version": version,
            "description": description or model.signature.description,
        },
        "paths": {
            "/predict": {"post": _predict(model.signature.description)},
            f"{base}/infer": {"post": _infer()},
            base: {"get": _plain("The model's tensors (Open Inference Protocol).")},
            "/v2/health/live": {"get": _plain("Whether the server lives.")},
            "/v2/health/ready": {"get": _plain("Whether the server wants requests.", {"503": "Not ready."})},
            "/metrics": {"get": _plain("Counters and histograms.", kind="text/plain")},
        },
        "components": {"schemas": {**schemas, "Error": error, "InferRequest": _infer_request(model)}},
    }


def _predict(description: str) -> dict[str, Any]:
    body = {"schema": {"$ref": "#/components/schemas/Input"}}
    return {
        "operationId": "predict",
        "summary": "Ask the model",
        "description": description,
        "requestBody": {"required": True, "content": {"application/json": body, "multipart/form-data": body}},
        "responses": {"200": _json("The model's answer.", "Output"), **_errors(_ERRORS)},
    }


def _infer() -> dict[str, Any]:
    body = {"application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}}}
    answer = {"description": "Output tensors.", "content": {"application/json": {"schema": {"type": "object"}}}}
    return {
        "operationId": "infer",
        "summary": "Ask the model with tensors (Open Inference Protocol, V2)",
        "requestBody": {"required": True, "content": body},
        "responses": {"200": answer, **_errors({key: text for key, text in _ERRORS.items() if key != "422"})},
    }


def _infer_request(model: Model) -> dict[str, Any]:
    tensors = ", ".join(f"{item.name} ({item.datatype}, {list(item.shape)})" for item in model.inputs)
    tensor = {
        "type": "object",
        "properties": {
            "name": {"enum": [item.name for item in model.inputs]},
            "datatype": {"enum": sorted({item.datatype for item in model.inputs})},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "data": {"type": "array", "description": "row-major, flat or nested"},
        },
        "required": ["name", "datatype", "shape"],
    }
    return {
        "type": "object",
        "description": f"Inputs: {tensors}",
        "properties": {"id": {"type": "string"}, "inputs": {"type": "array", "items": tensor}},
        "required": ["inputs"],
    }


def _plain(text: str, errors: dict[str, str] | None = None, kind: str = "application/json") -> dict[str, Any]:
    schema = {"type": "string"} if kind == "text/plain" else {"type": "object"}
    answer = {"description": text, "content": {kind: {"schema": schema}}}
    return {"summary": text, "responses": {"200": answer, **_errors(errors or {})}}


def _json(text: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": text, "content": content}


def _errors(texts: dict[str, str]) -> dict[str, Any]:
    return {status: _json(text, "Error") for status, text in texts.items()}
