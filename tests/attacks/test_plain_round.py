"""Attacks on the round by one member of four, or by the network: no two honest peers ever disagree.

They are made with and without masks; those that masks alone make possible are in test_secure_round.py.

`must_finish` marks attacks that honest members get through at once; the others can only cost attempts,
and the run goes on when the attack stops.
"""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from proto.canonical import MAX_MESSAGE, PeerID
from secagg.interface import SendPart, SendSum
from secagg.messages import Advert, FinalSet, PartSum, SetVote, SurvivorSet, chunk_hashes
from swarm.testing import CHUNK, VirtualSwarm, virtual_manifest
from verify.record import Decided, Record, Vote, void_value
from verify.statement import domain_of, open_signed, sign

STOP = 150.0
"""Virtual seconds after which a liar behaves, in attacks that stop progress."""

both_modes = pytest.mark.parametrize("mode", ["plain", "secure"])

Attack = Callable[[VirtualSwarm, PeerID, random.Random], None]


def swarm_of(mode: str, rounds: int, seed: int = 0) -> VirtualSwarm:
    return VirtualSwarm(4, rounds, seed, virtual_manifest(rounds, mode))


def two_faced_votes(swarm: VirtualSwarm, liar: PeerID, chance: random.Random) -> None:
    """Votes differently towards different members."""
    identity = swarm.peers[liar].identity

    def lie(sender: PeerID, to: PeerID, raw: bytes) -> list[tuple[float, bytes]]:
        if sender != liar or domain_of(raw) != Vote.DOMAIN:
            return [(0.0, raw)]
        signed = open_signed(raw, Vote)
        if signed.signer != liar:
            return [(0.0, raw)]
        vote = signed.message
        void = void_value(vote.run, vote.round, vote.attempt)
        value = [None, void, bytes(32), vote.value][(sorted(swarm.peers).index(to) + vote.step) % 4]
        return [(0.0, sign(identity, vote.model_copy(update={"value": value})))]

    swarm.filter = lie


def replays(swarm: VirtualSwarm, liar: PeerID, chance: random.Random) -> None:
    """Everything anyone ever said comes again, to anyone, from the liar."""
    heard: list[bytes] = []

    def again(sender: PeerID, to: PeerID, raw: bytes) -> list[tuple[float, bytes]]:
        heard.append(raw)
        if swarm.peers[to].machine is not None:
            old = chance.choice(heard)
            swarm._later(0.01, to, lambda: swarm.machine(to).receive(liar, old))
        return [(0.0, raw)]

    swarm.filter = again


