"""The round: whatever peers, leaders and disks do, a peer applies only what a quorum signed."""

import itertools
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.interface import NotYet, Tell
from secagg.messages import Advert, FinalSet, Part, seed_commitment
from swarm.carried import CARRIED_BYTES
from swarm.effects import (
    Adopt,
    Apply,
    CatchUp,
    Effect,
    Fetch,
    Meet,
    OwnWork,
    Phase,
    SaveDecided,
    SaveEntered,
    SaveVote,
    Train,
    Voided,
    Work,
)
from swarm.held import HELD, HELD_BYTES
from swarm.order import DataView
from swarm.round import Participant
from swarm.testing import VirtualSwarm, virtual_manifest
from tests.verify.chain import (
    KEYS,
    PEERS,
    begin,
    decided,
    follow,
    genesis_of,
    goodbye,
    join,
    record_after,
    recovery,
    said,
    void,
)
from verify.commitment import Committed, chunk_digests
from verify.identity import Identity
from verify.record import Decided, Goodbye, History, Record, Vote, void_value
from verify.statement import domain_of, open_signed, sign

CHUNK = 16


def entropy_of(peer: PeerID) -> Callable[[], bytes]:
    """32 bytes a call, never the same twice."""
    calls = itertools.count(1)
    return lambda: bytes(9) + bytes([PEERS.index(peer), next(calls)]) + bytes(21)


def participant(history: History, peer: PeerID = PEERS[0], **changes: object) -> Participant:
    fields: dict[str, object] = {
        "identity": KEYS[peer],
        "manifest": virtual_manifest(50),
        "history": history,
        "data": DataView(10_000),
        "snapshot": history.snapshot,
        "entropy": entropy_of(peer),
        "chunk": CHUNK,
    }
    return Participant(**(fields | changes))  # type: ignore[arg-type]


def work(value: int = 1) -> Work:
    slices = [np.full(64, value // 4 + (index < value % 4), np.int16) for index in range(4)]
    digests = [chunk_digests(one, CHUNK) for one in slices]
    own = OwnWork(Committed(bytes(32), digests, bytes(32)), slices.__getitem__)
    return Work(np.full(64, value, np.int16), 4, 512, 10, 10, own)


def kinds(effects: Iterable[Effect]) -> list[type]:
    return [type(effect) for effect in effects]


def meeting(machine: Participant) -> Meet:
    """Bring a fresh machine to MEET."""
    machine.begin()
    (effect,) = machine.trained(machine.slot, work())
    assert isinstance(effect, Meet)
    return effect


def adverts(history: History, mine: Meet, peers: Iterable[PeerID] = PEERS[1:4]) -> dict[PeerID, bytes]:
    """What the group gathered: my advert, and those of honest others."""
    gathered = {PEERS[0]: mine.advert}
    for peer in peers:
        gathered[peer] = meeting(participant(history, peer)).advert
    return gathered


def changed(gathered: dict[PeerID, bytes], peer: PeerID, **changes: object) -> dict[PeerID, bytes]:
    advert = open_signed(gathered[peer], Advert).message
    return {**gathered, peer: sign(KEYS[peer], advert.model_copy(update=changes))}


# -- meeting ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"run": bytes(32)},
        {"round": 2},
        {"attempt": 1},
        {"shard": 1},
        {"snapshot": bytes(32)},
        {"weight": 5},
        {"tokens": (1 << 63) - 1},
        {"tokens": 513},
        {"loss": 1 << 62},
        {"heldout": 1 << 62},
        {"data_root": bytes(32)},
    ],
    ids=lambda changes: "-".join(map(str, changes)),
)
def test_a_member_whose_advert_is_wrong_is_left_out_and_the_round_goes_on(changes: dict[str, object]) -> None:
    history = begin(4)
    machine = participant(history)
    gathered = changed(adverts(history, meeting(machine)), PEERS[2], **changes)
    effects = machine.met(machine.slot, gathered)
    assert kinds(effects)[0] is SaveEntered
    assert machine.session is not None
    assert machine.session.members == [PEERS[0], PEERS[1], PEERS[3]]
    assert machine.refused["advert"] == 1


