"""Every attack against a swarm that checks, and against plain averaging that does not.

A quarter of the peers of a virtual swarm lie, and cover for one another when they check; all train a
byte-level OPT on this repository's documentation, under masks. A row of the table is an attack and a data
mode: the record that banned the last liar, within how many records the odds say that happens in 99 of 100
runs, the held-out loss some rounds after the ban over that of a run without liars in the same round, and what
the same liars do to an average that nobody checks. `missed`: an attack that changes updates or breaks the
protocol, and outlasts the 99 % twice, with other draws.

What no check can see is shown beside: `drift` stays inside the tolerance, and text of one's own may be
poisoned before it is committed to.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.byte_model import CHUNK, VOCABULARY, byte_manifest, text
from benchmarks.report import Report, Row, command_line, progress
from benchmarks.trained_swarm import Shop, TrainedSwarm
from proto.canonical import tagged_hash
from swarm.attacks import ATTACKS, CHANGES, Attack, LazyChecker, SignFlip, World
from swarm.manifest import Manifest
from swarm.order import Order
from verify.lottery import chunks_to_open
from verify.record import colluders

GOALS = {"missed": ("==", 0.0), "honest_banned": ("==", 0.0), "loss_after_ban_gap": ("<=", 0.02)}
RATE = 0.5
LAG = 2
"""Records from a caught lie to the ban: checks run beside the next round, its record has the judgements."""
RECOVER = 20
"""Rounds after the last ban, before the loss is taken; as many again where it is not yet what it must be."""
UNSEEN_ROUNDS = 40
"""Rounds of a run in which no check sees anything."""
QUICK = ("sign_flip", "scale", "zeros", "hidden_slice")
MODES = ("shared", "own")
SILENT_TO_ALL = ("own", "label_flip"), ("own", "backdoor")
"""What no check sees: the poison is in what was committed to."""
UNSEEN = ("drift",)
BROKEN = ("equivocate", "fake_pair_key", "false_accusation")
"""Caught by everyone who hears of it, not by a drawn checker."""


class Colluders(SignFlip, LazyChecker):
    """Workers that flip the sign, and as checkers find everybody clean without looking."""


KINDS: dict[str, type[Attack]] = {**ATTACKS, "sign_flip+lazy": Colluders}


@dataclass(frozen=True)
class Outcome:
    """One row. `banned`: the record that banned the last liar, None if one is left; losses in nats a byte."""

    name: str
    mode: str
    peers: int
    banned: int | None
    reason: str
    predicted: int | None
    honest_banned: int
    loss: float
    clean: float
    averaged: float | None

    @property
    def gap(self) -> float:
        """Loss over that of the run without liars."""
        return self.loss / self.clean - 1

    @property
    def counted(self) -> bool:
        """Whether a check can see it."""
        return self.predicted is not None

    @property
    def late(self) -> bool:
        return self.predicted is not None and (self.banned is None or self.banned > self.predicted)


def measure(quick: bool) -> Report:
    """All rows; `quick`: a few attacks with 8 peers."""
    torch.set_num_threads(1)
    plan = [(8, mode, name) for mode in MODES for name in (QUICK[:2] if mode == "own" else QUICK)]
    if not quick:
        plan = [(8, mode, name) for mode in MODES for name in KINDS]
        plan += [
            (16, "shared", name) for name in (*QUICK, "alie", "mimic", "one_chunk", "lying_owner", "silent")
        ]
    rounds = 20 if quick else 100
    cleans: dict[tuple[int, str], list[float]] = {}
    outcomes: list[Outcome] = []
    for peers, mode, name in plan:
        key = peers, mode
        if key not in cleans:
            progress(f"attacks: {peers} peers, {mode} data, nobody lies")
            cleans[key] = honest_losses(peers, byte_manifest(rounds, RATE, mode))
        progress(f"attacks: {peers} peers, {mode} data, {name}")
        found = attacked(name, peers, byte_manifest(rounds, RATE, mode), cleans[key], quick)
        if found.late:
            again = attacked(name, peers, byte_manifest(rounds, RATE, mode), cleans[key], quick, seed=1)
            progress(
                f"  banned at {found.banned}, predicted {found.predicted}; with other draws: {again.banned}"
            )
            found = (
                found
                if again.late
                else replace(again, honest_banned=found.honest_banned + again.honest_banned)
            )
        outcomes.append(found)
        progress(f"  {found}")
    show_table(outcomes)
    seen = [one for one in outcomes if one.counted]
    figures = {
        "missed": float(sum(one.late for one in seen)),
        "honest_banned": float(sum(one.honest_banned for one in outcomes)),
        "loss_after_ban_gap": max(one.gap for one in seen if one.banned is not None),
        "rows": float(len(outcomes)),
    }
    figures |= {f"unseen_gap_{one.name}_{one.mode}": one.gap for one in outcomes if not one.counted}
    if not quick:
        figures |= drift_figures(byte_manifest(rounds, RATE), UNSEEN_ROUNDS)
    return Report("attacks", figures, GOALS, tuple(rows_of(outcomes)), notes())


# -- a swarm that checks ----------------------------------------------------------------------------


def honest_losses(peers: int, manifest: Manifest) -> list[float]:
    """Held-out loss after each round of a run in which nobody lies."""
    swarm = TrainedSwarm(peers, manifest)
    swarm.run()
    assert not swarm.bans(), "somebody honest is banned in a run without liars"
    return swarm.losses(range(len(swarm.path)))


def attacked(
    name: str, peers: int, manifest: Manifest, clean: Sequence[float], quick: bool, seed: int = 0
) -> Outcome:
    """A run with a quarter of liars, until the loss has had time to recover from them."""
    swarm, kind = TrainedSwarm(peers, manifest, seed), KINDS[name]
    liars = swarm.attack(kind, peers // 4)
    within = predicted(name, manifest, peers, len(swarm.shop.layout.counts))
    recover = 8 if quick else RECOVER
    ends = [min(UNSEEN_ROUNDS, manifest.run.rounds)] if within is None else list[int]()

    def over() -> bool:
        done = len(swarm.path) - 1
        if not ends and set(liars) <= set(swarm.bans()):
            ends.append(done + recover)
        if done >= manifest.run.rounds:
            return True
        if not ends or done < ends[-1]:
            return False
        healed = swarm.losses([done])[0] <= clean[done] * (1 + GOALS["loss_after_ban_gap"][1])
        if not healed and len(ends) == 1 and within is not None:
            ends.append(done + recover)
            return False
        return True

    swarm.run(until=over)
    done, bans = len(swarm.path) - 1, swarm.bans()
    banned = [bans[liar] for liar in liars if liar in bans]
    loss = swarm.losses([done])[0]
    return Outcome(
        name,
        manifest.data.mode,
        peers,
        max(ban.round for ban in banned) if len(banned) == len(liars) else None,
        banned[0].reason if banned else "",
        within,
        len(set(bans) - set(liars)),
        loss,
        clean[done],
        averaged(name, peers, manifest, done).loss if name in (*CHANGES, "lying_owner") else None,
    )


# -- the odds ---------------------------------------------------------------------------------------


def predicted(name: str, manifest: Manifest, peers: int, chunks: int) -> int | None:
    """Records within which all liars are banned in 99 of 100 runs; None for what no check sees."""
    if name in UNSEEN or (manifest.data.mode, name) in SILENT_TO_ALL:
        return None
    liars, rate = peers // 4, manifest.verification.rate
    if name in BROKEN:
        return 1 + LAG
    looked = rate * (peers - liars) / (peers - 1)  # drawn, and the checker is no friend
    if name == "silent":
        return by_word_within(peers, liars, looked, manifest.verification.strikes) + LAG
    if name == "lazy_checker":  # looks first or second at what an honest one looks at too
        return by_word_within(peers, liars, 2 * rate * rate * looked, 1) + LAG
    slices = manifest.work.slices
    share = {"skip": (slices - 1) / slices, "one_chunk": chunks_to_open(chunks, 0.02) / chunks}
    honest_first = {"stale": 1, "delayed": 1, "alie": 1}
    return quantile(looked * share.get(name, 1.0), liars) + LAG + honest_first.get(name, 0)


def quantile(chance: float, liars: int) -> int:
    """Rounds within which each of so many liars is caught, in 99 of 100 runs; `chance` a round and liar."""
    if chance >= 1:
        return 1
    return math.ceil(math.log(1 - 0.99 ** (1 / liars)) / math.log(1 - chance))


def by_word_within(peers: int, liars: int, looked: float, strikes: int) -> int:
    """The same where it takes the word of enough distinct honest checkers, so many times over."""
    chance, enough, ends = random.Random(1), max(2, colluders(peers) + 1), list[int]()
    for _ in range(4_000):
        worst = 0
        for _ in range(liars):
            complained, struck, round_ = set[int](), 0, 0
            while struck < strikes:
                round_ += 1
                if chance.random() < looked:
                    complained.add(chance.randrange(peers - liars))
                if len(complained) >= enough:
                    struck, complained = struck + 1, set()
            worst = max(worst, round_)
        ends.append(worst)
    return sorted(ends)[int(0.99 * len(ends))]


# -- plain averaging --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Averaged:
    """What came of averaging: parameters [size], and held-out loss."""

    params: np.ndarray
    loss: float


def averaged(name: str, peers: int, manifest: Manifest, rounds: int, bounded: bool = False) -> Averaged:
    """The same training for so many rounds, without masks or checks; without bounds and clipping too, where
    it is not `bounded`. `name`: the attack of a quarter of the peers, or "nobody"."""
    clip = manifest.outer.clip if bounded else 1e6
    free = manifest.model_copy(update={"outer": manifest.outer.model_copy(update={"clip": clip})})
    shop = Shop.of(free)
    names = [f"peer {place:02d}" for place in range(peers)]
    orders: dict[str, Order] = {}
    attacks: dict[str, Attack] = {}
    for liar in names[-(peers // 4) :] if name in KINDS else ():
        attacks[liar] = KINDS[name](free_world(shop, liar, names, orders, bounded))
    chance, (sequences, _) = np.random.default_rng(5), text()
    state, work = shop.first, manifest.work
    for round_ in range(rounds):
        for peer in names:
            drawn = chance.integers(0, len(sequences), (work.slices, work.sequences_per_slice))
            slices = tuple(tuple(int(index) for index in one) for one in drawn)
            seed = tagged_hash("rounding", peer.encode(), round_.to_bytes(8, "big"))
            orders[peer] = Order(bytes(32), round_ + 1, 0, 0, state.hash, slices, seed)
        total = np.zeros(shop.layout.size, np.int64)
        for peer in names:
            total += _update(shop, orders[peer], attacks.get(peer), sequences)
        if name == "lying_owner":
            total[-(len(total) // 4) :] *= -1  # the parts of a quarter of the owners
        following = shop.step(state.hash, total, peers * work.slices)
        state = shop.states[following]
        shop.states = {following: state}
    return Averaged(state.params, shop.loss(state.hash))


def drift_figures(manifest: Manifest, rounds: int) -> dict[str, float]:
    """How far the drift that no check sees moves a model, over how far the model went; and its loss."""
    start = Shop.of(manifest).first.params
    clean = averaged("nobody", 8, manifest, rounds, bounded=True)
    bent = averaged("drift", 8, manifest, rounds, bounded=True)
    way = float(np.linalg.norm(clean.params - start))
    return {
        "drift_moved": float(np.linalg.norm(bent.params - clean.params)) / way,
        "drift_gap": bent.loss / clean.loss - 1,
    }


def _update(shop: Shop, order: Order, attack: Attack | None, sequences: np.ndarray) -> np.ndarray:
    computed = order if attack is None else attack.order(order)
    total = np.zeros(shop.layout.size, np.int64)
    for index, chosen in enumerate(computed.slices):
        rows = sequences[list(chosen)]
        one = shop.slice(computed, index, rows if attack is None else attack.text(rows))
        total += one if attack is None else attack.slice(one.astype(np.int64), index)
    return total if attack is None else attack.sent(total, len(computed.slices))


def free_world(shop: Shop, me: str, names: Sequence[str], orders: dict[str, Order], bounded: bool) -> World:
    """What an attacker knows where nothing is tested, or where bounds alone are."""
    manifest = shop.manifest
    bound = manifest.ring.bound(manifest.aggregation.sanity_rms) if bounded else math.inf
    return World(
        me=me,
        dtype=np.dtype(np.int64),
        levels=shop.manifest.ring.levels,
        bound=bound,
        counts=shop.layout.counts,
        chunk=CHUNK,
        vocabulary=VOCABULARY,
        tolerance=shop.manifest.verification.tolerance,
        sign=lambda message: b"",
        members=lambda: names,
        order_of=orders.__getitem__,
    )


# -- what is shown ----------------------------------------------------------------------------------


def show_table(outcomes: Sequence[Outcome]) -> None:
    """The matrix, in 80 columns."""
    table = Table(title="attacks: a quarter of the peers lie", title_justify="left", expand=True)
    for title in ("attack", "data", "peers", "banned", "99 %", "for", "loss", "gap", "no checks"):
        table.add_column(title, justify="left" if title in ("attack", "data", "for") else "right")
    for one in outcomes:
        banned = "never" if one.banned is None else str(one.banned)
        within = "unseen" if one.predicted is None else str(one.predicted)
        plain = "" if one.averaged is None else f"{one.averaged:.2f}"
        table.add_row(
            one.name,
            one.mode,
            str(one.peers),
            banned,
            within,
            one.reason,
            f"{one.loss:.3f}",
            f"{one.gap:+.3f}",
            plain,
        )
    Console(width=100, highlight=False).print(table)


def rows_of(outcomes: Sequence[Outcome]) -> list[Row]:
    """For the JSON: a row for each number."""
    rows = []
    for one in outcomes:
        where = f"{one.name} {one.mode} {one.peers}"
        if one.banned is not None:
            rows.append(Row(f"{where}: banned", "record", (float(one.banned),)))
        if one.predicted is not None:
            rows.append(Row(f"{where}: predicted", "record", (float(one.predicted),)))
        rows.append(Row(f"{where}: loss gap", "", (one.gap,)))
        if one.averaged is not None:
            rows.append(Row(f"{where}: unchecked loss", "nats", (one.averaged,)))
    return rows


def notes() -> tuple[str, ...]:
    """What the numbers are."""
    return (
        f"A peer is checked with the chance {RATE} a round. 99 %: the records within which the odds have all "
        f"liars banned, {LAG} of them for the way from a check to a record; liars do not accuse each other.",
        "banned: the record that bans the last liar. gap: held-out loss over that of a run without liars, "
        f"same round, {RECOVER} rounds after the ban (quick: 8), or twice that where it takes longer.",
        "no checks: held-out loss after as many rounds of plain averaging.",
        "unseen: no check can see it; it is in no figure but its own.",
    )


def main() -> None:
    """`python -m benchmarks.attacks`."""
    command_line("attacks", measure, __doc__ or "")


if __name__ == "__main__":
    main()
