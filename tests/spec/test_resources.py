"""Amounts of memory, as people write and read them."""

from __future__ import annotations

import pytest

from dockyard.errors import ProjectError
from dockyard.spec.resources import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [("1024", 1024), ("512MiB", 512 << 20), ("2G", 2 << 30), ("1.5GB", 1_500_000_000), ("64 KiB", 65536), ("7B", 7)],
)
def test_amounts_are_read(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "lots", "-1", "1TB", "MiB"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ProjectError, match="not an amount"):
        parse_bytes(text)


def test_amounts_are_written_as_registries_count() -> None:
    assert [format_bytes(count) for count in (0, 999, 61_300_000, 6_660_000_000)] == [
        "0 B",
        "999 B",
        "61.3 MB",
        "6.7 GB",
    ]
