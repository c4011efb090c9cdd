"""`POST /predict`: typed JSON, or multipart/form-data for files, by the model's own signature.

The answer's body is the return value itself as JSON; a predictor that yields answers with Server-Sent Events, or with
JSON lines or one JSON array for callers that accept only those. Wrong types, missing and extra fields are 422 with the
path of the field, malformed JSON is 400. site.py mounts it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from berth.errors import InputError
from berth.files import File
from berth.hints import ArrayInput
from berth.protocols.base import Refusal, Request, Response, Route, refuse_input
from berth.protocols.multipart import Part, parse_boundary, parse_parts
from berth.protocols.nesting import check_nesting
from berth.protocols.numbers import LARGE, Numbers, cut_numbers, which
from berth.protocols.site import Site
from berth.protocols.streaming import choose_stream
from berth.repository import Repository
from berth.served import ServedModel
from berth.signature import Call
from berth.work import Work

INPUT_STATUS = 422


def face(site: Site) -> Native:
    """The face of a server."""
    return Native(site.repository)


class Native:
    """The native protocol of a server's models: `/predict` is the first one's, `/models/{name}/predict` any other's."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def routes(self) -> list[Route]:
        """None: every path depends on what is loaded."""
        return []

    def resolve(self, path: str) -> Route | None:
        """`/predict` and `/models/{name}[/versions/{version}]/predict`."""
        if path == "/predict":
            served, action = self._repository.find(), path
        elif path.startswith("/models/"):
            served, action = self._repository.split(path[len("/models/") :])
        else:
            return None
        if action != "/predict":
            return None
        handler = served.made(Prediction).handle
        return Route(path, "predict", {"POST": handler}, large=True, queue=served)


class Prediction:
    """Native requests for one model."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._model = served.model
        self._signature = served.model.signature

    def handle(self, request: Request) -> Work:
        """Decode by content type: a form, or JSON whatever else it calls itself."""
        content_type = request.head.headers.get(b"content-type", b"")
        try:
            if content_type[:20].lower().startswith(b"multipart/form-data"):
                call = self._signature.convert(
                    self._form(parse_parts(bytes(request.body), parse_boundary(content_type)))
                )
            else:
                call = self._json(request.body)
            work = Work(self._served, [self._model.prepare(call)], self._encode, INPUT_STATUS)
            if self._model.streams:
                work.stream = choose_stream(request.headers.get(b"accept", b""), self._model.encode)
            return work
        except InputError as error:
            raise refuse_input(error, INPUT_STATUS) from error

    def _json(self, body: bytes) -> Call:
        if len(body) >= LARGE:
            skeleton, numbers = cut_numbers(body)
            if numbers:
                return self._around(skeleton, numbers, body)
        return self._plain_json(body)

    def _around(self, skeleton: bytes, numbers: Sequence[Numbers], body: bytes) -> Call:
        """Arrays of numbers apart; where a parameter wants something else than an array, all at once after all."""
        used: set[int] = set()
        broken: list[str] = []

        def find(wanted: type, value: Any) -> Any:
            mark = which(value)
            if mark is None or mark >= len(numbers) or not issubclass(wanted, ArrayInput):
                return None
            used.add(mark)
            try:
                return numbers[mark].array(wanted.dtype)
            except json.JSONDecodeError as error:
                broken.append(str(error))
                raise

        try:
            call = self._signature.decode_around(skeleton, find)
        except (InputError, msgspec.DecodeError) as error:
            if broken:
                raise Refusal(400, f"the body is not valid JSON: {broken[0]}") from error
            if len(used) == len(numbers):
                raise
            return self._plain_json(body)
        return call if len(used) == len(numbers) else self._plain_json(body)

    def _plain_json(self, body: bytes) -> Call:
        try:
            check_nesting(body)
        except InputError as error:
            raise Refusal(400, str(error)) from error
        try:
            return self._signature.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal(400, f"the body is not valid JSON: {error}") from error

    def _encode(self, answers: list[Any]) -> Response:
        if self._model.streams:
            return Response(b"[" + b",".join(map(self._model.encode, answers)) + b"]")
        return Response(self._model.encode(answers[0]))

    def _form(self, parts: list[Part]) -> dict[str, Any]:
        """A field that is repeated is a list; so is a single one where a list is wanted."""
        fields: dict[str, list[Any]] = {}
        for part in parts:
            fields.setdefault(part.name, []).append(self._part(part))
        return {
            name: values if len(values) > 1 or self._is_list_of_one(name, values[0]) else values[0]
            for name, values in fields.items()
        }

    def _is_list_of_one(self, name: str, value: Any) -> bool:
        return not isinstance(value, list) and self._signature.takes_list(name)

    def _part(self, part: Part) -> Any:
        if part.filename is not None:
            return File(part.data, part.filename, part.content_type)
        try:
            text = part.data.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"form field {part.name!r}: expected UTF-8 text; send bytes as a file part") from error
        return self._signature.parse_text(part.name, text)
