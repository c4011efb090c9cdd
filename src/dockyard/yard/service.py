"""The yard's service: everything that the API offers, in one object. `cli.up` makes it; `api` calls it.

It is `operations.Operations`, put together from the files that do the work.
"""

from __future__ import annotations

from dockyard.yard.changing import Changing
from dockyard.yard.governing import Governing
from dockyard.yard.measuring import Measuring
from dockyard.yard.parts import Parts
from dockyard.yard.receiving import Receiving
from dockyard.yard.telling import Telling


class Service(Changing, Telling, Measuring, Receiving, Governing):
    """All operations of one yard."""

    def __init__(self, parts: Parts) -> None:
        for kind in (Changing, Telling, Measuring, Receiving, Governing):
            kind.__init__(self, parts)
