"""One session: the exact sum over one survivor set at everyone who completes, or a reason why not."""

from collections.abc import Callable

import numpy as np
import pytest

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.messages import (
    MAX_VOTE,
    Delivered,
    FinalSet,
    Part,
    PartSum,
    Receipt,
    SetVote,
    SurvivorSet,
    chunk_hashes,
)
from secagg.session import (
    Completed,
    Effect,
    Failed,
    NotYet,
    SendPart,
    SendSum,
    Session,
    Step,
    Tell,
    Wait,
)
from tests.secagg.session_network import CHUNK, KEYS, Cell, advert_of
from verify.statement import domain_of, open_signed, sign


@pytest.mark.parametrize("size", [8, 60, 64, 201])
@pytest.mark.parametrize("n", [3, 4, 7])
def test_the_sum_is_numpys_integer_for_integer(n: int, size: int) -> None:
    cell = Cell(n, size).run()
    assert len(cell.completed()) == n
    assert next(iter(cell.completed().values())).survivors == tuple(cell.peers)
    cell.assert_exact()
    assert not cell.refusals


def test_a_single_member_sums_alone() -> None:
    cell = Cell(1, minimum=1).run()
    assert len(cell.completed()) == 1
    cell.assert_exact()


@pytest.mark.parametrize("seed", range(20))
def test_any_order_and_doubled_messages_change_nothing(seed: int) -> None:
    cell = Cell(4, seed=seed, proposer=seed % 4, shuffle=True, double=True).run()
    cell.assert_exact()
    assert len(cell.completed()) == 4


def when(kind: type, nth: int = 0, domain: str | None = None) -> Callable[[Effect], bool]:
    seen = [0]

    def hit(effect: Effect) -> bool:
        if isinstance(effect, kind) and (domain is None or domain_of(effect.raw) == domain):  # type: ignore[union-attr]
            seen[0] += 1
            return seen[0] > nth
        return False

    return hit


