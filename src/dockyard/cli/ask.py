"""Asks a running model over HTTP, on a unix socket or a TCP address: its schema, a prediction.

Inputs of the command line become typed JSON here, by the model's own schema. Called by `cli.predict` and `cli.run`.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import urllib.parse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dockyard.errors import PredictionError, ProjectError

SEE_LOG = "The container's log has the details: `dockyard logs NAME`."


@dataclass(frozen=True)
class Address:
    """Where a model answers: a unix socket, or a URL whose path is put before every route."""

    socket: Path | None = None
    url: str = ""

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket else self.url


@dataclass(frozen=True)
class Answer:
    """What a model answered: status, body as text, and the body's JSON value if it has one."""

    status: int
    text: str
    value: Any


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of the host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(address: Address, method: str, route: str, body: bytes | None = None, *, deadline: float = 60.0) -> Answer:
    """One request; PredictionError if nobody answers within `deadline` seconds (for each read)."""
    connection, prefix = _connection(address, deadline)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    try:
        connection.request(method, prefix + route, body, headers)
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise PredictionError(
            f"nobody answers at {address}: {error}",
            remedy="Is the model running? `dockyard ps` lists containers, `dockyard logs NAME` shows what one says.",
        ) from error
    finally:
        connection.close()
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return Answer(response.status, text, value)


def _connection(address: Address, deadline: float) -> tuple[http.client.HTTPConnection, str]:
    if address.socket is not None:
        return _UnixConnection(address.socket, deadline), ""
    scheme, host, port, path = _parts(address.url)
    if scheme == "https":
        secure = ssl.create_default_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=deadline, context=secure
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=deadline)
    return connection, path.rstrip("/")


def _parts(url: str) -> tuple[str, str, int | None, str]:
    """Scheme, host, port and path; ProjectError if one of them is missing or wrong."""
    with suppress(ValueError):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.hostname:
            return parts.scheme, parts.hostname, parts.port, parts.path
    raise ProjectError(f"{url!r} is not a URL", remedy="Write it like http://127.0.0.1:8080.")


def predict(address: Address, inputs: Mapping[str, Any], *, deadline: float = 60.0) -> Any:
    """The model's answer to typed inputs, as a JSON value; PredictionError carries the model's own words."""
    answer = ask(address, "POST", "/predict", json.dumps(inputs).encode(), deadline=deadline)
    if answer.status != http.client.OK:
        said = answer.value.get("error") if isinstance(answer.value, dict) else answer.text[:500]
        remedy = SEE_LOG if answer.status >= 500 else "Correct the input and ask again."
        raise PredictionError(f"the model answered {answer.status}: {said}", remedy=remedy)
    return answer.value


def read_inputs(pairs: Sequence[str], address: Address, *, deadline: float = 60.0) -> dict[str, Any]:
    """`name=value` pairs as typed inputs: JSON where the model's schema wants it, text where it wants text.

    `@FILE` stands for a file's content.
    """
    schema = ask(address, "GET", "/openapi.json", deadline=deadline).value
    kinds = _text_inputs(schema)
    inputs: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise PredictionError(f"the input {pair!r} has no value", remedy="Write -i name=value or -i name=@FILE.")
        inputs[name] = _file(name, text[1:]) if text.startswith("@") else _value(text, text_wanted=name in kinds)
    return inputs


def _file(name: str, path: str) -> dict[str, str]:
    try:
        return {"b64": base64.b64encode(Path(path).read_bytes()).decode()}
    except OSError as error:
        raise PredictionError(
            f"the input {name!r} cannot be read from {path}: {error.strerror}", remedy="Name a file that exists."
        ) from error


def _value(text: str, *, text_wanted: bool) -> Any:
    if text_wanted:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _text_inputs(openapi: Any) -> frozenset[str]:
    """The names of inputs that are strings, from the model's OpenAPI document; none if it has no such document."""
    try:
        operation = openapi["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
        properties = _resolved(operation["schema"], openapi)["properties"]
        found = {name: _resolved(schema, openapi) for name, schema in properties.items()}
    except (KeyError, TypeError):
        return frozenset()
    return frozenset(name for name, schema in found.items() if _is_text(schema))


def _is_text(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return False
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return all(_is_text(option) for option in options if option.get("type") != "null")
    values = schema.get("enum")
    return schema.get("type") == "string" or bool(values and all(isinstance(value, str) for value in values))


def _resolved(schema: Any, document: Any) -> Any:
    while isinstance(schema, dict) and "$ref" in schema:
        target = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = target
    return schema
