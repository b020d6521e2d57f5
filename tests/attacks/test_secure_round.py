"""Attacks on whole rounds with masks: what garbage, leaders and floods cost, and whom it is told of.

Each runs on the virtual clock with real sessions, signatures and masks.
"""

from collections.abc import Callable

import numpy as np
import pytest

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.interface import SendPart, SendSum, Tell
from secagg.keys import public_key
from secagg.messages import (
    MAX_CELL,
    Advert,
    Opening,
    Part,
    Release,
    Shown,
)
from swarm.effects import Apply, Effect, SaveEntered, Slot
from swarm.held import HELD
from swarm.round import Participant
from swarm.testing import CHUNK, MOST, VirtualSwarm, virtual_manifest
from tests.attacks.rounds import (
    Watch,
    asks_for_other_chunks,
    assert_a_stranger_believes,
    assert_one_model,
    assert_owner_is_convicted,
    assert_sums_are_those_of_the_survivors,
    keeps_back,
    publishes_insane_sums,
    says,
    sends_garbage,
    swarm_of,
)
from tests.swarm.test_round import adverts, changed, meeting, participant
from tests.verify.chain import KEYS, PEERS, begin, said
from verify.lottery import attempt_seed, in_turn
from verify.record import colluders, quorum
from verify.statement import domain_of, open_signed, sign

# -- garbage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("peers", "mode"), [(4, "secure"), (8, "secure"), (4, "plain")])
def test_full_ring_garbage_voids_one_attempt_and_its_author_is_found_and_left_out(
    peers: int, mode: str
) -> None:
    swarm = swarm_of(peers, rounds=4, mode=mode)
    watch, liar = Watch(swarm), sorted(swarm.peers)[1]
    honest = set(swarm.peers) - {liar}
    sends_garbage(watch, liar, lambda slot: slot >= (2, 0))
    swarm.run(seconds=1_000)
    chain = assert_one_model(swarm, honest)
    assert [(record.round, record.attempt) for record in chain] == [(1, 0), (2, 1), (3, 0), (4, 0)]
    assert all(liar not in record.survivors for record in chain[1:])
    assert_sums_are_those_of_the_survivors(watch, chain, honest)
    for peer in honest:
        assert [(void.slot, void.reason) for void in swarm.peers[peer].voids] == [((2, 0), "insane")]
        (found,) = swarm.machine(peer).evidence
        assert (found.kind, found.against) == ("garbage", liar)
        assert_a_stranger_believes(swarm, peer, found)
        raw, *others = found.statements
        shown, adverts = open_signed(raw, Shown), [open_signed(one, Advert) for one in found.adverts]
        (advert,) = [one.message for one in adverts if one.signer == shown.signer == liar]
        assert open_signed(shown.message.header, Part).signer == liar
        opened = [open_signed(one, Opening) for one in others if domain_of(one) == Opening.DOMAIN]
        assert {one.message.chunk for one in opened} <= {shown.message.chunk}
        assert (others == []) == (opened == []) == (mode == "plain")
        if mode == "plain":
            integers = np.frombuffer(shown.message.data, "<i2").astype(int)
            assert np.abs(integers).max() > MOST * advert.weight


def test_survivors_show_one_chunk_as_it_was_sent_and_open_it_when_all_have_shown_it() -> None:
    swarm = swarm_of(4, rounds=2)
    watch, liar = Watch(swarm), sorted(swarm.peers)[1]
    sends_garbage(watch, liar, lambda slot: slot == (1, 0))
    swarm.run(seconds=1_000)
    shown, opened = watch.told(Shown, swarm.peers), watch.told(Opening, swarm.peers)
    assert sorted(one.signer for one in shown) == sorted(one.signer for one in opened) == sorted(swarm.peers)
    ((session, chunk),) = {(one.message.session, one.message.chunk) for one in [*shown, *opened]}
    told = [domain_of(e.raw) for _, e in watch.effects if isinstance(e, Tell)]
    last = len(told) - told[::-1].index(Shown.DOMAIN)
    assert Opening.DOMAIN not in told[:last], "no key is told before everyone has shown its integers"
    at = chunk * CHUNK
    for one in shown:
        ((part, header),) = {
            (e.part, e.header)
            for peer, e in watch.effects
            if peer == one.signer and isinstance(e, SendPart) and e.header == one.message.header
        } or {(-1, one.message.header)}  # the part's owner sends it to nobody
        assert open_signed(header, Part).signer == one.signer
        own = watch.updates[one.signer, (1, 0)][at : at + CHUNK].tobytes()
        assert one.message.data != own, f"masked, in part {part} of {session.hex()}"
    for one in opened:
        assert len(one.message.keys) == len(one.message.proofs) == 4, "keys of this chunk, and no others"


