"""Prometheus text, read and written: what a server says at /metrics, as samples.

Read strictly, line by line: a line that is not valid is counted and left out, and the rest counts all the same, for the
server may be anybody's. Everything is bounded. `scrape` and the gateway's figures are read with it, `page` writes the
yard's own /metrics. Pure. The format: https://prometheus.io/docs/instrumenting/exposition_formats (text 0.0.4).
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
KINDS = frozenset({"counter", "gauge", "histogram", "summary", "untyped"})

# Possessive quantifiers: a line is read once, however it was made.
_LABEL = r'[ \t]*+[a-zA-Z_][a-zA-Z0-9_]*+[ \t]*+=[ \t]*+"(?:[^"\\]++|\\[\\"n])*+"[ \t]*+'
_NUMBER = r"[+-]?(?:(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?|[Ii]nf|N[Aa]N|nan)"
_LINE = re.compile(
    rf"[ \t]*+([a-zA-Z_:][a-zA-Z0-9_:]*+)(?:[ \t]*+\{{((?:{_LABEL}(?:,{_LABEL})*+,?)?[ \t]*+)\}}[ \t]*+|[ \t]++)"
    rf"({_NUMBER})(?:[ \t]++-?[0-9]++)?[ \t]*+"
)
_PAIR = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+=[ \t]*+"((?:[^"\\]++|\\.)*+)"')
_COMMENT = re.compile(r"#[ \t]++(HELP|TYPE)[ \t]++([a-zA-Z_:][a-zA-Z0-9_:]*+)[ \t]*+(.*)")
_NAME_END = re.compile(r"[{ \t]")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "\\": "\\", '"': '"'}


@dataclass(frozen=True)
class Limits:
    """What is read of one page at most; what goes beyond is left out and counted."""

    bytes: int = 1 << 20
    samples: int = 2_000
    line: int = 4_096
    """Characters of a line."""
    labels: int = 32
    """Of one sample."""


REPLICA = Limits()
GATEWAY = Limits(bytes=32 << 20, samples=200_000)


class Sample(NamedTuple):
    """One value, with its labels."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Exposition:
    """A page: samples in their order, kinds and help texts by family; `refused`: lines that were left out."""

    samples: tuple[Sample, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict, hash=False)
    helps: Mapping[str, str] = field(default_factory=dict, hash=False)
    refused: int = 0


def read(text: str, limits: Limits = REPLICA, wanted: Container[str] | None = None) -> Exposition:
    """The samples of a page, or only those whose names are `wanted`, which is several times faster. Never raises."""
    samples: list[Sample] = []
    kinds: dict[str, str] = {}
    helps: dict[str, str] = {}
    refused = 0
    for line in text[: limits.bytes].split("\n"):
        if not line or line == "\r":
            continue
        if line[0] == "#":
            if wanted is None and len(line) <= limits.line:
                _comment(line, kinds, helps, limits.samples)
            continue
        if wanted is not None and (end := _NAME_END.search(line)) and line[: end.start()] not in wanted:
            continue
        sample = _sample(line, limits)
        if sample is None or len(samples) >= limits.samples:
            refused += 1
        else:
            samples.append(sample)
    return Exposition(tuple(samples), kinds, helps, refused)


def _comment(line: str, kinds: dict[str, str], helps: dict[str, str], most: int) -> None:
    found = _COMMENT.fullmatch(line.rstrip("\r"))
    if found is None:
        return
    word, name, rest = found.groups()
    if word == "HELP" and len(helps) < most:
        helps.setdefault(name, _unescaped(rest))
    elif word == "TYPE" and rest.strip() in KINDS and len(kinds) < most:
        kinds.setdefault(name, rest.strip())


def _sample(line: str, limits: Limits) -> Sample | None:
    if len(line) > limits.line:
        return None
    found = _LINE.fullmatch(line.rstrip("\r"))
    if found is None:
        return None
    name, inside, number = found.groups()
    labels: dict[str, str] = {}
    if inside:
        pairs = _PAIR.findall(inside)
        labels = dict(pairs) if "\\" not in inside else {key: _unescaped(value) for key, value in pairs}
        if len(labels) != len(pairs) or len(labels) > limits.labels:
            return None
    return Sample(name, labels, float(number))


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[0]), text) if "\\" in text else text


def line_of(name: str, labels: Mapping[str, str], value: float) -> str:
    """A sample as one line, without the newline."""
    inside = ",".join(f'{key}="{escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {number_of(value)}" if inside else f"{name} {number_of(value)}"


def escaped(text: str) -> str:
    """A label's value as it stands between quotes."""
    if "\\" in text or '"' in text or "\n" in text:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return text


def number_of(value: float) -> str:
    """A value as the format writes it."""
    if math.isfinite(value):
        return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
    return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")