def test_adverts_of_strangers_and_under_other_names_are_left_out() -> None:
    history = begin(4)
    machine = participant(history)
    gathered = adverts(history, meeting(machine))
    stranger = open_signed(gathered[PEERS[1]], Advert).message
    gathered |= {PEERS[8]: sign(KEYS[PEERS[8]], stranger), PEERS[9]: gathered[PEERS[2]], PEERS[10]: b"x"}
    machine.met(machine.slot, gathered)
    assert machine.session is not None
    assert machine.session.members == PEERS[:4]


def test_a_leader_that_drops_or_replaces_this_peers_advert_gets_no_update_from_it() -> None:
    history = begin(4)
    for tamper in ("drop", "replay", "forge"):
        machine = participant(history)
        gathered = adverts(history, meeting(machine))
        if tamper == "drop":
            del gathered[PEERS[0]]
        elif tamper == "replay":  # an earlier one of the same attempt, from before a restart
            gathered = changed(gathered, PEERS[0], seed_commitment=seed_commitment(b"earlier"))
        else:
            gathered[PEERS[0]] = gathered[PEERS[1]]
        effects = machine.met(machine.slot, gathered)
        assert SaveEntered not in kinds(effects)
        assert machine.session is None
        assert machine.phase is Phase.DECIDE


def test_fewer_than_a_quorum_never_start_a_session() -> None:
    history = begin(4)
    machine = participant(history)
    gathered = adverts(history, meeting(machine), PEERS[1:2])
    assert SaveEntered not in kinds(machine.met(machine.slot, gathered))
    assert participant(history).met((1, 0), gathered) == []


def test_own_data_must_stay_what_they_were_committed_to() -> None:
    manifest = virtual_manifest(5, data='mode = "own"\nsource = "x.txt"')
    history = begin(4)
    own = DataView(100, bytes([5]) * 32)
    machine = participant(history, manifest=manifest, data=own)
    mine = meeting(machine)
    gathered = {PEERS[0]: mine.advert}
    for peer in PEERS[1:4]:
        gathered[peer] = meeting(participant(history, peer, manifest=manifest, data=own)).advert
    machine.met(machine.slot, changed(gathered, PEERS[1], data_root=None))
    assert machine.session is not None
    assert machine.session.members == [PEERS[0], *PEERS[2:4]]


# -- statements -------------------------------------------------------------------------------------------


def vote_of(peer: PeerID, history: History, slot: tuple[int, int], **changes: object) -> bytes:
    fields: dict[str, object] = {
        "run": history.run, "round": slot[0], "attempt": slot[1], "view": 0, "step": 1, "value": bytes(32)
    }  # fmt: skip
    return sign(KEYS[peer], Vote.model_validate(fields | changes))


def test_statements_of_strangers_of_other_runs_and_of_other_kinds_are_refused_and_counted() -> None:
    history = begin(4)
    machine = participant(history)
    machine.begin()
    wrong = [
        (PEERS[8], vote_of(PEERS[1], history, (1, 0))),
        (PEERS[1], vote_of(PEERS[8], history, (1, 0))),
        (PEERS[1], vote_of(PEERS[1], history, (1, 0), run=bytes(32))),
        (PEERS[1], vote_of(PEERS[1], history, (1, 0))[:-1]),
        (PEERS[1], said(PEERS[1], record_after(history))),
        (PEERS[1], b"\xff"),
        (PEERS[1], join(begin(5), PEERS[8])),
        (PEERS[1], goodbye(history, PEERS[8])),
    ]
    for sender, raw in wrong:
        with pytest.raises(MessageRefused):
            machine.receive(sender, raw)
    assert sum(machine.refused.values()) == len(wrong)
    assert machine.slot == (1, 0)


def test_refusals_are_counted_under_kinds_that_exist() -> None:
    """A domain is what its sender writes: made-up ones fill neither memory nor the status page."""
    history = begin(4)
    machine = participant(history)
    machine.begin()
    for number in range(1_000):
        made_up = said(PEERS[1], record_after(history)).replace(b"\x66record", b"\x66r%05d" % number)
        with pytest.raises(MessageRefused):
            machine.receive(PEERS[1], made_up)
    assert sum(machine.refused.values()) == 1_000
    assert len(machine.refused) < 40


