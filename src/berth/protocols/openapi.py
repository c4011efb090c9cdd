"""`/openapi.json` (OpenAPI 3.1) and `/docs`, a page that needs no internet.

Both are made from the signature at the start. The page is files beside this one (docs.html, docs.css, docs.js); what
the signature says is written into it here, so it reads without JavaScript, which only drives the try-it form.
application.py mounts the routes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from berth.config import ModelSettings
from berth.model import Model
from berth.protocols.base import HTML, Request, Response, Route
from berth.protocols.page import content_security_policy, render_page

_ERRORS = {
    "400": "The body is not valid JSON, or not a valid form.",
    "413": "The body is larger than this server takes.",
    "422": "A field is missing, unknown or of another type; the text names its path.",
    "500": "The model failed; the log has the traceback under the error id.",
    "503": "The queue is full, or the server is stopping; Retry-After says when to come back.",
    "504": "No answer within the deadline.",
}


class OpenApi:
    """The description of one model's HTTP interface."""

    def __init__(self, model: Model, settings: ModelSettings) -> None:
        document = describe_model(model, settings)
        self._json = Response(msgspec.json.encode(document))
        headers = ((b"Content-Security-Policy", content_security_policy()),)
        self._page = Response(render_page(document), 200, HTML, headers)

    def routes(self) -> list[Route]:
        """The document and the page."""
        return [
            Route("/openapi.json", "openapi", {"GET": self._document}),
            Route("/docs", "docs", {"GET": self._docs}),
            Route("/", "docs", {"GET": self._docs}),
        ]

    def _document(self, _: Request) -> Response:
        return self._json

    def _docs(self, _: Request) -> Response:
        return self._page


def describe_model(model: Model, settings: ModelSettings) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a model, as plain values."""
    schemas = model.signature.schemas()
    error = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    base = f"/v2/models/{settings.name}"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": settings.name,
            "version": settings.version,
            "description": settings.description or model.signature.description,
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