@pytest.mark.parametrize("peers", [4, 8])
def test_a_liar_that_asks_first_and_keeps_its_keys_back_is_computed_from_its_partners(peers: int) -> None:
    swarm = swarm_of(peers, rounds=3)
    watch, liar = Watch(swarm), sorted(swarm.peers)[1]
    honest = set(swarm.peers) - {liar}
    sends_garbage(watch, liar, lambda slot: True)
    asks_for_other_chunks(watch, liar)
    keeps_back(swarm, liar, Opening)
    swarm.run(seconds=1_000)
    chain = assert_one_model(swarm, honest)
    # A member holds one early Shown of each: where that is the lie, the liar is left out as silent first.
    assert all(record.attempt <= 1 for record in chain)
    assert all(liar not in record.survivors for record in chain)
    for peer in honest:
        assert [(e.kind, e.against) for e in swarm.machine(peer).evidence] == [("garbage", liar)]


@pytest.mark.parametrize("peers", [4, 8])
def test_a_liar_that_shows_nothing_is_left_out_of_the_next_attempt_each_time(peers: int) -> None:
    swarm = swarm_of(peers, rounds=3)
    watch, liar = Watch(swarm), sorted(swarm.peers)[1]
    honest = set(swarm.peers) - {liar}
    sends_garbage(watch, liar, lambda slot: True)
    keeps_back(swarm, liar, Shown, Opening)
    swarm.run(seconds=1_000)
    chain = assert_one_model(swarm, honest)
    assert [record.attempt for record in chain] == [1, 1, 1]
    assert all(set(record.survivors) == honest for record in chain)
    assert_sums_are_those_of_the_survivors(watch, chain, honest)
    assert watch.told(Opening, honest) == []
    assert not any(swarm.machine(peer).evidence for peer in honest), "silence convicts nobody for good"


def test_garbage_with_masks_between_two_colluders_that_keep_their_keys_back_is_left_out() -> None:
    """Nobody else knows the keys of their pair, so neither can be computed: both are silent."""
    swarm = swarm_of(8, rounds=3)
    watch, liars = Watch(swarm), sorted(swarm.peers)[1:3]
    honest = set(swarm.peers) - set(liars)
    for liar in liars:
        sends_garbage(watch, liar, lambda slot: slot[1] == 0)
        keeps_back(swarm, liar, Opening)
    swarm.run(seconds=1_000)
    chain = assert_one_model(swarm, honest)
    assert all(record.attempt <= 1 for record in chain)
    assert all(set(record.survivors) == honest for record in chain)


@pytest.mark.parametrize("peers", [4, 8])
def test_a_lesser_offence_does_not_hide_a_greater_one(peers: int) -> None:
    """A bad release first, then garbage: one piece of a kind a member is kept, not one a member."""
    swarm = swarm_of(peers, rounds=3)
    watch, liar = Watch(swarm), sorted(swarm.peers)[1]
    honest = set(swarm.peers) - {liar}
    sends_garbage(watch, liar, lambda slot: True)

    def bad_first(to: PeerID, true: Release) -> list[Release | None]:
        return [true.model_copy(update={"shares": tuple(bytes(33) for _ in true.shares)}), true]

    says(swarm, liar, Release, bad_first)
    swarm.run(seconds=1_000)
    chain = assert_one_model(swarm, honest)
    assert [record.attempt for record in chain] == [1, 0, 0]
    assert all(liar not in record.survivors for record in chain)
    for peer in honest:
        assert {("share", liar), ("garbage", liar)} == {
            (found.kind, found.against) for found in swarm.machine(peer).evidence
        }


BENT = [
    (Opening, {"keys": (bytes(32),) * 4}),
    (Opening, {"keys": ()}),
    (Opening, {"proofs": ((),) * 4}),
    (Opening, {"chunk": 9_999}),
    (Shown, {"data": bytes(2 * CHUNK)}),
    (Shown, {"data": b""}),
    (Shown, {"header": b"\x84"}),
    (Shown, {"chunk": 9_999}),
]


