"""Good plans of any size: what a plan must be, how chains are dealt to a shard's holders, and a local search.

The promise: pure and deterministic; a search returns a plan whose every shard fits its holders, or refuses
with the numbers. What it minimises is `Aim.of` the cost of `swarm.plan.cost`, a token.

A plan's *form* is its layers by shard and how many devices of each kind hold each shard. Everything else
follows: as many chains as the broadest shard has holders (as `verify.wiring` draws), dealt to a shard's
holders so that the slowest is done as soon as can be.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from proto.errors import SwarmError
from swarm.plan.cost import (
    MOST_SLICES,
    Group,
    Job,
    Rates,
    RoundCost,
    Stage,
    StageCost,
    combine,
    paces,
    shard_load,
    stage_cost,
)
from verify.wiring import MOST_CHAINS

Counts = tuple[int, ...]
"""How many devices of each kind."""


class FitsNowhere(SwarmError):
    """No cut of the model fits the devices' memory, or there are too few devices for one that would."""


@dataclass(frozen=True)
class Aim:
    """What is made small: so much for a second, a joule and a gram, of a token."""

    time: float = 0.0
    energy: float = 0.0
    carbon: float = 0.0
    marginal: bool = False
    """Whether grams leave out the devices' share of having been made."""

    def of(self, cost: RoundCost, tokens: int) -> float:
        grams = cost.marginal if self.marginal else cost.grams
        return float(self.time * cost.seconds + self.energy * cost.joules + self.carbon * grams) / tokens


@dataclass(frozen=True)
class Form:
    """Layers of each shard, and the devices of each kind that hold it."""

    layers: tuple[int, ...]
    counts: tuple[Counts, ...]

    @property
    def chains(self) -> int:
        return max(map(sum, self.counts))

    def used(self) -> Counts:
        return tuple(map(sum, zip(*self.counts, strict=True)))


