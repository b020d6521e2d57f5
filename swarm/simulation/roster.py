"""Who holds which shard in a simulated run: founding, joining, leaving, suspension, bans, moves.

The rules are the run's own: `verify.record.newcomers` and `trials` say how many a record takes in,
`verify.record.thresholds` how many of a cell must be there, `swarm.shards.placement` which shard a newcomer
takes and who moves. A cell has at most 32 members; whoever finds all of them full is a spare.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from swarm.shards.placement import (
    MOST_MEMORY,
    SCALE,
    FitsNowhere,
    Holder,
    Move,
    Need,
    next_move,
    place,
    share,
)
from swarm.simulation.crowd import SECURE_CELL, Crowd, Terms
from verify.record import newcomers, quorum, thresholds, trials

NOBODY = -1
TRIAL_RECORDS = 2
"""Records between a trial and the join that it allows: the one that carries it, and one with the verdicts."""


@dataclass(frozen=True)
class Joining:
    """A device on its way into a cell: it has the snapshot, and its trial is looked at, from then on."""

    device: int
    shard: int
    seconds: float
    record: int


@dataclass(frozen=True)
class Started:
    """What a device took upon itself to join: bytes of a snapshot, tokens of a trial."""

    device: int
    shard: int
    download: float
    trial_tokens: float


class Rosters:
    """The cells' rosters. Devices are rows of the crowd; `shard[d]` is NOBODY for those in none.

    `planned`: each device's shard by a plan, whose cells then are as large as planned and no larger.
    """

    def __init__(self, crowd: Crowd, terms: Terms, planned: Sequence[int] | None = None) -> None:
        self.crowd, self.terms, self.planned = crowd, terms, planned
        self.places = np.full(terms.shards, terms.largest_cell)
        if planned is not None:
            held = np.array(planned)
            self.places = np.bincount(held[held >= 0], minlength=terms.shards).clip(1, terms.largest_cell)
        self.shard = np.full(len(crowd), NOBODY)
        self.missed = np.zeros(len(crowd), int)
        self.proved = np.zeros(len(crowd), bool)
        self.banned = np.zeros(len(crowd), bool)
        self.hopeless = np.zeros(len(crowd), bool)  # no shard fits its memory
        self.joining: dict[int, Joining] = {}
        self._speeds = [int(speed / 2) for speed in crowd.lasting]  # multiply-adds
        self._memory = [int(memory) for memory in crowd.memory]
        self._settled = False

    # -- what is there ----------------------------------------------------------------------------------

    def sizes(self) -> np.ndarray:
        """Members of each cell."""
        return np.bincount(self.shard[self.shard >= 0], minlength=self.terms.shards)

    def least(self, shard: int, there: int, size: int) -> int:
        """How many of a cell must be there for an attempt to come to anything."""
        if size < SECURE_CELL:
            return quorum(size)
        return thresholds(size, max(there, 1), True)[1]

    def needs(self, room: Sequence[bool]) -> list[Need]:
        """The shards as a newcomer sees them: a full cell is too large for anybody."""
        return [
            need if free else replace(need, memory=MOST_MEMORY + 1)
            for need, free in zip(self.terms.needs, room, strict=True)
        ]

    # -- coming ---------------------------------------------------------------------------------------------

    def found(self, online: np.ndarray) -> bool:
        """Found the run with who is there; whether every shard has somebody."""
        for device in online:
            if self.planned is not None:
                self.shard[device] = self.planned[device]
            elif (shard := self._place(int(device), self._room())) is not None:
                self.shard[device] = shard
        self.proved[self.shard >= 0] = True
        if (self.sizes() > 0).all():
            return True
        self.shard[:] = NOBODY
        self.proved[:] = False
        return False

    def invite(self, spares: Iterable[int], now: float, record: int) -> list[Started]:
        """Let spares take the places that are free; what each of them begins."""
        started, sizes = list[Started](), self.sizes()
        trials_left = np.array([trials(int(size)) for size in sizes])
        for device in spares:
            room = self._room()
            if not room.any():
                break
            if self.hopeless[device] or self.banned[device] or device in self.joining:
                continue
            if not self.proved[device]:
                room &= trials_left > 0
            shard = self._place(device, room) if room.any() else None
            if shard is None:
                continue
            trials_left[shard] -= not self.proved[device]
            started.append(self._begin(device, shard, int(sizes[shard]), now, record))
        return started

    def _begin(self, device: int, shard: int, size: int, now: float, record: int) -> Started:
        terms, crowd = self.terms, self.crowd
        download = terms.needs[shard].download
        slices = 0 if self.proved[device] else max(terms.probation_checks, size // 4 + 1)
        tokens = float(slices * terms.slice_tokens)
        busy = tokens * terms.flops[shard] / crowd.lasting[device]
        wait = 0 if self.proved[device] else TRIAL_RECORDS
        ready = now + download / crowd.down[device] + busy
        self.joining[device] = Joining(device, shard, ready, record + wait)
        return Started(device, shard, download, tokens)

    def admit(self, now: float, record: int, online: np.ndarray) -> int:
        """Take in who is ready, as many as a record may; how many that was."""
        taken, sizes = 0, self.sizes()
        left = [
            min(newcomers(int(size)), int(most - size)) if size < most else 0
            for size, most in zip(sizes, self.places, strict=True)
        ]
        for one in sorted(self.joining.values(), key=lambda one: (one.seconds, one.device)):
            if one.seconds <= now and one.record <= record and left[one.shard] and online[one.device]:
                left[one.shard] -= 1
                del self.joining[one.device]
                self.shard[one.device], self.proved[one.device] = one.shard, True
                self.missed[one.device] = 0
                self._settled, taken = False, taken + 1
        return taken

    def move(self) -> Move | None:
        """Carry out the move between two rounds that placement asks for, if there is one."""
        if self.terms.shards == 1 or self._settled or not (room := self._room()).any():
            return None
        move = next_move(self._summary(), self.needs(list(room)))
        if move is None:
            self._settled = True
        else:
            self.shard[int(move.peer)] = move.to
        return move

    # -- going ----------------------------------------------------------------------------------------------

    def leave(self, device: int) -> None:
        """A goodbye, a suspension or a ban takes effect."""
        self.shard[device], self.missed[device], self._settled = NOBODY, 0, False
        self.joining.pop(device, None)

    def count_missed(self, there: np.ndarray) -> list[int]:
        """A record's survivors are `there`; who has now missed so many that it is suspended."""
        member = self.shard >= 0
        self.missed[member & there] = 0
        self.missed[member & ~there] += 1
        gone = [int(device) for device in np.flatnonzero(member & (self.missed >= self.terms.suspend_after))]
        for device in gone:
            self.leave(device)
        return gone

    # -- placement ------------------------------------------------------------------------------------------

    def _room(self) -> np.ndarray:
        """Which cells have room, counting those on their way."""
        coming = np.bincount([one.shard for one in self.joining.values()], minlength=self.terms.shards)
        return np.asarray(self.sizes() + coming < self.places)

    def _place(self, device: int, room: np.ndarray) -> int | None:
        try:
            return place(
                str(device),
                self._memory[device],
                self._speeds[device],
                self._holders(),
                self.needs(list(room)),
            )
        except FitsNowhere:
            self.hopeless[device] = self._memory[device] < min(need.memory for need in self.terms.needs)
            return None

    def _holders(self) -> list[Holder]:
        """The members of each shard as one holder whose share of it is exactly the sum of theirs: what
        `place` asks of all of them, in a hundredth of its time."""
        return [
            _sum_of(shard, own, self.terms.needs[shard]) for shard, own in self._speeds_by_shard().items()
        ]

    def _summary(self) -> list[Holder]:
        """For `next_move`: of members that are alike one may move, the others are summed up and too small
        to."""
        found = list[Holder]()
        alike: dict[tuple[int, int, int], list[int]] = {}
        for device in np.flatnonzero(self.shard >= 0):
            key = int(self.shard[device]), self._speeds[device], self._memory[device]
            alike.setdefault(key, []).append(int(device))
        for (shard, speed, memory), devices in alike.items():
            found.append(Holder(str(devices[0]), memory, speed, shard))
            if rest := [speed] * (len(devices) - 1):
                found.append(_sum_of(shard, rest, self.terms.needs[shard], f"{shard}/{devices[0]}"))
        return found

    def _speeds_by_shard(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for device in np.flatnonzero(self.shard >= 0):
            found.setdefault(int(self.shard[device]), []).append(self._speeds[device])
        for one in self.joining.values():
            found.setdefault(one.shard, []).append(self._speeds[one.device])
        return found


def _sum_of(shard: int, speeds: Sequence[int], need: Need, name: str = "") -> Holder:
    """One holder with exactly the share of all of them; its memory lets it go nowhere."""
    whole = sum(share(speed, need) for speed in speeds)
    return Holder(name or f"shard {shard}", 1, speed_of(whole, need), shard)


def speed_of(whole: int, need: Need) -> int:
    """The least speed whose `placement.share` is `whole`: a shard's work is far above placement's SCALE."""
    return -(-whole * need.work // SCALE)
