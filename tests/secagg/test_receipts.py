"""Receipts and the inputs behind them: a survivor set names nobody whose update some owner may lack."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.inputs import Inputs
from secagg.messages import Part, Receipt
from secagg.parts import Cut
from secagg.receipts import Receipts
from tests.secagg.session_network import KEYS

PEERS = tuple(sorted(KEYS))
DEALERS = PEERS[:4]
CHUNK = 8


def receipts(size: int = 40, owners: tuple[PeerID, ...] = DEALERS) -> Receipts:
    return Receipts(Cut(size, owners, DEALERS, CHUNK))


def receipt(part: int, senders: tuple[PeerID, ...] = DEALERS, headers: int | None = None) -> Receipt:
    count = len(senders) if headers is None else headers
    return Receipt(session=bytes(32), part=part, senders=senders, headers=(bytes([part]) * 32,) * count)


def raw(owner: PeerID, message: Receipt) -> bytes:
    """Stands for a signed receipt: receipts are opened before they come here."""
    return owner.encode() + message.encode()


# ---- one receipt


@pytest.mark.parametrize("owner", DEALERS)
@pytest.mark.parametrize("part", range(4))
def test_any_dealer_may_have_taken_over_any_part(owner: PeerID, part: int) -> None:
    receipts().check(owner, receipt(part))
    receipts().check(owner, receipt(part, senders=(owner,)))


@pytest.mark.parametrize(
    ("owner", "message", "match"),
    [
        (PEERS[4], receipt(0), "cannot own part 0"),
        (PEERS[0], receipt(4), "cannot own part 4"),
        (PEERS[0], receipt(0, DEALERS[::-1]), "each once, in order"),
        (PEERS[0], receipt(0, (PEERS[1], PEERS[1])), "each once, in order"),
        (PEERS[0], receipt(0, PEERS[:5]), "members that mask"),
        (PEERS[0], receipt(0, headers=3), "hash of its header"),
        (PEERS[0], receipt(0, headers=5), "hash of its header"),
    ],
)
def test_what_can_be_no_receipt_of_this_session_is_refused(
    owner: PeerID, message: Receipt, match: str
) -> None:
    held = receipts()
    for refuse in (
        lambda: held.check(owner, message),
        lambda: held.add(owner, raw(owner, message), message),
        lambda: held.owners_of(message.senders, [(owner, message)]),
    ):
        with pytest.raises(MessageRefused):
            refuse()
    with pytest.raises(MessageRefused, match=match):
        held.check(owner, message)
    assert held.candidates(late=True) == ((), ())


def test_a_part_without_elements_has_no_receipt() -> None:
    held = receipts(size=8)  # one chunk for four owners
    with pytest.raises(MessageRefused, match="cannot own part 0"):
        held.check(PEERS[0], receipt(0))
    held.check(PEERS[3], receipt(3))


def test_the_first_of_two_receipts_counts_and_the_other_shows() -> None:
    held = receipts(size=8)
    first, second = receipt(3), receipt(3, DEALERS[:3])
    assert held.add(PEERS[3], raw(PEERS[3], first), first) is None
    assert held.add(PEERS[3], raw(PEERS[3], first), first) is None, "sent again"
    assert held.add(PEERS[3], raw(PEERS[3], second), second) == raw(PEERS[3], first)
    for late in (False, True):
        assert held.candidates(late) == ((raw(PEERS[3], first),), DEALERS)


# ---- what is proposed


@pytest.mark.parametrize("late", [False, True])
def test_nothing_can_be_proposed_before_every_part_has_a_receipt(late: bool) -> None:
    held = receipts()
    for part in range(4):
        assert held.candidates(late) == ((), ())
        held.add(DEALERS[part], raw(DEALERS[part], receipt(part)), receipt(part))
    chosen, survivors = held.candidates(late)
    assert survivors == DEALERS
    assert chosen == tuple(raw(DEALERS[part], receipt(part)) for part in range(4))


def test_before_the_time_is_up_nobody_signs_in_an_owners_place() -> None:
    """However full its receipt: it may have nothing of what it signs for."""
    held = receipts(size=8)
    for owner in (PEERS[0], PEERS[1], PEERS[2]):
        held.add(owner, raw(owner, receipt(3)), receipt(3))
        assert held.candidates(late=False) == ((), ())
    few = receipt(3, DEALERS[:2])
    held.add(PEERS[3], raw(PEERS[3], few), few)
    assert held.candidates(late=False) == ((raw(PEERS[3], few),), DEALERS[:2])


def test_when_the_time_is_up_the_first_in_the_chain_that_signed_counts_and_never_the_fullest() -> None:
    held = receipts(size=8)
    # The chain of part 3 is 3, 0, 1, 2.
    for owner, senders in ((2, DEALERS), (1, DEALERS[:3]), (0, DEALERS[1:]), (3, DEALERS[:2])):
        message = receipt(3, senders)
        held.add(PEERS[owner], raw(PEERS[owner], message), message)
        assert held.candidates(late=True) == ((raw(PEERS[owner], message),), senders)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sets(st.sampled_from(DEALERS), min_size=1))),
    st.booleans(),
)
def test_what_is_proposed_is_always_accepted_and_names_only_those_every_chosen_owner_has(
    said: list[tuple[int, int, set[PeerID]]], late: bool
) -> None:
    held = receipts()
    known: dict[bytes, tuple[PeerID, Receipt]] = {}
    for place, part, senders in said:
        message = receipt(part, tuple(sorted(senders)))
        held.add(DEALERS[place], raw(DEALERS[place], message), message)
        known[raw(DEALERS[place], message)] = (DEALERS[place], message)
    chosen, survivors = held.candidates(late)
    covered = {part for place, part, _ in said if late or place == part}  # part i is the i-th dealer's
    assert len(chosen) == (4 if covered == set(range(4)) else 0)
    if not chosen:
        assert survivors == ()
        return
    opened = [known[one] for one in chosen]
    assert set(survivors) == set.intersection(*(set(message.senders) for _, message in opened))
    assert held.owners_of(survivors, opened) == {part: owner for part, (owner, _) in enumerate(opened)}


# ---- what is accepted of a proposal, whatever this member heard itself


def proposal() -> list[tuple[PeerID, Receipt]]:
    return [(DEALERS[part], receipt(part)) for part in range(4)]


def test_a_proposal_is_judged_by_its_receipts_alone() -> None:
    owners = dict(enumerate(DEALERS))
    assert receipts().owners_of(DEALERS, proposal()) == owners
    assert receipts().owners_of(DEALERS[1:3], proposal()) == owners, "fewer than the owners have"
    taken_over = [(PEERS[2], receipt(0)), *proposal()[1:]]
    assert receipts().owners_of(DEALERS, taken_over) == owners | {0: PEERS[2]}


@pytest.mark.parametrize(
    ("survivors", "of", "match"),
    [
        (DEALERS[::-1], proposal(), "each once, in order"),
        ((DEALERS[0], DEALERS[0]), proposal(), "each once, in order"),
        (PEERS[:5], proposal(), "members that mask"),
        (DEALERS, proposal()[:3], "one receipt, in order"),
        (DEALERS, proposal()[::-1], "one receipt, in order"),
        (DEALERS, [*proposal(), proposal()[3]], "one receipt, in order"),
        (DEALERS, [proposal()[0], *proposal()[:3]], "one receipt, in order"),
        (DEALERS, [], "one receipt, in order"),
        (DEALERS, [*proposal()[:3], (PEERS[4], receipt(3))], "cannot own part 3"),
        (DEALERS, [*proposal()[:3], (PEERS[3], receipt(3, DEALERS[:3]))], "does not name all survivors"),
        (DEALERS, [*proposal()[:3], (PEERS[3], receipt(3, headers=2))], "hash of its header"),
    ],
)
def test_a_set_that_its_receipts_do_not_carry_is_refused(
    survivors: tuple[PeerID, ...], of: list[tuple[PeerID, Receipt]], match: str
) -> None:
    with pytest.raises(MessageRefused, match=match):
        receipts().owners_of(survivors, of)


# ---- what an owner holds

DATA = np.arange(4, dtype="<i2")
PART = Part(session=bytes(32), part=0, hashes=(bytes(32),))
OTHER = Part(session=bytes(32), part=0, hashes=(b"\1" * 32,))


def header(sender: PeerID, message: Part = PART) -> bytes:
    """Stands for a signed header: headers are opened before they come here."""
    return sender.encode() + message.encode()


def put(inputs: Inputs, sender: PeerID, data: np.ndarray = DATA) -> None:
    """A sender's part 0."""
    inputs.put(sender, header(sender), PART, data)


