"""Newcomers on the virtual swarm: who did its trial gets in, who did not never does."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from proto.canonical import PeerID
from swarm.order import Order
from swarm.testing import VirtualSwarm, virtual_manifest
from verify.identity import Identity
from verify.sketch import WIDTH
from verify.standing import Verdict
from verify.statement import domain_of, open_signed, sign

NEW = Identity.from_seed(bytes([200]) * 32)
Sketches = tuple[tuple[int, ...], ...]


class Swarm(VirtualSwarm):
    """A swarm with probation; `lies` says what a newcomer sends in place of its sketches."""

    def __init__(self, peers: int, rounds: int, checks: int = 3, **tables: Any) -> None:
        self.lies: Callable[[Sketches], Sketches] = lambda true: true
        self.computed: list[tuple[PeerID, Order]] = []
        super().__init__(peers, rounds, manifest=virtual_manifest(rounds, probation=checks, **tables))

    def trial(self, me: PeerID, order: Order) -> Sketches:
        return self.lies(super().trial(me, order))

    def recompute(self, me: PeerID, order: Order, index: int) -> np.ndarray | None:
        if order.trial:
            self.computed.append((me, order))
        return super().recompute(me, order, index)

    def let_in(self, shard: int = 0) -> bool:
        """Whether every old peer has the newcomer in its roster at the end."""
        self.at(6.0, lambda: self.join(NEW, shard))
        old = list(self.peers)
        self.run(seconds=2_000, until=lambda: all(self.peers[peer].final for peer in old))
        self.run(seconds=30.0)  # the newcomer may be a step behind
        inside = {NEW.peer_id in self.machine(peer).history.roster for peer in old}
        assert len(inside) == 1
        return inside.pop()


@pytest.mark.parametrize(("peers", "checks"), [(4, 3), (8, 1)])
@pytest.mark.parametrize("mode", ["shared", "own"])
def test_a_newcomer_trains_is_checked_and_then_is_a_member(peers: int, checks: int, mode: str) -> None:
    swarm = Swarm(peers, 14, checks, data=f'mode = "{mode}"')
    assert swarm.let_in()
    assert swarm.peers[NEW.peer_id].final == swarm.peers[next(iter(swarm.peers))].final
    assert len(swarm.computed) == max(checks, peers // 4 + 1)
    assert all(me != NEW.peer_id for me, _ in swarm.computed)


@pytest.mark.parametrize("shard", [0, 1])
def test_those_who_hold_a_shard_look_at_its_trials(shard: int) -> None:
    swarm = in_shards(14)
    assert swarm.let_in(shard)
    history = swarm.machine(next(iter(swarm.peers))).history
    assert history.shard_of(NEW.peer_id) == shard
    assert len(swarm.computed) == 3
    assert {order.shard for _, order in swarm.computed} == {shard}
    assert {me for me, _ in swarm.computed} <= set(history.cell(shard)) - {NEW.peer_id}


@pytest.mark.parametrize("shard", [0, 1])
def test_who_does_no_trial_gets_into_no_shard(shard: int) -> None:
    swarm = in_shards(16)
    swarm.lies = lambda true: ((0,) * WIDTH,) * len(true)
    assert not swarm.let_in(shard)
    assert len({order.round for _, order in swarm.computed}) > 1


def in_shards(rounds: int) -> Swarm:
    """Two shards of three peers."""
    return Swarm(6, rounds, mode="plain", min_peers=6, model="shards = 2")


def test_until_then_it_is_no_member_owner_or_voter() -> None:
    swarm = Swarm(4, 14)
    assert swarm.let_in()
    first = min(order.round for _, order in swarm.computed)
    history = swarm.machine(next(iter(swarm.peers))).history
    assert history.changed[NEW.peer_id] > first + 2


@pytest.mark.parametrize(
    "lie",
    [
        lambda true: ((0,) * WIDTH,) * len(true),
        lambda true: tuple(tuple(-one for one in each) for each in true),
    ],
    ids=["zeros", "sign"],
)
def test_a_sybil_that_did_not_do_its_work_is_never_let_in(lie: Callable[[Sketches], Sketches]) -> None:
    swarm = Swarm(4, 16)
    swarm.lies = lie
    assert not swarm.let_in()
    assert len({order.round for _, order in swarm.computed}) > 1  # it tried again


def test_half_a_trial_counts_for_half() -> None:
    swarm = Swarm(4, 20)
    swarm.lies = lambda true: (true[0], *((1,) * WIDTH for _ in true[1:]))
    assert swarm.let_in()
    assert len({order.round for _, order in swarm.computed}) >= 3


def test_a_friend_inside_that_says_clean_lets_no_sybil_in_alone() -> None:
    swarm = Swarm(4, 20, 1)
    swarm.lies = lambda true: ((0,) * WIDTH,) * len(true)
    friend = sorted(swarm.peers)[0]

    def vouch(sender: PeerID, to: PeerID, raw: bytes) -> list[tuple[float, bytes]]:
        if sender == friend and domain_of(raw) == Verdict.DOMAIN:
            said = open_signed(raw, Verdict).message
            vouched = said.model_copy(update={"outcome": "clean", "sketch": said.sketch or (0,) * WIDTH})
            return [(0.0, sign(swarm.peers[friend].identity, vouched))]
        return [(0.0, raw)]

    swarm.filter = vouch
    assert not swarm.let_in()
    passed = swarm.machine(friend).history.probation.passed
    assert {one.checker for one in passed[NEW.peer_id].values()} == {friend}


def test_a_crowd_of_sybils_costs_the_swarm_one_trial_a_round_and_keeps_nobody_out() -> None:
    swarm = Swarm(4, 40)
    for number in range(6):
        sybil = Identity.from_seed(bytes([100 + number]) * 32)
        swarm.at(5.0, lambda sybil=sybil: swarm.join(sybil))  # type: ignore[misc]
    honest = super(Swarm, swarm).trial

    def trial(me: PeerID, order: Order) -> Sketches:
        true = honest(me, order)
        return true if me == NEW.peer_id else ((0,) * WIDTH,) * len(true)

    swarm.trial = trial  # type: ignore[method-assign]
    assert swarm.let_in()
    rounds = swarm.machine(sorted(swarm.peers)[0]).history.round
    assert len(swarm.computed) <= 3 * rounds


def test_a_trial_shows_nothing_of_anybodys_text() -> None:
    """It is drawn from the beacon alone: two newcomers with other data are asked for text of one kind."""
    swarm = Swarm(4, 8, data='mode = "own"')
    swarm.let_in()
    assert swarm.computed
    for _, order in swarm.computed:
        assert order.trial
        assert set(order.slices) == {tuple(range(len(order.slices[0])))}
