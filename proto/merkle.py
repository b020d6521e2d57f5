"""Merkle trees: one hash commits to a list, and a short proof shows one entry of it.

The tree is that of RFC 9162 section 2.1 (the one of RFC 6962) over SHA-256: a leaf is
SHA-256(0x00 || data), a node SHA-256(0x01 || left || right), the empty tree SHA-256(""). Leaves,
roots and proof elements are 32 bytes each. A proof that verifies shows that the leaf stands at
that index of a tree of that size, or SHA-256 is broken.

>>> leaves = [leaf_hash(entry) for entry in (b"a", b"b", b"c")]
>>> proof = inclusion_proof(leaves, 2)
>>> verify_inclusion(leaves[2], 2, 3, proof, root(leaves))
True
>>> verify_inclusion(leaves[2], 1, 3, proof, root(leaves))
False
"""

import hashlib
from collections.abc import Sequence

HASH_BYTES = 32
SALT_BYTES = 32


def leaf_hash(data: bytes) -> bytes:
    """The leaf of an entry: SHA-256(0x00 || data)."""
    return hashlib.sha256(b"\0" + data).digest()


def salted_leaf(salt: bytes, data: bytes) -> bytes:
    """The leaf that commits to `data` and hides it until `salt` is shown: SHA-256(0x00 || salt || data).

    `salt` is 32 secret random bytes, a fresh one for each leaf. Raises ValueError for another length.
    """
    # A salt of free length would let its owner open one leaf in two ways, by moving the border.
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt of {len(salt)} bytes; a salt has {SALT_BYTES}")
    return hashlib.sha256(b"\0" + salt + data).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """The hash of the tree over leaf hashes. Raises ValueError if one is not 32 bytes."""
    _check_leaves(leaves)
    level = leaves
    while len(level) > 1:
        level = _parents(level)
    return level[0] if level else hashlib.sha256().digest()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The siblings from leaf `index` up to the root, at most ceil(log2(len(leaves))) of them.

    RFC 9162 section 2.1.3.1. Raises IndexError outside 0 <= index < len(leaves), and ValueError if a
    leaf is not 32 bytes.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of a tree with {len(leaves)}")
    _check_leaves(leaves)
    level, proof = leaves, []
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            proof.append(level[sibling])
        level, index = _parents(level), index >> 1
    return proof


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `proof` puts `leaf` at `index` of the tree of `size` leaves hashed as `root`.

    RFC 9162 section 2.1.3.2. False, never an error, on whatever a peer may send: a wrong length, an
    index outside the tree, too few or too many siblings.
    """
    if not 0 <= index < size or any(len(value) != HASH_BYTES for value in (leaf, *proof)):
        return False
    node, last = leaf, size - 1
    for sibling in proof:
        if last == 0:
            return False
        if index & 1 or index == last:
            node = _node(sibling, node)
            while index and not index & 1:  # the levels where an odd last node was passed up
                index, last = index >> 1, last >> 1
        else:
            node = _node(node, sibling)
        index, last = index >> 1, last >> 1
    return last == 0 and node == root


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _parents(level: Sequence[bytes]) -> list[bytes]:
    # Pairing neighbours and passing an odd last node up gives the RFC's tree (split at the largest
    # power of two below the size) without recursion.
    parents = [_node(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
    return [*parents, level[-1]] if len(level) % 2 else parents


def _check_leaves(leaves: Sequence[bytes]) -> None:
    if any(len(leaf) != HASH_BYTES for leaf in leaves):
        raise ValueError("a leaf is not a hash of 32 bytes: pass leaf_hash(data), not data")