def test_a_part_counts_once_its_data_are_those_of_its_header() -> None:
    inputs = Inputs()
    for number, sender in enumerate(DEALERS):
        assert not inputs.has(0, sender)
        put(inputs, sender)
        assert inputs.has(0, sender)
        assert inputs.checked(0, sender, holds=True) == number + 1
    put(inputs, PEERS[4])
    with pytest.raises(MessageRefused, match="not those of its signed header"):
        inputs.checked(0, PEERS[4], holds=False)
    assert not inputs.has(0, PEERS[4]), "and it may be sent again"
    senders, headers = inputs.close(0)
    assert senders == DEALERS
    assert headers == (PART.digest(),) * len(DEALERS), "what it holds, not how it was signed"


def test_a_receipt_names_what_each_header_says_so_that_anyone_can_name_it_from_the_data() -> None:
    inputs = Inputs()
    for sender, message in zip(DEALERS[:2], (PART, OTHER), strict=True):
        inputs.put(sender, header(sender, message), message, DATA)
        inputs.checked(0, sender, holds=True)
    assert PART.digest() != OTHER.digest()
    assert inputs.close(0) == (DEALERS[:2], (PART.digest(), OTHER.digest()))


def test_another_header_of_a_sender_shows_before_and_after_its_data_are_checked() -> None:
    inputs = Inputs()
    put(inputs, PEERS[0])
    put(inputs, PEERS[1])
    inputs.checked(0, PEERS[1], holds=True)
    for sender in PEERS[:2]:
        assert inputs.other_header(0, sender, header(sender, OTHER)) == header(sender)
        assert inputs.other_header(0, sender, header(sender)) is None
        assert inputs.other_header(1, sender, header(sender, OTHER)) is None


