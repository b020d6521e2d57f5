"""The best plan there is, as a mixed-integer program for HiGHS (`scipy.optimize.milp`), with the gap left.

The promise: what it minimises is the cost of `swarm.plan.cost`, over all forms of `swarm.plan.search`: no
rule of its own. One program for each number of chains. A *column* is a shard: its place (first, last, between
them), its layers, its devices by kind; the shards between first and last are counted, not ordered, so that
equal plans are one. Sums of columns are linear; the busiest, the slowest cell and the hops are variables
above what is chosen; seconds x idle devices are seconds x the binary digits of their number.
"""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from swarm.plan.cost import MOST_SLICES, StageCost
from swarm.plan.search import Counts, Form, Problem

MOST_COLUMNS = 3_000
"""Of one program: beyond it, or beyond so many programs, the search is what there is."""
MOST_PROGRAMS = 64
FIRST, INNER, LAST, WHOLE = range(4)


@dataclass(frozen=True)
class Column:
    """A shard that a plan may have, and what it costs."""

    place: int
    layers: int
    counts: Counts
    cost: StageCost


@dataclass(frozen=True)
class Solved:
    """The best form found, and how far at most its value lies above the best there is, as a share of it."""

    form: Form
    gap: float


def can_solve() -> bool:
    """Whether scipy is installed; without it there is the search."""
    return find_spec("scipy") is not None


def small_enough(problem: Problem) -> bool:
    """Whether `solve_exactly` would have few enough columns and programs."""
    chains = sum(problem.counts)
    if chains > MOST_PROGRAMS:
        return False
    compositions = math.prod(count + 1 for count in problem.counts)
    return compositions * problem.job.layers * 3 <= MOST_COLUMNS