@pytest.mark.parametrize(("kind", "bend"), BENT, ids=[f"{kind.DOMAIN}-{next(iter(b))}" for kind, b in BENT])
def test_what_is_bent_frames_nobody_and_helps_nobody(
    kind: type[Shown | Opening], bend: dict[str, object]
) -> None:
    swarm = swarm_of(4, rounds=3)
    watch, liar = Watch(swarm), sorted(swarm.peers)[1]
    honest = set(swarm.peers) - {liar}
    sends_garbage(watch, liar, lambda slot: slot == (1, 0))
    says(swarm, liar, kind, lambda to, true: [true.model_copy(update=bend)])
    swarm.run(seconds=1_000)
    chain = assert_one_model(swarm, honest)
    assert [record.attempt for record in chain] == [1, 0, 0]
    assert set(chain[0].survivors) == honest
    found = {(e.kind, e.against) for peer in honest for e in swarm.machine(peer).evidence}
    assert found == ({("garbage", liar)} if kind is Opening else set())
    assert bool(watch.told(Opening, honest)) == (kind is Opening), "who has not shown makes nobody open"


def test_a_sum_refused_for_nothing_convicts_nobody_and_opens_nothing() -> None:
    """One member says that a sum was insane and shows its masked integers; no key leaves anyone."""
    swarm = swarm_of(4, rounds=3)
    watch, liar = Watch(swarm), sorted(swarm.peers)[2]

    def refuse(peer: PeerID, effect: Effect) -> None:
        if peer == liar and isinstance(effect, Apply) and effect.slot == (1, 0):
            machine = swarm.machine(liar)
            swarm._later(0.01, liar, lambda: machine.refused_sum((1, 0), "insane", [3]))

    watch.hooks.append(refuse)
    swarm.run(seconds=1_000)
    chain = assert_one_model(swarm, set(swarm.peers))
    assert [record.attempt for record in chain] == [0, 0, 0]
    assert liar in {one.signer for one in watch.told(Shown, swarm.peers)}
    assert {one.signer for one in watch.told(Opening, swarm.peers)} <= {liar}
    assert not any(swarm.machine(peer).evidence for peer in swarm.peers)


@pytest.mark.parametrize(("peers", "lacking"), [(4, 1), (8, 1), (8, 2)])
@pytest.mark.parametrize("kind", [Shown, Opening])
def test_what_a_liar_tells_some_members_only_frames_none_of_the_others(
    peers: int, lacking: int, kind: type[Shown | Opening]
) -> None:
    swarm = swarm_of(peers, rounds=3)
    watch, liar = Watch(swarm), sorted(swarm.peers)[1]
    honest = sorted(set(swarm.peers) - {liar})
    sends_garbage(watch, liar, lambda slot: slot[1] == 0)
    says(swarm, liar, kind, lambda to, true: [] if to in honest[-lacking:] else [true])
    if kind is Shown:
        keeps_back(swarm, liar, Opening)
    swarm.run(seconds=1_000)
    chain = assert_one_model(swarm, honest)
    assert [record.attempt for record in chain] == [1, 0, 0]
    assert all(set(record.survivors) == set(honest) for record in chain)
    for peer in honest:
        assert {found.against for found in swarm.machine(peer).evidence} <= {liar}


def test_a_liar_that_withholds_its_part_of_a_garbage_sum_parts_and_frames_nobody() -> None:
    swarm = swarm_of(4, rounds=3)
    watch, liar = Watch(swarm), sorted(swarm.peers)[1]
    honest = sorted(set(swarm.peers) - {liar})
    sends_garbage(watch, liar, lambda slot: slot == (2, 0))
    transfer = swarm._transfer
    swarm._transfer = lambda me, sent: (  # type: ignore[method-assign]
        None
        if me == liar and isinstance(sent, SendSum) and sent.to == honest[0] and swarm.now < 13
        else transfer(me, sent)
    )
    swarm.run(seconds=1_000)
    chain = assert_one_model(swarm, honest)
    assert [record.attempt for record in chain] == [0, 1, 0]
    assert all(set(record.survivors) == set(honest) for record in chain[1:])
    assert not swarm.machine(honest[0]).evidence


