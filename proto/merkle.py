"""Merkle trees: one hash commits to a list, and short proofs show one entry of it, or that it only grew.

The tree is that of RFC 9162 section 2.1 (the one of RFC 6962) over SHA-256: a leaf is
SHA-256(0x00 || data), a node SHA-256(0x01 || left || right), the empty tree SHA-256(""). Leaves,
roots and proof elements are 32 bytes each. A proof that verifies shows that the leaf stands at
that index of a tree of that size, or that one tree begins with all of another, or SHA-256 is broken.

A log of millions of entries keeps the hashes of its complete subtrees and passes them in as `Nodes`:
roots and proofs then cost a number of reads that grows with the logarithm of the size.

>>> leaves = [leaf_hash(entry) for entry in (b"a", b"b", b"c")]
>>> proof = inclusion_proof(leaves, 2)
>>> verify_inclusion(leaves[2], 2, 3, proof, root(leaves))
True
>>> verify_inclusion(leaves[2], 1, 3, proof, root(leaves))
False
>>> verify_consistency(2, 3, root(leaves[:2]), root(leaves), consistency_proof(leaves, 2, 3))
True
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256().digest()
"""The hash of the tree without leaves."""
Nodes = Callable[[int, int], bytes]
"""(level, index) -> the hash over the 1 << level leaves from index << level on: a complete subtree."""
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
    return level[0] if level else EMPTY_ROOT


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
            node = node_hash(sibling, node)
            while index and not index & 1:  # the levels where an odd last node was passed up
                index, last = index >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        index, last = index >> 1, last >> 1
    return last == 0 and node == root


def consistency_proof(leaves: Sequence[bytes], old: int, new: int) -> list[bytes]:
    """What shows that the tree over the first `new` leaves begins with that over the first `old`.

    RFC 9162 section 2.1.4.1; empty for equal sizes and for `old` 0. Raises IndexError unless
    0 <= old <= new <= len(leaves), and ValueError if a leaf is not 32 bytes.
    """
    if not 0 <= old <= new <= len(leaves):
        raise IndexError(f"trees of {old} and {new} leaves in a list of {len(leaves)}")
    _check_leaves(leaves)
    levels = [leaves]
    while len(levels[-1]) > 1:
        levels.append(_parents(levels[-1]))
    return consistency_from(lambda level, index: levels[level][index], old, new)


def verify_consistency(
    old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether `proof` shows that the tree (new_size, new_root) begins with the tree (old_size, old_root).

    RFC 9162 section 2.1.4.2. The empty tree begins every tree, and equal sizes need equal roots; both
    with an empty proof. False, never an error, on whatever a peer may send.
    """
    if not 0 <= old_size <= new_size or any(len(v) != HASH_BYTES for v in (old_root, new_root, *proof)):
        return False
    if old_size in (0, new_size):
        fits = old_root == new_root if old_size == new_size else True
        return fits and not proof and (old_size > 0 or old_root == EMPTY_ROOT)
    if old_size & (old_size - 1) == 0:  # a complete subtree: its root is the first node, and is left out
        proof = [old_root, *proof]
    if not proof:
        return False
    index, last = old_size - 1, new_size - 1
    while index & 1:
        index, last = index >> 1, last >> 1
    old = new = proof[0]
    for sibling in proof[1:]:
        if last == 0:
            return False
        if index & 1 or index == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        index, last = index >> 1, last >> 1
    return last == 0 and (old, new) == (old_root, new_root)


def root_from(nodes: Nodes, size: int) -> bytes:
    """The root over the first `size` leaves of a tree whose complete subtrees are known."""
    return _span(nodes, 0, size) if size else EMPTY_ROOT


def inclusion_from(nodes: Nodes, index: int, size: int) -> list[bytes]:
    """`inclusion_proof` from known subtrees. Raises IndexError outside 0 <= index < size."""
    if not 0 <= index < size:
        raise IndexError(f"leaf {index} of a tree with {size}")
    start, end, spans = 0, size, []
    while end - start > 1:
        middle = start + _half(end - start)
        if index < middle:
            spans.append((middle, end))
            end = middle
        else:
            spans.append((start, middle))
            start = middle
    return [_span(nodes, *span) for span in reversed(spans)]


def consistency_from(nodes: Nodes, old: int, new: int) -> list[bytes]:
    """`consistency_proof` from known subtrees. Raises IndexError unless 0 <= old <= new."""
    if not 0 <= old <= new:
        raise IndexError(f"trees of {old} and {new} leaves")
    if old in (0, new):
        return []
    start, end, spans = 0, new, []
    while old != end:
        middle = start + _half(end - start)
        if old <= middle:
            spans.append((middle, end))
            end = middle
        else:
            spans.append((start, middle))
            start = middle
    if start:  # else what is left is the old tree itself, whose root the verifier has
        spans.append((start, end))
    return [_span(nodes, *span) for span in reversed(spans)]


def peaks(size: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """(level, index) of the complete subtrees that make up `size` leaves from `start` on, largest first."""
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            yield level, start >> level
            start += 1 << level


def fold(hashes: Sequence[bytes]) -> bytes:
    """The hash over subtrees of falling size, as `peaks` lists them. At least one."""
    top = hashes[-1]
    for left in reversed(hashes[:-1]):
        top = node_hash(left, top)
    return top


def node_hash(left: bytes, right: bytes) -> bytes:
    """The node over two hashes: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\1" + left + right).digest()


def _span(nodes: Nodes, start: int, end: int) -> bytes:
    # Spans come from splitting at the RFC's borders, so `start` is a multiple of each subtree's size.
    return fold([nodes(*peak) for peak in peaks(end - start, start)])


def _half(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def _parents(level: Sequence[bytes]) -> list[bytes]:
    # Pairing neighbours and passing an odd last node up gives the RFC's tree (split at the largest
    # power of two below the size) without recursion.
    parents = [node_hash(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
    return [*parents, level[-1]] if len(level) % 2 else parents


def _check_leaves(leaves: Sequence[bytes]) -> None:
    if any(len(leaf) != HASH_BYTES for leaf in leaves):
        raise ValueError("a leaf is not a hash of 32 bytes: pass leaf_hash(data), not data")
