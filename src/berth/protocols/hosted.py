"""What hosted platforms ask of a container, so that one image runs on them unchanged: SageMaker and Vertex AI.

SageMaker asks `GET /ping` (torchserve.py has it) and `POST /invocations`, which is `/predict` of the first model and
takes CSV and JSON lines as well. Vertex AI names its routes in `AIP_HEALTH_ROUTE` and `AIP_PREDICT_ROUTE`, and wraps
rows as `{"instances": [...], "parameters": {...}}`, answered by `{"predictions": [...]}`; any other body came through
its rawPredict and is taken like `/predict`. Ports are config.py's business. site.py mounts it last, so that a route
that the platform names is the platform's.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Iterator
from typing import Any

import msgspec

from berth.config import HostedSettings
from berth.errors import InputError
from berth.health import Health
from berth.protocols import native
from berth.protocols.base import Handler, Refusal, Request, Response, Route, refuse_input
from berth.protocols.plain_rows import PlainRows, read_json
from berth.protocols.site import Site
from berth.protocols.streaming import JSON_LINES
from berth.protocols.torchserve import ping
from berth.repository import Repository
from berth.rows import Cell, cell_of
from berth.served import ServedModel
from berth.signature import Parameter
from berth.work import Work

INPUT_STATUS = 400
CSV = b"text/csv"


def face(site: Site) -> Hosted:
    """The face of a server."""
    return Hosted(site.repository, site.health, site.config.hosted)


class Hosted:
    """The platforms' routes to the first model."""

    def __init__(self, repository: Repository, health: Health, hosted: HostedSettings) -> None:
        self._repository = repository
        self._health = health
        self._hosted = hosted

    def routes(self) -> list[Route]:
        """SageMaker's, and Vertex AI's where it has named them; the two of Vertex AI may be one path."""
        invocations = Route("/invocations", "sagemaker.invocations", {"POST": self._invoke})
        handlers: dict[str, dict[str, Handler]] = {}
        if self._hosted.health_route:
            handlers[self._hosted.health_route] = {"GET": functools.partial(ping, self._health)}
        if self._hosted.predict_route:
            handlers.setdefault(self._hosted.predict_route, {})["POST"] = self._predict
        return [invocations, *(Route(path, "vertex", found) for path, found in handlers.items())]

    def resolve(self, _: str) -> None:
        """None of its paths names a model."""

    def _invoke(self, request: Request) -> Work:
        content_type = request.headers.get(b"content-type", b"")
        if any(_is(kind, content_type) for kind in (CSV, JSON_LINES, b"application/jsonlines")):
            return self._repository.find().made(LineRows).handle(request)
        return self._repository.find().made(native.Prediction).handle(request)

    def _predict(self, request: Request) -> Work:
        return self._repository.find().made(VertexRows).handle(request)


