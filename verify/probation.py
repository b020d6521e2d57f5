"""Probation: what a new name must do before it counts, a pure function of the records.

A newcomer's join carries a *trial*: sketches of slices that the last beacon made up for it. The record that
has the join draws, by its own beacon, a member for each slice, of those who hold the shard that it will hold,
who computes it again and says in a verdict whether the sketch is right. Enough of them, from more than c
members, and the next join takes it in. The promise: no c members can take in a name that did not do its work,
nor keep one out that did.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from proto.canonical import PeerID, tagged_hash
from verify.lottery import in_turn
from verify.standing import LIFETIME, Verdict

PATIENCE = 3
"""Records that a trial is given to be looked at before its author may send another."""


@dataclass(frozen=True)
class TrialSlice:
    """One of the `count` slices of a trial. `round`: the record whose beacon and snapshot it is of; `since`:
    the record that has it; `shard`: what its author will hold."""

    peer: PeerID
    shard: int
    index: int
    count: int
    round: int
    since: int
    checker: PeerID
    sketch: tuple[int, ...]


@dataclass(frozen=True)
class Pass:
    """A slice of a trial that was found right."""

    checker: PeerID
    round: int
    shard: int


@dataclass(frozen=True)
class Probation:
    """Late records' trials, by the name of each slice, and what was found right. `after` gives the next."""

    slices: Mapping[bytes, TrialSlice] = field(default_factory=lambda: MappingProxyType({}))
    passed: Mapping[PeerID, Mapping[bytes, Pass]] = field(default_factory=lambda: MappingProxyType({}))

    def under_way(self, peer: PeerID, round_: int) -> bool:
        """Whether a trial of `peer` may still be looked at, at record `round_`."""
        return any(
            one.peer == peer and one.since > round_ - PATIENCE and name not in self.passed.get(peer, {})
            for name, one in self.slices.items()
        )

    def done(self, peer: PeerID, checks: int, roster: Collection[PeerID], c: Callable[[int], int]) -> bool:
        """Whether so many slices were found right, by more than c members that are there yet. `c`: colluders
        that are tolerated among those who hold a shard."""
        passed = self.passed.get(peer, {}).values()
        seats = {one.checker for one in passed} & set(roster)
        return len(passed) >= checks and len(seats) > max((c(one.shard) for one in passed), default=0)

    def after(
        self,
        round_: int,
        beacon: bytes,
        cells: Sequence[Sequence[PeerID]],
        trials: Sequence[tuple[PeerID, int, int, bytes, Sequence[tuple[int, ...]]]],
        verdicts: Sequence[tuple[PeerID, Verdict]],
    ) -> "Probation":
        """The next value, at record `round_`. `cells`: who holds each shard; those look at its trials.
        `trials`: who, for which shard, at which record, name and sketches of each join.

        All verdicts are admissible: those on a trial are of its drawn checkers.
        """
        passed = {
            peer: {name: one for name, one in found.items() if one.round > round_ - LIFETIME}
            for peer, found in self.passed.items()
        }
        for signer, verdict in verdicts:
            looked_at = self.slices.get(verdict.session)
            if looked_at is not None and verdict.outcome == "clean":
                passed.setdefault(looked_at.peer, {})[verdict.session] = Pass(signer, round_, looked_at.shard)
        slices = {name: one for name, one in self.slices.items() if one.since > round_ - LIFETIME}
        for peer, shard, at, join, sketches in trials:
            turns = in_turn(tagged_hash("trial-checkers", beacon, join), cells[shard])
            for index, found in enumerate(sketches):
                checker = turns[index % len(turns)]
                name = slice_name(peer, join, index)
                slices[name] = TrialSlice(peer, shard, index, len(sketches), at, round_, checker, found)
        return Probation(slices, {peer: found for peer, found in passed.items() if found})


def slice_name(peer: PeerID, join: bytes, index: int) -> bytes:
    """What a verdict names in place of a session: a slice of the trial in a peer's join (by its digest)."""
    return tagged_hash("trial-slice", peer.encode(), join, index.to_bytes(8, "big"))


def sketch_seed(order_seed: bytes, index: int) -> bytes:
    """The signs that a trial's slice is sketched under."""
    return tagged_hash("trial-sketch", order_seed, index.to_bytes(8, "big"))
