"""An append-only log as a Merkle tree: hashes, roots, and proofs that something is in it or that it only grew.

Pure. The log's owner keeps the hashes of complete subtrees; `node(level, place)` gives the one over the leaves from
`place << level` to `(place + 1) << level`. So adding a leaf costs about two hashes, and a root or proof a few dozen,
however long the log is. `yard.audit` keeps its entries in one. Source: RFC 6962, sections 2.1 to 2.1.2; the checks are
those of RFC 9162, sections 2.1.3.2 and 2.1.4.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

Node = Callable[[int, int], bytes]
"""The hash of a complete subtree, by its level (0: a leaf) and its place among those of its level."""

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of an entry."""
    return hashlib.sha256(b"\x00" + data).digest()


def parent_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def completed(size: int, leaf: bytes, node: Node) -> Iterator[tuple[int, int, bytes]]:
    """The subtrees that become complete when a leaf (its hash) is added to a log of `size`: (level, place, hash)."""
    level, place, running = 0, size, leaf
    yield level, place, running
    while place & 1:
        running = parent_hash(node(level, place - 1), running)
        level, place = level + 1, place >> 1
        yield level, place, running


def root(size: int, node: Node) -> bytes:
    """The root of the log's first `size` entries."""
    return _over(0, size, node) if size else EMPTY_ROOT


def inclusion(index: int, size: int, node: Node) -> tuple[bytes, ...]:
    """Proof that entry `index` is in the log of `size` entries."""
    if not 0 <= index < size:
        raise ValueError(f"no entry {index} in a log of {size}")
    return tuple(_path(index, 0, size, node))


def consistency(old: int, new: int, node: Node) -> tuple[bytes, ...]:
    """Proof that the log of `new` entries begins with the log of `old` entries."""
    if not 0 <= old <= new:
        raise ValueError(f"a log of {new} entries does not begin with one of {old}")
    return tuple(_growth(old, 0, new, node, whole=True)) if 0 < old < new else ()


def includes(index: int, size: int, leaf: bytes, proof: Sequence[bytes], expected: bytes) -> bool:
    """Whether `proof` shows that the leaf (its hash) is entry `index` of the log with that size and root."""
    if not 0 <= index < size:
        return False
    first, last, running = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if first & 1 or first == last:
            running = parent_hash(step, running)
            first, last = _past_right_edge(first, last)
        else:
            running = parent_hash(running, step)
        first, last = first >> 1, last >> 1
    return last == 0 and running == expected


def extends(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the log of `new` entries begins with that of `old` entries, with these roots."""
    if not 0 <= old <= new:
        return False
    if old in {0, new}:
        return not proof and old_root == (EMPTY_ROOT if old == 0 else new_root)
    steps = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not steps:
        return False
    first, last = old - 1, new - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    older = newer = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            older, newer = parent_hash(step, older), parent_hash(step, newer)
            first, last = _past_right_edge(first, last)
        else:
            newer = parent_hash(newer, step)
        first, last = first >> 1, last >> 1
    return last == 0 and older == old_root and newer == new_root


def _past_right_edge(first: int, last: int) -> tuple[int, int]:
    """At the right edge of the tree, climb to where the node has a sibling again."""
    while not first & 1 and first:
        first, last = first >> 1, last >> 1
    return first, last


def _over(begin: int, end: int, node: Node) -> bytes:
    """The hash over the leaves from `begin` to `end`, of which `begin` is where a subtree of that size begins."""
    count = end - begin
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return node(level, begin >> level)
    middle = begin + _split(count)
    return parent_hash(_over(begin, middle, node), _over(middle, end, node))


def _path(index: int, begin: int, end: int, node: Node) -> Iterator[bytes]:
    if end - begin == 1:
        return
    middle = begin + _split(end - begin)
    if index < middle:
        yield from _path(index, begin, middle, node)
        yield _over(middle, end, node)
    else:
        yield from _path(index, middle, end, node)
        yield _over(begin, middle, node)


def _growth(old: int, begin: int, end: int, node: Node, *, whole: bool) -> Iterator[bytes]:
    """`whole`: what is left of the old log is the very tree whose root the verifier knows."""
    if old == end:
        if not whole:
            yield _over(begin, end, node)
        return
    middle = begin + _split(end - begin)
    if old <= middle:
        yield from _growth(old, begin, middle, node, whole=whole)
        yield _over(middle, end, node)
    else:
        yield from _growth(old, middle, end, node, whole=False)
        yield _over(begin, middle, node)


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    half: int = 1 << ((count - 1).bit_length() - 1)
    return half
