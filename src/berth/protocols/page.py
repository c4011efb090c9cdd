"""The /docs page: what the OpenAPI document says, as HTML that a person reads.

openapi.py calls it once at the start. Style and script are in the page itself; the content security policy names their
hashes, so nothing else can run there.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import msgspec

from berth.protocols.openapi_parts import is_file, resolved, small_number

_FOLDER = Path(__file__).parent
_HTML = (_FOLDER / "docs.html").read_text("utf-8")
_CSS = (_FOLDER / "docs.css").read_text("utf-8")
_JS = (_FOLDER / "docs.js").read_text("utf-8")
MAX_DEPTH = 3  # a type that contains itself is shown to here
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "matching {}",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
}


def content_security_policy() -> bytes:
    """Only the page's own style and script, and requests to its own server."""
    policy = (
        f"default-src 'none'; style-src '{_hash(_CSS)}'; script-src '{_hash(_JS)}'; connect-src 'self'; "
        "img-src data: blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
    return policy.encode()


def render_page(document: dict[str, Any]) -> bytes:
    """The whole page for one model."""
    info, schemas = document["info"], document["components"]["schemas"]
    page = Template(_HTML).substitute(
        css=_CSS,
        js=_JS,
        title=escape(info["title"]),
        version=escape(info["version"]),
        description=_paragraphs(info["description"]),
        inputs=_table(schemas["Input"], schemas),
        output=_output(schemas["Output"], schemas),
        tensors=escape(schemas["InferRequest"]["description"].removeprefix("Inputs: ")),
        infer=escape(next(path for path in document["paths"] if path.endswith("/infer"))),
        fields="".join(_form_field(name, schemas["Input"], schemas) for name in schemas["Input"]["properties"]),
        errors="".join(
            f"<tr><td><code>{status}</code></td><td>{escape(answer['description'])}</td></tr>"
            for status, answer in next(iter(document["paths"].values()))["post"]["responses"].items()
            if status != "200"
        ),
        example=escape(_example_command(schemas["Input"], schemas)),
    )
    return page.encode()


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(part)}</p>" for part in text.split("\n\n") if part.strip())


def _table(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = []
    for name, field in schema.get("properties", {}).items():
        need = "required" if name in required else f"default <code>{escape(_compact(field.get('default')))}</code>"
        rows.append(
            f'<tr><td><code class="name">{escape(name)}</code></td><td>{escape(type_text(field, schemas))}</td>'
            f"<td>{need}</td><td>{escape(_notes(field, schemas))}</td></tr>"
        )
    return "".join(rows)


def _output(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    found = resolved(schema, schemas)
    if found.get("type") != "object" or not found.get("properties"):
        text = _notes(schema, schemas)
        return f"<p><code>{escape(type_text(schema, schemas))}</code> {escape(text)}</p>"
    head = "<thead><tr><th>Name</th><th>Type</th><th></th><th>Description</th></tr></thead>"
    rows = _table({**found, "required": list(found["properties"])}, schemas).replace(">required<", "><")
    return f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>'


def type_text(schema: dict[str, Any], schemas: dict[str, Any], depth: int = 0) -> str:
    """A schema's type in a few words, for example "list of number" or "one of a, b"."""
    schema = resolved(schema, schemas)
    if depth > MAX_DEPTH:
        return str(schema.get("title") or schema.get("type", "any JSON"))
    if is_file(schema):
        return str(schema["description"]).partition(":")[0]
    if str(schema.get("title", "")).endswith(" array"):
        return str(schema["description"])
    if "enum" in schema:
        return "one of " + ", ".join(_compact(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(type_text(member, schemas, depth + 1) for member in schema["anyOf"]))
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {type_text(schema['items'], schemas, depth + 1)}"
    if schema.get("type") == "object" and schema.get("properties"):
        fields = (f"{name}: {type_text(field, schemas, depth + 1)}" for name, field in schema["properties"].items())
        return f"object ({', '.join(fields)})"
    kind = schema.get("type", "any JSON")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _notes(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    found = resolved(schema, schemas)
    arrays = str(found.get("title", "")).endswith(" array") or is_file(found)
    text = "" if arrays else str(schema.get("description") or found.get("description") or "")
    bounds = [words.format(found[key]) for key, words in _BOUNDS.items() if key in found and not arrays]
    return " · ".join([part for part in (text, ", ".join(bounds)) if part])


def _form_field(name: str, parent: dict[str, Any], schemas: dict[str, Any]) -> str:
    field = parent["properties"][name]
    schema = resolved(field, schemas)
    members = [resolved(member, schemas) for member in schema.get("anyOf", ())]
    label, key = escape(name), escape(name, quote=True)
    default = escape(_compact(field["default"]), quote=True) if field.get("default") is not None else ""
    if is_file(schema) or any(is_file(member) for member in members):
        control = f'<input type="file" name="{key}" data-kind="file">'
    elif "enum" in schema:
        options = "".join(_option(value, field.get("default")) for value in schema["enum"])
        control = f'<select name="{key}" data-kind="json">{options}</select>'
    elif schema.get("type") == "string":
        text = escape(str(field.get("default", "")), quote=True)
        control = f'<textarea name="{key}" data-kind="text" rows="1">{text}</textarea>'
    else:
        example = escape(_compact(_example(schema, schemas)), quote=True)
        filled = example if name in parent.get("required", ()) else default
        control = (
            f'<textarea name="{key}" data-kind="json" rows="1" spellcheck="false" placeholder="{example}">'
            f"{filled}</textarea>"
        )
    optional = "" if name in parent.get("required", ()) else ' <span class="optional">optional</span>'
    return f"<label><span>{label}{optional}</span>{control}</label>"


def _option(value: Any, default: Any) -> str:
    selected = " selected" if value == default else ""
    return f'<option value="{escape(_compact(value), quote=True)}"{selected}>{escape(str(value))}</option>'


def _example_command(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    properties, required = schema["properties"], schema.get("required", [])
    body = {name: _example(resolved(properties[name], schemas), schemas) for name in required}
    text = msgspec.json.encode(body).decode().replace("'", "'\\''")
    return f"curl -X POST $ORIGIN/predict -H 'Content-Type: application/json' -d '{text}'".replace("$ORIGIN", "ORIGIN")


def _example(schema: dict[str, Any], schemas: dict[str, Any], depth: int = 0) -> Any:
    schema = resolved(schema, schemas)
    if depth > MAX_DEPTH:
        return None
    if "default" in schema and schema["default"] is not None:
        return schema["default"]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return {"b64": ""} if is_file(schema) else _example(schema["anyOf"][0], schemas, depth + 1)
    kind = schema["type"][0] if isinstance(schema.get("type"), list) else schema.get("type")
    if kind == "array":
        return [_example(schema.get("items", {}), schemas, depth + 1)] * min(int(schema.get("minItems", 1)) or 1, 8)
    if kind == "object":
        return {name: _example(item, schemas, depth + 1) for name, item in schema.get("properties", {}).items()}
    if kind in ("integer", "number"):
        return small_number(schema)
    return {"boolean": False, "string": "text"}.get(str(kind))


def _compact(value: Any) -> str:
    return msgspec.json.encode(value).decode()
