"""One session: the exact sum over one survivor set at everyone who completes, or a reason why not.

Every test runs with masks and without, unless it says otherwise. Faults are walked in test_dropouts.py, lies
are told in tests/attacks.
"""

from itertools import pairwise
from typing import get_origin

import cbor2
import numpy as np
import pytest
from pydantic import ValidationError

from proto.canonical import Message, PeerID
from proto.errors import MessageRefused
from secagg.interface import (
    BY_PROPOSER,
    FROM,
    TO_PROPOSER,
    Completed,
    Effect,
    Failed,
    Job,
    NotYet,
    SendPart,
    SendSum,
    Step,
    Tell,
    Wait,
)
from secagg.keys import beacon_share
from secagg.messages import (
    MAX_VOTE,
    Advert,
    Disclosure,
    FinalSet,
    Opening,
    Part,
    PartSum,
    Ready,
    ReadySet,
    Receipt,
    Release,
    SetVote,
    ShareList,
    ShareLists,
    SurvivorSet,
    chunk_hashes,
)
from secagg.session import Session
from tests.secagg.session_network import CHUNK, KEYS, Cell, check, secrets_of, signed_by
from verify.statement import domain_of

STRANGER = sorted(KEYS)[7]


@pytest.fixture(params=[False, True], ids=["plain", "secure"])
def secure(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def until(cell: Cell, kind: type[Message]) -> dict[PeerID, bytes]:
    """Run a cell until nobody goes on without statements of `kind`; those that were told, by receiver.

    No timer runs out, so every session waits.
    """
    held: dict[PeerID, bytes] = {}

    def hold(peer: PeerID, effect: Effect) -> bool:
        if isinstance(effect, Tell) and domain_of(effect.raw) == kind.DOMAIN:
            held[effect.to] = effect.raw
            return False
        return not isinstance(effect, Wait)

    cell.on_effect = hold
    cell.run()
    assert not cell.refusals
    return held


def altered(raw: bytes, kind: type[Message], **changes: object) -> bytes:
    """The same statement with other fields, signed again by its author."""
    author, message = check(raw, kind)
    return signed_by(author, message.model_copy(update=changes))


def deliver(session: Session, sender: PeerID, header: bytes, kind: type, data: np.ndarray) -> list[Effect]:
    """A whole transfer, with the job that looks at its hashes."""
    room = session.room(sender, header, kind)
    room[:] = data
    effects: list[Effect] = []
    for effect in session.arrived(sender, header, kind, room):
        assert isinstance(effect, Job)
        effects += session.job_done(effect.name, effect.run())
    return effects


# -- the sum ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 8, 60, 64, 201])
@pytest.mark.parametrize("n", [3, 4, 7])
def test_the_sum_is_numpys_integer_for_integer(n: int, size: int, secure: bool) -> None:
    cell = Cell(n, size, secure=secure).run()
    assert len(cell.completed()) == n
    assert next(iter(cell.completed().values())).survivors == tuple(cell.peers)
    cell.assert_exact()
    assert not cell.refusals


def test_a_single_member_sums_alone_without_masks() -> None:
    cell = Cell(1, minimum=1, secure=False).run()
    assert len(cell.completed()) == 1
    cell.assert_exact()


@pytest.mark.parametrize("seed", range(12))
def test_any_order_and_doubled_messages_change_nothing(seed: int, secure: bool) -> None:
    cell = Cell(4, seed=seed, proposer=seed % 4, shuffle=True, double=True, secure=secure).run()
    cell.assert_exact()
    assert len(cell.completed()) == 4


@pytest.mark.parametrize("owners", [(0,), (3,), (1, 2)])
def test_few_owners_sum_for_all(owners: tuple[int, ...], secure: bool) -> None:
    cell = Cell(4, owners=owners, secure=secure)
    sums = set()

    def spy(peer: PeerID, effect: Effect) -> bool:
        if isinstance(effect, SendSum):
            sums.add(peer)
        return True

    cell.on_effect = spy
    cell.run().assert_exact()
    assert len(cell.completed()) == 4
    assert sums == {cell.peers[place] for place in owners}


def test_an_owner_that_dealt_nothing_owns_nothing() -> None:
    cell = Cell(5, owners=(0, 4), dead=set())
    cell.dead.add(cell.peers[4])
    cell.run().assert_exact()
    assert len(cell.completed()) == 4
    assert all(cell.sessions[peer].cut.owners == (cell.peers[0],) for peer in cell.completed())


def test_every_step_is_entered_once_and_in_order(secure: bool) -> None:
    cell = Cell(4, secure=secure)
    steps: dict[PeerID, list[Step]] = {peer: [Step.SHARE] for peer in cell.peers}

    def look(peer: PeerID, effect: Effect) -> bool:
        if cell.sessions[peer].step is not steps[peer][-1]:
            steps[peer].append(cell.sessions[peer].step)
        return True

    cell.on_effect = look
    cell.run()
    for seen in steps.values():
        assert seen == sorted(set(seen))
        assert seen[-1] is Step.DONE
        assert {Step.MASK, Step.UNMASK} <= set(seen)
        assert (Step.READY in seen) == secure


def test_all_members_get_the_same_votes_and_the_same_beacon(secure: bool) -> None:
    cell = Cell(4, secure=secure).run()
    done = list(cell.completed().values())
    seeds = tuple(beacon_share(secrets_of(peer).seed) for peer in cell.peers)
    for one in done:
        assert [voter for voter, _ in one.votes] == cell.peers
        assert all(vote.survivor_set == one.survivor_set for _, vote in one.votes)
        assert one.beacon == seeds
        assert one.votes == done[0].votes


def test_what_is_sent_is_masked_only_where_it_should_be(secure: bool) -> None:
    cell = Cell(4, secure=secure)
    until(cell, SurvivorSet)
    for peer, session in cell.sessions.items():
        assert np.array_equal(session.update, cell.updates[peer]) != secure


def test_a_statement_that_comes_early_is_held_and_taken_up_in_time(secure: bool) -> None:
    """A member that hears the end first, before its session has begun."""
    cell = Cell(4, owners=(0, 1, 2), secure=secure)
    slow = cell.peers[3]
    ending: list[tuple[type[FinalSet | Release], PeerID, bytes]] = []

    def note(peer: PeerID, effect: Effect) -> bool:
        for kind in (FinalSet, Release):
            if isinstance(effect, Tell) and effect.to == slow and domain_of(effect.raw) == kind.DOMAIN:
                ending.append((kind, peer, effect.raw))
        return True

    cell.on_effect = note
    cell.run()
    assert len(ending) == (4 if secure else 1)
    fresh = Cell(4, owners=(0, 1, 2), secure=secure)
    for kind, peer, raw in reversed(ending):
        assert fresh.sessions[slow].receive(peer, raw, kind) == []
    fresh.on_effect = lambda peer, effect: (
        not (
            isinstance(effect, Tell)
            and effect.to == slow
            and domain_of(effect.raw) in (FinalSet.DOMAIN, Release.DOMAIN)
        )
    )
    fresh.run().assert_exact()
    assert len(fresh.completed()) == 4


# -- ends -------------------------------------------------------------------------------------------------


def test_a_member_outside_the_set_that_cannot_deliver_still_gets_the_sum(secure: bool) -> None:
    """Its parts reach nobody, but it hears everyone: the last refusal must not undo what it completed."""
    cell = Cell(4, size=3 * CHUNK, proposer=1, secure=secure)
    mute = cell.peers[0]  # of four parts the first is empty: it owns nothing
    kept: list[SendPart] = []

    def hold(peer: PeerID, effect: Effect) -> bool:
        if peer == mute and isinstance(effect, SendPart):
            kept.append(effect)
            return False
        return True

    cell.on_effect = hold
    cell.run()
    cell.assert_exact()
    done = cell.outcome[mute]
    assert isinstance(done, Completed)
    assert mute not in done.survivors
    assert len(kept) == 3
    for sent in kept:
        assert cell.sessions[mute].part_failed(sent.part, sent.to) == [], "a session that is done stays done"


def test_a_late_proposal_does_not_take_a_session_back(secure: bool) -> None:
    cell = Cell(4, secure=secure)
    late = cell.peers[2]
    held: list[bytes] = []

    def hold(peer: PeerID, effect: Effect) -> bool:
        if isinstance(effect, Tell) and effect.to == late and domain_of(effect.raw) == SurvivorSet.DOMAIN:
            held.append(effect.raw)
            return False
        return True

    cell.on_effect = hold
    cell.run()
    session = cell.sessions[late]
    assert session.step is Step.DONE
    assert session.receive(cell.peers[0], held[0], SurvivorSet) == []
    assert session.step is Step.DONE
    assert all(session.elapsed(name) == [] for name in ("set", "sums", "mask", "votes", "receipt 0"))


def test_a_session_that_failed_does_nothing_more(secure: bool) -> None:
    cell = Cell(4, secure=secure)
    proposal = until(cell, SurvivorSet)[cell.peers[2]]
    session = cell.sessions[cell.peers[2]]
    (end,) = session.elapsed("set")
    assert isinstance(end, Failed)
    assert "no survivor set" in end.reason
    assert session.step is Step.VOID
    assert session.receive(cell.peers[0], proposal, SurvivorSet) == []
    assert session.elapsed("set") == session.part_failed(0, cell.peers[0]) == []
    assert session.job_done(("sum", 2), ()) == []
    header = part_of(cell, cell.peers[1], 2)
    with pytest.raises(MessageRefused, match="over"):
        session.room(cell.peers[1], header, Part)
    assert session.step is Step.VOID


def test_a_part_goes_down_the_chain_of_owners_and_the_session_fails_at_its_end(secure: bool) -> None:
    cell = Cell(4, secure=secure)
    until(cell, SurvivorSet)
    me = cell.peers[1]
    session = cell.sessions[me]
    chain = session.cut.chain(2)
    assert chain[0] == cell.peers[2]
    assert session.part_failed(2, chain[1]) == [], "only the owner that was asked can refuse"
    for refused, following in pairwise(chain):
        effects = session.part_failed(2, refused)
        asked = [effect.to for effect in effects if isinstance(effect, SendPart)]
        assert asked == ([] if following == me else [following])
        if following == me:
            assert session._inputs.has(2, me), "its own part it keeps"
    (end,) = session.part_failed(2, chain[-1])
    assert isinstance(end, Failed)
    assert end.reason == "no member took part 2"


def test_a_vote_too_large_for_the_final_set_is_refused_by_the_proposer(secure: bool) -> None:
    """64 statements of 16 KiB would make a final set that nobody can read, in every attempt."""
    cell = Cell(4, secure=secure)
    fat = cell.peers[3]

    def swap(peer: PeerID, effect: Effect) -> bool:
        if peer == fat and isinstance(effect, Tell) and domain_of(effect.raw) == SetVote.DOMAIN:
            raw = altered(effect.raw, SetVote, statements=tuple(bytes([n]) * 16_384 for n in range(64)))
            assert len(raw) > MAX_VOTE
            cell.later(effect.to, lambda: cell.tell(fat, effect.to, raw))
            return False
        return True

    cell.on_effect = swap
    cell.run()
    cell.assert_exact()
    assert len(cell.completed()) == 4
    assert any(refusal.startswith("set-vote:") and "the largest" in refusal for refusal in cell.refusals)


@pytest.mark.parametrize("index", [0, 3, 7])
def test_survivors_open_a_chunk_of_a_sum_and_who_is_not_sane_is_convicted(index: int, secure: bool) -> None:
    cell = Cell(4, secure=secure).run()
    culprit, weights = cell.peers[2], []
    where = slice(index * CHUNK, min(index * CHUNK + CHUNK, cell.size))

    def sane(update: np.ndarray, weight: int) -> bool:
        weights.append(weight)
        owner = [p for p in cell.peers if np.array_equal(update, cell.updates[p][where])]
        assert len(owner) == 1, "what is opened is what was summed"
        return owner != [culprit]

    for peer in cell.peers:
        cell.do(peer, cell.sessions[peer].open_chunk(index, sane))
    drain(cell)
    assert not [refusal for refusal in cell.refusals if refusal.startswith(Opening.DOMAIN)]
    for session in cell.sessions.values():
        assert [(found.kind, found.against) for found in session.evidence] == [("garbage", culprit)]
    assert set(weights) == {1}
    assert len(weights) >= 16, "every survivor's integers were looked at by everyone"


def drain(cell: Cell) -> None:
    while cell.queue:
        cell.queue.pop(0)[1]()


# -- what is refused, and changes nothing ------------------------------------------------------------------


def test_lists_that_do_not_fit_are_refused_with_masks_and_meaningless_without() -> None:
    cell = Cell(4)
    lists = until(cell, ShareLists)[cell.peers[1]]
    session = cell.sessions[cell.peers[1]]
    one = check(lists, ShareLists)[1].lists
    short = check(one[3], ShareList)[1].mask_shares[:3]
    foreign = signed_by(STRANGER, check(one[3], ShareList)[1])
    wrong = {
        "too few": one[:2],
        "one twice": (one[0], one[1], one[1]),
        "out of order": one[::-1],
        "of a stranger": (*one[:3], foreign),
        "of another length": (*one[:3], altered(one[3], ShareList, mask_shares=short)),
        "of another session": (*one[:3], altered(one[3], ShareList, session=bytes(32))),
        "of another threshold": (*one[:3], altered(one[3], ShareList, threshold=4)),
        "for fewer chunks": (*one[:3], altered(one[3], ShareList, chunks=7)),
        "not lists": (*one[:3], cell.sessions[cell.peers[3]].adverts[cell.peers[3]][0]),
    }
    for name, lists_told in wrong.items():
        with pytest.raises(MessageRefused):
            session.receive(cell.peers[0], altered(lists, ShareLists, lists=lists_told), ShareLists)
        assert session.step is Step.SHARE, name
    with pytest.raises(MessageRefused, match="not the proposer"):
        session.receive(cell.peers[2], signed_by(cell.peers[2], check(lists, ShareLists)[1]), ShareLists)
    answer = session.receive(cell.peers[0], lists, ShareLists)
    assert [domain_of(effect.raw) for effect in answer if isinstance(effect, Tell)] == [Ready.DOMAIN]
    assert session.receive(cell.peers[0], lists, ShareLists) == answer, "asked again, it answers the same"
    with pytest.raises(MessageRefused, match="two different ones"):
        session.receive(cell.peers[0], altered(lists, ShareLists, lists=one[:3]), ShareLists)
    assert [(found.kind, found.against) for found in session.evidence] == [("two lists", cell.peers[0])]
    plain = Cell(4, secure=False).sessions[cell.peers[1]]
    with pytest.raises(MessageRefused):
        plain.receive(cell.peers[0], altered(lists, ShareLists, session=plain.id), ShareLists)


def test_masks_are_used_only_when_enough_are_ready_for_the_same_lists() -> None:
    cell = Cell(4)
    raw = until(cell, ReadySet)[cell.peers[2]]
    session = cell.sessions[cell.peers[2]]
    ready = check(raw, ReadySet)[1].ready
    assert session.step is Step.READY
    wrong = {
        "too few": ready[:2],
        "one twice": (ready[0], ready[1], ready[1]),
        "out of order": ready[::-1],
        "for other lists": (*ready[:2], altered(ready[2], Ready, lists=bytes(32))),
        "of another session": (*ready[:2], altered(ready[2], Ready, session=bytes(32))),
        "of a stranger": (*ready[:2], signed_by(STRANGER, check(ready[2], Ready)[1])),
    }
    for name, told in wrong.items():
        with pytest.raises(MessageRefused):
            session.receive(cell.peers[0], altered(raw, ReadySet, ready=told), ReadySet)
        assert session.step is Step.READY, name
        assert np.array_equal(session.update, cell.updates[session.me])
    effects = session.receive(cell.peers[0], altered(raw, ReadySet, ready=ready[:3]), ReadySet)
    assert session.step is Step.MASK
    assert {effect.name[0] for effect in effects if isinstance(effect, Job)} == {"mask"}
    assert session.receive(cell.peers[0], raw, ReadySet) == []


def test_a_set_whose_receipts_do_not_carry_it_is_not_signed(secure: bool) -> None:
    cell = Cell(4, secure=secure)
    raw = until(cell, SurvivorSet)[cell.peers[1]]
    session = cell.sessions[cell.peers[1]]
    whole = check(raw, SurvivorSet)[1]
    peers, receipts = whole.survivors, whole.receipts
    names_three = altered(
        receipts[3], Receipt, senders=peers[:3], headers=check(receipts[3], Receipt)[1].headers[:3]
    )
    wrong: dict[str, dict[str, object]] = {
        "too few": {"survivors": peers[:2]},
        "one twice": {"survivors": (*peers[:3], peers[2])},
        "out of order": {"survivors": peers[::-1]},
        "a stranger": {"survivors": tuple(sorted((*peers[:3], STRANGER)))},
        "a receipt missing": {"receipts": receipts[:3]},
        "a receipt twice": {"receipts": (*receipts[:3], receipts[2])},
        "receipts out of order": {"receipts": receipts[::-1]},
        "a receipt that does not name one": {"receipts": (*receipts[:3], names_three)},
        "a stranger's receipt": {
            "receipts": (*receipts[:3], signed_by(STRANGER, check(receipts[3], Receipt)[1]))
        },
        "a receipt of another session": {
            "receipts": (*receipts[:3], altered(receipts[3], Receipt, session=bytes(32)))
        },
    }
    for name, changes in wrong.items():
        with pytest.raises(MessageRefused):
            session.receive(cell.peers[0], altered(raw, SurvivorSet, **changes), SurvivorSet)
        assert session.step is Step.MASK, name
        assert session._signed_set is None
    with pytest.raises(MessageRefused, match="not the proposer"):
        session.receive(cell.peers[2], signed_by(cell.peers[2], whole), SurvivorSet)
    assert session.evidence == []


def test_nobody_signs_two_sets_and_who_proposes_them_leaves_evidence(secure: bool) -> None:
    cell = Cell(4, secure=secure)
    raw = until(cell, SurvivorSet)[cell.peers[2]]
    session, proposer = cell.sessions[cell.peers[2]], cell.peers[0]
    other = altered(raw, SurvivorSet, survivors=check(raw, SurvivorSet)[1].survivors[:3])
    first = session.receive(proposer, raw, SurvivorSet)
    assert [domain_of(effect.raw) for effect in first if isinstance(effect, Tell)] == [SetVote.DOMAIN]
    for _ in range(3):
        with pytest.raises(MessageRefused, match="two different sets"):
            session.receive(proposer, other, SurvivorSet)
    assert [(e.kind, e.against, e.statements) for e in session.evidence] == [
        ("two sets", proposer, (raw, other))
    ]
    assert session.receive(proposer, raw, SurvivorSet) == first


def test_a_set_that_too_few_signed_is_not_final(secure: bool) -> None:
    cell = Cell(4, secure=secure)
    raw = until(cell, FinalSet)[cell.peers[2]]
    session = cell.sessions[cell.peers[2]]
    a, b, c, d = check(raw, FinalSet)[1].votes
    wrong = {
        "two": (a, b),
        "one twice": (a, b, altered(b, SetVote, statements=(b"x",))),
        "out of order": (c, b, a),
        "another set": (a, b, altered(c, SetVote, survivor_set=bytes(32))),
        "another seed": (a, b, altered(c, SetVote, seed=bytes(32))),
        "another session": (a, b, altered(c, SetVote, session=bytes(32))),
        "a stranger": (a, b, signed_by(STRANGER, check(c, SetVote)[1])),
    }
    for name, votes in wrong.items():
        with pytest.raises(MessageRefused):
            session.receive(cell.peers[0], altered(raw, FinalSet, votes=votes), FinalSet)
        assert session.step is Step.AGREE, name
    with pytest.raises(MessageRefused, match="another proposal"):
        session.receive(cell.peers[0], altered(raw, FinalSet, survivor_set=bytes(32)), FinalSet)
    with pytest.raises(MessageRefused, match="not the proposer"):
        session.receive(cell.peers[1], signed_by(cell.peers[1], check(raw, FinalSet)[1]), FinalSet)
    effects = session.receive(cell.peers[0], altered(raw, FinalSet, votes=(a, b, d)), FinalSet)
    assert session.step is Step.UNMASK
    told = {domain_of(effect.raw) for effect in effects if isinstance(effect, Tell)}
    assert told == ({Release.DOMAIN} if secure else set())
    assert session.receive(cell.peers[0], raw, FinalSet) == [], "a set is final once"


def test_only_the_proposer_takes_what_is_for_the_proposer(secure: bool) -> None:
    cell = Cell(4, secure=secure)
    kinds = [ShareList, Ready, Receipt, SetVote] if secure else [Receipt, SetVote]
    said: dict[str, tuple[PeerID, bytes]] = {}

    def spy(peer: PeerID, effect: Effect) -> bool:
        if isinstance(effect, Tell) and effect.to == cell.peers[0]:
            said[domain_of(effect.raw)] = (peer, effect.raw)
        return True

    cell.on_effect = spy
    cell.run()
    for kind in kinds:
        author, raw = said[kind.DOMAIN]
        other = next(peer for peer in cell.peers[1:] if peer != author)
        with pytest.raises(MessageRefused, match="not the proposer"):
            cell.sessions[other].receive(author, raw, kind)


@pytest.mark.parametrize("step", [Step.SHARE, Step.MASK, Step.DONE])
def test_only_the_proposer_takes_what_is_for_the_proposer_at_any_step(step: Step) -> None:
    cell = Cell(4)
    if step is Step.MASK:
        until(cell, SurvivorSet)
    elif step is Step.DONE:
        cell.run()
    session = cell.sessions[cell.peers[2]]
    assert session.step is step
    for kind in TO_PROPOSER:
        with pytest.raises(MessageRefused, match="not the proposer"):
            session.receive(cell.peers[1], bytes(9), kind)
    for kind in BY_PROPOSER:
        with pytest.raises(MessageRefused, match="not the proposer"):
            session.receive(cell.peers[1], bytes(9), kind)
    assert session._early == {}


def test_what_is_no_statement_of_this_session_is_refused(secure: bool) -> None:
    cell, another = Cell(4, secure=secure), Cell(4, secure=secure, attempt=1)
    theirs = until(another, SurvivorSet)[another.peers[1]]
    until(cell, SurvivorSet)
    session = cell.sessions[cell.peers[1]]
    with pytest.raises(MessageRefused, match="another session"):
        session.receive(cell.peers[0], theirs, SurvivorSet)
    header = part_of(cell, cell.peers[2], 1)
    for kind in (Part, PartSum):
        with pytest.raises(MessageRefused, match="not a statement"):
            session.receive(cell.peers[2], header, kind)
    release = Release(session=session.id, survivor_set=bytes(32), seed=None, shares=())
    with pytest.raises(MessageRefused, match="no member"):
        session.receive(cell.peers[2], signed_by(STRANGER, release), Release)
    disclosure = Disclosure.model_validate({"session": session.id, "kind": "mask", "key": bytes(32)})
    with pytest.raises(MessageRefused, match="not the mask key" if secure else "no share lists"):
        session.receive(cell.peers[2], signed_by(cell.peers[2], disclosure), Disclosure)


LISTS = [
    (kind, name)
    for kind in (*FROM, Part, PartSum, Advert)
    for name, field in kind.model_fields.items()
    if get_origin(field.annotation) is tuple
]


@pytest.mark.parametrize(("kind", "name"), LISTS, ids=[f"{kind.DOMAIN}-{name}" for kind, name in LISTS])
def test_a_list_full_of_wrong_items_is_refused_at_the_first(kind: type[Message], name: str) -> None:
    """To list all that is wrong with a statement of 2 MiB takes seconds, and its sender nothing."""
    wrong = [0] * min(kind.MOST_BYTES - 100, 200_000)
    for items in (wrong, [wrong[:-100]]):
        fields = {one: tuple(items) if one == name else None for one in kind.model_fields}
        with pytest.raises(ValidationError) as refusal:
            kind.model_validate(fields)
        assert len([error for error in refusal.value.errors() if error["loc"][0] == name]) <= 2
        with pytest.raises(MessageRefused, match=r"not a valid message|more than \d+ items"):
            kind.parse(cbor2.dumps({name: items}, canonical=True))


# -- transfers --------------------------------------------------------------------------------------------


def part_of(
    cell: Cell, sender: PeerID, part: int, data: np.ndarray | None = None, **changes: object
) -> bytes:
    """The signed header of a part, of these data if not of the sender's own."""
    session = cell.sessions[sender]
    data = session.update[session.cut.slices[part]] if data is None else data
    message = Part(session=session.id, part=part, hashes=chunk_hashes(data, CHUNK))
    return signed_by(sender, message.model_copy(update=changes))


def before_parts(secure: bool) -> Cell:
    """A cell whose members have masked, and sent nothing."""
    cell = Cell(4, secure=secure)
    cell.on_effect = lambda peer, effect: not isinstance(effect, SendPart | Wait)
    return cell.run()


def test_a_part_that_is_not_what_its_header_says_is_refused_and_another_try_counts(secure: bool) -> None:
    cell = before_parts(secure)
    owner, sender = cell.sessions[cell.peers[0]], cell.peers[1]
    data = cell.sessions[sender].update[owner.cut.slices[0]]
    header, other = part_of(cell, sender, 0), data.copy()
    other[0] += 1
    for wrong in (data[:-1], data.astype(np.int32), np.concatenate([data, data[:1]])):
        with pytest.raises(MessageRefused):
            owner.arrived(sender, header, Part, wrong)
    with pytest.raises(MessageRefused, match="not those of its signed header"):
        deliver(owner, sender, header, Part, other)
    assert not owner._inputs.has(0, sender)
    deliver(owner, sender, header, Part, data)
    assert owner._inputs.has(0, sender)
    assert owner.arrived(sender, header, Part, data.copy()) == [], "sent again"
    assert owner.evidence == []


def test_headers_of_strangers_of_others_and_of_other_sessions_are_refused(secure: bool) -> None:
    cell, another = before_parts(secure), Cell(4, attempt=1, secure=secure)
    another.on_effect = cell.on_effect
    another.run()
    owner, sender = cell.sessions[cell.peers[0]], cell.peers[1]
    header = part_of(cell, sender, 0)
    data = cell.sessions[sender].update[owner.cut.slices[0]]
    wrong = [
        (sender, part_of(another, sender, 0)),
        (cell.peers[2], header),
        (STRANGER, signed_by(STRANGER, check(header, Part)[1])),
        (sender, altered(header, Part, part=9)),
        (sender, part_of(cell, sender, 0, hashes=())),
        (sender, part_of(cell, sender, 0, np.concatenate([data, data]))),
        (sender, header[:-1] + b"\0"),
        (sender, b"\x80"),
    ]
    for who, raw in wrong:
        with pytest.raises(MessageRefused):
            owner.room(who, raw, Part)
    assert len(owner.room(sender, header, Part)) == len(data)


def test_two_different_parts_are_evidence_once(secure: bool) -> None:
    cell = before_parts(secure)
    owner, sender = cell.sessions[cell.peers[0]], cell.peers[1]
    data = cell.sessions[sender].update[owner.cut.slices[0]]
    deliver(owner, sender, part_of(cell, sender, 0), Part, data)
    for number in range(5):
        with pytest.raises(MessageRefused, match="two different parts"):
            owner.room(sender, part_of(cell, sender, 0, data + np.int16(number + 1)), Part)
    assert [(found.kind, found.against) for found in owner.evidence] == [("two parts", sender)]


def test_a_part_before_masks_may_be_used_is_held() -> None:
    cell, fresh = before_parts(True), Cell(4)
    with pytest.raises(NotYet):
        fresh.sessions[cell.peers[0]].room(cell.peers[1], part_of(cell, cell.peers[1], 0), Part)


def test_a_sum_before_the_set_is_final_is_held_and_of_another_owner_refused(secure: bool) -> None:
    cell = Cell(4, secure=secure)
    member = cell.sessions[cell.peers[3]]
    sums: list[SendSum] = []

    def spy(peer: PeerID, effect: Effect) -> bool:
        if isinstance(effect, SendSum) and effect.to == member.me:
            sums.append(effect)
            return False
        return not isinstance(effect, Wait)

    cell.on_effect = spy
    cell.run()
    assert member.step is Step.UNMASK
    sent, owner = sums[0], cell.peers[sums[0].part]
    early = Cell(4, secure=secure)
    until(early, FinalSet)
    with pytest.raises(NotYet):
        early.sessions[member.me].room(owner, sent.header, PartSum)
    whole = check(sent.header, PartSum)[1]
    wrong: list[tuple[PeerID, dict[str, object]]] = [
        (cell.peers[(sent.part + 1) % 4], {}),
        (owner, {"survivor_set": bytes(32)}),
        (owner, {"hashes": ()}),
        (owner, {"part": 9}),
    ]
    for who, changes in wrong:
        with pytest.raises(MessageRefused):
            member.room(who, signed_by(who, whole.model_copy(update=changes)), PartSum)
    other = sent.data.copy()
    other[0] += 1
    with pytest.raises(MessageRefused, match="not those of its signed header"):
        deliver(member, owner, sent.header, PartSum, other)
    for one in sums:
        deliver(member, cell.peers[one.part], one.header, PartSum, one.data)
    assert member.step is Step.DONE, "another try counts"
    with pytest.raises(MessageRefused, match="over"):
        member.room(owner, sent.header, PartSum)


def test_an_owner_takes_no_part_after_its_receipt(secure: bool) -> None:
    cell = before_parts(secure)
    owner, (late, *others) = cell.sessions[cell.peers[0]], cell.peers[1:]
    for sender in others:
        deliver(
            owner, sender, part_of(cell, sender, 0), Part, cell.sessions[sender].update[owner.cut.slices[0]]
        )
    owner.elapsed("receipt 0")
    assert owner.elapsed("receipt 0") == [], "one receipt a part"
    with pytest.raises(MessageRefused, match="inputs are closed"):
        owner.room(late, part_of(cell, late, 0), Part)


def test_a_job_of_no_session_is_a_fault_of_the_caller() -> None:
    session = Cell(3).sessions[Cell(3).peers[0]]
    with pytest.raises(ValueError, match="no job"):
        session.job_done(("other",), None)
