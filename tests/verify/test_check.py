"""A check: the honest pass on any machine; each lie ends in evidence that others uphold, or as silence."""

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.canonical import PeerID
from secagg.interface import Tell
from secagg.messages import Opening, Part
from swarm.effects import Ask as AskPeer
from swarm.effects import OwnWork, Recompute, Work
from swarm.order import Order
from swarm.testing import CHUNK, made_of
from tests.verify.checked import (
    Answer,
    Bend,
    Court,
    Hand,
    Lie,
    at,
    changed,
    chunks,
    court,
    opening,
)
from verify.check import ChunksAsked, Computed, SequencesAsked, convicts
from verify.commitment import ChunkOpening, Committed, SliceOpening, digest_of
from verify.sketch import WIDTH
from verify.standing import Verdict
from verify.statement import domain_of, open_signed

BOTH = pytest.mark.parametrize("secure", [True, False], ids=["secure", "plain"])


# -- the honest -------------------------------------------------------------------------------------------


@BOTH
def test_every_honest_peer_passes_every_check_bit_for_bit(secure: bool) -> None:
    here = court(secure)
    for peer in here.members:
        found = here.look(peer)
        assert (found.outcome, found.evidence) == ("clean", None)


@given(st.integers(0, 1 << 32))
@settings(max_examples=15, deadline=None)
def test_an_honest_peer_passes_before_a_machine_that_rounds_a_little_differently(seed: int) -> None:
    here, random = court(), np.random.default_rng(seed)
    mine = here.true(here.liar).copy()
    for low in range(0, len(mine), CHUNK):
        piece = mine[low : low + CHUNK]
        steps = int(0.004 * np.abs(piece.astype(int)).sum())  # below the tolerance
        piece[random.choice(len(piece), min(steps, len(piece)), replace=False)] += random.choice([-1, 1])
    found = here.look(mine=mine)
    assert (found.outcome, found.evidence) == ("clean", None)


def test_a_little_beyond_the_tolerance_nobody_is_accused() -> None:
    here = court()
    mine = here.true(here.liar).copy()
    for low in range(0, len(mine), CHUNK):
        piece = mine[low : low + CHUNK]
        piece[0] += 1 + int(0.006 * np.abs(piece.astype(int)).sum())
    found = here.look(mine=mine)
    assert (found.outcome, found.evidence) == ("unclear", None)


def test_what_a_broken_machine_accuses_does_not_hold() -> None:
    here = court()
    found = here.look(mine=here.true(here.liar) + np.int16(7))
    assert found.outcome == "wrong"
    assert not here.holds(here.case(found))


def test_the_checker_says_what_it_computed_before_it_is_told_anything() -> None:
    here, asked = court(), list[str]()

    def listen(hand: Hand, domain: str, true: list[bytes]) -> Answer:
        asked.append(domain)
        return true

    one = here.look(lie=listen)
    other = here.look(lie=listen, mine=here.true(here.liar) + np.int16(1))
    assert asked == [Computed.DOMAIN, Computed.DOMAIN, ChunksAsked.DOMAIN]
    assert one.sketch != other.sketch


def test_a_snapshot_that_the_checker_lacks_is_not_the_others_silence() -> None:
    here = court()
    peer = here.liar
    assert [one.outcome for one in here.begin(peer).computed(None)] == ["unclear"]  # type: ignore[union-attr]
    own = here.begin(peer, own=True)
    (asked,) = own.start()
    assert domain_of(asked.raw) == SequencesAsked.DOMAIN  # type: ignore[union-attr]
    assert [one.outcome for one in own.computed(None, True)] == ["unclear"]  # type: ignore[union-attr]
    assert [one.outcome for one in own.computed(None, False)] == ["silent"]  # type: ignore[union-attr]


# -- lies in what is computed, committed to and sent -------------------------------------------------------


def flipped(order: Order, true: list[np.ndarray]) -> Work:
    return made_of(order, [-one for one in true])


def zeros(order: Order, true: list[np.ndarray]) -> Work:
    return made_of(order, [np.zeros_like(one) for one in true])


