"""Results of cells: believed where more than c of a cell say the same, and fit for one record."""

import pytest

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.messages import Advert
from swarm.cells import CellResult, Results, Unequal, record_of
from tests.secagg.session_network import KEYS as MEMBERS
from tests.secagg.session_network import advert_of
from tests.verify.chain import KEYS, begin
from tests.verify.test_shards_record import sharded
from verify.record import History, whole
from verify.statement import sign

HISTORY = sharded(8)
SLOT = (1, 0)


def adverts(history: History) -> dict[PeerID, Advert]:
    """Everyone's advert, all of weight 0: no chains."""
    blank = advert_of(next(iter(MEMBERS)), weight=0, loss=7, heldout=9, tokens=5)
    return {peer: blank.model_copy(update={"shard": history.shard_of(peer)}) for peer in history.members}


def result(shard: int, **changes: object) -> CellResult:
    fields: dict[str, object] = {
        "run": HISTORY.run,
        "round": 1,
        "attempt": 0,
        "shard": shard,
        "session": bytes([shard]) * 32,
        "survivors": HISTORY.cell(shard),
        "snapshot": bytes([5]) * 32,
        "beacon": bytes([6]) * 32,
        "statements": (),
    }
    return CellResult.model_validate(fields | changes)


def told(*said: tuple[PeerID, CellResult]) -> Results:
    results = Results(HISTORY, SLOT, adverts(HISTORY))
    for peer, one in said:
        results.receive(sign(KEYS[peer], one))
    return results


def test_a_shards_result_is_believed_once_more_than_c_of_its_cell_say_the_same() -> None:
    mine, theirs = result(0), result(1)
    a, b, *_ = HISTORY.cell(1)
    assert told().complete(mine) is None
    assert told((a, theirs)).complete(mine) is None
    assert told((a, theirs)).missing(0) == [1]
    assert told((a, theirs), (b, result(1, snapshot=bytes(32)))).complete(mine) is None
    assert told((a, theirs), (b, theirs)).complete(mine) == [mine, theirs]
    assert told((a, theirs), (a, theirs)).complete(mine) is None
    assert told((a, theirs), (b, theirs)).missing(0) == []


def test_the_own_cells_result_is_what_this_peer_saw() -> None:
    mine, theirs = result(0), result(1)
    a, b, *_ = HISTORY.cell(1)
    liars = HISTORY.cell(0)[:3]
    other = result(0, snapshot=bytes(32))
    said = [(peer, other) for peer in liars]
    assert told(*said, (a, theirs), (b, theirs)).complete(mine) == [mine, theirs]


@pytest.mark.parametrize(
    ("signer", "changes", "text"),
    [
        (HISTORY.cell(1)[0], {"attempt": 1}, "another run or attempt"),
        (HISTORY.cell(1)[0], {"run": bytes(32)}, "another run or attempt"),
        (HISTORY.cell(0)[0], {}, "does not hold shard 1"),
        (HISTORY.cell(1)[0], {"survivors": HISTORY.cell(1)[1:]}, "survivors are not those"),
        (HISTORY.cell(1)[0], {"survivors": HISTORY.members}, "survivors are not those"),
    ],
)
def test_a_result_of_another_attempt_or_from_who_has_no_part_in_it_is_refused(
    signer: PeerID, changes: dict[str, object], text: str
) -> None:
    with pytest.raises(MessageRefused, match=text):
        told((signer, result(1, **changes)))


def test_shards_that_did_other_slices_make_no_record() -> None:
    given = adverts(HISTORY)
    with pytest.raises(Unequal):
        record_of(HISTORY, SLOT, [result(0), result(1)], given)
    one = HISTORY.cell(0)[0]
    given[one] = given[one].model_copy(update={"weight": 2})
    with pytest.raises(Unequal, match=r"\[2, 0\]"):
        record_of(HISTORY, SLOT, [result(0), result(1)], given)


def test_a_run_of_one_shard_needs_its_own_result_alone() -> None:
    history = begin(4)
    given = {peer: one.model_copy(update={"weight": 1}) for peer, one in adverts(history).items()}
    mine = result(0, run=history.run, survivors=history.members)
    assert Results(history, SLOT, given).complete(mine) == [mine]
    record = record_of(history, SLOT, [mine], given)
    assert (record.cells, record.session, record.loss) == ((), mine.session, 7)
    assert record.snapshot != whole([mine.snapshot])
