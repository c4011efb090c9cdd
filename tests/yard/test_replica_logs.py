"""The last words of a container are shown once, however much of them was shown before it was removed."""

from __future__ import annotations

import pytest

from dockyard.yard.replica_logs import unseen


@pytest.mark.parametrize(
    ("shown", "last", "rest"),
    [
        ((), ["a", "b"], ["a", "b"]),
        (("a", "b"), ["a", "b"], []),
        (("a", "b"), ["b", "c", "d"], ["c", "d"]),
        (("x", "a", "b"), ["w", "x", "a", "b", "c"], ["c"]),
        (("a", "a"), ["a", "a", "a"], ["a"]),
        (("other",), ["a"], ["a"]),
        (("a",), [], []),
    ],
)
def test_what_was_shown_is_not_shown_again(shown: tuple[str, ...], last: list[str], rest: list[str]) -> None:
    assert unseen(shown, last) == rest