def one_chunk(order: Order, true: list[np.ndarray]) -> Work:
    bent = [one.copy() for one in true]
    for one in bent:
        one[CHUNK : 2 * CHUNK] = -one[CHUNK : 2 * CHUNK]
    return made_of(order, bent)


def slices_swapped(order: Order, true: list[np.ndarray]) -> Work:
    return made_of(order, [true[1], true[0], true[3], true[2]])


def hidden_slice(order: Order, true: list[np.ndarray]) -> Work:
    work = made_of(order, true)
    return replace(work, update=work.update + true[0])


def a_little_more(order: Order, true: list[np.ndarray]) -> Work:
    work = made_of(order, true)
    return replace(work, update=work.update + np.int16(1))


def other_order(order: Order, true: list[np.ndarray]) -> Work:
    return made_of(replace(order, seed=bytes(32)), true)


LIES: dict[str, tuple[Bend, str]] = {
    "the sign flipped": (flipped, "update"),
    "zeros": (zeros, "update"),
    "one chunk": (one_chunk, "update"),
    "slices in another order": (slices_swapped, "update"),
    "a hidden slice": (hidden_slice, "slices"),
    "one step more": (a_little_more, "slices"),
    "another order": (other_order, "order"),
}


@BOTH
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_the_work_leaves_evidence_that_holds(lie: str, secure: bool) -> None:
    bend, kind = LIES[lie]
    here = court(secure, bend)
    found = here.look()
    assert found.outcome == "wrong"
    case = here.case(found)
    assert (case.kind, case.against) == (kind, here.liar)
    assert here.holds(case)


# -- lies in what is opened --------------------------------------------------------------------------------


CONVICTED: dict[str, tuple[Lie, str]] = {
    "other roots": (changed(SliceOpening, roots=lambda m: m.roots[::-1]), "opening"),
    "a root less": (changed(SliceOpening, roots=lambda m: m.roots[:-1]), "opening"),
    "another order than committed": (changed(SliceOpening, order=bytes(32)), "opening"),
    "a wrong leaf": (changed(SliceOpening, leaves=lambda m: (bytes(32), *m.leaves[1:])), "opening"),
    "leaves in another order": (changed(SliceOpening, leaves=lambda m: m.leaves[::-1]), "opening"),
    "other integers": (changed(ChunkOpening, data=lambda m: bytes(len(m.data))), "opening"),
    "another salt": (changed(ChunkOpening, salt=bytes(32)), "opening"),
    "another proof": (changed(ChunkOpening, proof=()), "opening"),
    "other masks' keys": (changed(Opening, keys=lambda m: (bytes(32),) * len(m.keys)), "mask key"),
    "keys swapped": (changed(Opening, keys=lambda m: m.keys[::-1]), "mask key"),
    "other proofs of keys": (changed(Opening, proofs=lambda m: m.proofs[::-1]), "mask key"),
}


def each_mode(plain: Iterable[str], secure: Iterable[str]) -> list[tuple[str, bool]]:
    return [*((lie, False) for lie in plain), *((lie, True) for lie in [*plain, *secure])]


IN_MASKS = [lie for lie, (_, kind) in CONVICTED.items() if kind == "mask key"]


@pytest.mark.parametrize(
    ("lie", "secure"), each_mode([lie for lie in CONVICTED if lie not in IN_MASKS], IN_MASKS)
)
def test_a_lie_in_an_opening_leaves_evidence_that_holds(lie: str, secure: bool) -> None:
    how, kind = CONVICTED[lie]
    here = court(secure)
    found = here.look(lie=how)
    assert found.outcome == "wrong"
    case = here.case(found)
    assert (case.kind, case.against) == (kind, here.liar)
    assert here.holds(case)


