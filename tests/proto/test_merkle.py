"""Merkle trees: published roots, every proof of every small size, and no proof of anything else.

The references here are the recursive definitions of RFC 9162, written down as they stand there.
"""

import doctest
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto import merkle
from proto.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    consistency_from,
    consistency_proof,
    inclusion_from,
    inclusion_proof,
    leaf_hash,
    root,
    root_from,
    salted_leaf,
    verify_consistency,
    verify_inclusion,
)

# The leaves and roots that the reference implementations of certificate transparency test with.
ENTRIES = [
    bytes.fromhex(entry)
    for entry in [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ]
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LARGEST = 70
LEAVES = [leaf_hash(index.to_bytes(2, "big")) for index in range(LARGEST)]


def by_the_rfc(leaves: list[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, word for word: split at the largest power of two below the size."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + by_the_rfc(leaves[:half]) + by_the_rfc(leaves[half:])).digest()


def sub_proof(old: int, leaves: list[bytes], whole: bool) -> list[bytes]:
    """RFC 9162 section 2.1.4.1, word for word."""
    if old == len(leaves):
        return [] if whole else [by_the_rfc(leaves)]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    if old <= half:
        return [*sub_proof(old, leaves[:half], whole), by_the_rfc(leaves[half:])]
    return [*sub_proof(old - half, leaves[half:], False), by_the_rfc(leaves[:half])]


def subtree(level: int, index: int) -> bytes:
    """The hash of a complete subtree of LEAVES."""
    return by_the_rfc(LEAVES[index << level : (index + 1) << level])


def test_the_example_in_the_documentation_runs() -> None:
    assert doctest.testmod(merkle).failed == 0


@pytest.mark.parametrize("size", range(len(ROOTS)))
def test_the_published_roots_come_out(size: int) -> None:
    assert root([leaf_hash(entry) for entry in ENTRIES[:size]]).hex() == ROOTS[size]


def test_a_published_proof_comes_out() -> None:
    proof = inclusion_proof([leaf_hash(entry) for entry in ENTRIES], 5)
    assert [value.hex() for value in proof] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


def test_every_proof_of_every_size_verifies_and_at_no_other_index() -> None:
    for size in range(1, LARGEST + 1):
        leaves = LEAVES[:size]
        top = root(leaves)
        assert top == by_the_rfc(leaves)
        for index in range(size):
            proof = inclusion_proof(leaves, index)
            places = [
                at for at in range(-1, size + 2) if verify_inclusion(leaves[index], at, size, proof, top)
            ]
            assert places == [index]


@given(st.data())
def test_any_changed_bit_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, LARGEST))
    index = data.draw(st.integers(0, size - 1))
    leaves = LEAVES[:size]
    values = [leaves[index], root(leaves), *inclusion_proof(leaves, index)]
    which, bit = data.draw(st.integers(0, len(values) - 1)), data.draw(st.integers(0, 255))
    changed = bytearray(values[which])
    changed[bit // 8] ^= 1 << bit % 8
    values[which] = bytes(changed)
    leaf, top, *proof = values
    assert not verify_inclusion(leaf, index, size, proof, top)


@given(st.data())
def test_a_proof_of_another_shape_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, LARGEST))
    index = data.draw(st.integers(0, size - 1))
    leaves = LEAVES[:size]
    proof, top = inclusion_proof(leaves, index), root(leaves)
    extra = data.draw(st.sampled_from([*LEAVES, top]))
    at = data.draw(st.integers(0, len(proof)))
    assert not verify_inclusion(leaves[index], index, size, [*proof[:at], extra, *proof[at:]], top)
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        assert not verify_inclusion(leaves[index], index, size, proof[:at] + proof[at + 1 :], top)
        assert not verify_inclusion(
            leaves[index], index, size, [*proof[:at], proof[at][:-1], *proof[at + 1 :]], top
        )


