"""What holding a shard takes, and which one a newcomer takes: from a manifest and a history alone.

Bytes are those of `benchmarks.shard_memory`, rounded up: what is promised to fit does. Speeds of members are
not known here, so each counts as much as any other.
"""

from functools import lru_cache

from proto.canonical import PeerID
from swarm.layout import Layout
from swarm.manifest import SECURE_PEERS, Manifest
from swarm.model import config_of
from swarm.shards.boundary import encoded_bytes
from swarm.shards.placement import Holder, Need, next_move, place
from swarm.shards.slicing import shard_layout, shard_sizes
from swarm.sizes import LOGITS, PROCESS_BYTES, bytes_a_parameter
from swarm.snapshot import snapshot_bytes
from verify.record import History

STAGE_BYTES = 64 << 20
"""Hidden states of the microbatches in flight, and of the one that is computed; measured."""
EQUAL_SPEED = 1 << 40
SHARED = 4
SPARE = 2
"""Peers that a move leaves to a shard in the clear: one may die."""


def vector_bytes(manifest: Manifest, layout: Layout) -> int:
    """Memory for all that is as long as the vector."""
    return layout.size * bytes_a_parameter(manifest.ring.dtype.itemsize)


@lru_cache(4)
def shard_needs(manifest: Manifest) -> tuple[Need, ...]:
    """What each shard of a run takes. Raises ModelRefused, CutRefused."""
    table, count = manifest.model, manifest.model.shards
    length, width = manifest.data.sequence_length - 1, config_of(table).hidden_size
    sequences = manifest.work.slices * manifest.work.sequences_per_slice
    # Kept until the chain has ended: activations and gradients of a chain's slices, at each border.
    border = 2 * sequences * encoded_bytes((1, length, width), table.boundary)
    needs = []
    for index, size in enumerate(shard_sizes(table, count)):
        layout, ends = shard_layout(table, index, count), (index == 0) + (index == count - 1)
        memory = PROCESS_BYTES + STAGE_BYTES + vector_bytes(manifest, layout) + (2 - ends) * border
        memory += 3 * 4 * LOGITS if index == count - 1 else 0
        needs.append(Need(memory, size.work, snapshot_bytes(layout)))
    return tuple(needs)


def room_of(manifest: Manifest, shard: int, memory: int) -> int:
    """Bytes that a peer may use to compute less: a part of what its shard leaves, as others may be here."""
    return max(0, memory - shard_needs(manifest)[shard].memory) // SHARED


def choose_move(history: History, manifest: Manifest, me: PeerID, memory: int) -> int | None:
    """The shard that this member moves to after the next record, if that is worth its download; else None.

    What others could hold is not known here, so each considers itself alone, and a record takes one move.
    """
    secure = manifest.aggregation.mode == "secure"
    holders = [
        Holder(peer, memory if peer == me else 1, EQUAL_SPEED, shard)
        for shard, cell in enumerate(history.cells)
        for peer in cell
    ]
    move = next_move(holders, shard_needs(manifest), least=SECURE_PEERS if secure else SPARE)
    return None if move is None else move.to


def choose_shard(history: History, manifest: Manifest, memory: int) -> int:
    """The shard that a newcomer with so many bytes of memory takes: the one that the swarm lacks most.

    A cell below the privacy floor sums nothing, so it counts as if nobody were there.
    Raises FitsNowhere, MemoryRefused.
    """
    if manifest.model.shards == 1:
        return 0
    floor = SECURE_PEERS if manifest.aggregation.mode == "secure" else 1
    holders = [
        Holder(peer, memory, EQUAL_SPEED, shard)
        for shard, cell in enumerate(history.cells)
        for peer in cell
        if len(cell) >= floor
    ]
    return place("this peer", memory, EQUAL_SPEED, holders, shard_needs(manifest))
