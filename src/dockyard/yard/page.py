"""The yard's one page of metrics, put together out of many: each family once, no clash, bounded.

Every sample gets labels that say whose it is. A label that was there before under such a name is kept as
`exported_NAME`, as Prometheus does. What clashes, comes twice, or goes beyond the bound is left out and counted, for a
replica's server may be anybody's. Pure; called by `metrics`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from dockyard.yard.exposition import Exposition, Sample, line_of

MAX_SERIES = 100_000
_ENDS = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}
_DEFAULT_ENDS = ("",)


@dataclass
class _Family:
    """All samples of one name, as lines."""

    kind: str
    help: str
    lines: list[str] = field(default_factory=list)
    seen: set[tuple[str, frozenset[tuple[str, str]]]] = field(default_factory=set)


class Page:
    """A page under construction. `left_out`: how many samples were, by reason."""

    def __init__(self, most: int = MAX_SERIES) -> None:
        self._families: dict[str, _Family] = {}
        self._owners: dict[str, str] = {}  # the family that each name of a sample belongs to
        self._left = most
        self.left_out: Counter[str] = Counter()

    def add(self, exposition: Exposition, labels: Mapping[str, str], reserved: tuple[str, ...] = ()) -> None:
        """Take samples in, with these labels; names that begin with one of `reserved` are somebody else's."""
        self.left_out["invalid"] += exposition.refused
        families: dict[str, _Family | str] = {}  # or why it is none
        for sample in exposition.samples:
            name = sample.name
            if name not in families:
                families[name] = "reserved" if name.startswith(reserved) else self._family(name, exposition) or "clash"
            family = families[name]
            reason = family if isinstance(family, str) else self._take(family, sample, labels)
            if reason:
                self.left_out[reason] += 1

    def text(self) -> str:
        """The page, families by name."""
        lines = []
        for name, family in sorted(self._families.items()):
            if family.lines:
                text = family.help.replace("\\", "\\\\").replace("\n", "\\n")
                lines += [f"# HELP {name} {text}".rstrip(), f"# TYPE {name} {family.kind}", *family.lines]
        return "\n".join([*lines, ""])

    def _take(self, family: _Family, sample: Sample, labels: Mapping[str, str]) -> str:
        """Add one sample; the reason when it is left out."""
        full = _labelled(sample.labels, labels)
        key = (sample.name, frozenset(full.items()))
        if key in family.seen:
            return "duplicate"
        if self._left <= 0:
            return "limit"
        self._left -= 1
        family.seen.add(key)
        family.lines.append(line_of(sample.name, full, sample.value))
        return ""

    def _family(self, name: str, exposition: Exposition) -> _Family | None:
        """The family of a sample; None when one of the same name is something else already."""
        base, kind = _base(name, exposition.kinds)
        family = self._families.get(base)
        if family is None:
            names = {base, *(base + end for end in _ENDS.get(kind, _DEFAULT_ENDS))}
            if names & self._owners.keys():
                return None
            family = self._families[base] = _Family(kind, exposition.helps.get(base, ""))
            self._owners |= dict.fromkeys(names, base)
        return family if family.kind == kind else None


def _base(name: str, kinds: Mapping[str, str]) -> tuple[str, str]:
    """The family's name and kind that a sample's name belongs to, by what its page says."""
    for end in ("_bucket", "_sum", "_count"):
        base = name.removesuffix(end)
        kind = kinds.get(base, "")
        if base != name and end in _ENDS.get(kind, ()):
            return base, kind
    kind = kinds.get(name, "untyped")
    return name, kind if kind != "histogram" else "untyped"


def _labelled(own: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """Our labels first, then those that were there."""
    if not own.keys() & ours.keys():
        return {**ours, **own}
    found = dict(ours)
    for name, text in own.items():
        key = name
        while key in found:
            key = f"exported_{key}"
        found[key] = text
    return found