def test_a_flood_of_early_statements_is_bounded_and_leaves_room_for_others() -> None:
    history = begin(4)
    machine = participant(history)
    machine.begin()
    for attempt in range(1, 400):
        machine.receive(PEERS[1], vote_of(PEERS[1], history, (1, attempt)))
    machine.receive(PEERS[2], vote_of(PEERS[2], history, (1, 1)))
    assert len(machine._held) == HELD // 4 + 1


def test_large_early_statements_are_bounded_in_bytes_and_not_held_where_no_session_can_come() -> None:
    history = begin(4)
    machine = participant(history)
    machine.begin()
    fat = FinalSet(session=bytes(32), survivor_set=bytes(32), proposal=bytes(1 << 19), votes=())
    raw = said(PEERS[1], fat)
    machine.receive(PEERS[1], raw)
    assert not machine._held
    machine.trained(machine.slot, work())
    for _ in range(40):
        machine.receive(PEERS[1], raw)
    assert 0 < sum(len(held) for _, held in machine._held) <= HELD_BYTES // 4


def test_a_vote_of_an_attempt_that_is_decided_is_answered_with_the_outcome() -> None:
    history = begin(4)
    machine = participant(history)
    machine.begin()
    machine.learn([void(history)])
    assert machine.slot == (1, 1)
    (answer,) = machine.receive(PEERS[2], vote_of(PEERS[2], history, (1, 0)))
    assert isinstance(answer, Tell)
    assert open_signed(answer.raw, Decided).message.encode() == void(history)


def test_a_vote_of_a_later_round_makes_a_peer_catch_up() -> None:
    history = begin(4)
    machine = participant(history)
    machine.begin()
    assert CatchUp(1) in machine.receive(PEERS[2], vote_of(PEERS[2], history, (3, 0)))


def test_a_transfer_is_held_only_where_its_session_may_still_begin() -> None:
    history = begin(4)
    machine = participant(history)
    machine.begin()
    header = said(PEERS[1], Part(session=bytes(32), part=0, hashes=(bytes(32),)))
    with pytest.raises(MessageRefused) as refusal:
        machine.room(PEERS[1], header)
    assert not isinstance(refusal.value, NotYet)
    machine.trained(machine.slot, work())
    with pytest.raises(NotYet):
        machine.room(PEERS[1], header)
    with pytest.raises(MessageRefused) as refusal:
        machine.room(PEERS[8], header)
    assert not isinstance(refusal.value, NotYet)


# -- outcomes ---------------------------------------------------------------------------------------------


def test_an_outcome_is_followed_once_whoever_brings_it_however_often() -> None:
    history = begin(4)
    machine = participant(history)
    machine.begin()
    record = decided(history, record_after(history))
    raw = said(PEERS[2], Decided.parse(record))
    assert Adopt in kinds(machine.receive(PEERS[2], raw))
    for again in (raw, said(PEERS[3], Decided.parse(record)), said(PEERS[1], Decided.parse(void(history)))):
        assert machine.receive(PEERS[2], again) == []
    assert machine.learn([record, void(history)]) == []
    assert machine.slot == (2, 0)


def test_outcomes_without_a_quorum_behind_them_move_nothing() -> None:
    history = begin(4)
    machine = participant(history)
    machine.begin()
    for raw in (
        decided(history, record_after(history), PEERS[:2]),
        decided(history, record_after(history), [PEERS[0], *PEERS[7:10]]),
        void(history, 0, PEERS[:2]),
        decided(begin(4, manifest=b"other"), record_after(history)),
        recovery(history, PEERS[:1], PEERS[1:2]),
    ):
        with pytest.raises(MessageRefused):
            machine.receive(PEERS[1], said(PEERS[1], Decided.parse(raw)))
        with pytest.raises(MessageRefused):
            machine.learn([raw])
        assert machine.history == history


def test_what_was_learnt_before_a_bad_outcome_is_kept_and_saved() -> None:
    """A peer that serves a true record and then nonsense must not make one forget to save the true one."""
    history = begin(4)
    one = decided(history, record_after(history))
    two = decided(follow(history), record_after(follow(history)), PEERS[:1])
    for bad in (two, b"nonsense"):
        machine = participant(history)
        machine.begin()
        effects = machine.learn([one, bad])
        assert [e.raw for e in effects if isinstance(e, SaveDecided)] == [one]
        assert Fetch in kinds(effects)
        assert machine.slot == (2, 0)
        with pytest.raises(MessageRefused):
            machine.learn([bad])


