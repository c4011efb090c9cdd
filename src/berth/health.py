"""Whether the server lives and whether it wants requests, as one state.

The protocols ask for their health routes; the server moves the state. Nothing else decides readiness.
"""

from __future__ import annotations

import enum


class State(enum.Enum):
    """Where the server is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Health:
    """The state of one server."""

    def __init__(self) -> None:
        self.state = State.STARTING

    @property
    def ready(self) -> bool:
        """Whether new requests are wanted."""
        return self.state is State.READY

    @property
    def why_not(self) -> str:
        """What a caller is told while the server is not ready."""
        return f"the server is {self.state.value}"
