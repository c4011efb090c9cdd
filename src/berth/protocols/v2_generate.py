"""V2's generate extension: `/generate`, `/generate_stream` and `/infer_stream`, as Triton's clients use them.

`generate` takes one JSON object of inputs rather than tensors, and answers with the fields of the output beside the
model's name. The streams are Server-Sent Events, one per item of a predictor that yields; any other model gives one.
v2.py mounts them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from berth.errors import InputError
from berth.protocols.base import Refusal, Request, Response
from berth.protocols.nesting import check_nesting
from berth.protocols.streaming import Events
from berth.protocols.v2_messages import INPUT_STATUS, timeout_of
from berth.served import ServedModel
from berth.work import Work

_RESERVED = ("id", "parameters")


class Generation:
    """Generate requests for one model."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._model = served.model
        self._names = {item.name for item in served.model.signature.inputs}

    def generate(self, request: Request) -> Work:
        """One object in, one object out; a predictor that yields answers with all its items."""
        return self._work(request)

    def generate_stream(self, request: Request) -> Work:
        """One object in, an event per item out."""
        work = self._work(request)
        work.stream = Events(self._encode_item)
        return work

    def _work(self, request: Request) -> Work:
        try:
            fields = self._fields(request.body)
            parameters = fields.get("parameters") if "parameters" not in self._names else None
            if not isinstance(parameters, dict | None):
                raise InputError("parameters: expected an object")
            inputs = {name: value for name, value in fields.items() if name in self._names or name not in _RESERVED}
            call = self._model.prepare(self._model.signature.convert(inputs))
            return Work(self._served, [call], self._encode, INPUT_STATUS, timeout_of(parameters))
        except InputError as error:
            raise Refusal(INPUT_STATUS, str(error)) from error

    def _fields(self, body: bytes) -> dict[str, Any]:
        check_nesting(body)
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"expected a JSON object with the inputs: {error}") from error

    def _encode(self, answers: list[Any]) -> Response:
        if self._model.streams:
            items = b"[" + b",".join(map(self._model.encode, answers)) + b"]"
            return Response(self._envelope(b'{"outputs":' + items + b"}"))
        return Response(self._encode_item(answers[0]))

    def _encode_item(self, answer: Any) -> bytes:
        return self._envelope(self._model.encode(answer))

    def _envelope(self, answer: bytes) -> bytes:
        """The answer's own fields after the model's name and version; what is no object is called `output`."""
        if not answer.startswith(b"{"):
            answer = b'{"output":' + answer + b"}"
        head = msgspec.json.encode({"model_name": self._served.name, "model_version": self._served.version})
        return head if answer == b"{}" else head[:-1] + b"," + answer[1:]