def of_another(kind: type) -> Lie:
    """An honest peer's own statement in place of the liar's."""

    def change(hand: Hand, raws: list[bytes]) -> Answer:
        other = hand.court.members[0]
        draw = hand.court.draw_of(other)
        hand.court.drawn(other).asked.clear()
        theirs = hand.court.swarm.machine(other).answer(draw.checkers[0], hand.court.computed(other))
        raws[hand.first(raws, kind)] = theirs[hand.first(theirs, kind)]
        return raws

    return opening(change)


def swap(one: int, other: int) -> Lie:
    def change(hand: Hand, raws: list[bytes]) -> Answer:
        raws[one], raws[other] = raws[other], raws[one]
        return raws

    return opening(change)


SILENT: dict[str, Lie] = {
    "nothing": opening(lambda hand, raws: None),
    "no statements": opening(lambda hand, raws: []),
    "the slice alone": opening(lambda hand, raws: raws[:1]),
    "no integers": opening(lambda hand, raws: raws[: hand.first(raws, Part) + 4]),
    "the last one missing": opening(lambda hand, raws: raws[:-1]),
    "the first one missing": opening(lambda hand, raws: raws[1:]),
    "garbage": opening(lambda hand, raws: [b"\x84" + bytes(50)] * len(raws)),
    "empty strings": opening(lambda hand, raws: [b""] * len(raws)),
    "garbage after the slice": opening(lambda hand, raws: [raws[0], *[b"\xff"] * (len(raws) - 1)]),
    "one statement ten thousand times": opening(lambda hand, raws: [raws[0]] * 10_000),
    "another slice": changed(SliceOpening, slice=lambda m: m.slice + 1),
    "a slice beyond all": changed(SliceOpening, slice=1 << 62),
    "a leaf less": changed(SliceOpening, leaves=lambda m: m.leaves[:-1]),
    "forty thousand leaves": changed(SliceOpening, leaves=lambda m: m.leaves[:1] * 40_000),
    "a slice of another session": changed(SliceOpening, session=bytes(32)),
    "integers of another session": changed(ChunkOpening, session=bytes(32)),
    "an integer less": changed(ChunkOpening, data=lambda m: m.data[:-2]),
    "half an integer": changed(ChunkOpening, data=lambda m: m.data[:-1]),
    "integers of another chunk": changed(ChunkOpening, chunk=lambda m: m.chunk ^ 1),
    "headers swapped": swap(1, 2),
    "integers swapped": swap(-1, -2),
    "another header": changed(Part, hashes=lambda m: (bytes(32),) * len(m.hashes)),
    "a header with fewer hashes": changed(Part, hashes=()),
    "a header of a part that is none": changed(Part, part=31),
    "another's slice": of_another(SliceOpening),
    "another's header": of_another(Part),
    "another's integers": of_another(ChunkOpening),
}
MASKED_SILENT: dict[str, Lie] = {
    "a key less": changed(Opening, keys=lambda m: m.keys[:-1]),
    "a key more": changed(Opening, keys=lambda m: (*m.keys, bytes(32))),
    "a proof less": changed(Opening, proofs=lambda m: m.proofs[:-1]),
    "keys of another chunk": changed(Opening, chunk=lambda m: m.chunk ^ 1),
    "another's keys": of_another(Opening),
}


@pytest.mark.parametrize(("lie", "secure"), each_mode(SILENT, MASKED_SILENT))
def test_what_shows_nothing_is_silence_and_nobody_is_accused(lie: str, secure: bool) -> None:
    found = court(secure).look(lie=(SILENT | MASKED_SILENT)[lie])
    assert (found.outcome, found.evidence) == ("silent", None)


IN_CHUNKS: dict[str, Lie] = {
    "nothing": chunks(lambda hand, raws: None),
    "no statements": chunks(lambda hand, raws: []),
    "one missing": chunks(lambda hand, raws: raws[:-1]),
    "one doubled": chunks(lambda hand, raws: [raws[0], *raws[:-1]]),
    "garbage": chunks(lambda hand, raws: [bytes(9)] * len(raws)),
}


@pytest.mark.parametrize("lie", IN_CHUNKS)
def test_differing_chunks_that_are_not_opened_are_silence(lie: str) -> None:
    found = court(True, flipped).look(lie=IN_CHUNKS[lie])
    assert (found.outcome, found.evidence) == ("silent", None)