def solve_exactly(problem: Problem, known: Form, seconds: float = 60.0) -> Solved:
    """The best form, `known` or better. What was not decided within the time is in the gap."""
    value, best, bound = problem.value(known), known, math.inf
    if value <= 0:  # clean electricity and nothing made: nothing is less than nothing
        return Solved(known, 0.0)
    until = time.monotonic() + seconds
    most = min(problem.batch, sum(problem.counts))
    programs = range(max(problem.least, -(-problem.batch // MOST_SLICES)), most + 1)
    for done, chains in enumerate(programs):
        columns = list(_columns(problem, chains))
        for column in columns:
            if column.place == WHOLE and sum(column.counts) == chains:
                form = Form((column.layers,), (column.counts,))
                if (own := problem.value(form)) < value:
                    value, best = own, form
        left = (until - time.monotonic()) / (len(programs) - done)
        solved, least = _solve(problem, columns, chains, value, left)
        bound = min(bound, least)
        if solved is not None and (own := problem.value(solved)) < value:
            value, best = own, solved
    return Solved(best, max(0.0, 1 - min(bound, value) / value))


def _columns(problem: Problem, chains: int) -> Iterator[Column]:
    """Every shard that may be part of a plan with so many chains."""
    deep = problem.job.layers
    for counts in itertools.product(*(range(min(count, chains) + 1) for count in problem.counts)):
        if not problem.least <= sum(counts) <= chains:
            continue
        for place in (FIRST, INNER, LAST, WHOLE):
            first, last = place in (FIRST, WHOLE), place in (LAST, WHOLE)
            sizes = (deep,) if place == WHOLE else range(1, deep - (place == INNER))
            for layers in sizes:
                fits = problem.fits(layers, first, last)
                if all(fit or not own for own, fit in zip(counts, fits, strict=True)):
                    yield Column(place, layers, counts, problem.stage(layers, first, last, counts, chains)[1])


def _solve(
    problem: Problem, columns: Sequence[Column], chains: int, known: float, seconds: float
) -> tuple[Form | None, float]:
    """The best form of several shards with so many chains that is better than `known`, if there is one; and a
    value below which there is none."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    columns = [column for column in columns if column.place != WHOLE]
    program = _Program(problem, columns, chains)
    if not program.possible:
        return None, math.inf
    tokens = problem.tokens(chains)
    program.build(known * tokens)
    rows, places, values = zip(*program.entries, strict=True)
    matrix = coo_array((values, (rows, places)), shape=(len(program.lows), program.size)).tocsr()
    done = milp(
        np.array(program.goal) / (known * tokens),
        integrality=np.array(program.whole),
        bounds=Bounds(np.zeros(program.size), np.array(program.most)),
        constraints=LinearConstraint(matrix, np.array(program.lows), np.array(program.highs)),
        options={"time_limit": max(0.1, seconds), "mip_rel_gap": 1e-6},
    )
    if done.status == 2:  # infeasible: nothing is better than what is known
        return None, known
    bound = known * done.mip_dual_bound if done.mip_dual_bound is not None else -math.inf
    return (None if done.x is None else program.form(done.x)), max(bound, 0.0)


class _Program:
    """Variables, rows and the goal of one program."""

    def __init__(self, problem: Problem, columns: Sequence[Column], chains: int) -> None:
        self._problem, self._columns, self._chains = problem, columns, chains
        self.size = 0
        self.goal: list[float] = []
        self.whole: list[int] = []
        self.most: list[float] = []
        self.entries: list[tuple[int, int, float]] = []
        self.lows: list[float] = []
        self.highs: list[float] = []
        places = {column.place for column in columns}
        self.possible = FIRST in places and LAST in places

    def build(self, cutoff: float) -> None:
        """`cutoff`: the value, of a round, above which nobody asks."""
        problem, columns = self._problem, self._columns
        aim = problem.aim
        fixed = [aim.energy * c.cost.joules + aim.carbon * c.cost.grams for c in columns]
        chosen = [
            self._variable(value, 1, self._most_of(column))
            for value, column in zip(fixed, columns, strict=True)
        ]
        self._chosen = chosen
        used = [
            at if column.place != INNER else self._variable(0.0, 1, 1.0)
            for at, column in zip(chosen, columns, strict=True)
        ]
        for at, flag, column in zip(chosen, used, columns, strict=True):
            if flag != at:
                self._row([(at, 1.0), (flag, -self._most_of(column))], high=0.0)
        for place in (FIRST, LAST):
            ends = [(at, 1.0) for at, column in zip(chosen, columns, strict=True) if column.place == place]
            self._row(ends, low=1.0, high=1.0)
        deep = float(problem.job.layers)
        self._row([(at, float(c.layers)) for at, c in zip(chosen, columns, strict=True)], low=deep, high=deep)
        for kind, there in enumerate(problem.counts):
            taken = [
                (at, float(c.counts[kind])) for at, c in zip(chosen, columns, strict=True) if c.counts[kind]
            ]
            self._row(taken, high=float(there))
        broad = [(at, 1.0) for at, c in zip(chosen, columns, strict=True) if sum(c.counts) == self._chains]
        self._row(broad, low=1.0)
        busiest, cell = self._variable(0.0), self._variable(0.0)
        for flag, column in zip(used, columns, strict=True):
            self._row([(busiest, 1.0), (flag, -column.cost.busiest)], low=0.0)
            self._row([(cell, 1.0), (flag, -column.cost.cell)], low=0.0)
        seconds = self._variable(aim.time)
        hops = self._hops(chosen, used)
        fills = [(at, -column.cost.fill) for at, column in zip(chosen, columns, strict=True)]
        self._row([(seconds, 1.0), (busiest, -1.0), (cell, -1.0), *fills, *hops], low=0.0)
        self._idling(seconds, chosen, cutoff, min(fixed, default=0.0))
        self._row([(at, value) for at, value in enumerate(self.goal) if value], high=cutoff)

    def form(self, x: np.ndarray) -> Form:
        """The form that a solution is; the shards between in an order whose hops are least."""
        own = {FIRST: list[Column](), INNER: list[Column](), LAST: list[Column]()}
        for at, column in zip(self._chosen, self._columns, strict=True):
            own[column.place] += [column] * round(x[at])
        first, last = own[FIRST][0], own[LAST][0]
        inner = sorted(own[INNER], key=lambda column: column.cost.hop)
        orders = (
            [inner, inner[::-1]]
            + [[*inner[:split][::-1], *inner[split:]] for split in range(1, len(inner))]
            + [[*inner[split:][::-1], *inner[:split]] for split in range(1, len(inner))]
        )
        best = min(
            orders,
            key=lambda order: sum(
                max(a.cost.hop, b.cost.hop) for a, b in itertools.pairwise([first, *order, last])
            ),
        )
        shards = [first, *best, last]
        return Form(tuple(c.layers for c in shards), tuple(c.counts for c in shards))

    def _hops(self, chosen: Sequence[int], used: Sequence[int]) -> list[tuple[int, float]]:
        """Terms of the seconds row: twice each boundary's slower side, in the best order of the shards.

        A boundary is as slow as the slower of its two shards. Shards at least as slow as a level stand
        together at an end of the chain if an end is among them; so m of them touch m boundaries, one more if
        no end is, one less if all shards are.
        """
        columns = self._columns
        levels = sorted({column.cost.hop for column in columns})
        terms = [(at, -2.0 * levels[0]) for at in chosen] if levels[0] else []
        if levels[0]:
            one = self._variable(0.0, 0, 1.0)
            self._row([(one, 1.0)], low=1.0)
            terms.append((one, 2.0 * levels[0]))
        for below, level in itertools.pairwise(levels):
            touched = self._variable(0.0)
            slow = [(at, -1.0) for at, c in zip(chosen, columns, strict=True) if c.cost.hop >= level]
            ends = [
                (at, 1.0)
                for at, c in zip(chosen, columns, strict=True)
                if c.cost.hop >= level and c.place != INNER
            ]
            other, some = self._variable(0.0, 1, 1.0), self._variable(0.0, 1, 1.0)
            for flag, column in zip(used, columns, strict=True):
                self._row([(some if column.cost.hop >= level else other, 1.0), (flag, -1.0)], low=0.0)
            self._row([(touched, 1.0), (other, -1.0), *slow], low=-1.0)
            self._row([(touched, 1.0), (some, -1.0), *_joined(slow, ends)], low=0.0)
            terms.append((touched, -2.0 * (level - below)))
        return terms

    def _idling(self, seconds: int, chosen: Sequence[int], cutoff: float, least: float) -> None:
        """Goal terms for seconds x idling devices, by the digits of how many there are of each kind."""
        problem, aim = self._problem, self._problem.aim
        each = []
        for rates in problem.kinds:
            grams = rates.idle * rates.grams + (0.0 if aim.marginal else rates.made)
            each.append(rates.availability * (aim.energy * rates.idle + aim.carbon * grams))
        if not any(each):
            return
        work = least * len(problem.counts) * problem.job.layers if least < 0 else 0.0
        costs = [column.cost for column in self._columns]
        longest = problem.job.layers * max(cost.fill + 2 * cost.hop for cost in costs)
        longest += max(cost.busiest for cost in costs) + max(cost.cell for cost in costs)
        if aim.time + min(each):  # what is better than the cutoff is no longer than this, either
            longest = min(longest, (cutoff - work) / (aim.time + 2 * min(each)))
        for kind, price in enumerate(each):
            digits = []
            for digit in range(max(1, problem.counts[kind].bit_length())):
                bit = self._variable(0.0, 1, 1.0)
                both = self._variable(price * 2**digit)
                # both >= seconds where the digit is 1; it is made small, so no more is needed.
                self._row([(both, 1.0), (seconds, -1.0), (bit, -longest)], low=-longest)
                digits.append((bit, float(2**digit)))
            taken = [
                (at, -float(column.counts[kind]))
                for at, column in zip(chosen, self._columns, strict=True)
                if column.counts[kind]
            ]
            self._row([*digits, *taken], low=0.0, high=0.0)
        self._row([(seconds, 1.0)], high=longest)

    def _most_of(self, column: Column) -> float:
        """How often a column can be in a plan."""
        if column.place != INNER:
            return 1.0
        times = self._problem.job.layers // column.layers
        for own, there in zip(column.counts, self._problem.counts, strict=True):
            times = min(times, there // own) if own else times
        return float(times)

    def _variable(self, price: float, whole: int = 0, most: float = math.inf) -> int:
        self.goal.append(price)
        self.whole.append(whole)
        self.most.append(most)
        self.size += 1
        return self.size - 1

    def _row(
        self, terms: Sequence[tuple[int, float]], low: float = -math.inf, high: float = math.inf
    ) -> None:
        self.entries += [(len(self.lows), at, value) for at, value in terms]
        self.lows.append(low)
        self.highs.append(high)


def _joined(*parts: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Sums of terms by variable: a sparse matrix adds doubles, a reader need not know."""
    found: dict[int, float] = {}
    for at, value in itertools.chain(*parts):
        found[at] = found.get(at, 0.0) + value
    return list(found.items())
