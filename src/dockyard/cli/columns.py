"""Tables for people, in plain columns. Called by the verbs that list; a library for it takes longer than their work."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import click


def columns(titles: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> str:
    """The rows below dim titles, each column as wide as it must be; those named in `right` are aligned so."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    alignments = [">" if title in right else "<" for title in titles]

    def line(cells: Sequence[str]) -> Iterator[str]:
        for cell, width, alignment in zip(cells, widths, alignments, strict=True):
            yield f"{cell:{alignment}{width}}"

    told = ["  ".join(line(cells)).rstrip() for cells in (titles, *rows)]
    return "\n".join([click.style(told[0], dim=True), *told[1:]])