def test_true_integers_in_place_of_the_committed_ones_convict() -> None:
    """Who has sent another slice cannot show the one that it should have computed."""

    def mend(hand: Hand, raws: list[bytes]) -> Answer:
        true, out = hand.court.true(hand.peer), list[bytes]()
        for raw in raws:
            chunk = open_signed(raw, ChunkOpening).message.chunk
            out.append(hand.change(raw, data=true[chunk * CHUNK : (chunk + 1) * CHUNK].tobytes()))
        return out

    here = court(True, flipped)
    found = here.look(lie=chunks(mend))
    case = here.case(found)
    assert case.kind == "opening"
    assert here.holds(case)


def short_chunks(order: Order, true: list[np.ndarray]) -> Work:
    work = made_of(order, true)
    digests = [
        [digest_of(np.ascontiguousarray(one[low : low + CHUNK - 1])) for low in range(0, len(one), CHUNK)]
        for one in true
    ]
    return replace(work, own=OwnWork(Committed(order.digest(), digests, bytes(32)), work.own.encoded))


@BOTH
def test_chunks_committed_to_with_another_length_are_silence(secure: bool) -> None:
    """They are what was committed to, so that no evidence of a wrong opening would hold."""

    def trim(hand: Hand, raws: list[bytes]) -> Answer:
        for place, raw in enumerate(raws):
            if domain_of(raw) == ChunkOpening.DOMAIN:
                data = open_signed(raw, ChunkOpening).message.data
                raws[place] = hand.change(raw, data=data[: 2 * (CHUNK - 1)])
        return raws

    found = court(secure, short_chunks).look(lie=opening(trim))
    assert (found.outcome, found.evidence) == ("silent", None)


@BOTH
def test_a_false_key_of_the_salts_hides_no_chunk(secure: bool) -> None:
    """Under it every leaf differs, and a few chunks that are poisoned would be lost among all."""
    here = court(secure, one_chunk)
    poisoned = 1

    def other_key(hand: Hand, raws: list[bytes]) -> Answer:
        raws[0] = hand.change(raws[0], key=bytes(32))
        return raws

    def only_others(hand: Hand, raws: list[bytes]) -> Answer:
        shown = [open_signed(raw, ChunkOpening).message.chunk for raw in raws]
        return None if poisoned in shown else raws

    found = here.look(lie=lambda h, d, t: only_others(h, t) if d == ChunksAsked.DOMAIN else other_key(h, t))
    assert found.outcome == "wrong"
    assert here.holds(here.case(found))


@lru_cache(maxsize=4)
def true_opening(secure: bool) -> tuple[bytes, ...]:
    here = court(secure)
    peer = here.liar
    here.drawn(peer).asked.clear()
    return tuple(here.swarm.machine(peer).answer(here.draw_of(peer).checkers[0], here.computed(peer)))