# -- owners that lie about a sum -----------------------------------------------------------------------------


@pytest.mark.parametrize(("peers", "mode"), [(4, "secure"), (8, "secure"), (4, "plain")])
def test_an_owner_that_publishes_an_insane_sum_is_convicted_and_nobody_opens_anything(
    peers: int, mode: str
) -> None:
    swarm = swarm_of(peers, rounds=4, mode=mode)
    watch, liar = Watch(swarm), sorted(swarm.peers)[1]
    honest = set(swarm.peers) - {liar}
    publishes_insane_sums(swarm, liar, honest, lambda slot: slot >= (2, 0))
    swarm.run(seconds=500)
    chain = assert_one_model(swarm, honest)
    assert [record.attempt for record in chain] == [0, 1, 0, 0]
    assert all(set(record.survivors) == honest for record in chain[1:])
    assert watch.told(Opening, swarm.peers) == []
    assert {one.signer for one in watch.told(Shown, honest)} == honest
    for peer in honest:
        assert {(e.kind, e.against) for e in swarm.machine(peer).evidence} == {("sum", liar)}
        assert_owner_is_convicted(watch, peer, liar)


def test_an_owner_that_lies_about_a_garbage_sum_makes_nobody_open_it() -> None:
    """Its own part it cannot hide: what fails there is its own lie, as far as anybody can see."""
    swarm = swarm_of(4, rounds=3)
    watch, liar = Watch(swarm), sorted(swarm.peers)[1]
    honest = set(swarm.peers) - {liar}
    sends_garbage(watch, liar, lambda slot: True)
    publishes_insane_sums(swarm, liar, honest, lambda slot: True)
    swarm.run(seconds=500)
    chain = assert_one_model(swarm, honest)
    assert [record.attempt for record in chain] == [1, 0, 0]
    assert all(set(record.survivors) == honest for record in chain)
    for peer in honest:
        assert {e.against for e in swarm.machine(peer).evidence} == {liar}


@pytest.mark.parametrize(("peers", "victims"), [(4, 1), (4, 2), (8, 1), (8, 5)])
def test_an_owner_that_lies_to_some_members_makes_nobody_open_and_frames_nobody(
    peers: int, victims: int
) -> None:
    swarm = swarm_of(peers, rounds=4)
    watch, liar = Watch(swarm), sorted(swarm.peers)[1]
    honest = sorted(set(swarm.peers) - {liar})
    publishes_insane_sums(swarm, liar, honest[-victims:], lambda slot: True)
    asks_for_other_chunks(watch, liar)
    swarm.run(seconds=1_000)
    chain = assert_one_model(swarm, honest)
    assert all(record.attempt <= 1 for record in chain)
    assert all(set(honest) <= set(record.survivors) for record in chain)
    assert watch.told(Opening, swarm.peers) == []
    for peer in honest:
        assert {found.against for found in swarm.machine(peer).evidence} <= {liar}


@pytest.mark.parametrize("victims", [1, 2, 7])
def test_an_owner_whose_receipt_names_made_up_headers_crashes_nobody_and_is_left_out(victims: int) -> None:
    swarm = swarm_of(8, rounds=3)
    watch, liar = Watch(swarm), sorted(swarm.peers)[1]
    honest = sorted(set(swarm.peers) - {liar})
    made_up = set(honest[-victims:])

    def name(peer: PeerID, effect: Effect) -> None:
        if isinstance(effect, SaveEntered):
            machine = swarm.machine(peer)
            machine.refused_sum = unrefused(machine)  # type: ignore[method-assign]
        if peer == liar and isinstance(effect, SaveEntered):
            session = swarm.machine(liar).session
            assert session is not None
            inputs = session._inputs
            close = inputs.close

            def bent(part: int) -> tuple[tuple[PeerID, ...], tuple[bytes, ...]]:
                senders, names = close(part)
                pairs = zip(senders, names, strict=True)
                return senders, tuple(bytes(32) if sender in made_up else true for sender, true in pairs)

            inputs.close = bent  # type: ignore[method-assign]

    def unrefused(machine: Participant) -> Callable[[Slot, str, list[int]], list[Effect]]:
        refused = Participant.refused_sum

        def call(slot: Slot, reason: str, chunks: list[int]) -> list[Effect]:
            try:
                return refused(machine, slot, reason, chunks)
            except MessageRefused as refusal:
                raise AssertionError("a refusal here ends the peer") from refusal

        return call

    watch.hooks.append(name)
    publishes_insane_sums(swarm, liar, honest, lambda slot: slot == (1, 0))
    swarm.run(seconds=500)
    chain = assert_one_model(swarm, honest)
    assert len(chain) == 3
    assert chain[0].attempt == 1 + (victims == 2), "with both of two pairs left out, too few are left"
    assert liar not in chain[0].survivors or victims == 2
    assert watch.told(Opening, swarm.peers) == []
    assert all(set(honest) <= set(record.survivors) for record in chain[1:]), "nobody is left out twice"
    for peer in honest:
        assert swarm.machine(peer).evidence == []


