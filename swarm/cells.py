"""What became of all cells of an attempt, put together from what their members signed; sans-I/O.

The promise: a result of another cell is believed where more than c of its survivors signed the same one, so
an honest member did; and where it fits the adverts that everybody met with.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import FailFast, Field

from proto.canonical import MAX_MESSAGE, Count, Digest, Message, PeerID
from proto.errors import MessageRefused, SwarmError
from secagg.messages import MAX_STATEMENT, Advert, ShardIndex, Some
from swarm.effects import Slot
from verify.carrying import energy_of, median, union_of_statements
from verify.chains import counted_alike
from verify.record import MOST_CARRIED, Cell, History, Record, colluders, whole
from verify.statement import open_signed


class Unequal(SwarmError):
    """An attempt whose shards have not all done the same slices."""


class CellResult(Message):
    """A survivor of a cell tells all members what its session came to."""

    DOMAIN: ClassVar[str] = "cell-result"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE

    run: Digest
    round: Count
    attempt: Count
    shard: ShardIndex
    session: Digest
    survivors: Some[PeerID]
    snapshot: Digest
    beacon: Digest
    statements: Annotated[
        tuple[Annotated[bytes, Field(max_length=MAX_STATEMENT)], ...],
        Field(max_length=MOST_CARRIED),
        FailFast(),
    ]

    @property
    def cell(self) -> Cell:
        """What the record says of it."""
        return Cell(
            session=self.session, survivors=self.survivors, snapshot=self.snapshot, beacon=self.beacon
        )


class Results:
    """The cells' results in one attempt, as they come. `adverts`: of all who met."""

    def __init__(self, history: History, slot: Slot, adverts: Mapping[PeerID, Advert]) -> None:
        self._history, self._slot, self._adverts = history, slot, adverts
        self._said: dict[PeerID, CellResult] = {}

    def receive(self, raw: bytes) -> None:
        """A member's word. Raises MessageRefused."""
        signed = open_signed(raw, CellResult)
        said, signer = signed.message, signed.signer
        if (said.run, said.round, said.attempt) != (self._history.run, *self._slot):
            raise MessageRefused("cell-result: for another run or attempt")
        if signer not in self._history.roster or said.shard != self._history.shard_of(signer):
            raise MessageRefused(f"cell-result: {signer} does not hold shard {said.shard}")
        here = {peer for peer in self._adverts if self._history.shard_of(peer) == said.shard}
        if signer not in said.survivors or not set(said.survivors) <= here:
            raise MessageRefused(f"cell-result: its survivors are not those of a cell of {signer}")
        self._said.setdefault(signer, said)

    def missing(self, but: int) -> list[int]:
        """Shards other than `but` of which too few have told a result."""
        return [at for at in range(len(self._history.shards)) if at != but and self._of(at) is None]

    def complete(self, mine: CellResult) -> list[CellResult] | None:
        """One result a shard, its own as this peer has it; None as long as one is missing."""
        shards = range(max(1, len(self._history.shards)))
        found = [mine if shard == mine.shard else self._of(shard) for shard in shards]
        told = [one for one in found if one is not None]
        return told if len(told) == len(found) else None

    def _of(self, shard: int) -> CellResult | None:
        needed = colluders(len(self._history.cell(shard))) + 1
        told: dict[bytes, list[CellResult]] = {}
        for said in self._said.values():
            if said.shard == shard:
                told.setdefault(said.digest(), []).append(said)
        enough = [alike[0] for _, alike in sorted(told.items()) if len(alike) >= needed]
        return enough[0] if enough else None


def record_of(
    history: History, slot: Slot, results: Sequence[CellResult], adverts: Mapping[PeerID, Advert]
) -> Record:
    """The record that follows from the results of all shards, in order, and the adverts that all met with.

    Raises Unequal where the shards have not done the same slices.
    """
    survivors = tuple(sorted(peer for one in results for peer in one.survivors))
    named = [(peer, adverts[peer]) for peer in survivors]
    weights = [sum(adverts[peer].weight for peer in one.survivors) for one in results]
    told = [[adverts[peer] for peer in one.survivors] for one in results]
    if not weights[0] or (history.shards and not counted_alike(told)):
        raise Unequal(f"the shards did {weights} slices, not the same: a peer was lost after its chain ended")
    last = [adverts[peer] for peer in results[-1].survivors if adverts[peer].weight]
    cells = tuple(one.cell for one in results) if history.shards else ()

    def of_all(names: list[bytes]) -> bytes:
        return whole(names) if history.shards else names[0]

    return Record(
        run=history.run,
        round=slot[0],
        attempt=slot[1],
        previous=history.head,
        snapshot=of_all([one.snapshot for one in results]),
        session=of_all([one.session for one in results]),
        survivors=survivors,
        weights=tuple(advert.weight for _, advert in named),
        tokens=sum(advert.tokens for advert in last),
        loss=sum(advert.loss * advert.weight for advert in last) // weights[0],
        heldout=median([advert.heldout for advert in last]),
        beacon=of_all([one.beacon for one in results]),
        data=tuple(
            (peer, advert.data_root, advert.data_count)
            for peer, advert in named
            if advert.data_root is not None and history.roster[peer].data_root is None
        ),
        heads=tuple((peer, advert.head_size, advert.head_root) for peer, advert in named),
        energy=energy_of((peer, advert.energy) for peer, advert in named),
        cells=cells,
        statements=union_of_statements(history, [result.statements for result in results]),
    )
