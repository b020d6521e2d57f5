"""What an attempt begins with and is held to: work, votes, who must be there, terms of its sessions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from proto.canonical import PeerID
from secagg.interface import Terms
from secagg.messages import Advert, Evidence
from swarm.effects import Slot, Stalled, Train, TrainChains
from swarm.manifest import Manifest, Work
from swarm.order import DataView, chain_rounding, chain_slices, chained_order, draw_order
from verify.agreement import Agreement
from verify.chains import counted_alike
from verify.identity import Identity
from verify.lottery import attempt_seed, in_turn
from verify.record import History, Record, Vote, colluders, thresholds
from verify.statement import domain_of, open_signed, sign
from verify.wiring import NoReplica, wire_chains


def start_work(
    history: History, attempt: int, me: PeerID, data: DataView, work: Work
) -> Train | TrainChains | Stalled:
    """What a roster member computes in an attempt at the round after `history`."""
    slot = history.round + 1, attempt
    if not history.shards:
        return Train(slot, draw_order(history, attempt, me, data, work), work.window_seconds)
    try:
        wired = wire_chains(history, attempt)
    except NoReplica as empty:
        return Stalled(empty.shard)
    shard = history.shard_of(me)
    return TrainChains(
        slot,
        shard,
        history.snapshot_of(shard),
        wired,
        chain_slices(history, attempt, len(wired), data, work),
        lambda counted: chained_order(history, attempt, me, data, work, counted),
        chain_rounding(history, attempt, me),
        work.window_seconds,
    )


def resume_voting(
    identity: Identity,
    history: History,
    slot: Slot,
    patience: float,
    said: Iterable[bytes],
    evidence: list[Evidence],
) -> tuple[Agreement, Record | None]:
    """An attempt's agreement, with the votes and the record that this peer had `said` before a restart."""
    mine = [raw for raw in said if _of_slot(raw, history.run, slot)]
    records = [raw for raw in mine if domain_of(raw) == Record.DOMAIN]
    agreement = Agreement(
        identity.peer_id,
        in_turn(attempt_seed(history.beacon, *slot, "turn"), history.members),
        history.run,
        *slot,
        patience,
        lambda vote: sign(identity, vote),
        [raw for raw in mine if domain_of(raw) == Vote.DOMAIN],
        evidence,
    )
    return agreement, open_signed(records[-1], Record).message if records else None


def _of_slot(raw: bytes, run: bytes, slot: Slot) -> bool:
    # A restarted peer may learn that the slot it was in is over before it takes up what it said there.
    kind: type[Vote] | type[Record] = Vote if domain_of(raw) == Vote.DOMAIN else Record
    said = open_signed(raw, kind).message
    return (said.run, said.round, said.attempt) == (run, *slot)


@dataclass(frozen=True)
class Attempt:
    """An attempt at the round after `history`. `chunk`: elements in a chunk."""

    history: History
    manifest: Manifest
    slot: Slot
    chunk: int

    def lacking(self, adverts: Mapping[PeerID, tuple[bytes, Advert]]) -> str | None:
        """What those who met lack; None: nothing."""
        history, several = self.history, bool(self.history.shards)
        for shard, cell in enumerate(history.cells):
            here = sorted(peer for peer in cell if peer in adverts)
            needed, where = self._thresholds(here, shard)[1], f" of shard {shard}" if several else ""
            if len(here) < max(1, needed):
                return f"met {len(here)} of {len(cell)} peers{where}, {max(1, needed)} are needed"
        if several and len(adverts) < history.quorum:
            return f"met {len(adverts)} of {len(history.roster)} peers, {history.quorum} are needed"
        cells = [[adverts[peer][1] for peer in cell if peer in adverts] for cell in history.cells]
        if several and not counted_alike(cells):
            done = [sum(advert.weight for advert in cell) for cell in cells]
            return f"the shards did {done} slices, not the same: a peer was lost after its chain was closed"
        return None

    def terms(self, members: list[PeerID], shard: int) -> Terms:
        """What a session of these members is held to (design, section 5 "Thresholds")."""
        threshold, minimum = self._thresholds(members, shard)
        timeout = self.manifest.membership.round_timeout_seconds
        return Terms(
            minimum=minimum,
            proposer=self._turns("survivor-set", members)[0],
            mask_seconds=timeout / 3,
            agree_seconds=timeout / 12,
            chunk=self.chunk,
            owners=self._owners(members),
            threshold=threshold,
            colluders=colluders(self._size(members, shard)),
        )

    def _thresholds(self, members: list[PeerID], shard: int) -> tuple[int, int]:
        secure = self.manifest.aggregation.mode == "secure"
        return thresholds(self._size(members, shard), len(members), secure)

    def _size(self, members: list[PeerID], shard: int) -> int:
        # Of several shards the whole roster decides; in the clear a cell needs no more than who is there.
        clear = bool(self.history.shards) and self.manifest.aggregation.mode == "plain"
        return len(members) if clear else len(self.history.cell(shard))

    def _owners(self, members: list[PeerID]) -> tuple[PeerID, ...]:
        """All members own a part; after void attempts ever fewer, drawn anew, do.

        A member that takes parts and never publishes their sum voids one attempt after another as long as it
        owns a part; with few owners the draw soon leaves it out.
        """
        turns = self._turns("owners", members)
        return tuple(sorted(turns[: max(1, len(members) >> self.slot[1])]))

    def _turns(self, purpose: str, members: list[PeerID]) -> list[PeerID]:
        return in_turn(attempt_seed(self.history.beacon, *self.slot, purpose), members)
