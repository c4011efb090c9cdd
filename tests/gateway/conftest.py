"""A running gateway of a test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dockyard.gateway.envoy import EnvoyGateway
from tests.gateway.support import running, settings


@pytest.fixture
async def gateway(short_path: Path) -> AsyncIterator[EnvoyGateway]:
    async with running(settings(short_path)) as started:
        yield started
