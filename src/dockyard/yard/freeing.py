"""Has the engines of this host let go of images that its store has no more. `run` gives it to `pruning`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from dockyard.engines.base import Engine
from dockyard.errors import DockyardError
from dockyard.oci.image import Image
from dockyard.oci.layout import SWEEP_AGE

_log = logging.getLogger(__name__)


async def free(engines: Mapping[str, Engine], needed: Sequence[Image]) -> bool:
    """Free what they keep of other images than these; False when one of them failed, which the log tells."""
    failed = False
    for name, engine in engines.items():
        try:
            freed = await engine.prune(needed, SWEEP_AGE)
        except (DockyardError, OSError) as error:
            _log.error("%s could not let go of images that are not needed: %s", name, error)
            failed = True
        else:
            if freed:
                _log.info("%s let go of images that are not needed, %d bytes are free again", name, freed)
    return not failed