def test_a_recovery_is_saved_under_its_own_height_only() -> None:
    history = begin(4)
    forged = recovery(history, PEERS[:2], PEERS[:1], round=1 << 40)
    machine = participant(history)
    with pytest.raises(MessageRefused):
        machine.learn([forged])
    (saved,) = [
        e for e in machine.learn([recovery(history, PEERS[:2], PEERS[:1])]) if isinstance(e, SaveDecided)
    ]
    assert saved.slot == (1, 0)


# -- restarts ---------------------------------------------------------------------------------------------


def test_votes_said_before_a_restart_are_not_forgotten_while_the_snapshot_is_fetched() -> None:
    history = begin(4)
    earlier = vote_of(PEERS[0], history, (1, 0), step=0, value=bytes([3]) * 32)
    machine = participant(history, snapshot=b"", said=(earlier,), entered=(1, 0))
    assert Fetch in kinds(machine.begin())
    effects = machine.fetched(history.snapshot)
    prevotes = [
        open_signed(e.raw, Vote).message
        for e in effects
        if isinstance(e, Tell) and domain_of(e.raw) == "vote"
    ]
    assert prevotes
    assert all(vote.value == bytes([3]) * 32 for vote in prevotes if (vote.view, vote.step) == (0, 0))


def test_votes_heard_while_the_snapshot_is_fetched_are_not_forgotten() -> None:
    history = begin(4)
    machine = participant(history, snapshot=b"")
    machine.begin()
    name = void_value(history.run, 1, 0)
    for peer in PEERS[1:3]:
        machine.receive(peer, vote_of(peer, history, (1, 0), value=name))
    machine.fetched(history.snapshot)
    machine.receive(PEERS[3], vote_of(PEERS[3], history, (1, 0), value=name))
    assert machine.slot == (1, 1)


def test_what_was_said_in_an_attempt_that_is_over_means_nothing_in_the_next() -> None:
    """A restarted peer may learn that its attempt came to nothing before it begins."""
    history = begin(4)
    votes = [
        vote_of(peer, history, (1, 0), step=step, value=void_value(history.run, 1, 0))
        for peer in PEERS[:3]
        for step in (0, 1)
    ]
    record = said(PEERS[0], record_after(history))
    machine = participant(history, said=(record, *votes), entered=(1, 0))
    assert Train in kinds(machine.learn([void(history)]))
    assert machine.slot == (1, 1)
    for peer in PEERS[1:4]:
        machine.receive(peer, vote_of(peer, history, (1, 1), step=0, value=void_value(history.run, 1, 1)))
    assert not machine.evidence
    assert machine.phase is Phase.TRAIN


def test_a_record_is_saved_before_any_vote_for_it_and_supported_after_a_restart() -> None:
    swarm = VirtualSwarm(peers=4, rounds=3)
    saved: list[SaveVote] = []
    victim = sorted(swarm.peers)[0]
    swarm.on_effect = lambda peer, e: saved.append(e) if peer == victim and isinstance(e, SaveVote) else None
    swarm.run(until=lambda: len(saved) >= 2)
    assert [domain_of(e.raw) for e in saved[:2]] == [Record.DOMAIN, Vote.DOMAIN]
    name = open_signed(saved[0].raw, Record).message.digest()
    machine = swarm.machine(victim)
    restarted = Participant(
        machine.identity,
        swarm.manifest,
        machine.history,
        DataView(10_000),
        machine.history.snapshot,
        lambda: bytes(32),
        0,
        (saved[0].raw,),
        machine.slot,
    )
    votes = [open_signed(e.raw, Vote).message for e in restarted.begin() if isinstance(e, Tell)]
    assert restarted.phase is Phase.DECIDE
    assert {vote.value for vote in votes} <= {name}


