"""What an audit makes of sessions of a run in shards: a cell is held to its own shard and its own size."""

from collections.abc import Sequence
from dataclasses import replace

from secagg.messages import FinalSet, SurvivorSet, session_id
from tests.secagg.session_network import advert_of
from verify.audit_entries import Line
from verify.audit_session import RoundFacts, RoundTask, Stage, check_round
from verify.identity import Identity
from verify.lottery import attempt_seed, in_turn
from verify.record import Standing
from verify.statement import sign

KEYS = {key.peer_id: key for key in (Identity.from_seed(bytes([at]) * 32) for at in range(1, 9))}
PEERS = sorted(KEYS)
CELLS = (PEERS[:4], PEERS[4:])
SNAPSHOTS = (b"\1" * 32, b"\2" * 32)
STAGE = Stage(
    round=1,
    roster={peer: Standing(shard=shard) for shard, cell in enumerate(CELLS) for peer in cell},
    snapshots=SNAPSHOTS,
    beacon=bytes(32),
    throughput=tuple(dict.fromkeys(cell, 0) for cell in CELLS),
    secure=True,
    own=False,
    slices=4,
    slice_tokens=8,
)

ONE = replace(
    STAGE,
    roster=dict.fromkeys(PEERS, Standing()),
    snapshots=SNAPSHOTS[:1],
    throughput=(dict.fromkeys(PEERS, 0),),
)


def adverts(cell: Sequence[str], **changes: object) -> list[bytes]:
    shard = STAGE.roster[cell[0]].shard
    made = {"shard": shard, "snapshot": SNAPSHOTS[shard], "weight": 0, "tokens": 0, **changes}
    return [sign(KEYS[peer], advert_of(peer, **made)) for peer in cell]


def lines(raws: Sequence[bytes]) -> tuple[Line, ...]:
    return tuple((index, "advert", raw) for index, raw in enumerate(raws))


def facts(*ledgers: tuple[Line, ...], stage: Stage = STAGE) -> RoundFacts:
    return check_round(RoundTask(bytes(32), stage, tuple(enumerate(ledgers)), ("a", "b")))


def slips(*ledgers: tuple[Line, ...], stage: Stage = STAGE) -> list[str]:
    return [slip.what for slip in facts(*ledgers, stage=stage).slips]


def test_each_cell_has_a_session_at_its_own_snapshot() -> None:
    found = facts(*(lines(adverts(cell)) for cell in CELLS))
    assert not found.slips
    assert [one.shard for one in found.sessions] == [0, 1]
    assert found.sessions[0].id != found.sessions[1].id


def test_a_member_of_another_cell_has_no_place_in_a_session() -> None:
    mixed = [*adverts(CELLS[0][:3]), *adverts(CELLS[1][:1])]
    assert ["at another snapshot" in what for what in slips(lines(mixed))] == [True]
    posing = adverts(CELLS[1][:1], shard=0, snapshot=SNAPSHOTS[0])
    assert slips(lines([*adverts(CELLS[0][:3]), *posing])) == [
        f"advert of {CELLS[1][0]}: of shard 0, it holds shard 1"
    ]


def test_a_cell_cannot_be_at_another_shards_snapshot() -> None:
    found = slips(lines(adverts(CELLS[1], snapshot=SNAPSHOTS[0])))
    assert len(found) == 4
    assert all("shard 1 is at 0202" in what for what in found)


def test_in_a_run_of_one_shard_nothing_else_is_taken() -> None:
    assert not slips(lines(adverts(CELLS[0], weight=1)), stage=ONE)
    idle = slips(lines(adverts(CELLS[0])), stage=ONE)
    assert all("no slice, or chains in a run of one shard" in what for what in idle)
    assert len(idle) == 4
    wrong = slips(lines(adverts(CELLS[1])), stage=ONE)
    assert len(wrong) == 4
    assert all("of shard 1, it holds shard 0" in what for what in wrong)


def final_set(cell: Sequence[str], survivors: Sequence[str], raws: Sequence[bytes]) -> bytes:
    """A final set without votes: what it lacks tells how many are asked for."""
    shard = STAGE.roster[cell[0]].shard
    first = advert_of(cell[0], shard=shard, snapshot=SNAPSHOTS[shard])
    session = session_id(first, list(raws))
    proposer = KEYS[in_turn(attempt_seed(STAGE.beacon, 1, 0, "survivor-set"), cell)[0]]
    agreed = SurvivorSet(session=session, survivors=tuple(survivors), receipts=())
    final = FinalSet(session=session, survivor_set=agreed.digest(), proposal=sign(proposer, agreed), votes=())
    return sign(proposer, final)


def test_thresholds_are_those_of_the_cell_not_of_the_roster() -> None:
    cell = CELLS[0]
    raws = adverts(cell)
    for count, problem in ((2, "2 survivors, 3 are needed"), (3, "votes")):
        line = (len(raws), "final-set", final_set(cell, cell[:count], raws))
        found = slips((*lines(raws), line))
        assert len([what for what in found if problem in what]) == 1, found
        assert any("survivors, " in what for what in found) is (count == 2)


def test_in_the_clear_a_cell_of_two_is_enough_and_a_roster_of_eight_wants_six() -> None:
    clear, cell = replace(STAGE, secure=False), CELLS[0][:2]
    whole = replace(ONE, secure=False)
    raws = adverts(cell, seal_key=None, mask_key=None)
    ledger = (*lines(raws), (2, "final-set", final_set(cell, cell, raws)))
    for stage, found in ((clear, slips(ledger, stage=clear)), (whole, slips(ledger, stage=whole))):
        assert any("2 survivors, 6 are needed" in what for what in found) is (stage is whole), found