class VertexRows:
    """Vertex AI's requests for one model."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._rows = PlainRows(served)
        self._native = served.made(native.Prediction)

    def handle(self, request: Request) -> Work:
        """Rows with what they share; anything that is no object with `instances` goes the native way."""
        try:
            body = read_json(request.body)
        except InputError:
            body = None  # a form, or what the native way calls malformed
        if not isinstance(body, dict) or "instances" not in body:
            return self._native.handle(request)
        try:
            parameters = body.get("parameters") or {}
            if not isinstance(parameters, dict):
                raise InputError("parameters: expected an object")
            calls = self._rows.calls_of_rows(body["instances"], parameters)
        except InputError as error:
            raise refuse_input(error, INPUT_STATUS) from error
        return Work(self._served, calls, self._encode, INPUT_STATUS)

    def _encode(self, answers: list[Any]) -> Response:
        return Response(b'{"predictions":%b}' % self._rows.rows(answers))


class LineRows:
    """Rows that come a line each, as CSV or JSON lines, for one model.

    A line of CSV is the only input, where that is a list or a vector; otherwise its cells are the inputs in order, or
    in the order of a first line with their names. An empty cell is a missing value. The answer is a JSON array with a
    value for each line, or CSV or JSON lines for callers that accept those; JSON lines are answered with JSON lines.
    """

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._signature = served.model.signature
        self._rows = PlainRows(served)
        specs = {spec.name: spec for spec in served.model.inputs}
        ranks = {item.name: len(specs[item.name].shape) if _flat(item) else 0 for item in self._signature.inputs}
        only = self._rows.only({})
        self._vector = only if only is not None and ranks[only] == 2 else None
        self._vector_of_texts = self._vector is not None and specs[self._vector].datatype == "BYTES"
        self._columns = [name for name, rank in ranks.items() if rank == 1]
        self._lacking = [item.name for item in self._signature.inputs if item.required and ranks[item.name] != 1]

    def handle(self, request: Request) -> Work:
        """Read the lines; 415 for CSV and a model whose inputs are no columns."""
        accept = request.headers.get(b"accept", b"").lower()
        try:
            is_csv = _is(CSV, request.headers.get(b"content-type", b""))
            rows = self._read_csv(request.body) if is_csv else _read_lines(request.body)
            calls = self._rows.calls_of_rows(rows, where="rows")
        except InputError as error:
            raise refuse_input(error, INPUT_STATUS) from error
        encode = self._encode
        if CSV in accept:
            encode = self._encode_csv
        elif b"jsonl" in accept or (not is_csv and b"application/json" not in accept):
            encode = self._encode_lines
        return Work(self._served, calls, encode, INPUT_STATUS)

    def _read_csv(self, body: bytes) -> list[Any]:
        if self._vector is None and self._lacking:
            text = f"a line of CSV cannot hold the input {self._lacking[0]!r} of this model; send application/json"
            raise Refusal(415, text)
        try:
            lines = [line for line in csv.reader(io.StringIO(body.decode()), strict=True) if line]
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"the body is not valid CSV: {error}") from error
        if self._vector is not None:
            return [self._vector_of(line, number) for number, line in enumerate(lines, 1)]
        names = self._columns
        if lines and set(lines[0]) <= set(names):
            names = lines.pop(0)
        return [self._inputs_of(line, names, number) for number, line in enumerate(lines, 1)]

    def _vector_of(self, line: list[str], number: int) -> list[Any]:
        if self._vector_of_texts:
            return list(line)
        try:
            return [_number(cell) for cell in line]
        except ValueError as error:
            raise InputError(f"row {number}: expected numbers: {error}") from error

    def _inputs_of(self, line: list[str], names: list[str], number: int) -> dict[str, Any]:
        if len(line) > len(names):
            raise InputError(f"row {number}: expected at most {len(names)} cells, {', '.join(names)}, got {len(line)}")
        cells = zip(names, line, strict=False)  # a short line leaves out the last inputs
        return {name: self._signature.parse_text(name, cell) for name, cell in cells if cell}

    def _encode(self, answers: list[Any]) -> Response:
        return Response(self._rows.rows(answers))

    def _encode_lines(self, answers: list[Any]) -> Response:
        rows = msgspec.json.decode(self._rows.rows(answers), type=list[msgspec.Raw])
        return Response(b"".join(bytes(row) + b"\n" for row in rows), 200, JSON_LINES)

    def _encode_csv(self, answers: list[Any]) -> Response:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows(list(_cells(row)) for row in msgspec.json.decode(self._rows.rows(answers)))
        return Response(text.getvalue().encode(), 200, CSV + b"; charset=utf-8")


def _is(kind: bytes, content_type: bytes) -> bool:
    return content_type.partition(b";")[0].strip().lower() == kind


def _flat(item: Parameter) -> bool:
    """Whether an input is made of numbers or texts."""
    return cell_of(item.type) in (Cell.NUMBER, Cell.TEXT, Cell.ARRAY)


def _read_lines(body: bytes) -> list[Any]:
    return [read_json(line) for line in body.splitlines() if line.strip()]


def _number(cell: str) -> float | int | None:
    if not cell.strip():
        return None
    try:
        return int(cell)
    except ValueError:
        return float(cell)


def _cells(value: Any) -> Iterator[Any]:
    """The values in a row of the answer, from left to right."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        yield value
        return
    for item in value:
        yield from _cells(item)
