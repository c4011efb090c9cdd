"""The shapes of OpenAI's chat and completion answers, whole and as a stream of chunks.

A stream is Server-Sent Events: for a chat a chunk with the role, then one for each piece of text, one with
`finish_reason`, if it was asked for one with the usage, and `[DONE]`. One that breaks off ends with an `error` object
instead. openai_generation.py calls this.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from berth.errors import ModelError
from berth.protocols.base import Response
from berth.protocols.openai_errors import error_object
from berth.protocols.streaming import EVENT_STREAM, NO_CACHE
from berth.served import ServedModel

_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Piece:
    """Some generated text, with what the predictor says of it."""

    text: str
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def piece_of(answer: Any) -> Piece:
    """What a predictor returned or yielded; ModelError when there is no text in it."""
    if isinstance(answer, str):
        return Piece(answer)
    text = _field(answer, "text")
    text = _field(answer, "content") if text is None else text
    if not isinstance(text, str):
        raise ModelError(f"expected text, or an object with `text`, from the model; got {type(answer).__name__}")
    counts = [_field(answer, name) for name in ("prompt_tokens", "completion_tokens")]
    return Piece(text, _field(answer, "finish_reason"), *counts)


def _field(answer: Any, name: str) -> Any:
    return answer.get(name) if isinstance(answer, Mapping) else getattr(answer, name, None)


class Usage:
    """Tokens of one request: as the predictor counts them, else words of the prompt, and pieces or words generated.

    With `several`, each piece is a whole answer with counts of its own; else the last counts that it gives are all.
    """

    def __init__(self, words: int, *, several: bool) -> None:
        self._several = several
        self._words = words
        self._pieces = 0
        self._prompt: int | None = None
        self._completion: int | None = None

    def add(self, piece: Piece) -> None:
        """One more piece."""
        if not self._several:
            self._pieces += 1
            self._prompt = self._prompt if piece.prompt_tokens is None else piece.prompt_tokens
            self._completion = self._completion if piece.completion_tokens is None else piece.completion_tokens
            return
        generated = len(piece.text.split()) if piece.completion_tokens is None else piece.completion_tokens
        self._completion = (self._completion or 0) + generated
        if piece.prompt_tokens is not None:
            self._prompt = (self._prompt or 0) + piece.prompt_tokens

    def shown(self) -> dict[str, int]:
        """In OpenAI's words."""
        prompt = self._words if self._prompt is None else self._prompt
        completion = self._pieces if self._completion is None else self._completion
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


@dataclass(frozen=True)
class Form:
    """How chats and completions differ."""

    chat: bool

    def choice(self, index: int, piece: Piece) -> dict[str, Any]:
        """One whole answer."""
        finish = piece.finish_reason or "stop"
        if not self.chat:
            return {"index": index, "text": piece.text, "logprobs": None, "finish_reason": finish}
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}

    def part(self, index: int, text: str | None, finish: str | None, role: str | None = None) -> dict[str, Any]:
        """One choice of a chunk."""
        if not self.chat:
            return {"index": index, "text": text or "", "logprobs": None, "finish_reason": finish}
        delta = {"role": role} if role else {}
        delta |= {} if text is None else {"content": text}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}

    def envelope(self, served: ServedModel, choices: list[Any], usage: Usage | None) -> dict[str, Any]:
        """Around choices: those of a whole answer with its usage, or (None) of a chunk."""
        kind = "chat.completion" if self.chat else "text_completion"
        prefix = "chatcmpl" if self.chat else "cmpl"
        envelope: dict[str, Any] = {
            "id": f"{prefix}-{os.urandom(12).hex()}",
            "object": f"{kind}.chunk" if self.chat and usage is None else kind,
            "created": int(time.time()),
            "model": served.name,
            "system_fingerprint": f"berth-{served.version}",
            "choices": choices,
        }
        return envelope if usage is None else envelope | {"usage": usage.shown()}


class Chunks:
    """One stream. With `several`, each item is the whole answer to one of several prompts; else they are one answer."""

    def __init__(self, form: Form, served: ServedModel, words: int, *, several: bool, with_usage: bool) -> None:
        self._form = form
        self._envelope = form.envelope(served, [], None)
        self._usage = Usage(words, several=several)
        self._several = several
        self._with_usage = with_usage
        self._count = 0
        self._finish = "stop"

    def head(self) -> Response:
        """The status; a chat begins by saying who speaks."""
        body = self._chunk(self._form.part(0, "", None, "assistant")) if self._form.chat else b""
        return Response(body, 200, EVENT_STREAM, NO_CACHE)

    def item(self, answer: Any) -> bytes:
        """A piece of text."""
        piece = piece_of(answer)
        self._usage.add(piece)
        self._finish = piece.finish_reason or ("stop" if self._several else self._finish)
        index, self._count = self._count, self._count + self._several
        chunk = self._chunk(self._form.part(index, piece.text, None))
        return chunk + self._chunk(self._form.part(index, None, self._finish)) if self._several else chunk

    def end(self) -> bytes:
        """Why it ends, what it cost, and that this is all."""
        finish = b"" if self._several else self._chunk(self._form.part(0, None, self._finish))
        if self._with_usage:
            finish += self._event({"choices": [], "usage": self._usage.shown()})
        return finish + _DONE

    def failed(self, status: int, text: str) -> bytes:
        """That it breaks off."""
        return b"data: %b\n\n" % msgspec.json.encode({"error": error_object(status, text)})

    def _chunk(self, part: dict[str, Any]) -> bytes:
        return self._event({"choices": [part], "usage": None} if self._with_usage else {"choices": [part]})

    def _event(self, fields: dict[str, Any]) -> bytes:
        return b"data: %b\n\n" % msgspec.json.encode(self._envelope | fields)