def test_colluders_whose_roots_agree_on_a_false_key_frame_no_owner() -> None:
    """One of the two masks with the false key; the other drops out, so that its mask key is rebuilt."""
    swarm = swarm_of(8, rounds=3)
    watch = Watch(swarm)
    liar, dropping = sorted(swarm.peers)[1:3]
    honest = set(swarm.peers) - {liar, dropping}

    def falsify(peer: PeerID, effect: Effect) -> None:
        session = swarm.machine(peer).session
        if peer not in honest and isinstance(effect, SaveEntered) and effect.slot == (1, 0):
            assert session is not None
            sharing = session._shares
            true = sharing._pair_seed
            sharing._pair_seed = lambda private, owner, partner: (  # type: ignore[method-assign]
                bytes(32) if {owner, partner} == {liar, dropping} else true(private, owner, partner)
            )

    watch.hooks.append(falsify)
    transfer = swarm._transfer
    swarm._transfer = lambda me, sent: (  # type: ignore[method-assign]
        None
        if me == dropping and isinstance(sent, SendPart) and swarm.machine(me).slot == (1, 0)
        else transfer(me, sent)
    )
    swarm.run(seconds=500)
    chain = assert_one_model(swarm, honest)
    assert [record.attempt for record in chain] == [1, 0, 0]
    for peer in honest:
        assert {found.against for found in swarm.machine(peer).evidence} <= {liar, dropping}
    assert all(honest <= set(record.survivors) for record in chain)
    assert all(liar not in record.survivors for record in chain[1:]), "found by the false key it shows"


def test_accusations_of_as_many_as_may_lie_leave_nobody_out() -> None:
    for roster in (4, 8):
        history = begin(roster)
        liars = PEERS[1 : 1 + colluders(roster)]
        machine = participant(history)
        gathered = adverts(history, meeting(machine), PEERS[1:roster])
        for liar in liars:
            gathered = changed(gathered, liar, accused=(PEERS[0], PEERS[roster - 1]))
        machine.met(machine.slot, gathered)
        assert machine.session is not None
        assert machine.session.members == PEERS[:roster]


def test_one_more_accuser_than_may_lie_leaves_a_member_out_even_of_its_own_group() -> None:
    history = begin(8)
    for victim in (PEERS[0], PEERS[7]):
        machine = participant(history)
        gathered = adverts(history, meeting(machine), PEERS[1:8])
        for accuser in PEERS[1:4]:
            gathered = changed(gathered, accuser, accused=(victim,))
        effects = machine.met(machine.slot, gathered)
        assert (machine.session is None) == (victim == PEERS[0])
        assert any(isinstance(effect, SaveEntered) for effect in effects) == (victim != PEERS[0])
        assert machine.session is None or machine.session.members == PEERS[:7]


# -- hivemind's leader ------------------------------------------------------------------------------------


Group = dict[PeerID, bytes]


def gathers(swarm: VirtualSwarm, slot: Slot, change: Callable[[PeerID, Group], Group]) -> None:
    """What each member is told of the group in this slot instead of what was gathered."""
    met = swarm._met

    def bent(me, meet, work, group):  # type: ignore[no-untyped-def]
        bend = group is not None and meet.slot == slot
        return met(me, meet, work, change(me, group) if bend else group)

    swarm._met = bent  # type: ignore[method-assign]


