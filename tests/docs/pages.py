"""Reading the documentation as its tests do: fenced blocks with their marks, tables, links, anchors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(
    r"(?:^ *<!-- (?P<mark>.*?) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, language, text, and the mark in a comment on the line before it, if there is one."""

    page: Path
    language: str
    text: str
    mark: str
    number: int

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.number}"


def pages() -> list[Path]:
    """Every Markdown page of the repository."""
    return sorted(
        path
        for path in ROOT.rglob("*.md")
        if not any(part.startswith(".") or part == "node_modules" for part in path.relative_to(ROOT).parts)
    )


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, found["language"], _dedented(found), found["mark"] or "", text.count("\n", 0, found.start("text")))
        for found in _FENCE.finditer(text)
    ]


def all_blocks(language: str) -> list[Block]:
    """The blocks of a language on all pages."""
    return [block for page in pages() for block in blocks(page) if block.language == language]


def links(page: Path) -> list[str]:
    """The targets of a page's links, without those to other hosts."""
    text = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))
    return [target for target in _LINK.findall(text) if "://" not in target]


def anchors(page: Path) -> set[str]:
    """The names under which the headings of a page can be linked to."""
    headings = re.findall(r"^#{1,6} (.*)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of the tables below a heading, without their head lines."""
    text = page.read_text(encoding="utf-8")
    section = re.split(r"^#{1,6} ", text.partition(f"\n## {heading}\n")[2], flags=re.M)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def unquoted(cell: str) -> str:
    """What stands in backquotes at the beginning of a cell; empty when nothing does."""
    found = re.match(r"`([^`]*)`", cell)
    return found[1] if found else ""


def _dedented(found: re.Match[str]) -> str:
    indent = len(found["indent"])
    return "".join(line[indent:] if line.strip() else line for line in found["text"].splitlines(keepends=True))