MOMENTS: dict[str, Callable[[], Callable[[Effect], bool]]] = {
    "start": lambda: when(Wait),
    "first part": lambda: when(SendPart),
    "second part": lambda: when(SendPart, 1),
    "delivered": lambda: when(Tell, 0, Delivered.DOMAIN),
    "set proposed": lambda: when(Tell, 0, SurvivorSet.DOMAIN),
    "half the set proposed": lambda: when(Tell, 1, SurvivorSet.DOMAIN),
    "set signed": lambda: when(Tell, 0, SetVote.DOMAIN),
    "set final": lambda: when(Tell, 0, FinalSet.DOMAIN),
    "half the set final": lambda: when(Tell, 1, FinalSet.DOMAIN),
    "sum": lambda: when(SendSum),
    "half the sum": lambda: when(SendSum, 1),
    "done": lambda: when(Completed),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("victim", range(4))
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_member_that_dies_at_any_moment_never_makes_two_sums(
    moment: str, victim: int, shuffled: bool
) -> None:
    cell = Cell(4, proposer=1, shuffle=shuffled, seed=victim)
    hit = MOMENTS[moment]()

    def die(peer: PeerID, effect: Effect) -> bool:
        if peer == cell.peers[victim] and hit(effect):
            cell.dead.add(peer)
            return False
        return True

    cell.on_effect = die
    cell.run()
    cell.assert_exact()
    if moment in ("start", "first part") and victim != 1:
        assert len(cell.completed()) == 3, "an owner that gave no receipt is replaced by the next"


@pytest.mark.parametrize("lost", range(40))
def test_one_lost_statement_or_sum_never_makes_two_sums(lost: int) -> None:
    cell = Cell(4, proposer=2)
    count = [0]

    def lose(peer: PeerID, effect: Effect) -> bool:
        if isinstance(effect, Tell | SendSum):
            count[0] += 1
            return count[0] != lost + 1
        return True

    cell.on_effect = lose
    cell.run().assert_exact()


def test_a_member_outside_the_set_that_cannot_deliver_still_gets_the_sum() -> None:
    """Its parts reach nobody, but it hears everyone: the last refusal must not undo what it completed."""
    cell = Cell(4, size=3 * CHUNK, proposer=1)
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
    assert isinstance(cell.outcome[mute], Completed)
    for _ in range(4):
        for part in {sent.part for sent in kept}:
            chain = cell.sessions[mute]._chains[part]
            assert not cell.sessions[mute].part_failed(part, chain[0]), "a session that is done stays done"


def test_a_late_proposal_does_not_take_a_session_back() -> None:
    cell = Cell(4, proposer=0)
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
    assert session.elapsed("sums") == []


# -- a hostile proposer ---------------------------------------------------------------------------------


def proposal_for(cell: Cell, survivors: list[PeerID]) -> bytes:
    """A survivor set with true receipts, signed by the proposer."""
    session = cell.sessions[cell.peers[cell.proposer]]
    owners = tuple(cell.peers)
    delivered = []
    for member in survivors:
        header = {}
        for part in session.parts:
            where = session.slices[part]
            data = cell.updates[member][where]
            header[part] = sign(
                KEYS[member], Part(session=session.id, part=part, hashes=chunk_hashes(data, CHUNK))
            )
        receipts = tuple(
            sign(
                KEYS[owners[p]], Receipt(session=session.id, part=p, sender=member, header=digest(header[p]))
            )
            for p in session.parts
        )
        delivered.append(sign(KEYS[member], Delivered(session=session.id, receipts=receipts)))
    message = SurvivorSet(
        session=session.id, survivors=tuple(survivors), owners=owners, delivered=tuple(delivered)
    )
    return sign(KEYS[cell.peers[cell.proposer]], message)


def digest(header: bytes) -> bytes:
    from secagg.session import _header_digest

    return _header_digest(header)


def test_a_proposer_that_sends_two_sets_leaves_evidence_and_nobody_signs_twice() -> None:
    cell = Cell(4)
    member, proposer = cell.sessions[cell.peers[2]], cell.peers[0]
    one, two = proposal_for(cell, cell.peers), proposal_for(cell, cell.peers[:3])
    first = member.receive(proposer, one, SurvivorSet)
    assert [open_signed(e.raw, SetVote).message.survivor_set for e in first if isinstance(e, Tell)]
    for _ in range(3):
        with pytest.raises(MessageRefused, match="two different sets"):
            member.receive(proposer, two, SurvivorSet)
    assert member.evidence == [(one, two)]
    again = member.receive(proposer, one, SurvivorSet)
    assert again == first


def test_a_set_that_too_few_signed_is_not_final() -> None:
    cell = Cell(4, size=CHUNK)  # one part, the last member's
    session = cell.sessions[cell.peers[2]]
    proposal = proposal_for(cell, cell.peers)
    name = open_signed(proposal, SurvivorSet).message.digest()

    def vote(peer: PeerID, **changes: object) -> bytes:
        fields: dict[str, object] = {
            "session": session.id,
            "survivor_set": name,
            "seed": cell.sessions[peer].seed,
            "statements": (),
        }
        return sign(KEYS[peer], SetVote.model_validate(fields | changes))

    def final(*votes: bytes) -> bytes:
        message = FinalSet(session=session.id, survivor_set=name, proposal=proposal, votes=votes)
        return sign(KEYS[cell.peers[0]], message)

    a, b, c, d = cell.peers
    stranger = sign(
        KEYS[sorted(KEYS)[7]],
        SetVote(session=session.id, survivor_set=name, seed=bytes(32), statements=()),
    )
    refused = {
        "two": final(vote(a), vote(b)),
        "one twice": final(vote(a), vote(b), vote(b, statements=(b"x",))),
        "out of order": final(vote(c), vote(b), vote(a)),
        "another set": final(vote(a), vote(b), vote(c, survivor_set=bytes(32))),
        "another seed": final(vote(a), vote(b), vote(c, seed=bytes(32))),
        "another session": final(vote(a), vote(b), vote(c, session=bytes(32))),
        "a stranger": final(vote(a), vote(b), stranger),
    }
    for raw in refused.values():
        with pytest.raises(MessageRefused):
            session.receive(a, raw, FinalSet)
        assert session.step is Step.MASK
    session.receive(a, final(vote(a), vote(b), vote(d)), FinalSet)
    assert session.step is Step.UNMASK


def test_a_vote_too_large_for_the_final_set_is_refused_by_the_proposer() -> None:
    """64 statements of 16 KiB would make a final set that nobody can read, in every attempt."""
    cell = Cell(4)
    fat = cell.peers[3]
    session = cell.sessions[fat]

    def swap(peer: PeerID, effect: Effect) -> bool:
        if peer == fat and isinstance(effect, Tell) and domain_of(effect.raw) == SetVote.DOMAIN:
            vote = open_signed(effect.raw, SetVote).message
            large = vote.model_copy(update={"statements": tuple(bytes([n]) * 16_384 for n in range(64))})
            raw = sign(KEYS[fat], large)
            assert len(raw) > MAX_VOTE
            cell.later(effect.to, lambda: cell.tell(fat, effect.to, raw))
            return False
        return True

    cell.on_effect = swap
    cell.run()
    cell.assert_exact()
    assert len(cell.completed()) == 4
    assert any(refusal.startswith("set-vote:") and "the largest" in refusal for refusal in cell.refusals)
    assert session.step is Step.DONE


def altered_set(cell: Cell, **changes: object) -> bytes:
    whole = open_signed(proposal_for(cell, cell.peers), SurvivorSet).message
    return sign(KEYS[cell.peers[0]], whole.model_copy(update=changes))


def test_a_set_whose_receipts_do_not_show_it_is_refused() -> None:
    cell = Cell(4)
    member = cell.sessions[cell.peers[1]]
    whole = open_signed(proposal_for(cell, cell.peers), SurvivorSet).message
    peers, delivered = whole.survivors, whole.delivered
    wrong = {
        "too few": {"survivors": peers[:2], "delivered": delivered[:2]},
        "one twice": {"survivors": (*peers[:3], peers[2]), "delivered": (*delivered[:3], delivered[2])},
        "out of order": {"survivors": peers[::-1], "delivered": delivered[::-1]},
        "receipts missing": {"delivered": delivered[:3]},
        "receipts of another": {"delivered": (*delivered[:3], delivered[0])},
        "other owners": {"owners": peers[::-1]},
        "too few owners": {"owners": peers[:3]},
        "a stranger as owner": {"owners": (*peers[:3], sorted(KEYS)[7])},
        "a stranger survives": {"survivors": (*peers[:3], max(*peers[:3], sorted(KEYS)[7]))},
    }
    for changes in wrong.values():
        with pytest.raises(MessageRefused):
            member.receive(cell.peers[0], altered_set(cell, **changes), SurvivorSet)
        assert member.step is Step.MASK
        assert member._signed_set is None
    raw = sign(KEYS[cell.peers[2]], whole)
    with pytest.raises(MessageRefused, match="not the proposer"):
        member.receive(cell.peers[2], raw, SurvivorSet)


# -- transfers ------------------------------------------------------------------------------------------


def part_of(
    cell: Cell, sender: PeerID, part: int, data: np.ndarray | None = None, **changes: object
) -> bytes:
    session = cell.sessions[sender]
    data = session.update[session.slices[part]] if data is None else data
    message = Part(session=session.id, part=part, hashes=chunk_hashes(data, CHUNK))
    return sign(KEYS[sender], message.model_copy(update=changes))


def state(session: Session) -> tuple[object, ...]:
    return (
        session.step,
        dict(session._inputs),
        dict(session._receipts),
        dict(session._delivered),
        session._set,
    )


def test_a_part_that_is_not_what_its_header_says_is_refused_and_changes_nothing() -> None:
    cell = Cell(4)
    owner, sender = cell.sessions[cell.peers[0]], cell.peers[1]
    data = cell.sessions[sender].update[owner.slices[0]]
    header = part_of(cell, sender, 0)
    before = state(owner)
    other = data.copy()
    other[0] += 1
    for wrong in (other, data[:-1], data.astype(np.int32), np.concatenate([data, data[:1]])):
        with pytest.raises(MessageRefused, match="not those of the signed header"):
            owner.part_arrived(sender, header, wrong)
    longer = np.concatenate([data, data[:1]])
    with pytest.raises(MessageRefused):  # signed as such, but of another size
        owner.part_arrived(sender, part_of(cell, sender, 0, longer), longer)
    assert state(owner) == before
    receipt = owner.part_arrived(sender, header, data.copy())
    assert open_signed(receipt, Receipt).message.sender == sender


def test_headers_of_strangers_of_others_and_of_other_sessions_are_refused() -> None:
    cell, another = Cell(4), Cell(4, attempt=1)
    owner, sender = cell.sessions[cell.peers[0]], cell.peers[1]
    stranger = KEYS[sorted(KEYS)[7]]
    wrong = [
        (sender, part_of(another, sender, 0)),
        (cell.peers[2], part_of(cell, sender, 0)),
        (stranger.peer_id, sign(stranger, open_signed(part_of(cell, sender, 0), Part).message)),
        (
            sender,
            sign(
                KEYS[sender],
                open_signed(part_of(cell, sender, 0), Part).message.model_copy(update={"part": 9}),
            ),
        ),
        (sender, part_of(cell, sender, 0, hashes=())),
        (sender, part_of(cell, sender, 0)[:-1] + b"\0"),
        (sender, b"\x80"),
    ]
    for who, header in wrong:
        with pytest.raises(MessageRefused):
            owner.expect(who, header, Part)


def test_two_different_parts_are_evidence_once() -> None:
    cell = Cell(4)
    owner, sender = cell.sessions[cell.peers[0]], cell.peers[1]
    data = cell.sessions[sender].update[owner.slices[0]]
    owner.part_arrived(sender, part_of(cell, sender, 0), data)
    for number in range(5):
        with pytest.raises(MessageRefused, match="two different parts"):
            owner.expect(sender, part_of(cell, sender, 0, data + np.int16(number + 1)), Part)
    assert len(owner.evidence) == 1


def test_a_sum_before_the_set_is_final_is_held_and_of_another_owner_refused() -> None:
    cell = Cell(4)
    member = cell.sessions[cell.peers[3]]
    sums: list[SendSum] = []

    def spy(peer: PeerID, effect: Effect) -> bool:
        if isinstance(effect, SendSum) and effect.to == member.me:
            sums.append(effect)
            return False
        return True

    fresh = Cell(4).sessions[member.me]
    cell.on_effect = spy
    cell.run()
    assert isinstance(cell.outcome[member.me], Failed)
    sent = sums[0]
    with pytest.raises(NotYet):
        fresh.expect(cell.peers[sent.part], sent.header, PartSum)
    whole = open_signed(sent.header, PartSum).message
    for who, message in [
        (cell.peers[(sent.part + 1) % 4], whole),
        (cell.peers[sent.part], whole.model_copy(update={"survivor_set": bytes(32)})),
        (cell.peers[sent.part], whole.model_copy(update={"hashes": ()})),
    ]:
        with pytest.raises(MessageRefused):
            member.expect(who, sign(KEYS[who], message), PartSum)


def test_receipts_for_another_header_count_as_no_answer() -> None:
    cell = Cell(4)
    me = cell.peers[0]
    session = cell.sessions[me]
    sent = next(e for e in session.start() if isinstance(e, SendPart))
    wrong = sign(KEYS[sent.to], Receipt(session=session.id, part=sent.part, sender=me, header=bytes(32)))
    following = session.part_acknowledged(sent.part, sent.to, wrong)
    assert [e.to for e in following if isinstance(e, SendPart)] == [cell.peers[(sent.part + 1) % 4]]
    assert session.part_acknowledged(sent.part, sent.to, wrong) == []


def test_a_failed_session_takes_no_parts_so_that_the_next_owner_is_asked() -> None:
    cell = Cell(4)
    owner = cell.sessions[cell.peers[2]]
    owner.start()
    assert any(isinstance(e, Failed) for e in owner.elapsed("set"))
    with pytest.raises(MessageRefused):
        owner.expect(cell.peers[1], part_of(cell, cell.peers[1], 2), Part)


def test_the_same_members_with_one_other_advert_are_another_session() -> None:
    from secagg.messages import session_id

    peers = sorted(KEYS)[:3]
    adverts = [sign(KEYS[p], advert_of(p)) for p in peers]
    changed = [*adverts[:2], sign(KEYS[peers[2]], advert_of(peers[2], sequence=2))]
    one = session_id(advert_of(peers[0]), adverts)
    assert one == session_id(advert_of(peers[1]), adverts[::-1])
    assert one != session_id(advert_of(peers[0]), changed)