@pytest.mark.parametrize(("peers", "left_out"), [(4, 1), (4, 2), (8, 1), (8, 2), (8, 3), (8, 7)])
def test_a_leader_that_leaves_members_out_gets_the_sum_of_a_quorum_or_nothing(
    peers: int, left_out: int
) -> None:
    swarm = swarm_of(peers, rounds=3)
    watch = Watch(swarm)
    out = set(sorted(swarm.peers)[:left_out])

    def leave_out(me: PeerID, group: Group) -> Group:
        return {peer: raw for peer, raw in group.items() if peer not in out}

    gathers(swarm, (1, 0), leave_out)
    swarm.run(seconds=500)
    chain = assert_one_model(swarm, swarm.peers)
    assert_sums_are_those_of_the_survivors(watch, chain, swarm.peers)
    assert [record.attempt for record in chain] == [int(peers - left_out < quorum(peers)), 0, 0]
    if chain[0].attempt == 0:
        assert set(chain[0].survivors) == set(swarm.peers) - out
    assert not [peer for peer in out if (peer, (1, 0)) in watch.updates], "nothing of theirs was masked"


@pytest.mark.parametrize("peers", [4, 8])
def test_a_leader_that_shows_two_halves_different_adverts_moves_nothing_in_either(peers: int) -> None:
    swarm = swarm_of(peers, rounds=3)
    watch = Watch(swarm)
    order = sorted(swarm.peers)
    twofold = swarm.peers[order[0]].identity

    def split(me: PeerID, group: Group) -> Group:
        if me in order[: peers // 2]:
            return group
        advert = open_signed(group[order[0]], Advert).message
        return {**group, order[0]: sign(twofold, advert.model_copy(update={"sequence": 77}))}

    gathers(swarm, (1, 0), split)
    swarm.run(seconds=500)
    chain = assert_one_model(swarm, set(swarm.peers))
    assert [record.attempt for record in chain] == [1, 0, 0]
    early = [e for _, e in watch.effects if isinstance(e, Apply) and e.slot == (1, 0)]
    assert early == []
    sent = {e.session for _, e in watch.effects if isinstance(e, SendPart)}
    sums = {e.session for _, e in watch.effects if isinstance(e, SendSum)}
    assert len(sent) == len(sums) == 3, "no masked byte left a member of either half"


@pytest.mark.parametrize("peers", [4, 8])
def test_an_older_advert_of_a_member_in_place_of_its_own_leaves_that_member_out_only(peers: int) -> None:
    """It is for another slot, so nobody takes it; and the member sees that its own is gone."""
    swarm = swarm_of(peers, rounds=4)
    watch, victim = Watch(swarm), sorted(swarm.peers)[1]
    old: list[bytes] = []

    def swap(me: PeerID, group: Group) -> Group:
        return {**group, victim: old[0]}

    gathers(swarm, (1, 0), lambda me, group: old.append(group[victim]) or group)  # type: ignore[func-returns-value]
    gathers(swarm, (2, 0), swap)
    swarm.run(seconds=500)
    chain = assert_one_model(swarm, set(swarm.peers))
    assert [record.attempt for record in chain] == [0, 0, 0, 0]
    assert [victim in record.survivors for record in chain] == [True, False, True, True]
    assert_sums_are_those_of_the_survivors(watch, chain, set(swarm.peers) - {victim})
    assert (victim, (2, 0)) not in watch.updates


# -- keys in adverts --------------------------------------------------------------------------------------


def copies_a_key(
    swarm: VirtualSwarm, liar: PeerID, victim: PeerID, copied: str, into: str, joins: bool = True
) -> None:
    """In attempt (2, 0) the liar leads, and shows the victim's key as its own."""

    def copy(me: PeerID, group: Group) -> Group:
        key = getattr(open_signed(group[victim], Advert).message, copied)
        own = open_signed(group[liar], Advert).message.model_copy(update={into: key})
        lie = sign(swarm.peers[liar].identity, own)
        if me == liar and joins:
            swarm.machine(liar)._advert = lie  # it goes on, with the secrets that it has
        return {**group, liar: lie}

    gathers(swarm, (2, 0), copy)


def two_who_do_not_propose(peers: int) -> list[PeerID]:
    """In attempt (2, 0) of a swarm of so many: a proposer that lies costs the attempt without evidence."""
    swarm = swarm_of(peers, rounds=1)
    swarm.run(seconds=500)
    (record,) = assert_one_model(swarm, swarm.peers)
    turns = in_turn(attempt_seed(record.beacon, 2, 0, "survivor-set"), swarm.peers)
    return sorted(turns[1:])[:2]


@pytest.mark.parametrize("peers", [4, 8])
@pytest.mark.parametrize("copied", ["seal_key", "mask_key"])
@pytest.mark.parametrize("into", ["seal_key", "mask_key"])
def test_who_copies_a_key_is_convicted_and_its_user_stays(peers: int, copied: str, into: str) -> None:
    swarm = swarm_of(peers, rounds=4)
    watch = Watch(swarm)
    liar, victim = two_who_do_not_propose(peers)
    honest = set(swarm.peers) - {liar}
    copies_a_key(swarm, liar, victim, copied, into)
    swarm.run(seconds=500)
    chain = assert_one_model(swarm, honest)
    assert [record.attempt for record in chain] == [0, 1, 0, 0]
    assert all(set(record.survivors) == honest for record in chain[1:])
    assert_sums_are_those_of_the_survivors(watch, chain, honest)
    kind = "pair key" if into == "mask_key" else "dealing"
    for peer in honest:
        assert {(e.kind, e.against) for e in swarm.machine(peer).evidence} == {(kind, liar)}


@pytest.mark.parametrize("into", ["seal_key", "mask_key"])
@pytest.mark.parametrize("peers", [4, 8])
def test_who_copies_a_key_and_deals_nothing_costs_nothing(peers: int, into: str) -> None:
    swarm = swarm_of(peers, rounds=3)
    watch = Watch(swarm)
    liar, victim = two_who_do_not_propose(peers)
    copies_a_key(swarm, liar, victim, into, into, joins=False)
    swarm.run(seconds=500)
    chain = assert_one_model(swarm, swarm.peers)
    assert [record.attempt for record in chain] == [0, 0, 0]
    assert set(chain[1].survivors) == set(swarm.peers) - {liar}
    assert_sums_are_those_of_the_survivors(watch, chain, set(swarm.peers) - {liar})
    assert not any(swarm.machine(peer).evidence for peer in swarm.peers)


LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]
"""The points of X25519 with which every shared secret is zero (Bernstein, cr.yp.to/ecdh.html)."""


