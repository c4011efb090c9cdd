"""OpenAI's chat and completions, for predictors that generate: `messages` or `prompt` in, text out.

A predictor yields or returns texts, or objects with `text` (or `content`) and, if it knows them, `finish_reason`,
`prompt_tokens` and `completion_tokens`. Parameters go to the inputs of the same names; `_REFUSED` are those that change
what an answer means, and are refused where the predictor does not take them; the others are ignored. openai.py calls
this; openai_chunks.py has the shapes of answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from msgspec import inspect as kinds

from berth.errors import InputError
from berth.hints import fields_of
from berth.protocols.base import Response, json_response
from berth.protocols.openai_chunks import Chunks, Form, Piece, Usage, piece_of
from berth.protocols.openai_errors import Problem, unsupported
from berth.served import ServedModel
from berth.work import Work

INPUT_STATUS = 400
MOST_PROMPTS = 2048
_LIMITS = ("max_completion_tokens", "max_tokens")  # two names for the same; the first one counts
# Parameters that a model without such an input cannot honour, with the values that ask for nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "response_format": ({"type": "text"},),
    "stop": ([],),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "web_search_options": (),
}
_FIELD = re.compile(r"\$\.(\w+)")  # how errors name the input that does not fit
_OURS = ("model", "stream", "stream_options", "messages", "prompt")


class Generation:
    """Requests to generate for one model."""

    form: ClassVar[Form]
    source: ClassVar[str]  # the input that it needs
    verb: ClassVar[str]

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._model = served.model
        self._types = {item.name: item.type for item in served.model.signature.inputs}
        self._why_not = self._look()

    def _look(self) -> str:
        if self.source not in self._types or not self._model.rowwise:
            return f"its predict has no input `{self.source}`"
        fields = fields_of(self._model.signature.output)
        info = kinds.type_info(self._model.signature.output)
        if fields.keys() & {"text", "content"} or isinstance(info, kinds.StrType | kinds.AnyType | kinds.DictType):
            return ""
        return "its predict does not return or yield text"

    def work(self, body: dict[str, Any]) -> Work:
        """One call, or one for each prompt."""
        if self._why_not:
            text = f"model {self._served.name!r} cannot {self.verb}: {self._why_not}"
            raise Problem(text, "model", "unsupported_model")
        settings = self._settings({name: value for name, value in body.items() if value is not None})
        sources = self.sources(body)
        if len(sources) > 1 and self._model.streams:
            raise Problem(f"{self.source}: this model takes one at a time, got {len(sources)}", self.source)
        calls = [self._call(source, settings) for source in sources]
        words = sum(map(self.words, sources))

        def encode(answers: list[Any]) -> Response:
            return self._encode(answers, words)

        work = Work(self._served, calls, encode, INPUT_STATUS)
        if _flag(body, "stream"):
            options = body.get("stream_options") or {}
            usage = isinstance(options, Mapping) and _flag(options, "include_usage")
            work.stream = Chunks(self.form, self._served, words, several=not self._model.streams, with_usage=usage)
        return work

    def sources(self, body: dict[str, Any]) -> list[Any]:
        """What to generate from, a call each; Problem."""
        raise NotImplementedError

    def words(self, source: Any) -> int:
        """How many words it has, which stand for its tokens."""
        raise NotImplementedError

    def _call(self, source: Any, settings: dict[str, Any]) -> Any:
        try:
            return self._model.prepare(self._model.signature.convert({self.source: source, **settings}))
        except InputError as error:
            blamed = _FIELD.search(str(error))
            raise Problem(str(error), blamed[1] if blamed else self.source) from error

    def _settings(self, given: dict[str, Any]) -> dict[str, Any]:
        """The parameters that the predictor takes; Problem for one that must not be ignored."""
        settings = {name: value for name, value in given.items() if name in self._types and name not in _OURS}
        limit = next((given[name] for name in _LIMITS if name in given), None)
        if limit is not None:
            settings |= {name: limit for name in _LIMITS if name in self._types}
        for name, value in given.items():
            if name in _REFUSED and name not in self._types and not _asks_nothing(name, value):
                raise unsupported(name, f"model {self._served.name!r} does not take {name!r}; leave it out")
        if "stop" in settings:
            settings["stop"] = _as_wanted(settings["stop"], self._types["stop"])
        return settings

    def _encode(self, answers: list[Any], words: int) -> Response:
        pieces = [piece_of(answer) for answer in answers]
        usage = Usage(words, several=not self._model.streams)
        for piece in pieces:
            usage.add(piece)
        if self._model.streams:
            finished = [piece.finish_reason for piece in pieces if piece.finish_reason]
            pieces = [Piece("".join(piece.text for piece in pieces), finished[-1] if finished else None)]
        choices = [self.form.choice(index, piece) for index, piece in enumerate(pieces)]
        return json_response(self.form.envelope(self._served, choices, usage))


class ChatGeneration(Generation):
    """`/v1/chat/completions`."""

    form = Form(chat=True)
    source = "messages"
    verb = "chat"

    def sources(self, body: dict[str, Any]) -> list[Any]:
        """The one conversation."""
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(item, dict) for item in messages):
            raise Problem("messages: expected a list of at least one {role, content}", "messages")
        return [messages]

    def words(self, source: Any) -> int:
        """Those of all messages."""
        return sum(len(_text_of(message.get("content")).split()) for message in source)

    def _call(self, source: Any, settings: dict[str, Any]) -> Any:
        """As it came; where the predictor wants a message's content as text, its text parts are joined."""
        try:
            return super()._call(source, settings)
        except Problem:
            flat = [_flattened(message) for message in source]
            if flat == source:
                raise
            return super()._call(flat, settings)


class TextGeneration(Generation):
    """`/v1/completions`."""

    form = Form(chat=False)
    source = "prompt"
    verb = "complete"

    def sources(self, body: dict[str, Any]) -> list[Any]:
        """The prompts."""
        prompt = body.get("prompt")
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if not isinstance(prompts, list) or not 1 <= len(prompts) <= MOST_PROMPTS:
            raise Problem(f"prompt: expected a string or a list of 1 to {MOST_PROMPTS} strings", "prompt")
        if not all(isinstance(item, str) for item in prompts):
            raise Problem("prompt: expected strings; tokens cannot be turned back into text here", "prompt")
        return prompts

    def words(self, source: Any) -> int:
        """Those of the prompt."""
        return len(source.split())


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise Problem(f"{name}: expected true or false", name)
    return bool(value)


def _asks_nothing(name: str, value: Any) -> bool:
    return any(type(value) is type(neutral) and value == neutral for neutral in _REFUSED[name])


def _as_wanted(value: Any, hint: Any) -> Any:
    """`stop`, one string or a list of them, as the predictor takes it."""
    if isinstance(value, str) and _takes_list(kinds.type_info(hint)):
        return [value]
    if isinstance(value, list) and len(value) == 1 and not _takes_list(kinds.type_info(hint)):
        return value[0]
    return value


def _takes_list(info: kinds.Type) -> bool:
    if isinstance(info, kinds.Metadata):
        return _takes_list(info.type)
    if isinstance(info, kinds.UnionType):
        return any(map(_takes_list, info.types))
    return isinstance(info, kinds.ListType | kinds.AnyType)


def _flattened(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose text parts are one text; any other as it is."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [None]
    if all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
        return {**message, "content": _text_of(content)}
    return message


def _text_of(content: Any) -> str:
    """A message's text, whole or in parts."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""