def noise(swarm: VirtualSwarm, liar: PeerID, chance: random.Random) -> None:
    """Garbage, oversize and broken statements, and true ones with a flipped byte."""

    def garble(sender: PeerID, to: PeerID, raw: bytes) -> list[tuple[float, bytes]]:
        if sender != liar:
            return [(0.0, raw)]
        at = chance.randrange(len(raw))
        bent = raw[:at] + bytes([raw[at] ^ (1 << chance.randrange(8))]) + raw[at + 1 :]
        junk = chance.choice(
            [b"", b"\xff" * 40, chance.randbytes(200), b"\x81" * 5_000, raw[: len(raw) // 2]]
        )
        big = [(0.0, bytes(MAX_MESSAGE + 1))] if chance.random() < 0.02 else []
        return [(0.0, bent), (0.0, junk), *big, (0.05, raw)]

    swarm.filter = garble


def forged_outcomes(swarm: VirtualSwarm, liar: PeerID, chance: random.Random) -> None:
    """Records and voids with certificates of the liar's own making."""
    identity = swarm.peers[liar].identity

    def forge(sender: PeerID, to: PeerID, raw: bytes) -> list[tuple[float, bytes]]:
        machine = swarm.peers[to].machine
        if sender != liar or machine is None or machine.history.last is None:
            return [(0.0, raw)]
        history, last = machine.history, machine.history.last
        body = last.model_copy(
            update={"round": history.round + 1, "previous": history.head, "snapshot": bytes(32)}
        )
        name = body.digest()
        vote = Vote(run=history.run, round=history.round + 1, attempt=0, view=0, step=1, value=name)
        own = sign(identity, vote)
        forged = [
            Decided(round=body.round, attempt=0, recovery=False, body=body.encode(), votes=(own,) * 3),
            Decided(round=body.round, attempt=0, recovery=False, body=b"", votes=(own,)),
            Decided(round=body.round, attempt=0, recovery=True, body=body.encode(), votes=(own,)),
            Decided(round=1 << 50, attempt=0, recovery=True, body=b"", votes=()),
        ]
        return [(0.0, raw), *((0.0, sign(identity, one)) for one in forged)]

    swarm.filter = forge


def fat_votes(swarm: VirtualSwarm, liar: PeerID, chance: random.Random) -> None:
    """Set votes so large that no final set could carry them."""
    identity = swarm.peers[liar].identity

    def fatten(sender: PeerID, to: PeerID, raw: bytes) -> list[tuple[float, bytes]]:
        if sender != liar or domain_of(raw) != SetVote.DOMAIN:
            return [(0.0, raw)]
        vote = open_signed(raw, SetVote).message
        fat = vote.model_copy(update={"statements": (bytes(16_384),) * 64})
        return [(0.0, sign(identity, fat))]

    swarm.filter = fatten


def endless_tokens(swarm: VirtualSwarm, liar: PeerID, chance: random.Random) -> None:
    """An advert whose numbers do not fit a record together with the others'."""
    _change_advert(swarm, liar, {"tokens": (1 << 63) - 1})


def stale_work(swarm: VirtualSwarm, liar: PeerID, chance: random.Random) -> None:
    """An advert for another snapshot."""
    _change_advert(swarm, liar, {"snapshot": bytes(32)})


def _change_advert(swarm: VirtualSwarm, liar: PeerID, changes: dict[str, object]) -> None:
    form = swarm._form

    def formed(waiting, members):  # type: ignore[no-untyped-def]
        if liar in members:
            meet, answer = waiting[liar]
            advert = open_signed(meet.advert, Advert).message.model_copy(update=changes)
            waiting[liar] = (replace(meet, advert=sign(swarm.peers[liar].identity, advert)), answer)
        form(waiting, members)

    swarm._form = formed  # type: ignore[method-assign]


def leader_that_splits_the_group(swarm: VirtualSwarm, liar: PeerID, chance: random.Random) -> None:
    """Everyone is told of another advert of the liar's, so that nobody's session is another's."""
    met = swarm._met

    def split(me, meet, work, group):  # type: ignore[no-untyped-def]
        if group is not None and liar in group and swarm.now < STOP:
            advert = open_signed(group[liar], Advert).message
            face = advert.model_copy(update={"sequence": 100 + sorted(swarm.peers).index(me)})
            group = {**group, liar: sign(swarm.peers[liar].identity, face)}
        return met(me, meet, work, group)

    swarm._met = split  # type: ignore[method-assign]


def leader_that_replaces_adverts(swarm: VirtualSwarm, liar: PeerID, chance: random.Random) -> None:
    """One member's advert is an old one of its own: its session would not be the others'."""
    met = swarm._met
    old: dict[PeerID, bytes] = {}

    def swap(me, meet, work, group):  # type: ignore[no-untyped-def]
        if group is not None and swarm.now < STOP:
            victim = min(peer for peer in group if peer != liar)
            group = {**group, victim: old.setdefault(victim, group[victim])}
        return met(me, meet, work, group)

    swarm._met = swap  # type: ignore[method-assign]


def wrong_sums(swarm: VirtualSwarm, liar: PeerID, chance: random.Random) -> None:
    """An owner that publishes another sum to every member, each properly signed."""
    transfer = swarm._transfer

    def lie(me: PeerID, sent: SendPart | SendSum) -> None:
        if me == liar and isinstance(sent, SendSum) and swarm.now < STOP:
            data = sent.data + np.int16(sorted(swarm.peers).index(sent.to))
            header = open_signed(sent.header, PartSum).message
            bent = header.model_copy(update={"hashes": chunk_hashes(data, CHUNK)})
            sent = replace(sent, data=data, header=sign(swarm.peers[liar].identity, bent))
        transfer(me, sent)

    swarm._transfer = lie  # type: ignore[method-assign]


def withheld_sums(swarm: VirtualSwarm, liar: PeerID, chance: random.Random) -> None:
    """An owner that gives receipts and then publishes nothing."""
    transfer = swarm._transfer

    def withhold(me: PeerID, sent: SendPart | SendSum) -> None:
        if me != liar or isinstance(sent, SendPart) or swarm.now >= STOP:
            transfer(me, sent)

    swarm._transfer = withhold  # type: ignore[method-assign]


def wrong_parts(swarm: VirtualSwarm, liar: PeerID, chance: random.Random) -> None:
    """Parts that are not those of their headers: the liar gets no receipts, and is no survivor."""
    transfer = swarm._transfer

    def bend(me: PeerID, sent: SendPart | SendSum) -> None:
        if me == liar and isinstance(sent, SendPart):
            sent = replace(sent, data=sent.data + np.int16(1))
        transfer(me, sent)

    swarm._transfer = bend  # type: ignore[method-assign]


def two_sets(swarm: VirtualSwarm, liar: PeerID, chance: random.Random) -> None:
    """A proposer that sends another survivor set to every second member."""
    identity = swarm.peers[liar].identity

    def split(sender: PeerID, to: PeerID, raw: bytes) -> list[tuple[float, bytes]]:
        if sender != liar or domain_of(raw) != SurvivorSet.DOMAIN or swarm.now >= STOP:
            return [(0.0, raw)]
        whole = open_signed(raw, SurvivorSet).message
        fewer = whole.model_copy(update={"survivors": whole.survivors[:3]})
        other = sign(identity, fewer)
        return [(0.0, raw), (0.0, other)] if sorted(swarm.peers).index(to) % 2 else [(0.0, other), (0.0, raw)]

    swarm.filter = split


def two_final_sets(swarm: VirtualSwarm, liar: PeerID, chance: random.Random) -> None:
    """A proposer that leaves another vote out for every member, and with it another seed of the beacon."""
    identity = swarm.peers[liar].identity

    def split(sender: PeerID, to: PeerID, raw: bytes) -> list[tuple[float, bytes]]:
        if sender != liar or domain_of(raw) != FinalSet.DOMAIN or swarm.now >= STOP:
            return [(0.0, raw)]
        whole = open_signed(raw, FinalSet).message
        left = sorted(swarm.peers).index(to) % len(whole.votes)
        votes = tuple(vote for index, vote in enumerate(whole.votes) if index != left)
        return [(0.0, sign(identity, whole.model_copy(update={"votes": votes})))]

    swarm.filter = split


def silence_towards_one(swarm: VirtualSwarm, liar: PeerID, chance: random.Random) -> None:
    """The liar answers everyone but one member."""
    victim = min(peer for peer in swarm.peers if peer != liar)
    swarm.cut = lambda a, b: {a, b} == {liar, victim} and swarm.now < STOP


MUST_FINISH: list[Attack] = [
    two_faced_votes,
    replays,
    noise,
    forged_outcomes,
    fat_votes,
    endless_tokens,
    stale_work,
    wrong_parts,
]
MAY_STALL: list[Attack] = [
    leader_that_splits_the_group,
    leader_that_replaces_adverts,
    wrong_sums,
    withheld_sums,
    two_sets,
    two_final_sets,
    silence_towards_one,
]


def honest_records(swarm: VirtualSwarm, liar: PeerID) -> list[list[Record]]:
    return [
        [Record.parse(one.body) for raw in peer.disk.decided if (one := Decided.parse(raw)).body]
        for name, peer in swarm.peers.items()
        if name != liar
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("attack", [*MUST_FINISH, *MAY_STALL], ids=lambda attack: attack.__name__)
@both_modes
def test_no_attack_of_one_member_splits_the_model_and_the_run_goes_on(
    mode: str, attack: Attack, seed: int
) -> None:
    swarm = swarm_of(mode, rounds=6, seed=seed)
    liar = sorted(swarm.peers)[seed]
    attack(swarm, liar, random.Random(seed))
    swarm.run(seconds=3_000)
    honest = [peer for name, peer in swarm.peers.items() if name != liar]
    assert len({peer.final for peer in honest}) == 1
    assert honest[0].final is not None
    records = honest_records(swarm, liar)
    assert all(chain == records[0] for chain in records)
    assert [record.round for record in records[0]] == list(range(1, 7))
    if attack in MUST_FINISH:
        assert swarm.now < 120, "the attack cost the honest members more than the liar's own share"


@pytest.mark.parametrize("attack", [endless_tokens, stale_work, wrong_parts], ids=lambda a: a.__name__)
@both_modes
def test_a_liar_that_breaks_its_own_contribution_is_no_survivor(mode: str, attack: Attack) -> None:
    swarm = swarm_of(mode, rounds=2)
    liar = sorted(swarm.peers)[1]
    attack(swarm, liar, random.Random(0))
    swarm.run(seconds=1_000)
    for chain in honest_records(swarm, liar):
        assert chain
        assert all(liar not in record.survivors for record in chain)


@both_modes
def test_two_sets_leave_evidence_with_those_who_saw_both(mode: str) -> None:
    for seed in range(8):
        swarm = swarm_of(mode, rounds=3, seed=seed)
        liar = sorted(swarm.peers)[0]
        two_sets(swarm, liar, random.Random(seed))
        swarm.run(seconds=1_000)
        for name in swarm.peers:
            for found in swarm.machine(name).evidence:
                assert name != liar
                assert (found.kind, found.against) == ("two sets", liar)
                a, b = (open_signed(raw, SurvivorSet) for raw in found.statements)
                assert a.signer == b.signer == liar
                assert a.message != b.message
                return
    pytest.fail("the liar was proposer at least once in eight swarms")


@both_modes
def test_two_faced_votes_leave_evidence(mode: str) -> None:
    swarm = swarm_of(mode, rounds=3)
    liar = sorted(swarm.peers)[2]
    identity = swarm.peers[liar].identity

    def both(sender: PeerID, to: PeerID, raw: bytes) -> list[tuple[float, bytes]]:
        if sender != liar or domain_of(raw) != Vote.DOMAIN:
            return [(0.0, raw)]
        other = open_signed(raw, Vote).message.model_copy(update={"value": bytes(32)})
        return [(0.0, raw), (0.01, sign(identity, other))]

    swarm.filter = both
    swarm.run(seconds=1_000)
    found = [found for name in swarm.peers if name != liar for found in swarm.machine(name).evidence]
    assert {(one.kind, one.against) for one in found} == {("two votes", liar)}
    for one in found:
        first, second = (open_signed(raw, Vote) for raw in one.statements)
        assert first.signer == second.signer == liar
        assert first.message.value != second.message.value
        assert first.message.model_copy(update={"value": None}) == second.message.model_copy(
            update={"value": None}
        )


@both_modes
def test_what_a_flooding_member_makes_others_keep_stays_small(mode: str) -> None:
    swarm = swarm_of(mode, rounds=3)
    liar = sorted(swarm.peers)[1]
    identity = swarm.peers[liar].identity
    chance = random.Random(1)

    def flood(sender: PeerID, to: PeerID, raw: bytes) -> list[tuple[float, bytes]]:
        if sender != liar or domain_of(raw) != Vote.DOMAIN:
            return [(0.0, raw)]
        vote = open_signed(raw, Vote).message
        more = [
            vote.model_copy(
                update={
                    "value": chance.randbytes(32),
                    "view": chance.randrange(1_000),
                    "attempt": chance.randrange(5),
                }
            )
            for _ in range(20)
        ]
        return [(0.0, raw), *((0.0, sign(identity, one)) for one in more)]

    swarm.filter = flood
    swarm.run(seconds=500)
    for name, peer in swarm.peers.items():
        machine = swarm.machine(name)
        assert peer.final is not None
        if name != liar:
            assert len(machine.evidence) <= 8
            assert len(machine._held) <= 256
            assert len(machine._outcomes) <= 8