def left_with(mode: str, **changes: object) -> tuple[Participant, list[Effect]]:
    """A member of four after a meeting in which one advert was changed."""
    history, manifest = begin(4), virtual_manifest(5, mode)
    machine = participant(history, manifest=manifest)
    gathered = {PEERS[0]: meeting(machine).advert}
    for peer in PEERS[1:4]:
        gathered[peer] = meeting(participant(history, peer, manifest=manifest)).advert
    effects = machine.met(machine.slot, changed(gathered, PEERS[2], **changes))
    return machine, effects


@pytest.mark.parametrize("key", ["seal_key", "mask_key"])
@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda point: point[:8])
def test_a_key_of_low_order_leaves_its_author_out(point: str, key: str) -> None:
    machine, _ = left_with("secure", **{key: bytes.fromhex(point)})
    assert machine.session is not None
    assert machine.session.members == [PEERS[0], PEERS[1], PEERS[3]]


def test_equal_seal_and_mask_keys_leave_their_author_out() -> None:
    key = public_key(bytes([9]) * 32)
    machine, _ = left_with("secure", seal_key=key, mask_key=key)
    assert machine.session is not None
    assert machine.session.members == [PEERS[0], PEERS[1], PEERS[3]]


@pytest.mark.parametrize("missing", [("seal_key", "mask_key"), ("seal_key",), ("mask_key",)])
def test_an_advert_without_keys_is_left_out_of_a_secure_run(missing: tuple[str, ...]) -> None:
    machine, _ = left_with("secure", **dict.fromkeys(missing))
    assert machine.session is not None
    assert machine.session.members == [PEERS[0], PEERS[1], PEERS[3]]


@pytest.mark.parametrize("shown", [("seal_key", "mask_key"), ("seal_key",), ("mask_key",)])
def test_an_advert_with_keys_is_left_out_of_a_plain_run(shown: tuple[str, ...]) -> None:
    keys = {name: public_key(bytes([len(name), 3]) * 16) for name in shown}
    machine, _ = left_with("plain", **keys)
    assert machine.session is not None
    assert machine.session.members == [PEERS[0], PEERS[1], PEERS[3]]


