"""What is kept of a session convicts nobody who is honest; no lie about it is believed, or breaks it."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.messages import FinalSet, Opening, Part, PartSum, Shown
from secagg.transcript import NotWhatWasSent, Transcript
from swarm.testing import CHUNK, virtual_slice
from tests.verify.checked import Court, court
from verify.statement import open_signed

BOTH = pytest.mark.parametrize("secure", [True, False], ids=["secure", "plain"])


def kept_of(here: Court, peer: PeerID) -> Transcript:
    return here.drawn(peer).transcript


def headers_of(here: Court, peer: PeerID) -> list[Part]:
    kept = kept_of(here, peer)
    return [open_signed(kept.headers[part], Part).message for part in kept.cut.parts]


def update_of(here: Court, peer: PeerID) -> np.ndarray:
    order = here.order_of(peer)
    slices = [virtual_slice(order, index, here.swarm.size) for index in range(len(order.slices))]
    return np.sum(slices, axis=0, dtype=np.int16)


def shown_by_all(here: Court, chunk: int) -> dict[PeerID, Shown]:
    return {peer: kept_of(here, peer).shown(chunk) for peer in here.members}


@BOTH
def test_members_keep_the_same_of_a_session(secure: bool) -> None:
    here = court(secure)
    one, *others = [kept_of(here, peer) for peer in here.members]
    for other in others:
        assert (one.session, one.agreed, one.beacon) == (other.session, other.agreed, other.beacon)
        assert (one.receipts, one.owners, one.chunks) == (other.receipts, other.owners, other.chunks)
        assert {part: said for part, (_, said) in one.sums.items()} == {
            part: said for part, (_, said) in other.sums.items()
        }
    assert one.survivors == tuple(here.members)
    assert bool(one.releases) == secure == bool(one.papers(one.me))


@BOTH
def test_what_honest_members_open_and_show_is_what_was_sent_in_every_chunk(secure: bool) -> None:
    here = court(secure)
    mine = kept_of(here, here.members[0])
    for peer in here.members:
        theirs, headers, update = kept_of(here, peer), headers_of(here, peer), update_of(here, peer)
        mine.check_headers(peer, headers)
        for chunk in range(mine.chunks):
            opened = theirs.open_masks(chunk)
            assert (opened is None) != secure
            if opened is not None:
                mine.check_opening(peer, opened)
            integers = update[chunk * CHUNK : (chunk + 1) * CHUNK]
            mine.check_masked(peer, chunk, integers, headers, opened)
            shown = theirs.shown(chunk)
            mine.check_shown(peer, shown, open_signed(shown.header, Part).message)


@given(st.integers(0, 12), st.integers(0, 15), st.integers(1, 65_535))
@settings(max_examples=30, deadline=None)
def test_no_other_integers_pass_under_the_masks_that_were_sent(chunk: int, place: int, step: int) -> None:
    here = court(True)
    mine, peer = kept_of(here, here.members[0]), here.liar
    integers = update_of(here, peer)[chunk * CHUNK : (chunk + 1) * CHUNK].copy()
    integers[place % len(integers)] += np.array(step).astype(np.int16)
    with pytest.raises(NotWhatWasSent, match="do not add up"):
        mine.check_masked(
            peer, chunk, integers, headers_of(here, peer), kept_of(here, peer).open_masks(chunk)
        )


WRONG_HEADERS: dict[str, Callable[[list[Part]], list[Part]]] = {
    "none": lambda headers: [],
    "one less": lambda headers: headers[:-1],
    "one twice": lambda headers: [headers[0], *headers[:-1]],
    "another order": lambda headers: headers[::-1],
    "fewer hashes": lambda headers: [headers[0].model_copy(update={"hashes": ()}), *headers[1:]],
    "other hashes": lambda headers: [
        headers[0].model_copy(update={"hashes": (bytes(32),) * len(headers[0].hashes)}),
        *headers[1:],
    ],
    "a part that is none": lambda headers: [headers[0].model_copy(update={"part": 31}), *headers[1:]],
}


@BOTH
@pytest.mark.parametrize("how", WRONG_HEADERS)
def test_headers_that_the_owners_did_not_sign_for_are_refused(how: str, secure: bool) -> None:
    here = court(secure)
    with pytest.raises(MessageRefused):
        kept_of(here, here.members[0]).check_headers(
            here.liar, WRONG_HEADERS[how](headers_of(here, here.liar))
        )


def test_a_short_header_that_the_owner_did_sign_for_is_refused_too() -> None:
    """The header of an owner's own part is looked at by nobody else before."""
    here = Court(True)
    mine, liar = kept_of(here, here.members[0]), here.liar
    part = next(part for part, owner in mine.owners.items() if owner == liar)
    short = [h.model_copy(update={"hashes": ()}) if h.part == part else h for h in headers_of(here, liar)]
    digests = [
        next(h.digest() for h in short if h.part == part) if sender == liar else header
        for sender, header in zip(mine.receipts[part].senders, mine.receipts[part].headers, strict=True)
    ]
    mine.receipts[part] = mine.receipts[part].model_copy(update={"headers": tuple(digests)})  # type: ignore[index]
    with pytest.raises(MessageRefused, match="chunk hashes"):
        mine.check_headers(liar, short)
    chunk = mine.cut.first(part)
    shown = kept_of(here, liar).shown(chunk)
    with pytest.raises(MessageRefused, match="chunk hashes"):
        mine.check_shown(liar, shown, next(h for h in short if h.part == part))