@dataclass
class Problem:
    """Devices by kind (how many, their memory in bytes, their rates), the work, the aim.

    `batch`: slices that all chains train in a round together, the same for every plan, so that plans are
    compared at equal progress; each chain trains its part, rounded up. `least`: holders that every
    shard must have.
    """

    job: Job
    counts: Counts
    memory: tuple[float, ...]
    kinds: Sequence[Rates]
    aim: Aim
    batch: int = 16
    least: int = 1
    ring_bytes: int = 2
    _costs: dict[tuple[object, ...], tuple[Stage, StageCost]] = field(default_factory=dict)

    def job_of(self, chains: int) -> Job:
        """What each of so many chains does in a round."""
        return replace(self.job, slices=-(-self.batch // chains))

    def fits(self, layers: int, first: bool, last: bool) -> tuple[bool, ...]:
        """Which kinds have memory for a shard."""
        needed = shard_load(self.job, layers, first, last, self.ring_bytes).memory
        return tuple(needed <= memory for memory in self.memory)

    def stage(
        self, layers: int, first: bool, last: bool, counts: Counts, chains: int
    ) -> tuple[Stage, StageCost]:
        """A shard with its chains dealt, and what it costs."""
        key = (layers, first, last, counts, chains)
        found = self._costs.get(key)
        if found is None:
            load = shard_load(self.job, layers, first, last, self.ring_bytes)
            ends = 2 - first - last
            pace = []
            for kind in self.kinds:
                compute, link = paces(self.job, load, ends, kind)
                pace.append(max(compute, ends * link))
            stage = Stage(layers, deal(counts, chains, pace))
            cost = stage_cost(self.job_of(chains), stage, first, last, self.kinds, self.ring_bytes)
            found = self._costs[key] = stage, cost
        return found

    def stages(self, form: Form) -> tuple[Stage, ...]:
        """The form with its chains dealt."""
        return tuple(stage for stage, _ in self._parts(form))

    def cost(self, form: Form) -> RoundCost:
        return combine([cost for _, cost in self._parts(form)])

    def value(self, form: Form) -> float:
        """What is to be made small."""
        return self.aim.of(self.cost(form), self.tokens(form.chains))

    def tokens(self, chains: int) -> int:
        """That a round trains."""
        return chains * self.job_of(chains).tokens

    def allowed(self, form: Form) -> bool:
        """Whether every shard has holders enough, all with memory for it, no more than there are; and each
        chain a slice to train, and no more than a chain can."""
        if form.chains > MOST_CHAINS or not form.chains <= self.batch <= form.chains * MOST_SLICES:
            return False
        end = len(form.layers) - 1
        for at, (layers, counts) in enumerate(zip(form.layers, form.counts, strict=True)):
            fits = self.fits(layers, at == 0, at == end)
            if (
                min(counts) < 0
                or sum(counts) < self.least
                or any(n and not fit for n, fit in zip(counts, fits, strict=True))
            ):
                return False
        return all(used <= there for used, there in zip(form.used(), self.counts, strict=True))

    def _parts(self, form: Form) -> list[tuple[Stage, StageCost]]:
        end, chains = len(form.layers) - 1, form.chains
        return [
            self.stage(layers, at == 0, at == end, counts, chains)
            for at, (layers, counts) in enumerate(zip(form.layers, form.counts, strict=True))
        ]


def deal(counts: Counts, chains: int, pace: Sequence[float]) -> tuple[Group, ...]:
    """Chains dealt to a shard's holders, at least one each, the slowest done as soon as can be.

    `counts`, `pace`: of each kind how many, and its seconds a microbatch. Needs chains >= holders >= 1.

    >>> deal((1, 2), 4, (1.0, 2.0))
    (Group(kind=0, count=1, chains=2), Group(kind=1, count=2, chains=1))
    """
    here = [kind for kind, count in enumerate(counts) if count]

    def at(limit: float) -> list[int]:
        # A hair more than the limit: c x pace / pace need not be c.
        return [max(1, math.floor(limit / pace[kind] * (1 + 1e-12))) for kind in here]

    def enough(limit: float) -> bool:
        return sum(counts[kind] * own for kind, own in zip(here, at(limit), strict=True)) >= chains

    low, high = 0.0, max(pace[kind] for kind in here) * chains
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    own = at(high)
    over = sum(counts[kind] * share for kind, share in zip(here, own, strict=True)) - chains
    groups = list[Group]()
    # Chains too many at the limit are taken from those that would be done last.
    for kind, share in sorted(
        zip(here, own, strict=True), key=lambda pair: (-pair[1] * pace[pair[0]], pair[0])
    ):
        less = min(over, counts[kind]) if share > 1 else 0
        over -= less
        if less:
            groups.append(Group(kind, less, share - 1))
        if counts[kind] > less:
            groups.append(Group(kind, counts[kind] - less, share))
    return tuple(sorted(groups, key=lambda group: (group.kind, -group.chains)))


def check_fit(problem: Problem) -> None:
    """Raises FitsNowhere where not even the finest cut fits, told with the numbers."""
    job, deep = problem.job, problem.job.layers
    most = min(deep, sum(problem.counts) // problem.least)
    need = [
        ("the whole model" if deep == 1 else "the first shard, of one layer,", 1, True, deep == 1),
        ("the last shard, of one layer,", 1, deep == 1, True),
    ]
    largest = max(problem.memory)
    for what, layers, first, last in need:
        needed = shard_load(job, layers, first, last, problem.ring_bytes).memory
        whole = shard_load(job, deep, True, True, problem.ring_bytes).memory
        if needed > largest and whole > largest:
            raise FitsNowhere(
                f"{job.model}: {what} needs {needed / 1e9:.1f} GB and the largest device has "
                f"{largest / 1e9:.1f} GB: bring a device with more memory, or train a smaller model"
            )
    if most < 1 or next(starts(problem), None) is None:
        whole = shard_load(job, deep, True, True, problem.ring_bytes).memory
        total = sum(memory * count for memory, count in zip(problem.memory, problem.counts, strict=True))
        raise FitsNowhere(
            f"{job.model} needs {whole / 1e9:.1f} GB as a whole, and more in shards (each holder also runs a "
            f"process); {sum(problem.counts)} devices have {total / 1e9:.1f} GB, and each shard needs "
            f"{problem.least} of them: bring more devices, or train a smaller model"
        )


def starts(problem: Problem) -> Iterator[Form]:
    """For each number of shards one form that is allowed, if there is one that a simple rule finds."""
    for shards in range(1, problem.job.layers + 1):
        if shards * problem.least > sum(problem.counts):
            return
        form = _first(problem, shards)
        if form is not None:
            yield form


def search(problem: Problem, forms: int = 4, looks: int = 20_000) -> Form:
    """The best form that descents find, from the best `forms` of the starts, with so many looks from each.

    Raises FitsNowhere.
    """
    check_fit(problem)
    begin = [form for start in starts(problem) for form in (start, *_thinned(problem, start))]
    begin = [form for form in begin if problem.allowed(form)]
    if not begin:
        raise FitsNowhere(
            f"{problem.job.model}: the devices hold so few chains that each had over {MOST_SLICES} of the "
            f"{problem.batch} slices a round; ask for fewer with --slices"
        )
    begin.sort(key=problem.value)
    return min((_descend(problem, form, looks) for form in begin[:forms]), key=problem.value)


def _first(problem: Problem, shards: int) -> Form | None:
    """Devices with most memory first; each takes layers as it can; the rest go where it is slowest."""
    order = sorted(range(len(problem.counts)), key=lambda kind: -problem.memory[kind])
    pool = [kind for kind in order for _ in range(min(problem.counts[kind], shards * problem.least))]
    chosen = pool[: shards * problem.least : problem.least]
    lasts = pool[problem.least - 1 : shards * problem.least : problem.least]
    if len(chosen) < shards or len(lasts) < shards:
        return None
    # The ends have the embeddings and the head: they get the devices with most memory.
    inner = list(range(1, shards - 1))
    places = [0, shards - 1, *inner][:shards] if shards > 1 else [0]
    weakest = [0] * shards
    groups = [[0] * len(problem.counts) for _ in range(shards)]
    for place, first in zip(places, range(0, shards * problem.least, problem.least), strict=True):
        weakest[place] = pool[first + problem.least - 1]
        for kind in pool[first : first + problem.least]:
            groups[place][kind] += 1
    layers = [1] * shards
    end = shards - 1

    def room(at: int, more: int) -> bool:
        return problem.fits(layers[at] + more, at == 0, at == end)[weakest[at]]

    if problem.least > problem.batch or not all(room(at, 0) for at in range(shards)):
        return None
    for _ in range(problem.job.layers - shards):
        able = [at for at in range(shards) if room(at, 1)]
        if not able:
            return None
        layers[
            min(able, key=lambda at: _seconds(problem, layers[at] + 1, at == 0, at == end, groups[at]))
        ] += 1
    left = [there - sum(own) for there, own in zip(problem.counts, zip(*groups, strict=True), strict=True)]
    fits = [problem.fits(layers[at], at == 0, at == end) for at in range(shards)]
    step = max(1, sum(left) // 512)
    free = [min(problem.batch, MOST_CHAINS) - sum(own) for own in groups]
    for kind in sorted(range(len(left)), key=lambda kind: -problem.kinds[kind].speed):
        while left[kind]:
            able = [at for at in range(shards) if fits[at][kind] and free[at]]
            if not able:
                break
            at = max(able, key=lambda at: _seconds(problem, layers[at], at == 0, at == end, groups[at]))
            more = min(step, left[kind], free[at])
            groups[at][kind] += more
            free[at] -= more
            left[kind] -= more
    return Form(tuple(layers), tuple(map(tuple, groups)))


def _seconds(problem: Problem, layers: int, first: bool, last: bool, own: Sequence[int]) -> float:
    """Seconds a microbatch of a shard whose holders work side by side."""
    load, ends = shard_load(problem.job, layers, first, last, problem.ring_bytes), 2 - first - last
    rate = 0.0
    for count, kind in zip(own, problem.kinds, strict=True):
        compute, link = paces(problem.job, load, ends, kind)
        rate += count / max(compute, ends * link)
    return 1 / rate


def _thinned(problem: Problem, form: Form) -> Iterator[Form]:
    """The same with as few holders as a shard may have: where energy counts, fewer may be better."""
    counts = []
    for own in form.counts:
        left, keep = problem.least, [0] * len(own)
        for kind in sorted(
            range(len(own)), key=lambda kind: problem.kinds[kind].busy / problem.kinds[kind].speed
        ):
            keep[kind] = min(own[kind], left)
            left -= keep[kind]
        counts.append(tuple(keep))
    if tuple(counts) != form.counts:
        yield Form(form.layers, tuple(counts))


def _descend(problem: Problem, form: Form, looks: int) -> Form:
    """To the first better neighbour, and on from there."""
    value, moved = problem.value(form), True
    while moved:
        moved = False
        for near in _neighbours(problem, form):
            looks -= 1
            if looks < 0:
                return form
            if problem.allowed(near) and (own := problem.value(near)) < value * (1 - 1e-9):
                form, value, moved = near, own, True
                break
    return form


def _neighbours(problem: Problem, form: Form) -> Iterator[Form]:
    """A layer over a boundary; devices from a shard, or the spares, to another; kinds changed about."""
    shards, kinds = len(form.layers), len(problem.counts)
    for at in range(shards - 1):
        for a, b in ((at, at + 1), (at + 1, at)):
            if form.layers[a] > 1:
                layers = list(form.layers)
                layers[a], layers[b] = layers[a] - 1, layers[b] + 1
                yield Form(tuple(layers), form.counts)
    spare = tuple(there - used for there, used in zip(problem.counts, form.used(), strict=True))
    rows = [*form.counts, spare]
    broad = [at for at in range(shards) if sum(rows[at]) == form.chains]
    for kind in range(kinds):
        # A chain fewer, or one more: the broadest shards together, for one alone changes no chain.
        yield _with(form, rows, [(at, kind, -1) for at in broad] + [(shards, kind, len(broad))])
        yield _with(form, rows, [(at, kind, 1) for at in range(shards)] + [(shards, kind, -shards)])
    for kind in range(kinds):
        for a in range(shards + 1):
            step = 1
            while step <= rows[a][kind]:
                for b in range(shards + 1):
                    if a != b:
                        yield _with(form, rows, [(a, kind, -step), (b, kind, step)])
                step *= 4
    for kind in range(kinds):
        for other in range(kind):
            for a in range(shards + 1):
                for b in range(shards + 1):
                    step = 1
                    while a != b and step <= min(rows[a][kind], rows[b][other]):
                        changes = [(a, kind, -step), (b, kind, step), (b, other, -step), (a, other, step)]
                        yield _with(form, rows, changes)
                        step *= 4


def _with(form: Form, rows: Sequence[Counts], changes: Sequence[tuple[int, int, int]]) -> Form:
    new = [list(row) for row in rows]
    for at, kind, more in changes:
        new[at][kind] += more
    return Form(form.layers, tuple(map(tuple, new[:-1])))
