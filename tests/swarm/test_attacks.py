"""Attackers do what their names say, within the public bounds; the checks ban them, and nobody else."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from proto.canonical import PeerID
from secagg.ring import BLOCK, Ring, check_sum
from swarm.attacked import AttackedSwarm, attacked_manifest
from swarm.attacks import ATTACKS, CHANGES, Attack, LazyChecker, SignFlip, UnknownAttack, World, attack_named
from swarm.order import Order
from verify.check import ACCUSE
from verify.commitment import distance
from verify.identity import Identity
from verify.statement import sign

RING = Ring.for_cell(16, 16, 4)
BOUND = RING.bound(4.0)
COUNTS = np.array([BLOCK, BLOCK, 300, 0], np.int32)
CONTRACT = [
    name
    for line in (
        "sign_flip scale alie ipm mimic zeros stale label_flip backdoor wrong_data other_sequences",
        "hidden_slice one_chunk skip constant delayed drift lying_owner fake_pair_key equivocate",
        "silent lazy_checker false_accusation",
    )
    for name in line.split(" ")
]
ME = Identity.from_seed(bytes(32))
FRIEND = Identity.from_seed(bytes([1]) * 32).peer_id
ORDER = Order(bytes(32), 1, 0, 0, bytes(32), ((5, 6), (7, 8)), bytes([1]) * 32)
THEIRS = replace(ORDER, slices=((1, 2), (3, 4)), seed=bytes([2]) * 32)


def world() -> World:
    return World(
        me=ME.peer_id,
        dtype=RING.dtype,
        levels=RING.levels,
        bound=BOUND,
        counts=COUNTS,
        chunk=BLOCK,
        vocabulary=256,
        tolerance=5e-3,
        sign=lambda message: sign(ME, message),
        members=lambda: [ME.peer_id, FRIEND],
        order_of=lambda peer: THEIRS if peer == FRIEND else ORDER,
    )


def honest_slices(seed: int = 1) -> list[np.ndarray]:
    """Slices as training gives them: zero where nothing is trained."""
    chance, trained = np.random.default_rng(seed), (np.arange(BLOCK) < COUNTS[:, None]).reshape(-1)
    return [np.rint(chance.normal(2, 16, COUNTS.size * BLOCK) * trained).astype(RING.dtype) for _ in range(4)]


def done_by(attack: Attack, slices: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """What an attacker makes of one order: what it commits to, and what it sends."""
    committed = [attack.slice(one, index) for index, one in enumerate(slices)]
    return committed, attack.sent(np.sum(committed, axis=0, dtype=RING.dtype), len(slices))


def test_every_attack_of_the_contract_is_there_in_its_order() -> None:
    assert list(ATTACKS) == CONTRACT


def test_an_unknown_attack_is_refused_with_the_list() -> None:
    with pytest.raises(UnknownAttack, match=r"'fly'.*sign_flip, scale, .*false_accusation"):
        attack_named("fly")


@pytest.mark.parametrize("name", CHANGES)
def test_an_attacker_passes_the_sanity_tests_beside_honest_peers(name: str) -> None:
    """Else the first sum would give it away: 3 honest peers and the liar, order after order."""
    attack = ATTACKS[name](world())
    for seed in range(4):
        slices = honest_slices(seed)
        committed, sent = done_by(attack, slices)
        for one in committed:
            assert not len(check_sum(one, 1, COUNTS, RING, 4.0))
        total = sent + 3 * np.sum(slices, axis=0, dtype=RING.dtype)
        assert not len(check_sum(total, 16, COUNTS, RING, 4.0))
        assert sent.dtype == RING.dtype


ON_OTHER_TEXT = {"mimic", "other_sequences", "label_flip", "backdoor", "wrong_data"}


@pytest.mark.parametrize("name", sorted(set(CHANGES) - ON_OTHER_TEXT))
def test_an_attack_leaves_the_tolerance_in_what_it_commits_to_or_sends_unless_it_is_drift(name: str) -> None:
    attack, committed_to, sent_besides = ATTACKS[name](world()), 0.0, 0.0
    for seed in range(3):
        slices = honest_slices(seed)
        committed, sent = done_by(attack, slices)
        far = [farthest(mine, theirs) for mine, theirs in zip(slices, committed, strict=True)]
        committed_to = max([committed_to, *far])
        sent_besides = max(sent_besides, farthest(np.sum(committed, axis=0, dtype=RING.dtype), sent))
    if name == "drift":
        assert world().tolerance < committed_to < ACCUSE * world().tolerance
        assert sent_besides == 0
    else:
        assert max(committed_to, sent_besides) > 10 * world().tolerance


def farthest(mine: np.ndarray, theirs: np.ndarray) -> float:
    return max(distance(mine[at : at + BLOCK], theirs[at : at + BLOCK]) for at in range(0, len(mine), BLOCK))


@pytest.mark.parametrize("name", ["hidden_slice", "one_chunk"])
def test_what_is_sent_besides_is_not_committed_to(name: str) -> None:
    slices = honest_slices()
    committed, sent = done_by(ATTACKS[name](world()), slices)
    assert all(np.array_equal(one, mine) for one, mine in zip(committed, slices, strict=True))
    differing = np.flatnonzero(
        (sent != np.sum(slices, axis=0, dtype=RING.dtype)).reshape(-1, BLOCK).any(axis=1)
    )
    assert differing.tolist() == ([1] if name == "one_chunk" else [0, 1, 2])


def test_free_riders_send_what_they_have() -> None:
    first, second, third, fourth = ([np.full_like(one, n) for one in honest_slices()] for n in (1, 2, 3, 4))
    stale, delayed = ATTACKS["stale"](world()), ATTACKS["delayed"](world())
    seen = [
        (done_by(stale, one)[0][0][0], done_by(delayed, one)[0][0][0])
        for one in (first, second, third, fourth)
    ]
    assert seen == [(1, 1), (1, 1), (1, 1), (1, 2)]
    skipped, _ = done_by(ATTACKS["skip"](world()), honest_slices())
    assert all(np.array_equal(one, skipped[0]) for one in skipped)


def test_orders_and_text_are_bent_under_the_drawn_rounding_seed() -> None:
    assert ATTACKS["mimic"](world()).order(ORDER) == replace(THEIRS, seed=ORDER.seed)
    assert ATTACKS["other_sequences"](world()).order(ORDER).slices == ((0, 1), (0, 1))
    rows = np.arange(32, dtype=np.int32).reshape(2, 16)
    assert (ATTACKS["label_flip"](world()).text(rows) == 255 - rows).all()
    bent = ATTACKS["backdoor"](world()).text(rows)
    assert (bent[:, :8] == rows[:, :8]).all()
    assert (bent[0, 8:] == bent[1, 8:]).all()
    assert not (ATTACKS["wrong_data"](world()).text(rows) == rows).all()


# -- in a swarm ---------------------------------------------------------------------------------------------

CHECKS: dict[str, dict[str, float]] = {"one_chunk": {"chunk_fraction": 0.5}, "silent": {"strikes": 1}}
"""Keys of [verification] that make rare things happen soon."""


def swarm_with(
    kind: str | type[Attack], peers: int = 4, mode: str = "secure", rounds: int = 8
) -> tuple[AttackedSwarm, list[PeerID]]:
    checks = CHECKS.get(kind, {}) if isinstance(kind, str) else {}
    swarm = AttackedSwarm(peers, rounds, manifest=attacked_manifest(rounds, mode, **checks), size=BLOCK)
    return swarm, swarm.attack(kind, max(1, peers // 4))


def until_banned(swarm: AttackedSwarm, liars: list[PeerID]) -> Callable[[], bool]:
    return lambda: set(liars) <= set(swarm.bans()) or any(swarm.peers[peer].final for peer in swarm.honest)


@pytest.mark.parametrize("name", sorted(set(CONTRACT) - {"drift"}))
def test_the_liar_is_banned_and_nobody_else(name: str) -> None:
    swarm, liars = swarm_with(name)
    swarm.run(until=until_banned(swarm, liars))
    assert list(swarm.bans()) == liars
    assert max(ban.round for ban in swarm.bans().values()) <= 8


@pytest.mark.parametrize("name", ["sign_flip", "hidden_slice", "lying_owner"])
def test_it_is_banned_where_nothing_is_masked_too(name: str) -> None:
    swarm, liars = swarm_with(name, mode="plain")
    swarm.run(until=until_banned(swarm, liars))
    assert list(swarm.bans()) == liars


def test_drift_that_no_check_sees_bans_nobody() -> None:
    swarm, _ = swarm_with("drift", rounds=4)
    swarm.run()
    assert not swarm.bans()
    assert len({peer.final for peer in swarm.peers.values()}) == 1


def test_workers_that_cover_for_one_another_are_banned_by_the_others() -> None:
    class Colluder(SignFlip, LazyChecker):
        pass

    swarm, liars = swarm_with(Colluder, peers=8)
    swarm.run(until=until_banned(swarm, liars))
    assert sorted(swarm.bans()) == liars


def test_the_honest_go_on_without_the_liar_and_agree() -> None:
    swarm, liars = swarm_with("sign_flip", rounds=6)
    swarm.run(until=lambda: all(swarm.peers[peer].final for peer in swarm.honest))
    assert list(swarm.bans()) == liars
    assert len({swarm.peers[peer].final for peer in swarm.honest}) == 1
    assert set(swarm.machine(swarm.honest[0]).history.roster) == set(swarm.honest)