def test_a_size_whose_paths_differ_is_refused() -> None:
    # The proof fixes the path, not the size: sizes that give the leaf the same path share proofs (RFC
    # 9162 takes the size from the signed tree head), all others are refused.
    for size in range(1, LARGEST + 1):
        for index in range(size):
            proof, top = inclusion_proof(LEAVES[:size], index), root(LEAVES[:size])
            for other in (1, size - 1, size + 1, 2 * size, 4 * size + 1):
                same = other == size or (other > index and path(index, other) == path(index, size))
                assert verify_inclusion(LEAVES[index], index, other, proof, top) == same


def path(index: int, size: int) -> list[bool]:
    """From the leaf up, whether the sibling stands on the left."""
    sides = []
    while size > 1:
        if index ^ 1 < size:
            sides.append(bool(index & 1))
        index, size = index >> 1, (size + 1) >> 1
    return sides


@given(
    st.binary(max_size=40),
    st.integers(-(2**70), 2**70),
    st.integers(-(2**70), 2**70),
    st.lists(st.binary(max_size=40), max_size=80),
    st.binary(max_size=40),
)
def test_nothing_that_a_peer_sends_raises(
    leaf: bytes, index: int, size: int, proof: list[bytes], top: bytes
) -> None:
    assert verify_inclusion(leaf, index, size, proof, top) in (False, leaf == top)


def test_a_node_is_no_leaf() -> None:
    # Without the prefixes, the concatenated children would be an entry of a smaller tree.
    left, right = LEAVES[:2]
    assert leaf_hash(left + right) != root([left, right])


def test_a_salted_leaf_hides_and_binds() -> None:
    salt = bytes(range(32))
    assert salted_leaf(salt, b"text") == leaf_hash(salt + b"text")
    assert salted_leaf(salt, b"text") != salted_leaf(salt[::-1], b"text")
    for length in (0, 16, 31, 33):
        with pytest.raises(ValueError, match="salt"):
            salted_leaf(bytes(length), b"text")


def test_entries_in_place_of_leaf_hashes_are_refused() -> None:
    for call in (lambda: root([b"entry"]), lambda: inclusion_proof([b"entry"], 0)):
        with pytest.raises(ValueError, match="leaf_hash"):
            call()
    for index in (-1, 3):
        with pytest.raises(IndexError):
            inclusion_proof(LEAVES[:3], index)


def test_a_hundred_thousand_leaves_are_no_trouble() -> None:
    leaves = [index.to_bytes(HASH_BYTES, "big") for index in range(100_001)]
    proof, top = inclusion_proof(leaves, 77_777), root(leaves)
    assert len(proof) == 17
    assert verify_inclusion(leaves[77_777], 77_777, len(leaves), proof, top)
    assert verify_inclusion(leaves[-1], 100_000, len(leaves), inclusion_proof(leaves, 100_000), top)


