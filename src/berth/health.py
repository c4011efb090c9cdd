"""Whether the server lives, and whether it wants requests.

The protocols ask for their health routes; the server moves the state and says where else to look: at the models that
must be there, and at the processes that run them. Nothing else decides readiness.
"""

from __future__ import annotations

import enum
from collections.abc import Callable


class State(enum.Enum):
    """Where the server is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


def _nothing() -> str:
    return ""


class Health:
    """The state of one server; `why_dead` and `why_unready` are asked every time, and say nothing when all is well."""

    def __init__(self) -> None:
        self.state = State.STARTING
        self.why_dead: Callable[[], str] = _nothing
        self.why_unready: Callable[[], str] = _nothing

    @property
    def ready(self) -> bool:
        """Whether new requests are wanted."""
        return not self.why_not

    @property
    def why_not(self) -> str:
        """What a caller is told while the server is not ready; nothing when it is."""
        if self.state is not State.READY:
            return f"the server is {self.state.value}"
        return self.why_dead() or self.why_unready()
