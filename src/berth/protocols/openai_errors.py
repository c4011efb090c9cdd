"""OpenAI's shape of errors: an object under `error` with `message`, `type`, `param` and `code`.

openai.py and its two helpers raise `Problem` for what they refuse; everything else that goes wrong on their routes (a
full queue, a deadline, a failing model) is shaped by `error_response`.
"""

from __future__ import annotations

from typing import Any

from berth.protocols.base import Headers, Response, json_response

_SERVER = "server_error"
_CODES = {413: "request_too_large", 503: "overloaded", 504: "timeout"}


class Problem(Exception):  # noqa: N818  it is an answer, not a fault of ours
    """A request that is refused, with the parameter that is to blame."""

    def __init__(self, text: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(text)
        self.response = _response(status, text, param, code, ())


def unsupported(param: str, text: str) -> Problem:
    """The refusal of a parameter that the model cannot honour."""
    return Problem(text, param, "unsupported_parameter")


def error_response(status: int, text: str, headers: Headers = ()) -> Response:
    """An error of which no more is known than its status."""
    return _response(status, text, None, _CODES.get(status), headers)


def error_object(status: int, text: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """What stands under `error`."""
    kind = _SERVER if status >= 500 else "invalid_request_error"
    return {"message": text, "type": kind, "param": param, "code": code or _CODES.get(status)}


def _response(status: int, text: str, param: str | None, code: str | None, headers: Headers) -> Response:
    return json_response({"error": error_object(status, text, param, code)}, status, headers)
