"""Looking into a layer meets the same limits as unpacking it, and believes no layer that is another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dockyard.errors import ImageError
from dockyard.oci.digest import digest_of
from dockyard.oci.layer import Entry, write_layer
from dockyard.oci.layout import Layout
from dockyard.oci.meter import Limits
from dockyard.oci.reading import reading_layer


def test_more_entries_than_the_limit_are_refused(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path)
    layer = write_layer([Entry(f"f{number}", 0o644, source=b"") for number in range(11)], "gzip", layout.blobs)
    with reading_layer(layout, layer, Limits(entries=11)) as reader:
        assert len([*reader]) == 11
    with (
        pytest.raises(ImageError, match="more than the 10 entries"),
        reading_layer(layout, layer, Limits(10)) as reader,
    ):
        list(reader)


def test_another_layer_than_the_image_names_is_refused(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path)
    layer = write_layer([Entry("f", 0o644, source=b"x")], "gzip", layout.blobs)
    with pytest.raises(ImageError), reading_layer(layout, replace(layer, diff_id=digest_of(b"other"))) as reader:
        list(reader)