def test_a_part_is_closed_once_and_takes_nothing_after_that() -> None:
    inputs = Inputs()
    for sender in PEERS[:2]:
        put(inputs, sender)
    inputs.checked(0, PEERS[0], holds=True)
    assert inputs.close(0)[0] == PEERS[:1], "what is not checked yet is in no receipt"
    assert inputs.close(0) == ((), ())
    with pytest.raises(MessageRefused, match="inputs are closed"):
        inputs.check_open(0)
    with pytest.raises(MessageRefused, match="inputs are closed"):
        inputs.checked(0, PEERS[1], holds=True)
    inputs.check_open(1)


def test_survivors_parts_are_given_in_their_order_or_not_at_all() -> None:
    inputs = Inputs()
    for number, sender in enumerate(PEERS[:3]):
        put(inputs, sender, DATA + number)
        if number < 2:
            inputs.checked(0, sender, holds=True)
    assert [int(data[0]) for data in inputs.take(0, PEERS[:2])] == [0, 1]
    for missing in (PEERS[:3], PEERS[3:4]):
        with pytest.raises(MessageRefused, match="lacks part 0"):
            inputs.take(0, missing)
    with pytest.raises(MessageRefused, match="lacks part 1"):
        inputs.take(1, PEERS[:1])


def test_nothing_is_held_after_the_end() -> None:
    inputs = Inputs()
    put(inputs, PEERS[0])
    inputs.checked(0, PEERS[0], holds=True)
    inputs.drop()
    assert not inputs.has(0, PEERS[0])
    assert inputs.close(0) == ((), ())
    with pytest.raises(MessageRefused, match="inputs are closed"):
        inputs.check_open(1)


def test_a_part_whose_check_ends_after_the_end_is_refused() -> None:
    inputs = Inputs()
    put(inputs, PEERS[0])
    inputs.drop()
    with pytest.raises(MessageRefused, match="inputs are closed"):
        inputs.checked(0, PEERS[0], holds=True)
