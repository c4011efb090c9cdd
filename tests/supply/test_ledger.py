"""The Merkle log: roots and proofs as RFC 6962 has them, and no proof of what is not so."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.supply import ledger

# The inputs, roots and proofs that Certificate Transparency's implementations share as their test vectors.
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


class Log:
    """A log in memory; it counts the hashes that it was asked for."""

    def __init__(self, leaves):
        self.nodes, self.size, self.asked = {}, 0, 0
        for leaf in leaves:
            self.add(leaf)

    def add(self, leaf):
        for level, place, hashed in ledger.completed(self.size, ledger.leaf_hash(leaf), self.node):
            self.nodes[level, place] = hashed
        self.size += 1

    def node(self, level, place):
        self.asked += 1
        return self.nodes[level, place]

    def root(self, size):
        return ledger.root(size, self.node)


def reference_root(leaves):
    """RFC 6962, section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return hashlib.sha256(b"\x01" + reference_root(leaves[:half]) + reference_root(leaves[half:])).digest()


def many(count):
    return [b"entry %d" % number for number in range(count)]


def test_the_root_of_nothing_is_the_hash_of_nothing():
    assert Log([]).root(0).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_the_known_vectors(size):
    assert Log(LEAVES).root(size).hex() == ROOTS[size - 1]
    assert Log(LEAVES[:size]).root(size).hex() == ROOTS[size - 1]


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_proofs_of_inclusion_are_those_of_the_known_vectors(index, size):
    proof = ledger.inclusion(index, size, Log(LEAVES).node)
    assert [step.hex() for step in proof] == INCLUSION[index, size]


@pytest.mark.parametrize(("old", "new"), CONSISTENCY)
def test_proofs_of_consistency_are_those_of_the_known_vectors(old, new):
    proof = ledger.consistency(old, new, Log(LEAVES).node)
    assert [step.hex() for step in proof] == CONSISTENCY[old, new]


@pytest.mark.parametrize("size", [*range(70), 127, 128, 129])
def test_roots_are_those_of_the_definition(size):
    assert Log(many(130)).root(size) == reference_root(many(size))


def test_every_entry_is_proved_and_no_other_entry_by_its_proof():
    log, leaves = Log(many(21)), many(21)
    for size in range(1, 22):
        root = log.root(size)
        for index in range(size):
            proof = ledger.inclusion(index, size, log.node)
            assert ledger.includes(index, size, ledger.leaf_hash(leaves[index]), proof, root)
            assert not ledger.includes(index, size, ledger.leaf_hash(b"another"), proof, root)
            for other in range(size):
                assert other == index or not ledger.includes(other, size, ledger.leaf_hash(leaves[index]), proof, root)


def test_every_growth_is_proved_and_no_other():
    log = Log(many(21))
    roots = [log.root(size) for size in range(22)]
    for old in range(22):
        for new in range(old, 22):
            proof = ledger.consistency(old, new, log.node)
            assert ledger.extends(old, new, roots[old], roots[new], proof)
            if old > 0:
                assert not ledger.extends(old, new, roots[old - 1], roots[new], proof)
                assert not ledger.extends(old, new, roots[old], roots[new], (*proof, roots[1]))
            for index in range(len(proof)):
                broken = [*proof[:index], roots[0], *proof[index + 1 :]]
                assert not ledger.extends(old, new, roots[old], roots[new], broken)
                assert not ledger.extends(old, new, roots[old], roots[new], proof[:index])


@given(st.integers(2, 200), st.data())
def test_a_changed_entry_gives_another_root_and_no_consistency(size, data):
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(index + 1, size))
    honest, changed = Log(many(size)), many(size)
    changed[index] = b"rewritten"
    forged = Log(changed)
    assert forged.root(size) != honest.root(size)
    proof = ledger.consistency(old, size, forged.node)
    assert not ledger.extends(old, size, honest.root(old), forged.root(size), proof)


@given(st.integers(0, 40), st.integers(0, 40), st.lists(st.binary(min_size=32, max_size=32), max_size=8), st.data())
def test_made_up_proofs_are_refused_and_break_nothing(old, new, proof, data):
    log = Log(many(40))
    honest = old <= new and tuple(proof) == ledger.consistency(old, new, log.node)
    assert ledger.extends(old, new, log.root(old), log.root(new), proof) is honest
    assert not ledger.includes(old, new, ledger.leaf_hash(b"none of them"), proof, log.root(new))


@pytest.mark.parametrize("call", [(8, 8), (-1, 8), (0, 0)])
def test_there_is_no_proof_of_an_entry_that_is_not_there(call):
    with pytest.raises(ValueError, match="no entry"):
        ledger.inclusion(*call, Log(LEAVES).node)
    with pytest.raises(ValueError, match="does not begin with"):
        ledger.consistency(9, 8, Log(LEAVES).node)


def test_an_append_and_a_proof_read_a_few_hashes_however_long_the_log_is():
    log = Log(many(10_000))
    log.asked = 0
    for number in range(1000):
        log.add(b"%d" % number)
    assert log.asked < 2 * 1000
    for call in (lambda: log.root(11_000), lambda: ledger.inclusion(5000, 11_000, log.node)):
        log.asked = 0
        call()
        assert log.asked < 200