@pytest.mark.parametrize("survivors", [0, 1])
def test_a_decided_record_outlives_a_crash_of_everyone_who_knew_it(survivors: int) -> None:
    """Everyone is killed when a quorum has precommitted and nobody has saved the outcome."""
    swarm = VirtualSwarm(peers=4, rounds=4)
    precommitted: set[PeerID] = set()

    def watch(peer: PeerID, effect: Effect) -> None:
        if not isinstance(effect, SaveVote) or domain_of(effect.raw) != Vote.DOMAIN or swarm.now > 20:
            return
        signed = open_signed(effect.raw, Vote)
        vote = signed.message
        if signed.signer == peer and (vote.round, vote.step) == (2, 1) and vote.value is not None:
            swarm.peers[peer].disk.votes.setdefault(effect.slot, []).append(effect.raw)
            precommitted.add(peer)
            if len(precommitted) > survivors:
                swarm.kill(peer)

    swarm.on_effect = watch
    swarm.run(seconds=40, until=lambda: len(precommitted) == 4)
    assert len(precommitted) == 4
    for peer in swarm.peers:
        swarm.kill(peer)
    for peer in swarm.peers:
        swarm.start(peer)
    swarm.run(seconds=3_000)
    assert len({peer.final for peer in swarm.peers.values()}) == 1
    assert None not in {peer.final for peer in swarm.peers.values()}
    assert all(not peer.voids for peer in swarm.peers.values())


def test_an_update_that_left_before_a_restart_is_given_up_where_no_record_was_saved() -> None:
    history = begin(4)
    machine = participant(history, entered=(1, 0))
    effects = machine.begin()
    assert machine.phase is Phase.DECIDE
    assert Train not in kinds(effects)
    other = participant(history, entered=(1, 0), attempt=1)
    assert Train in kinds(other.begin())


# -- the roster -------------------------------------------------------------------------------------------


def test_a_run_that_has_begun_goes_on_when_the_roster_falls_below_min_peers() -> None:
    manifest = virtual_manifest(6, run="")
    manifest = manifest.model_copy(update={"run": manifest.run.model_copy(update={"min_peers": 5})})
    swarm = VirtualSwarm(peers=5, rounds=6, manifest=manifest)
    leaving = sorted(swarm.peers)[2]

    def leave() -> None:
        machine = swarm.machine(leaving)
        goodbye_ = sign(machine.identity, Goodbye(run=machine.history.run, round=machine.history.round))
        for member in machine.history.members:
            swarm._tell(leaving, member, goodbye_)
        swarm.kill(leaving)

    swarm.at(8.0, leave)
    swarm.run(seconds=500)
    others = [peer for name, peer in swarm.peers.items() if name != leaving]
    assert len({peer.final for peer in others}) == 1
    assert others[0].final is not None


def test_training_waits_for_min_peers_before_the_first_record_only() -> None:
    few = participant(begin(1, stewards=(PEERS[0],)))
    assert few.begin() == []
    assert few.phase is Phase.WATCH
    assert Train in kinds(participant(follow(begin(2))).begin())


def test_what_a_vote_carries_is_bounded() -> None:
    history = begin(4, largest_cell=8, invited=False)
    machine = participant(history)
    machine.begin()
    for number in range(200):
        identity = Identity.from_seed(bytes([77, number]) + bytes(30))
        KEYS[identity.peer_id] = identity
        machine.carry(join(history, identity.peer_id))
        del KEYS[identity.peer_id]
    carried = machine._carried.admissible(history)
    assert 0 < len(carried) <= 64
    assert sum(map(len, carried)) <= CARRIED_BYTES


def test_a_sum_that_fails_the_sanity_tests_voids_the_attempt_and_moves_nothing() -> None:
    swarm = VirtualSwarm(peers=4, rounds=3)
    refused: set[tuple[int, int]] = set()

    def refuse(peer: PeerID, effect: Effect) -> None:
        if isinstance(effect, Apply) and effect.slot == (2, 0):
            refused.add(effect.slot)
            machine = swarm.machine(peer)
            swarm._later(0.01, peer, lambda: machine.refused_sum((2, 0), "13 times over", [0]))

    swarm.on_effect = refuse
    swarm.run(seconds=500)
    assert refused
    for name, peer in swarm.peers.items():
        assert [void.slot for void in peer.voids] == [(2, 0)]
        assert isinstance(peer.voids[0], Voided)
        assert peer.voids[0].reason == "13 times over"
        assert not swarm.machine(name).evidence
    assert len({peer.final for peer in swarm.peers.values()}) == 1


def test_genesis_helpers_agree_with_the_machine() -> None:
    assert genesis_of(PEERS[:4]).members == begin(4).members