# -- sizes ------------------------------------------------------------------------------------------------


def test_thresholds_hold_for_every_roster_and_cell() -> None:
    for roster in range(1, 33):
        history = begin(roster, largest_cell=32)
        machine = participant(history)
        may_collude, needed = colluders(roster), quorum(roster)
        for n in range(needed, roster + 1):
            terms = machine._attempt.terms(PEERS[:n], 0)
            t, minimum = terms.threshold, terms.minimum
            assert 2 * t > n + may_collude
            assert t <= n
            assert minimum >= max(3, may_collude + 2, t, needed)
            assert 2 * minimum > n + may_collude, "two sets of signers share an honest member"
            assert may_collude + (n - minimum) < t, "who is left out and colluders rebuild nothing"
            assert terms.proposer in PEERS[:n]
            assert set(terms.owners) <= set(PEERS[:n])
            if roster >= 4 and n == roster:
                assert minimum <= n
                assert n - may_collude >= minimum, "colluders that keep silent do not stop the others"


def test_strangers_swell_no_cell() -> None:
    """However many adverts a leader hands out, those of the roster make the cell."""
    history = begin(4)
    machine = participant(history)
    gathered = adverts(history, meeting(machine))
    honest = open_signed(gathered[PEERS[1]], Advert).message
    strangers = PEERS[4:40]
    for number, stranger in enumerate(strangers):
        keys = {name: public_key(bytes([number, len(name)]) * 16) for name in ("seal_key", "mask_key")}
        accused = tuple(PEERS[:4])
        gathered[stranger] = sign(KEYS[stranger], honest.model_copy(update={**keys, "accused": accused}))
    assert len(gathered) > MAX_CELL
    machine.met(machine.slot, gathered)
    assert machine.session is not None
    assert machine.session.members == PEERS[:4]
    assert machine.refused == {"advert": len(strangers)}


def test_a_flood_of_adverts_is_counted_and_not_kept() -> None:
    history = begin(4)
    machine = participant(history)
    gathered = adverts(history, meeting(machine))
    for number in range(2_000):
        gathered[f"stranger {number}"] = gathered[PEERS[1]] if number % 2 else bytes(500)
    machine.met(machine.slot, gathered)
    assert machine.session is not None
    assert machine.session.members == PEERS[:4]
    assert sum(machine.refused.values()) == 2_000
    assert len(machine.refused) < 10
    assert set(machine.session.adverts) == set(PEERS[:4])


def test_a_flood_of_early_statements_keeps_one_of_a_kind_and_sender() -> None:
    history = begin(4)
    machine = participant(history)
    machine.met(machine.slot, adverts(history, meeting(machine)))
    assert machine.session is not None
    session = machine.session.id
    for number in range(500):
        release = Release(session=session, survivor_set=number.to_bytes(32, "big"), seed=None, shares=())
        machine.receive(PEERS[1], said(PEERS[1], release))
    assert len(machine.session._early) == 1
    for _ in range(50):
        foreign = Release(session=bytes(32), survivor_set=bytes(32), seed=None, shares=())
        machine.receive(PEERS[2], said(PEERS[2], foreign))
    assert len(machine.session._early) + len(machine._held) <= 1 + HELD // 4


@pytest.mark.parametrize("sign_of", [1, -1])
@pytest.mark.parametrize("peers", [4, 8])
def test_sums_at_the_saturation_corners_go_through_a_whole_swarm(peers: int, sign_of: int) -> None:
    swarm = swarm_of(peers, rounds=2)
    watch = Watch(swarm)
    corner = sign_of * MOST * swarm.manifest.work.slices

    def saturate(peer: PeerID, effect: Effect) -> None:
        session = swarm.machine(peer).session
        if isinstance(effect, SaveEntered) and session is not None:
            session.update[:] = corner

    watch.hooks.append(saturate)
    swarm.run(seconds=200)
    chain = assert_one_model(swarm, set(swarm.peers))
    assert [record.attempt for record in chain] == [0, 0]
    totals = [e.total for _, e in watch.effects if isinstance(e, Apply)]
    assert len(totals) == 2 * peers
    assert all((total == peers * corner).all() for total in totals)
