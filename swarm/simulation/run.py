"""A run over thousands of devices, event by event: devices come, go and vanish; rounds follow each other.

The promise: equal arguments give equal results, bit for bit. The rules are the run's own: placement, wiring,
quorums, newcomers; the phases' times are fitted to the real round machine. One record is taken to decide over
all shards, and an attempt to be void for all if it is for one of them, as docs/shards.md says it must be;
spot checks are taken to work in chains as they do on whole models. Neither is built yet.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from swarm.simulation.crowd import Crowd, Terms
from swarm.simulation.outcome import Outcome, Row
from swarm.simulation.phases import EXCHANGE, exchange_seconds, phase_times
from swarm.simulation.roster import NOBODY, Rosters
from swarm.simulation.traces import Stretch
from swarm.simulation.training import Trained, Window, train

BAN_RECORDS = 2
"""Records from a lie to its ban: the check's verdict, then the judgement."""
COME, GO, VANISH = range(3)
TOO_FEW = "too few met"
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Setting:
    """What happens to a run. `seconds`: of it; `attackers`: share of the devices that lie in all their
    slices; `heat_seconds`, `recovery_seconds`, `goodbye_waits`: see parameters.csv."""

    seconds: float
    seed: int
    attackers: float
    heat_seconds: float
    recovery_seconds: float
    goodbye_waits: bool


@dataclass(frozen=True)
class Start:
    """A plan's part: each device's shard (NOBODY: a spare), and its chains by device."""

    shard: tuple[int, ...]
    chains: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Loss:
    """A member that went after the window: its shard, and after how many seconds of the attempt."""

    device: int
    shard: int
    after: float


def simulate(
    crowd: Crowd,
    terms: Terms,
    traces: Sequence[Sequence[Stretch]],
    setting: Setting,
    start: Start | None = None,
    progress: Progress = lambda share: None,
) -> Outcome:
    """Run until the time is over. `traces`: of each device."""
    return _Run(crowd, terms, traces, setting, start, progress).go()


