"""A run of several shards has one record for all: each cell in it, the same slices done in each of them."""

import pytest

from proto.errors import MessageRefused
from tests.verify.chain import (
    PEERS,
    begin,
    decided,
    follow,
    goodbye,
    join,
    record_after,
    recovery,
    said,
)
from verify.record import Cell, Decided, History, Move, Record, RecordRefused, Recovery, whole

SHARDS = (bytes([1]) * 32, bytes([2]) * 32)


def sharded(size: int = 6, **changes: object) -> History:
    """Two shards; of members in order every other one holds the same."""
    return begin(size, shards=SHARDS, snapshot=whole(SHARDS), **changes)


def cells_of(history: History, survivors: tuple[str, ...], number: int = 0) -> tuple[Cell, ...]:
    return tuple(
        Cell(
            session=bytes([10 + shard + number]) * 32,
            survivors=tuple(peer for peer in survivors if history.shard_of(peer) == shard),
            snapshot=bytes([20 + shard + history.round]) * 32,
            beacon=bytes([30 + shard + history.round]) * 32,
        )
        for shard in range(2)
    )


def next_record(history: History, survivors: tuple[str, ...] | None = None, **changes: object) -> Record:
    present = history.members if survivors is None else survivors
    cells = cells_of(history, present)
    joint = {
        name: whole([getattr(cell, name) for cell in cells]) for name in ("session", "snapshot", "beacon")
    }
    return record_after(history, **{"survivors": present, "cells": cells, **joint, **changes})


def moved(history: History, **changes: object) -> History:
    return history.extend(decided(history, next_record(history, **changes)))  # type: ignore[arg-type]


def test_founders_hold_the_shards_in_turn_and_each_shard_has_its_snapshot() -> None:
    history = sharded()
    assert [history.shard_of(peer) for peer in history.members] == [0, 1, 0, 1, 0, 1]
    assert history.cells == (history.cell(0), history.cell(1))
    assert [history.snapshot_of(shard) for shard in (0, 1)] == list(SHARDS)
    after = moved(history)
    assert after.shards == tuple(cell.snapshot for cell in cells_of(history, history.members))
    assert after.snapshot == whole(after.shards)
    assert {cell.session for cell in cells_of(history, history.members)} <= after.sessions.keys()


@pytest.mark.parametrize("shards", [(SHARDS[0],), SHARDS[::-1]])
def test_a_genesis_whose_snapshot_is_not_its_shards_is_refused(shards: tuple[bytes, ...]) -> None:
    with pytest.raises(RecordRefused, match="not the whole of two shards"):
        begin(4, shards=shards, snapshot=whole(SHARDS))


def test_a_record_in_which_the_shards_did_other_slices_is_refused() -> None:
    history = sharded()
    for weights in ((2, 1, 1, 1, 1, 1), (0, 0, 0, 0, 0, 0)):
        with pytest.raises(RecordRefused, match="each must have done the same"):
            moved(history, weights=weights)
    assert moved(history, weights=(2, 1, 1, 2, 0, 0)).round == 1


def test_cells_are_of_their_own_members_and_their_names_are_the_records() -> None:
    history = sharded()
    cells = cells_of(history, history.members)
    for changes, text in (
        ({"cells": cells[::-1]}, "not those of its cell"),
        ({"cells": cells[:1]}, "1 cells, the run has 2"),
        ({"cells": ()}, "0 cells, the run has 2"),
        ({"session": bytes(32)}, "its session is not the whole"),
        ({"snapshot": bytes(32)}, "its snapshot is not the whole"),
        ({"beacon": bytes(32)}, "its beacon is not the whole"),
    ):
        with pytest.raises(RecordRefused, match=text):
            moved(history, **changes)
    plain = begin(4)
    raw = decided(plain, record_after(plain, cells=cells[:1]))
    with pytest.raises(RecordRefused, match="1 cells, the run has 0"):
        plain.extend(raw)


def test_in_a_run_of_one_shard_every_survivor_has_done_a_slice() -> None:
    history = begin(4)
    with pytest.raises(RecordRefused, match="without a slice"):
        history.extend(decided(history, record_after(history, weights=(1, 1, 1, 0))))


def move(history: History, peer: str, shard: int, round_: int | None = None) -> bytes:
    at = history.round if round_ is None else round_
    return said(peer, Move(run=history.run, round=at, shard=shard))


def test_one_member_a_record_takes_another_shard() -> None:
    history = sharded()
    asked = tuple(sorted(move(history, peer, 1) for peer in history.cell(0)[:2]))
    after = moved(history, statements=asked)
    assert [len(cell) for cell in after.cells] == [2, 4]


@pytest.mark.parametrize(
    ("shard", "round_", "text"), [(2, None, "shard 2 of 2"), (1, 0, "it is of record 0")]
)
def test_a_move_is_to_a_shard_of_the_run_and_for_the_next_record(
    shard: int, round_: int | None, text: str
) -> None:
    history = moved(sharded())
    with pytest.raises(RecordRefused, match=text):
        history.admits(move(history, history.cell(0)[0], shard, round_))


def test_who_alone_holds_a_shard_does_not_move_away_and_is_not_suspended() -> None:
    history = sharded(5, suspend_after=1)
    alone, other = history.cell(1)
    history = moved(
        history, survivors=tuple(peer for peer in history.members if peer != other), weights=(1, 2, 1, 0)
    )
    assert history.cell(1) == (alone,)
    with pytest.raises(RecordRefused, match="nobody but"):
        history.admits(move(history, alone, 0))
    assert history.admits(move(history, history.cell(0)[0], 1)) == history.cell(0)[0]


def test_a_newcomer_holds_the_shard_that_its_join_names() -> None:
    history = sharded(4)
    newcomer = PEERS[20]
    raw = join(history, newcomer, shard=1)
    assert moved(history, statements=(raw,)).shard_of(newcomer) == 1
    with pytest.raises(RecordRefused, match="shard 2 of 2"):
        history.admits(join(history, newcomer, shard=2))
    with pytest.raises(RecordRefused, match="shard 1 of 1"):
        begin(4).admits(join(begin(4), newcomer, shard=1))


def test_a_recovery_says_who_holds_what() -> None:
    history = sharded(4)
    keep = history.members[:3]

    def recovered(shards: tuple[int, ...]) -> History:
        message = Recovery(run=history.run, round=1, previous=history.head, members=keep, shards=shards)
        votes = (said(history.genesis.founder, message),)
        found = Decided(round=1, attempt=0, recovery=True, body=message.encode(), votes=votes)
        return history.extend(found.encode())

    assert recovered((1, 1, 0)).cells == ((keep[2],), keep[:2])
    for shards in ((), (0, 1), (0, 1, 2)):
        with pytest.raises(MessageRefused, match="a shard of the run for each member"):
            recovered(shards)
    plain = begin(4)
    assert plain.extend(recovery(plain, keep, [plain.genesis.founder])).round == 1


def test_a_goodbye_leaves_the_others_where_they_are() -> None:
    history = sharded(6)
    gone = history.cell(1)[0]
    after = moved(history, statements=(goodbye(history, gone),))
    assert after.cell(1) == history.cell(1)[1:]
    assert after.cell(0) == history.cell(0)
    assert follow(begin(4)).cells == (begin(4).members,)
