"""What a look at a project found, as a value: how bad it is, what it is, and how to mend it.

`preflight` and its helpers make problems; `builder` refuses a build that has an error; `plan` shows them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from dockyard.errors import PreflightError

Level = Literal["error", "warning", "note"]
_SHOWN = 8


@dataclass(frozen=True)
class Problem:
    """An `error` fails the build, a `warning` may cost something later, a `note` is good to know.

    `kind` is one word for programs, the same for all problems of a sort.
    """

    level: Level
    kind: str
    what: str
    remedy: str = ""


def refuse_errors(problems: Iterable[Problem]) -> None:
    """Raise PreflightError for the errors of the first kind among the problems."""
    errors = [one for one in problems if one.level == "error"]
    if not errors:
        return
    first, *others = [one for one in errors if one.kind == errors[0].kind]
    more = [f"  {one.what}" for one in others[:_SHOWN]]
    if len(others) > _SHOWN:
        more.append(f"  and {len(others) - _SHOWN} more")
    raise PreflightError(first.what, detail="\n".join(more), remedy=first.remedy)
