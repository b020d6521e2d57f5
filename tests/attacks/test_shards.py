"""Two shards of four peers, of which one lies: the checks ban it, and nobody else."""

from collections.abc import Sequence

import pytest

from proto.canonical import PeerID
from secagg.messages import Evidence
from secagg.ring import BLOCK
from swarm.attacked import AttackedSwarm
from swarm.attacks import ATTACKS, CHAIN_ATTACKS, Attack, Unclaimed, attack_named
from swarm.effects import Recompute
from swarm.testing import virtual_manifest
from verify.chains import Confirmation
from verify.opened import SENT_TOLERANCE
from verify.record import colluders

PEERS, SHARDS, ROUNDS = 8, 2, 12
FIRST, LAST = 0, 1
"""Shards."""
EXTRA = {
    "one_chunk": "chunk_fraction = 0.5",
    "silent": "strikes = 1",
    "blame_neighbour": "strikes = 1",
}
WHERE = {"wrong_activations": FIRST, "wrong_gradients": LAST, "two_lists": FIRST}
"""The shard whose member can do it."""
REASONS = {
    "wrong_activations": "boundary",
    "wrong_gradients": "boundary",
    "two_lists": "two boundary lists",
    "blame_neighbour": "silence",
    "unclaimed": "boundary",
    "label_flip": "boundary",
    "sign_flip": "update",
    "hidden_slice": "slices",
    "lying_owner": "sum",
    "lazy_checker": "contradicted checks",
}
MASKED = {"fake_pair_key"}
UNSEEN = {"drift"}


def swarm_of(extra: str = "", mode: str = "plain", rounds: int = ROUNDS) -> AttackedSwarm:
    lines = f"rate = 1.0\n{extra}"
    manifest = virtual_manifest(rounds, mode, min_peers=PEERS, model=f"shards = {SHARDS}", verification=lines)
    return AttackedSwarm(PEERS, rounds, manifest=manifest, size=BLOCK)


def lie(swarm: AttackedSwarm, kind: type[Attack], shard: int) -> PeerID:
    """One member of a shard attacks from now on."""
    history = swarm.machine(sorted(swarm.peers)[0]).history
    liar = history.cell(shard)[-1]
    swarm.attackers[liar] = kind(swarm.world(liar, frozenset()))
    return liar


def run(swarm: AttackedSwarm, liars: Sequence[PeerID]) -> None:
    def over() -> bool:
        ended = any(swarm.peers[peer].final for peer in swarm.honest)
        return bool(liars and set(liars) <= set(swarm.bans())) or ended

    swarm.run(2_000.0, over)


@pytest.mark.parametrize("name", [*CHAIN_ATTACKS, *sorted(set(ATTACKS) - MASKED - UNSEEN)])
def test_the_liar_is_banned_and_nobody_else(name: str) -> None:
    swarm = swarm_of(EXTRA.get(name, ""))
    liar = lie(swarm, attack_named(name), WHERE.get(name, LAST))
    run(swarm, [liar])
    bans = swarm.bans()
    assert list(bans) == [liar]
    assert bans[liar].reason == REASONS.get(name, bans[liar].reason)


@pytest.mark.parametrize("name", ["unclaimed", "fake_pair_key"])
def test_it_is_banned_where_sums_are_masked_too(name: str) -> None:
    swarm = swarm_of(mode="secure")
    liar = lie(swarm, attack_named(name), FIRST)
    run(swarm, [liar])
    assert list(swarm.bans()) == [liar]


@pytest.mark.parametrize("shard", [FIRST, LAST])
def test_honest_chain_members_are_found_clean(shard: int) -> None:
    swarm = swarm_of(rounds=4)
    asked: list[Recompute] = []
    cell = swarm.machine(sorted(swarm.peers)[0]).history.cell(shard)

    def look(me: PeerID, effect: object) -> None:
        if isinstance(effect, Recompute) and effect.order.shard == shard:
            assert me in cell, "who looks holds the same shard"
            asked.append(effect)

    swarm.on_effect = look
    swarm.run(2_000.0)
    for peer in swarm.peers:
        conduct = swarm.machine(peer).history.conduct
        assert not {**conduct.bans, **conduct.strikes, **conduct.judged}
        assert not swarm.machine(peer).evidence
    assert len(asked) >= 4 * len(cell) - len(cell)
    assert all(swarm.machine(peer).history.conduct.passed[one] for peer in cell for one in cell)


def test_what_chains_pass_on_wrongly_is_judged_by_those_who_hold_the_same_shard() -> None:
    swarm = swarm_of()
    liar = lie(swarm, attack_named("wrong_activations"), FIRST)
    history = swarm.machine(liar).history
    judges: set[PeerID] = set()

    def look(me: PeerID, effect: object) -> None:
        if isinstance(effect, Recompute) and effect.tensors is not None:
            single = len({at for _, _, at in effect.tensors}) == 1
            judges.update([me] if single else [])

    swarm.on_effect = look
    run(swarm, [liar])
    others = set(history.cell(FIRST)) - {liar}
    assert judges <= others
    assert len(judges) >= colluders(len(history.cell(FIRST))) + 1


def test_a_tensor_within_the_tolerance_convicts_nobody() -> None:
    class Shaky(Attack):
        def tensor(self, way, made):  # type: ignore[no-untyped-def]
            return made * (1 + 0.5 * SENT_TOLERANCE)

    swarm = swarm_of(rounds=3)
    lie(swarm, Shaky, FIRST)
    swarm.run(2_000.0)
    assert not swarm.bans()


def test_who_confirms_what_it_has_not_done_is_caught_by_what_it_committed_to() -> None:
    """Weights come from certificates, so a stage that confirms a slice must commit to that slice."""

    class Confirms(Unclaimed):
        """Passes on what is true, and commits to nothing of it."""

        def tensor(self, way, made):  # type: ignore[no-untyped-def]
            return made

    swarm = swarm_of()
    liar = lie(swarm, Confirms, FIRST)
    run(swarm, [liar])
    assert {peer: ban.reason for peer, ban in swarm.bans().items()} == {liar: "update"}


def test_a_leader_that_closes_a_chain_in_two_ways_is_banned_on_its_two_confirmations() -> None:
    swarm = swarm_of()
    history = swarm.machine(sorted(swarm.peers)[0]).history
    liar = history.cell(FIRST)[0]
    world = swarm.world(liar, frozenset())
    kept = {"run": history.run, "round": 1, "attempt": 0, "chain": 0, "shard": 0, "after": ()}
    two = tuple(world.sign(Confirmation.model_validate(kept | {"slices": slices})) for slices in (2, 3))
    finder = swarm.machine(history.cell(LAST)[0])
    finder.evidence.append(Evidence("two confirmations", liar, two))
    swarm.attackers[liar] = Attack(world)
    run(swarm, [liar])
    assert {peer: ban.reason for peer, ban in swarm.bans().items()} == {liar: "two confirmations"}