WRONG_KEYS: dict[str, Callable[[Opening], dict[str, object]]] = {
    "other keys": lambda o: {"keys": (bytes(32),) * len(o.keys)},
    "another chunk's": lambda o: {"chunk": o.chunk + 1},
    "a chunk beyond all": lambda o: {"chunk": 1 << 62},
    "no proofs": lambda o: {"proofs": ((),) * len(o.proofs)},
    "keys swapped": lambda o: {"keys": o.keys[::-1]},
}


@pytest.mark.parametrize("how", WRONG_KEYS)
def test_keys_outside_the_signed_roots_are_refused(how: str) -> None:
    here = court(True)
    opened = kept_of(here, here.liar).open_masks(2)
    assert opened is not None
    with pytest.raises(NotWhatWasSent):
        kept_of(here, here.members[0]).check_opening(
            here.liar, opened.model_copy(update=WRONG_KEYS[how](opened))
        )


@pytest.mark.parametrize("changes", [{"keys": ()}, {"proofs": ()}, {"keys": (bytes(32),) * 5}])
def test_keys_of_another_number_show_nothing_against_their_author(changes: dict[str, object]) -> None:
    here = court(True)
    opened = kept_of(here, here.liar).open_masks(2)
    assert opened is not None
    with pytest.raises(MessageRefused) as refusal:
        kept_of(here, here.members[0]).check_opening(here.liar, opened.model_copy(update=changes))
    assert not isinstance(refusal.value, NotWhatWasSent)


def test_nothing_is_opened_where_nothing_is_masked() -> None:
    here = court(False)
    opened = kept_of(court(True), court(True).liar).open_masks(0)
    assert opened is not None
    with pytest.raises(NotWhatWasSent, match="nothing is masked"):
        kept_of(here, here.members[0]).check_opening(here.liar, opened)


WRONG_SHOWN: dict[str, Callable[[Shown], dict[str, object]]] = {
    "other integers": lambda s: {"data": bytes(len(s.data))},
    "fewer integers": lambda s: {"data": s.data[:-2]},
    "another chunk of the part": lambda s: {"chunk": s.chunk + 1},
}


@BOTH
@pytest.mark.parametrize("how", WRONG_SHOWN)
def test_who_shows_other_integers_than_it_sent_is_refused(how: str, secure: bool) -> None:
    here = court(secure)
    mine, shown = kept_of(here, here.members[0]), kept_of(here, here.liar).shown(0)
    wrong = shown.model_copy(update=WRONG_SHOWN[how](shown))
    with pytest.raises(NotWhatWasSent):
        mine.check_shown(here.liar, wrong, open_signed(shown.header, Part).message)


@given(st.integers(0, 31), st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_a_header_of_any_part_is_taken_for_its_own_chunks_only(part: int, chunk: int) -> None:
    here = court(True)
    mine, shown = kept_of(here, here.members[0]), kept_of(here, here.liar).shown(chunk)
    header = open_signed(shown.header, Part).message
    if part == header.part:
        mine.check_shown(here.liar, shown, header)
        return
    with pytest.raises(NotWhatWasSent):
        mine.check_shown(here.liar, shown, header.model_copy(update={"part": part}))


@BOTH
def test_true_sums_are_what_all_survivors_show_and_no_others(secure: bool) -> None:
    here = court(secure)
    mine = kept_of(here, here.members[0])
    for chunk in range(mine.chunks):
        shown = shown_by_all(here, chunk)
        assert mine.check_sum(chunk, shown)
        data = np.frombuffer(shown[here.liar].data, np.int16) + np.int16(1)
        shown[here.liar] = shown[here.liar].model_copy(update={"data": data.tobytes()})
        assert not mine.check_sum(chunk, shown)


@BOTH
def test_a_false_sum_convicts_its_owner_and_a_true_one_nobody(secure: bool) -> None:
    here = Court(secure)
    mine = kept_of(here, here.members[0])
    part = next(part for part, owner in mine.owners.items() if owner == here.liar)
    chunk = mine.cut.first(part)
    shown = {peer: here.sign(peer, one) for peer, one in shown_by_all(here, chunk).items()}
    proposal = open_signed(mine.final_set, FinalSet).message.proposal
    assert not here.holds(here.case(mine.false_sum(chunk, shown, proposal)))
    lie: PartSum = mine.sums[part][1].model_copy(
        update={"hashes": (bytes(32),) * len(mine.sums[part][1].hashes)}
    )
    mine.sums[part] = (here.sign(here.liar, lie), lie)  # type: ignore[index]
    assert not mine.check_sum(chunk, shown_by_all(here, chunk))
    case = here.case(mine.false_sum(chunk, shown, proposal))
    assert (case.kind, case.against) == ("sum", here.liar)
    assert here.holds(case)


@BOTH
def test_a_transcript_does_not_print_what_is_hidden(secure: bool) -> None:
    kept = kept_of(court(secure), court(secure).liar)
    text = repr(kept)
    assert "sharing" not in text
    assert "masked" not in text
    assert "recovery" not in text
