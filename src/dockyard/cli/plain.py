"""Texts of others without control characters, so that no log line, reason or name can move a terminal's cursor.

Called by whatever prints what replicas, users and other machines wrote. Imports next to nothing: errors need it too.
"""

from __future__ import annotations

import unicodedata

_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def plain(text: str) -> str:
    """Without control characters, line ends and marks of direction: they are shown as `\\x1b`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(one) if unicodedata.category(one) in _UNSAFE and one != "\t" else one for one in text)


def _escaped(one: str) -> str:
    return one.encode("unicode_escape", "surrogatepass").decode("ascii")