def test_published_consistency_proofs_come_out() -> None:
    # From the reference implementations of certificate transparency: 1 to 8, 6 to 8, 2 to 5.
    leaves = [leaf_hash(entry) for entry in ENTRIES]
    assert [value.hex() for value in consistency_proof(leaves, 1, 8)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    assert [value.hex() for value in consistency_proof(leaves, 6, 8)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert [value.hex() for value in consistency_proof(leaves, 2, 5)] == [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ]


def test_every_consistency_proof_is_the_rfcs_and_verifies_for_its_sizes_alone() -> None:
    roots = [root(LEAVES[:size]) for size in range(LARGEST + 1)]
    for new in range(LARGEST + 1):
        for old in range(new + 1):
            proof = consistency_proof(LEAVES, old, new)
            assert proof == (sub_proof(old, LEAVES[:new], True) if old else [])
            assert verify_consistency(old, new, roots[old], roots[new], proof)
            for other in (old - 1, old + 1):
                if 0 <= other <= new:
                    assert not verify_consistency(other, new, roots[old], roots[new], proof)


def test_trees_that_share_no_beginning_have_no_consistency_proof() -> None:
    forked = [leaf_hash(b"fork"), *LEAVES[1:]]
    for old in range(1, LARGEST):
        proof = consistency_proof(LEAVES, old, LARGEST)
        assert not verify_consistency(old, LARGEST, root(forked[:old]), root(LEAVES), proof)
        assert not verify_consistency(old, LARGEST, root(LEAVES[:old]), root(forked), proof)
        assert not verify_consistency(old, old, root(LEAVES[:old]), root(forked[:old]), [])


@given(st.data())
def test_any_changed_bit_of_a_consistency_proof_is_refused(data: st.DataObject) -> None:
    new = data.draw(st.integers(2, LARGEST))
    old = data.draw(st.integers(1, new - 1))
    values = [root(LEAVES[:old]), root(LEAVES[:new]), *consistency_proof(LEAVES, old, new)]
    which, bit = data.draw(st.integers(0, len(values) - 1)), data.draw(st.integers(0, 255))
    changed = bytearray(values[which])
    changed[bit // 8] ^= 1 << bit % 8
    values[which] = bytes(changed)
    assert not verify_consistency(old, new, values[0], values[1], values[2:])


@given(st.data())
def test_a_consistency_proof_of_another_shape_is_refused(data: st.DataObject) -> None:
    new = data.draw(st.integers(0, LARGEST))
    old = data.draw(st.integers(0, new))
    roots, proof = (root(LEAVES[:old]), root(LEAVES[:new])), consistency_proof(LEAVES, old, new)
    extra = data.draw(st.sampled_from([*LEAVES, *roots]))
    at = data.draw(st.integers(0, len(proof)))
    assert not verify_consistency(old, new, *roots, [*proof[:at], extra, *proof[at:]])
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        assert not verify_consistency(old, new, *roots, proof[:at] + proof[at + 1 :])
        assert not verify_consistency(old, new, *roots, [*proof[:at], proof[at][:-1], *proof[at + 1 :]])


@given(
    st.integers(-(2**70), 2**70),
    st.integers(-(2**70), 2**70),
    st.binary(max_size=40),
    st.binary(max_size=40),
    st.lists(st.binary(max_size=40), max_size=80),
)
def test_no_consistency_that_a_peer_claims_raises(
    old: int, new: int, old_root: bytes, new_root: bytes, proof: list[bytes]
) -> None:
    holds = verify_consistency(old, new, old_root, new_root, proof)
    assert holds == (not proof and len(old_root) == 32 and old == new and old_root == new_root)


def test_the_empty_tree_begins_every_tree_and_has_one_root() -> None:
    assert verify_consistency(0, 5, EMPTY_ROOT, root(LEAVES[:5]), [])
    assert verify_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])
    assert not verify_consistency(0, 5, LEAVES[0], root(LEAVES[:5]), [])
    assert not verify_consistency(0, 0, LEAVES[0], LEAVES[0], [])
    assert not verify_consistency(0, 5, EMPTY_ROOT, root(LEAVES[:5]), [EMPTY_ROOT])
    assert not verify_consistency(0, 5, EMPTY_ROOT, root(LEAVES[:5])[:-1], [])


def test_known_subtrees_give_the_same_roots_and_proofs_as_all_leaves() -> None:
    for size in range(LARGEST + 1):
        leaves = LEAVES[:size]
        assert root_from(subtree, size) == root(leaves)
        for index in range(size):
            assert inclusion_from(subtree, index, size) == inclusion_proof(leaves, index)
            assert consistency_from(subtree, index, size) == consistency_proof(leaves, index, size)


def test_sizes_that_are_none_are_refused_by_who_proves() -> None:
    for old, new in ((-1, 2), (3, 2), (2, LARGEST + 1)):
        with pytest.raises(IndexError):
            consistency_proof(LEAVES, old, new)
    with pytest.raises(IndexError):
        consistency_from(subtree, 3, 2)
    with pytest.raises(IndexError):
        inclusion_from(subtree, 3, 3)
    with pytest.raises(ValueError, match="leaf_hash"):
        consistency_proof([b"entry"], 0, 1)