class _Run:
    def __init__(
        self,
        crowd: Crowd,
        terms: Terms,
        traces: Sequence[Sequence[Stretch]],
        setting: Setting,
        start: Start | None,
        progress: Progress,
    ) -> None:
        self.crowd, self.terms, self.setting, self.start = crowd, terms, setting, start
        self.random = np.random.default_rng([setting.seed, 7])
        self.rosters = Rosters(crowd, terms, None if start is None else start.shard)
        self.out = Outcome()
        self.progress = progress
        self.now = 0.0
        self.online = np.zeros(len(crowd), bool)
        self.ready = np.zeros(len(crowd))  # when a device has the snapshot again
        self.heat = np.zeros(len(crowd))
        self.owed = np.zeros(len(crowd))  # FLOP of checks to compute in the next window
        self.byes: set[int] = set()
        self.bans: list[tuple[int, int]] = []  # record, device
        self.liar = np.zeros(len(crowd), bool)
        chosen = self.random.permutation(len(crowd))
        self.liar[chosen[: round(setting.attackers * len(crowd))]] = True
        self.out.attackers = int(self.liar.sum())
        self.lied = np.zeros(len(crowd), int)
        self.order = self.random.permutation(len(crowd))  # in which spares step in
        self.attempt = 0
        self.round_began = 0.0
        self.round_joules = 0.0
        self.short: float | None = None
        self._phases: dict[tuple[int, int, float, float], dict[str, float]] = {}
        self.events = [
            (at, device, what)
            for device, trace in enumerate(traces)
            for one in trace
            for at, what in ((one.begin, COME), (one.end, VANISH if one.crash else GO))
        ]
        heapq.heapify(self.events)

    def go(self) -> Outcome:
        """The whole run."""
        self._until(0.0)
        while self.now < self.setting.seconds and not self._founded():
            self._pause()
        self.round_began = self.now
        while self.now < self.setting.seconds:
            if self._enough():
                self._try()
            else:
                self._pause()
            self.progress(min(1.0, self.now / self.setting.seconds))
        self.out.seconds = self.now
        return self.out

    # -- time -----------------------------------------------------------------------------------------------

    def _until(self, time: float) -> list[tuple[float, int, int]]:
        """Let devices come and go up to a time; the clock stands there then. What happened."""
        seen = list[tuple[float, int, int]]()
        while self.events and self.events[0][0] <= time:
            at, device, what = heapq.heappop(self.events)
            if at >= self.setting.seconds and what != COME:
                continue
            seen.append((at, device, what))
            self.online[device] = what == COME
            if what == COME and self.rosters.shard[device] != NOBODY:
                self.byes.discard(device)
                self._fetch(device, at)
            elif what == GO:
                self.byes.add(device)
                self.rosters.joining.pop(device, None)
            elif what == VANISH:
                self.rosters.joining.pop(device, None)
        self.now = time
        return seen

    def _fetch(self, device: int, at: float) -> None:
        """Who was away fetches its shard's snapshot before it takes part again."""
        size = self.terms.needs[self.rosters.shard[device]].download
        self.ready[device] = at + size / self.crowd.down[device]
        self._pay_network(device, size)

    def _pause(self) -> None:
        """Nothing can be decided: wait until somebody comes, or is ready, or stewards act."""
        began = self.now
        if self.short is None:
            self.short = began
        waiting = self.ready[(self.rosters.shard != NOBODY) & (self.ready > began)]
        coming = [one.seconds for one in self.rosters.joining.values() if one.seconds > began]
        times = [*waiting, *coming, self.events[0][0] if self.events else math.inf]
        if self.out.rows and self.short + self.setting.recovery_seconds > began:
            times.append(self.short + self.setting.recovery_seconds)
        until = min(self.setting.seconds, max(began + 1.0, min(times)))
        held = self._there()
        self._until(until)
        self.out.paused += until - began
        self._hold(held, until - began, np.zeros(len(self.crowd)))
        if self.out.rows and until - self.short >= self.setting.recovery_seconds:
            self._recover()

    def _recover(self) -> None:
        """Stewards strike the missing off where somebody is left, so that records can be made again."""
        self.short = self.now
        struck = False
        for shard, (roster, there) in enumerate(self._cells()):
            if 0 < len(there) < self.rosters.least(shard, len(there), len(roster)):
                for device in set(map(int, roster)) - set(map(int, there)):
                    self.rosters.leave(device)
                    struck = True
        self.out.recoveries += struck
        self._let_in()

    # -- who is there ---------------------------------------------------------------------------------------

    def _there(self) -> np.ndarray:
        """Members that can take part in an attempt now."""
        return np.asarray((self.rosters.shard != NOBODY) & self.online & (self.ready <= self.now))

    def _cells(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Each shard's members, and those who can take part."""
        there, shard = self._there(), self.rosters.shard
        found = [np.flatnonzero(shard == at) for at in range(self.terms.shards)]
        return [(own, own[there[own]]) for own in found]

    def _enough(self) -> bool:
        enough = all(
            len(there) >= self.rosters.least(shard, len(there), len(roster))
            for shard, (roster, there) in enumerate(self._cells())
        )
        if enough:
            self.short = None
        return enough

    def _founded(self) -> bool:
        online = np.array([device for device in self.order if self.online[device]], int)
        if not self.rosters.found(online):
            return False
        self.short = None
        self._let_in()
        return True

    # -- an attempt -----------------------------------------------------------------------------------------

    def _try(self) -> None:
        crowd, terms = self.crowd, self.terms
        self.out.attempts += 1
        began, cells, there = self.now, self._cells(), self._there()
        seen = self._until(began + terms.window)
        gone = {device: at - began for at, device, what in seen if what != COME and there[device]}
        slowed = crowd.speed * (1 - (1 - crowd.thermal) * self.heat)
        owed, self.owed = self.owed, np.zeros(len(crowd))
        checking = np.minimum(owed / slowed, terms.window / 2)
        window = Window(
            number=self.out.records,
            attempt=self.attempt,
            roster=[roster for roster, _ in cells],
            there=there,
            gone=gone,
            speed=slowed * (1 - checking / terms.window),
            paths=self._planned_paths(),
        )
        made = train(crowd, terms, window, self.setting.seed.to_bytes(8, "big"))
        stayed = there.copy()
        stayed[list(gone)] = False
        void, spent, lost = self._exchange(began, cells, stayed)
        counted = self._counted(made, gone, lost) if void is None else np.zeros(len(made.slices), int)
        self._charge(there, gone, lost, made, counted, checking, self.now - began, void)
        for phase, seconds in spent.items():
            self.out.phases[phase] = self.out.phases.get(phase, 0.0) + seconds
        if void is not None:
            self.out.voids = {**self.out.voids, void: self.out.voids.get(void, 0) + 1}
            self.attempt += 1
        else:
            self._record(made, counted, stayed, {one.device for one in lost})

    def _planned_paths(self) -> Sequence[Sequence[int]] | None:
        """The plan's chains as long as the roster is the plan's."""
        if self.start is None or not np.array_equal(self.rosters.shard, self.start.shard):
            return None
        return self.start.chains

    def _exchange(
        self, began: float, cells: Sequence[tuple[np.ndarray, np.ndarray]], stayed: np.ndarray
    ) -> tuple[str | None, dict[str, float], list[Loss]]:
        """From the window's end to the decision, all cells side by side: why the attempt is void, if it is;
        the slowest cell's seconds by phase; who was lost on the way."""
        slowest: dict[str, float] = {}
        void: str | None = None
        lost: list[Loss] = []
        upto = self.now
        ends = list[tuple[int, dict[str, float], int, int]]()
        for shard, (roster, _) in enumerate(cells):
            here = roster[stayed[roster]]
            least = self.rosters.least(shard, len(here), len(roster))
            seconds = self._phase_seconds(shard, here, len(roster) - len(here))
            if len(here) < least:
                void, seconds = TOO_FEW, {**dict.fromkeys(EXCHANGE, 0.0), "meet": seconds["meet"]}
            ends.append((shard, seconds, len(here), least))
            upto = max(upto, self.now + sum(seconds.values()))
        window_end = self.now
        seen = self._until(upto)
        for shard, seconds, size, least in ends:
            for at, device, what in seen:
                if what == COME or self.rosters.shard[device] != shard or not stayed[device]:
                    continue
                if what == GO and self.setting.goodbye_waits:
                    continue
                phase = _phase_at(seconds, at - window_end)
                if phase is None:
                    continue
                row = phase_times()[phase]
                seconds[phase] += row.lost * self.terms.timeout if size > 1 else 0.0
                size -= 1
                if phase not in ("apply", "decide"):
                    lost.append(Loss(device, shard, at - began))
                if row.void or size < least:
                    void = "lost while unmasking" if row.void else f"too few left in {phase}"
            if sum(seconds.values()) > sum(slowest.values()):
                slowest = seconds
        self._until(max(self.now, window_end + sum(slowest.values())))
        return void, slowest, lost

    def _phase_seconds(self, shard: int, here: np.ndarray, absent: int) -> dict[str, float]:
        crowd = self.crowd
        late = float(crowd.latency[here].max(initial=0.0))
        link = float(np.minimum(crowd.up, crowd.down)[here].min(initial=math.inf))
        key = (shard, max(1, len(here)), late, link)
        if key not in self._phases:
            self._phases[key] = exchange_seconds(self.terms.cell(*key))
        seconds = dict(self._phases[key])
        if absent:
            seconds["meet"] += phase_times()["train"].lost * self.terms.timeout
        return seconds

    def _counted(self, made: Trained, gone: Mapping[int, float], lost: Sequence[Loss]) -> np.ndarray:
        """Slices of each chain that enter the model: none where a peer of it is not among the survivors."""
        away = np.isin(made.posts, [*gone, *(one.device for one in lost)]).any(axis=1)
        return np.where(away, 0, made.slices)

    # -- a record -------------------------------------------------------------------------------------------

    def _record(self, made: Trained, counted: np.ndarray, stayed: np.ndarray, lost: set[int]) -> None:
        out, rosters = self.out, self.rosters
        there = stayed.copy()
        there[list(lost)] = False
        tokens = int(counted.sum()) * self.terms.slice_tokens
        out.tokens += tokens
        self._check(made, counted, there)
        for device in [device for device in self.byes if rosters.shard[device] != NOBODY]:
            rosters.leave(device)
            out.goodbyes += 1
        self.byes.clear()
        out.suspensions += len(rosters.count_missed(there | (rosters.shard == NOBODY)))
        due = [device for record, device in self.bans if record <= out.records]
        self.bans = [(record, device) for record, device in self.bans if record > out.records]
        for device in due:
            rosters.banned[device] = True
            rosters.leave(device)
            out.caught_after.append(int(self.lied[device]))
        self._let_in()
        move = rosters.move()
        if move is not None:
            out.moves += 1
            self._fetch(int(move.peer), self.now)
        member = rosters.shard != NOBODY
        spares = int((self.online & ~member & ~rosters.banned).sum())
        row = Row(
            float(self.now),
            float(self.now - self.round_began),
            self.attempt + 1,
            tokens,
            out.total_joules - self.round_joules,
            int(there.sum()),
            spares,
        )
        out.rows.append(row)
        self.round_began, self.round_joules, self.attempt = self.now, out.total_joules, 0

    def _let_in(self) -> None:
        """Take in who is ready, and let spares begin to join."""
        out, rosters, crowd = self.out, self.rosters, self.crowd
        out.joins += rosters.admit(self.now, out.records, self.online)
        member = rosters.shard != NOBODY
        spares = (int(device) for device in self.order if self.online[device] and not member[device])
        for one in rosters.invite(spares, self.now, out.records):
            self._pay_network(one.device, one.download)
            # As much again is computed by those who look at it.
            flop = 2 * one.trial_tokens * self.terms.flops[one.shard]
            self._pay_work("trials", np.array([one.device]), np.array([flop / crowd.lasting[one.device]]))

    def _check(self, made: Trained, counted: np.ndarray, there: np.ndarray) -> None:
        """The lottery: each member is checked with the run's chance, by another of its cell, on one slice."""
        out, terms = self.out, self.terms
        working = np.unique(made.posts[counted > 0])
        weight = np.zeros(len(self.crowd), int)
        for chain in np.flatnonzero(counted):
            weight[made.posts[chain]] += counted[chain]
        lying = working[self.liar[working]]
        self.lied[lying] += 1
        out.slices += int(weight.sum())
        out.poisoned += int(weight[lying].sum())
        drawn = working[self.random.random(len(working)) < terms.rate]
        for device in drawn:
            shard = int(self.rosters.shard[device])
            others = np.flatnonzero((self.rosters.shard == shard) & there)
            others = others[others != device]
            if not len(others):
                continue
            checker = int(self.random.choice(others))
            self.owed[checker] += terms.slice_tokens * terms.flops[shard]
            known = any(device == one for _, one in self.bans)
            if self.liar[device] and not self.liar[checker] and not known:
                self.bans.append((out.records + BAN_RECORDS, int(device)))

    # -- what it costs --------------------------------------------------------------------------------------

    def _charge(
        self,
        there: np.ndarray,
        gone: Mapping[int, float],
        lost: Sequence[Loss],
        made: Trained,
        counted: np.ndarray,
        checking: np.ndarray,
        seconds: float,
        void: str | None,
    ) -> None:
        """An attempt's joules and grams, and how warm it left the devices."""
        crowd, terms = self.crowd, self.terms
        everyone = np.arange(len(crowd))
        each = terms.job.microbatches
        share = np.zeros(len(crowd))  # of a device's chain work: what counts
        whole = np.zeros(len(crowd))
        for shard in range(terms.shards):
            own = made.posts[:, shard]
            held = own >= 0
            np.add.at(share, own[held], (counted * each)[held].astype(float))
            np.add.at(whole, own[held], made.done[held])
        part = np.divide(share, whole, out=np.zeros(len(crowd)), where=whole > 0)
        millions, masked = np.zeros(len(crowd)), np.zeros(len(crowd))
        for shard, load in enumerate(terms.loads if void != TOO_FEW else ()):
            own = np.flatnonzero(there & (self.rosters.shard == shard))
            others = max(0, len(own) - 1)
            outer = 0.0 if void is not None else terms.outer
            millions[own] = load.parameters / 1e6 * (others * terms.masking + outer)
            masked[own] = 4 * load.parameters * terms.ring_bytes * others / max(1, len(own))
        self._pay_work("compute", everyone, made.seconds * part)
        self._pay_work("lost", everyone, made.seconds * (1 - part))
        self._pay_work("again", everyone, made.again_seconds)
        self._pay_work("checks", everyone, checking)
        self._pay_work("exchange", everyone, millions)
        self._pay_network(everyone, made.bytes + masked)
        busy = made.seconds + made.again_seconds + checking + millions
        away = {**gone, **{one.device: one.after for one in lost}}
        self._hold(there, seconds, busy, away)

    def _hold(
        self, there: np.ndarray, seconds: float, busy: np.ndarray, away: Mapping[int, float] | None = None
    ) -> None:
        """Devices held for so long: idling, their share of having been made, their warmth."""
        held = np.where(there, seconds, 0.0)
        for device, after in (away or {}).items():
            held[device] = min(after, seconds)
        idle = np.maximum(held - busy, 0.0) * self.crowd.idle
        self._pay("wait", idle)
        self.out.made += float((held * self.crowd.made).sum())
        target = np.divide(busy, seconds, out=np.zeros(len(busy)), where=seconds > 0).clip(0.0, 1.0)
        self.heat = target + (self.heat - target) * math.exp(-seconds / self.setting.heat_seconds)

    def _pay_work(self, use: str, devices: np.ndarray, seconds: np.ndarray) -> None:
        self.out.busy[use] += float(seconds.sum())
        self._pay(use, seconds * self.crowd.busy[devices], devices)

    def _pay_network(self, devices: np.ndarray | int, size: np.ndarray | float) -> None:
        at = np.atleast_1d(np.asarray(devices))
        self._pay("network", np.atleast_1d(np.asarray(size)) * self.crowd.per_byte[at], at)

    def _pay(self, use: str, joules: np.ndarray, devices: np.ndarray | None = None) -> None:
        self.out.joules[use] += float(joules.sum())
        grams = self.crowd.grams if devices is None else self.crowd.grams[devices]
        self.out.grams += float((joules * grams).sum())


def _phase_at(seconds: Mapping[str, float], after: float) -> str | None:
    """The phase so many seconds after the window's end; None: it was decided by then."""
    for phase in EXCHANGE:
        if after < seconds[phase]:
            return phase
        after -= seconds[phase]
    return None
