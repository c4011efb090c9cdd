"""Reads the members of a layer that lies in a layout, within the limits for what nobody vouches for.

`supply.contents` and `supply.compare` look into layers with it; `unpack` writes them out.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from dockyard.oci.image import LayerBlob
from dockyard.oci.layout import Layout
from dockyard.oci.media import codec_of
from dockyard.oci.meter import Limits, Meter
from dockyard.oci.tar import TarReader

_BUFFER = 1 << 20


@contextmanager
def reading_layer(layout: Layout, layer: LayerBlob, limits: Limits | None = None) -> Iterator[TarReader]:
    """The members of a layer, to be read to the end; then its diff ID is verified.

    ImageError when it is damaged, over a limit or another layer.
    """
    what, limits = f"layer {layer.diff_id}", limits or Limits()
    with layout.blobs.open(layer.descriptor.digest) as stream:
        meter = Meter(stream, codec_of(layer.descriptor.media_type), limits, what)
        yield TarReader(cast(BinaryIO, io.BufferedReader(meter, _BUFFER)), what, limits.entries)
        meter.verify(layer.diff_id)