@given(st.data(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_whatever_comes_back_a_check_ends_and_an_accusation_holds(data: st.DataObject, secure: bool) -> None:
    """Statements dropped, doubled, moved, cut, bent at random: no error, and no false accusation."""
    here, count = court(secure), len(true_opening(secure))
    places = st.integers(0, count - 1)
    bends = data.draw(
        st.lists(st.tuples(st.sampled_from(["drop", "double", "move", "cut", "flip"]), places, places))
    )

    def scramble(hand: Hand, raws: list[bytes]) -> Answer:
        for how, one, other in bends:
            if not raws:
                break
            one, other = one % len(raws), other % len(raws)
            match how:
                case "drop":
                    del raws[one]
                case "double":
                    raws.insert(other, raws[one])
                case "move":
                    raws.insert(other, raws.pop(one))
                case "cut":
                    raws[one] = raws[one][: len(raws[one]) // 2]
                case "flip" if raws[one]:
                    bent = bytearray(raws[one])
                    bent[other % len(bent)] ^= 1
                    raws[one] = bytes(bent)
        return raws

    found = here.look(lie=opening(scramble))
    assert found.outcome in ("clean", "silent", "wrong")
    assert found.evidence is None or here.holds(here.case(found))


def test_who_is_asked_four_times_and_answers_at_the_last_is_heard() -> None:
    here, asked = court(), list[int]()

    def late(hand: Hand, domain: str, true: list[bytes]) -> Answer:
        asked.append(1)
        return None if len(asked) < 4 else true

    assert here.look(lie=late).outcome == "clean"
    assert here.look(lie=at([Computed], lambda hand, raws: None)).outcome == "silent"


def test_an_accusation_is_upheld_false_or_undecided() -> None:
    assert convicts(0.006, 0.005) is True
    assert convicts(0.004, 0.005) is None
    assert convicts(0.001, 0.005) is False
    assert convicts(float("inf"), 0.005) is True


def checkers_of(here: Court) -> dict[PeerID, PeerID]:
    return {peer: here.draw_of(peer).checkers[0] for peer in here.members}


def test_nobody_but_the_drawn_is_told_anything() -> None:
    here = Court(True)
    for peer, checker in checkers_of(here).items():
        drawn = here.draw_of(peer)
        for other in here.members:
            hand = here.computed(peer, by=other)
            if other in drawn.checkers[:2]:
                assert here.swarm.machine(peer).answer(other, hand)
            else:
                with pytest.raises(Exception, match="not drawn"):
                    here.swarm.machine(peer).answer(other, hand)
        with pytest.raises(Exception, match="brought a question of"):
            here.swarm.machine(peer).answer(checker, here.computed(peer, by=peer))


def test_a_checker_gets_one_answer_of_a_kind_and_never_the_whole_slice() -> None:
    here = Court(True)
    peer, checker = next(iter(checkers_of(here).items()))
    machine, session = here.swarm.machine(peer), here.drawn(peer).transcript.session

    def asks(message: Computed | ChunksAsked) -> list[bytes]:
        return machine.answer(checker, here.sign(checker, message))

    first, second = (ChunksAsked(session=session, chunks=(chunk,)) for chunk in (0, 1))
    with pytest.raises(Exception, match="not said what it computed"):
        asks(first)
    computed = Computed(session=session, checked=peer, sketch=(0,) * WIDTH)
    assert asks(computed) == asks(computed)
    with pytest.raises(Exception, match="asked another thing"):
        asks(computed.model_copy(update={"sketch": (1,) * WIDTH}))
    assert len(asks(first)) == len(asks(first)) == 1
    with pytest.raises(Exception, match="asked another thing"):
        asks(second)
    with pytest.raises(Exception, match="at most"):
        asks(ChunksAsked(session=session, chunks=tuple(range(13))))
    with pytest.raises(Exception, match="at most"):
        asks(ChunksAsked(session=session, chunks=(1 << 40,)))


def test_a_complaint_makes_the_next_ones_look_once_however_often_it_is_told() -> None:
    here = Court(True, peers=8)
    peer = here.liar
    draw, kept = here.draw_of(peer), here.drawn(peer).transcript
    first, second = draw.checkers[:2]
    machine = here.swarm.machine(second)
    complaint = Verdict(
        run=machine.history.run,
        round=0,
        session=kept.session,
        checked=peer,
        slice=0,
        outcome="silent",
        sketch=(0,) * WIDTH,
    )
    raw = here.sign(first, complaint)
    (again,) = machine.checks.heard(raw, machine.history)
    assert isinstance(again, Recompute)
    assert machine.checks.heard(raw, machine.history) == []
    effects = machine.recomputed(again.key, here.true(peer))
    while not all(isinstance(effect, Tell) for effect in effects):
        (ask,) = effects
        assert isinstance(ask, AskPeer)
        effects = machine.answered(ask.key, here.swarm.machine(peer).answer(second, ask.raw))
    assert machine.checks.heard(raw, machine.history) == []
    stranger = here.sign(draw.checkers[-1], complaint)
    assert machine.checks.heard(stranger, machine.history) == []
