"""OpenAI's embeddings: texts in, vectors out, for models whose signature says that they do that.

The model's only required input (or the one called `input`) is a text or a list of texts; it answers a vector for each,
plain or in a field `embedding`. Vectors travel as numbers or, as OpenAI's clients ask by default, as base64 of
little-endian float32. openai.py calls this.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import inspect as kinds

from berth.errors import ModelError
from berth.hints import ArrayInput, fields_of
from berth.protocols.base import Response, json_response
from berth.protocols.openai_errors import Problem, unsupported
from berth.protocols.plain_rows import PlainRows
from berth.rows import Cell, cell_of
from berth.served import ServedModel
from berth.tensors import Array
from berth.work import Work

INPUT_STATUS = 400
MOST_TEXTS = 2048  # OpenAI's own bound
FIELD = "embedding"
_KNOWN = ("model", "input", "encoding_format", "user")


class Embeddings:
    """Embedding requests for one model."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._model = served.model
        self._rows = PlainRows(served)
        names = self._rows.names
        self._input = "input" if "input" in names else self._rows.only({})
        self._extras = [name for name in names if name != self._input]
        self._at_once = False  # whether one call takes all the texts
        self._output = FIELD
        self._why_not = self._look()

    def _look(self) -> str:
        """Why the model makes no embeddings; nothing when it does. Learns how it takes its texts."""
        spec = next((spec for spec in self._model.inputs if spec.name == self._input), None)
        if spec is None:
            return "it has several required inputs, and none of them is called `input`"
        hint = next(item.type for item in self._model.signature.inputs if item.name == self._input)
        cell, rank = cell_of(hint), len(spec.shape)
        is_text = cell is Cell.TEXT if self._model.rowwise else spec.datatype == "BYTES"
        if not is_text or rank > 2 or self._model.streams:
            return f"its input {self._input!r} is neither a text nor a list of texts"
        self._at_once = self._model.rowwise and rank == 2
        return "" if self._makes_vectors() else "its answer is no vector of numbers"

    def _makes_vectors(self) -> bool:
        if self._model.rowwise:
            output = self._model.signature.output
            return _is_vector(kinds.type_info(fields_of(output).get(FIELD, output)))
        named = [spec.name for spec in self._model.outputs if len(spec.shape) == 2 and spec.dtype.kind == "f"]
        self._output = FIELD if FIELD in named else next(iter(named), "")
        return bool(named)

    def work(self, body: dict[str, Any]) -> Work:
        """A call for each text, or one for all."""
        if self._why_not:
            text = f"model {self._served.name!r} makes no embeddings: {self._why_not}"
            raise Problem(text, "model", "unsupported_model")
        encoding = body.get("encoding_format") or "float"
        if encoding not in ("float", "base64"):
            raise Problem(f"encoding_format: expected float or base64, got {encoding!r}", "encoding_format")
        texts = _texts(body.get("input"))
        extras = {name: body[name] for name in self._extras if body.get(name) is not None and name not in _KNOWN}
        if body.get("dimensions") is not None and "dimensions" not in extras:
            text = f"model {self._served.name!r} has vectors of one size; leave dimensions out"
            raise unsupported("dimensions", text)
        if self._at_once:
            calls = self._rows.calls_of_rows([{self._input: texts}], extras, "input")
        else:
            calls = self._rows.calls_of_rows([{self._input: text} for text in texts], extras, "input")

        def encode(answers: list[Any]) -> Response:
            return self._encode(answers, texts, encoding)

        return Work(self._served, calls, encode, INPUT_STATUS)

    def _encode(self, answers: list[Any], texts: list[str], encoding: str) -> Response:
        vectors = self._vectors(answers, len(texts))
        data = [
            {"object": "embedding", "index": index, "embedding": _vector(vector, encoding)}
            for index, vector in enumerate(vectors)
        ]
        counted = [_field(answer, "prompt_tokens") for answer in answers]
        tokens = sum(len(text.split()) for text in texts) if None in counted else sum(counted)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json_response({"object": "list", "data": data, "model": self._served.name, "usage": usage})

    def _vectors(self, answers: list[Any], count: int) -> list[Array]:
        if not self._model.rowwise:
            vectors: Any = self._model.tensors_of(answers)[self._output]
        else:
            found = [_field(answer, FIELD) for answer in answers]
            values = [answer if value is None else value for answer, value in zip(answers, found, strict=True)]
            vectors = values[0] if self._at_once else values
        try:
            arrays = [np.asarray(vector, dtype=np.float64) for vector in vectors]
        except (TypeError, ValueError) as error:
            raise ModelError(f"expected vectors of numbers from the model: {error}") from error
        if len(arrays) != count or any(array.ndim != 1 for array in arrays):
            shapes = [array.shape for array in arrays[:3]]
            raise ModelError(f"expected {count} vectors from the model, got {len(arrays)} arrays of shapes {shapes}")
        return arrays


def _texts(given: Any) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or len(texts) > MOST_TEXTS:
        raise Problem(f"input: expected a string or a list of 1 to {MOST_TEXTS} strings", "input")
    if any(isinstance(text, int | list) for text in texts):
        raise Problem("input: expected strings; tokens cannot be turned back into text here", "input")
    if not all(isinstance(text, str) for text in texts):
        raise Problem("input: expected strings", "input")
    return texts


def _vector(vector: Array, encoding: str) -> Any:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return vector.tolist()


def _is_vector(info: kinds.Type) -> bool:
    """Whether a hint may be a vector, or a list of them; what it is shows when it is there."""
    if isinstance(info, kinds.Metadata):
        return _is_vector(info.type)
    if isinstance(info, kinds.CustomType):
        return issubclass(info.cls, ArrayInput) and info.cls.dtype.kind in "fiu"
    return isinstance(info, kinds.ListType | kinds.TupleType | kinds.VarTupleType | kinds.AnyType)


def _field(answer: Any, name: str) -> Any:
    return answer.get(name) if isinstance(answer, Mapping) else getattr(answer, name, None)
