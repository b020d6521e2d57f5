"""A run in shards is audited cell by cell: what holds, what one cell's ledger shows, and each lie by name."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proto.canonical import PeerID
from secagg.messages import Advert
from swarm.effects import TrainChains
from tests.verify.audited_runs import Run, findings, forged, places, resigned
from tests.verify.sharded_runs import SLICES, ShardedSwarm, sharded_run
from verify.audit import Report, audit
from verify.audit_report import AuditRules, RoundView
from verify.audit_session import check_round
from verify.chains import Confirmation, Direction
from verify.record import Cell, Decided, Genesis, Goodbye, Record, whole
from verify.statement import open_signed, sign
from verify.wiring import Wired

ROUNDS = 3


@pytest.fixture(scope="module")
def run() -> Run:
    return sharded_run(4, ROUNDS)


def cell(run: Run, shard: int) -> list[PeerID]:
    """The peers of a shard."""
    return run.peers[shard::2]


def audited(run: Run, peers: Sequence[PeerID]) -> Report:
    return audit(run.run, [run.source(peer) for peer in peers], run.rules)


def record_at(run: Run, peer: PeerID) -> tuple[int, Record]:
    """A peer's last record, and its entry."""
    at = places(run.entries[peer], "decided")[-1]
    return at, Record.parse(Decided.parse(run.entries[peer][at][1]).body)


def with_record(run: Run, shards: Sequence[int], **new: object) -> str:
    """What is found in ledgers of peers of these shards whose last record is another, signed by all."""
    sources = []
    for shard in shards:
        peer = cell(run, shard)[0]
        entries, (at, _) = list(run.entries[peer]), record_at(run, peer)
        entries[at] = ("decided", forged(run, entries[at][1], **new))
        sources.append(run.source(peer, entries, name=f"shard{shard}"))
    report = audit(run.run, sources, run.rules)
    assert report.exit_code == 1
    return findings(report)


def with_cells(record: Record, cells: Sequence[Cell]) -> dict[str, object]:
    """The fields of a record that has other cells, and fits them."""
    names = ("session", "snapshot", "beacon")
    return {"cells": tuple(cells)} | {name: whole([getattr(one, name) for one in cells]) for name in names}


def with_advert(run: Run, shard: int, make: Callable[[Advert], dict[str, object]], which: int = 0) -> Report:
    """The audit of a shard's ledger in which the first round's advert number `which` says something else."""
    peer = cell(run, shard)[0]
    entries = list(run.entries[peer])
    at = places(entries, "advert")[which]
    advert = open_signed(entries[at][1], Advert).message
    entries[at] = ("advert", resigned(run, entries[at][1], Advert, **make(advert)))
    return audit(run.run, [run.source(peer, entries)], run.rules)


def closed_again(run: Run, statements: Sequence[bytes], **new: object) -> tuple[bytes, ...]:
    """A certificate whose confirmations all say something else."""
    return tuple(resigned(run, raw, Confirmation, **new) for raw in statements)


# -- what is right ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("peers", "mode"), [(4, "plain"), (5, "plain"), (8, "secure")])
def test_the_ledgers_of_a_clean_run_hold(peers: int, mode: str) -> None:
    made = sharded_run(peers, ROUNDS, mode)
    report = audited(made, made.peers)
    assert report.ok, findings(report)
    assert (report.records, report.sessions, report.notes) == (ROUNDS, 2 * ROUNDS, [])
    for shard in (0, 1):
        work = sum(report.peers[peer].weight for peer in cell(made, shard))
        assert work == ROUNDS * SLICES * len(cell(made, 0))
        assert {report.peers[peer].shard for peer in cell(made, shard)} == {shard}


def test_chains_of_real_crews_and_the_checks_of_their_members_hold() -> None:
    made = sharded_run(4, ROUNDS, rate=1.0)
    report = audited(made, made.peers)
    assert report.ok, findings(report)
    assert report.verdicts > 0
    assert report.verdicts_unseen == 0
    assert not report.notes
    assert sum(one.passed for one in report.peers.values()) == report.verdicts
    assert all(one.drawn for one in report.peers.values())


def test_a_ban_for_a_forged_boundary_tensor_takes_computing_again_to_judge() -> None:
    def prepare(swarm: ShardedSwarm) -> None:
        liar = sorted(swarm.peers)[0]
        honest = swarm.chain_tensor

        def forged_tensor(me: PeerID, way: Direction, made: np.ndarray) -> np.ndarray:
            return -made if me == liar else honest(me, way, made)

        swarm.chain_tensor = forged_tensor  # type: ignore[method-assign]

    made = sharded_run(8, 4, rate=1.0, prepare=prepare)
    liar = made.peers[0]
    report = audited(made, made.peers[1:])
    assert report.history is not None
    assert report.history.conduct.bans[liar].reason == "boundary", report.history.conduct.bans
    assert report.ok, findings(report)
    assert any("re-execution needed" in note for note in report.notes)
    for holds, ok in ((True, True), (False, False)):
        sources = [made.source(peer) for peer in made.peers[1:]]
        again = audit(made.run, sources, made.rules, reexecute=lambda case, history, holds=holds: holds)
        assert again.ok is ok, findings(again)


def test_one_cells_ledger_holds_and_the_other_cells_are_said_to_be_missing(run: Run) -> None:
    for shard in (0, 1):
        report = audited(run, cell(run, shard))
        assert report.ok, findings(report)
        assert report.sessions == ROUNDS
        (note,) = report.notes
        assert note.startswith(f"shard {1 - shard}: no ledger here shows its session in 3 of 3 records")
        assert cell(run, 1 - shard)[0] in note


def test_each_cells_own_draws_are_known(run: Run) -> None:
    def rules(genesis: Genesis) -> AuditRules:
        return replace(run.rules(genesis), rate=1.0)

    report = audit(run.run, [run.source(cell(run, 0)[0])], rules)
    assert {report.peers[peer].drawn for peer in cell(run, 0)} == {ROUNDS}
    assert {report.peers[peer].drawn for peer in cell(run, 1)} == {0}


def test_a_round_is_told_with_the_sessions_of_all_cells_and_their_chains(run: Run) -> None:
    told: list[RoundView] = []
    audit(run.run, [run.source(peer) for peer in run.peers], run.rules, watch=told.append)
    for view in told[:ROUNDS]:
        assert view.record is not None
        assert {one.shard: one.id for one in view.sessions} == {
            shard: one.session for shard, one in enumerate(view.record.cells)
        }
        chains = [
            sorted((chain.chain, chain.slices) for member in one.members.values() for chain in member.chains)
            for one in view.sessions
        ]
        assert chains == [[(0, SLICES), (1, SLICES)]] * 2


def test_cells_can_be_checked_in_other_processes(run: Run) -> None:
    def spread(check, tasks):  # type: ignore[no-untyped-def]
        return [
            pickle.loads(pickle.dumps(check_round(pickle.loads(pickle.dumps(task)))))  # noqa: S301 (our own)
            for task in tasks
        ]

    assert audit(run.run, [run.source(run.peers[0])], run.rules, spread).ok


def test_attempts_that_came_to_nothing_in_shards_are_certified_too() -> None:
    def prepare(swarm: ShardedSwarm) -> None:
        swarm.cut = lambda a, b: swarm.now < 9.0

    made = sharded_run(4, 2, prepare=prepare)
    report = audited(made, made.peers)
    assert report.ok, findings(report)
    assert report.voids > 0


# -- records ----------------------------------------------------------------------------------------------


def test_a_record_whose_cells_were_swapped_is_named(run: Run) -> None:
    _, record = record_at(run, run.peers[0])
    text = with_record(run, [0], **with_cells(record, record.cells[::-1]))
    assert "record: the survivors of shard 0 are not those of its cell" in text


def test_a_record_whose_cells_have_each_others_sessions_is_named(run: Run) -> None:
    _, record = record_at(run, run.peers[0])
    one, two = record.cells
    swapped = [
        one.model_copy(update={"session": two.session}),
        two.model_copy(update={"session": one.session}),
    ]
    text = with_record(run, [0, 1], **with_cells(record, swapped))
    for shard, other in ((0, two), (1, one)):
        assert f"shard{shard} entry" in text
        assert f"names session {other.session.hex()[:16]}" in text


def test_a_survivor_that_was_moved_to_another_cell_is_named(run: Run) -> None:
    _, record = record_at(run, run.peers[0])
    one, two = record.cells
    moved = two.survivors[0]
    cells = [
        one.model_copy(update={"survivors": tuple(sorted((*one.survivors, moved)))}),
        two.model_copy(update={"survivors": two.survivors[1:]}),
    ]
    text = with_record(run, [0], **with_cells(record, cells))
    assert "record: the survivors of shard 0 are not those of its cell" in text


def test_a_survivor_that_was_left_out_is_named_by_its_own_cell(run: Run) -> None:
    _, record = record_at(run, run.peers[0])
    gone = record.cells[0].survivors[0]
    kept = [at for at, peer in enumerate(record.survivors) if peer != gone]
    weights = {peer: 2 * SLICES if peer in record.cells[0].survivors else SLICES for peer in record.survivors}
    one = record.cells[0].model_copy(update={"survivors": record.cells[0].survivors[1:]})
    text = with_record(
        run,
        [0, 1],
        survivors=tuple(record.survivors[at] for at in kept),
        weights=tuple(weights[record.survivors[at]] for at in kept),
        heads=tuple(record.heads[at] for at in kept),
        **with_cells(record, [one, record.cells[1]]),
    )
    assert "shard0 entry" in text
    assert "its survivors of shard 0 are not those of the final set" in text
    assert "its weights of shard 0 are not what the certificates of shard 1 give" in text


def test_weights_that_differ_between_shards_are_named(run: Run) -> None:
    _, record = record_at(run, run.peers[0])
    more = (record.weights[0] + 1, *record.weights[1:])
    assert "the shards did [5, 4] slices; each must have done the same" in with_record(run, [0], weights=more)


def test_weights_of_a_cell_that_is_not_shown_are_told_by_the_certificates_of_another(run: Run) -> None:
    _, record = record_at(run, run.peers[0])
    weights = dict(zip(record.survivors, record.weights, strict=True))
    first, second = record.cells[1].survivors
    weights[first] += 1
    weights[second] -= 1
    text = with_record(run, [0], weights=tuple(weights.values()))
    assert "its weights of shard 1 are not what the certificates of shard 0 give" in text
    assert "its weights of shard 1 are not what the session's adverts give" in with_record(
        run, [1], weights=tuple(weights.values())
    )


@pytest.mark.parametrize(
    ("new", "what"),
    [
        ({"tokens": 1}, "its tokens of shard 1 are not what the session's adverts give"),
        ({"loss": 1}, "its loss of shard 1 are not"),
        ({"heldout": 1}, "its heldout of shard 1 are not"),
    ],
)
def test_losses_are_those_of_the_last_shard(run: Run, new: dict[str, object], what: str) -> None:
    assert what in with_record(run, [0, 1], **new)


@pytest.mark.parametrize("shard", [0, 1])
def test_heads_and_beacons_are_told_by_their_own_cell(run: Run, shard: int) -> None:
    _, record = record_at(run, run.peers[0])
    liar = record.cells[shard].survivors[-1]
    heads = tuple((peer, size, bytes(32) if peer == liar else root) for peer, size, root in record.heads)
    cells = list(record.cells)
    cells[shard] = cells[shard].model_copy(update={"beacon": bytes(32)})
    text = with_record(run, [0, 1], heads=heads, **with_cells(record, cells))
    for what in ("heads of shard {} are", "beacon of shard {} is"):
        assert f"its {what.format(shard)} not what" in text
        assert f"its {what.format(1 - shard)} not what" not in text


def test_a_statement_that_a_cells_votes_carried_and_the_record_has_not_is_named() -> None:
    def prepare(swarm: ShardedSwarm) -> None:
        leaves = sorted(swarm.peers)[4]

        def hears() -> None:
            said = Goodbye(run=swarm.machine(leaves).history.run, round=0)
            for peer in sorted(swarm.peers)[::2]:
                swarm.machine(peer).carry(sign(swarm.peers[leaves].identity, said))

        swarm.at(1.0, hears)

    made = sharded_run(5, 1, prepare=prepare)
    report = audited(made, made.peers)
    assert report.ok, findings(report)
    assert len(record_at(made, made.peers[0])[1].statements) == 1
    left_out = "its statements are not what the session's votes give"
    assert left_out in with_record(made, [0], statements=())
    assert left_out in with_record(made, [0, 1], statements=())
    peer = cell(made, 1)[0]
    at, _ = record_at(made, peer)
    entries = list(made.entries[peer])
    entries[at] = ("decided", forged(made, entries[at][1], statements=()))
    assert audit(made.run, [made.source(peer, entries)], made.rules).ok, "its votes carried nothing"


# -- adverts and their chains -----------------------------------------------------------------------------


def test_an_advert_with_another_shards_snapshot_is_named(run: Run) -> None:
    entries = run.entries[cell(run, 1)[0]]
    other = open_signed(entries[places(entries, "advert")[0]][1], Advert).message.snapshot
    text = findings(with_advert(run, 0, lambda advert: {"snapshot": other}))
    assert f"at snapshot {other.hex()[:16]}, shard 0 is at" in text
    assert "at another snapshot than the first of its session" in text


def test_an_advert_of_another_shard_is_named(run: Run) -> None:
    text = findings(with_advert(run, 0, lambda advert: {"shard": 1}))
    assert "of shard 1, it holds shard 0" in text


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (
            lambda chains, run: (closed_again(run, chains[0], attempt=1),),
            "of another chain, attempt or shard",
        ),
        (lambda chains, run: (closed_again(run, chains[0], round=2),), "of another chain, attempt or shard"),
        (lambda chains, run: (closed_again(run, chains[0], chain=7),), "chain 7 of 2"),
        (lambda chains, run: (chains[0][::-1],), "of another chain, attempt or shard"),
        (lambda chains, run: (chains[0][:1],), "1 confirmations of 2 shards"),
        (lambda chains, run: (chains[0], chains[0]), "must be named once each"),
        (
            lambda chains, run: (closed_again(run, chains[0], slices=900),),
            "weight 2, its certificates give 899",
        ),
        (lambda chains, run: (), "weight 2, its certificates give 0"),
    ],
)
def test_a_certificate_that_does_not_hold_is_named(run: Run, make: Callable[..., object], what: str) -> None:
    report = with_advert(run, 0, lambda advert: {"chains": make(advert.chains, run)})
    at = places(run.entries[cell(run, 0)[0]], "advert")[0]
    assert any(one.index == at and what in one.what for one in report.findings), findings(report)


def test_a_certificate_of_more_slices_than_a_chain_has_is_named(run: Run) -> None:
    most = run.manifest.work.slices
    report = with_advert(
        run,
        0,
        lambda advert: {
            "weight": most + 1,
            "chains": (closed_again(run, advert.chains[0], slices=most + 2),),
        },
    )
    assert f"a certificate of more slices than the {most} of a chain" in findings(report)


def test_a_certificate_that_names_another_peer_is_named(run: Run) -> None:
    entries = run.entries[cell(run, 0)[0]]
    others = open_signed(entries[places(entries, "advert")[1]][1], Advert).message.chains
    report = with_advert(run, 0, lambda advert: {"chains": others})
    assert "does not name" in findings(report)


def test_a_certificate_that_its_peers_did_not_sign_is_named(run: Run) -> None:
    def other_signature(advert: Advert) -> dict[str, object]:
        first, last = advert.chains[0]
        return {"chains": ((first, last[:-1] + bytes([last[-1] ^ 1])),)}

    text = findings(with_advert(run, 0, other_signature))
    assert "chain-confirmation: the signature is not that of" in text


def test_a_leader_that_closed_its_chain_in_two_ways_is_named_by_ledgers_of_two_cells(run: Run) -> None:
    peer, entries = cell(run, 1)[0], list(run.entries[cell(run, 1)[0]])
    at = places(entries, "advert")[0]
    advert = open_signed(entries[at][1], Advert).message
    fewer = closed_again(run, advert.chains[0], slices=SLICES)
    entries[at] = ("advert", resigned(run, entries[at][1], Advert, chains=(fewer,), weight=SLICES - 1))
    leader = open_signed(fewer[0], Confirmation).signer
    report = audit(run.run, [run.source(cell(run, 0)[0]), run.source(peer, entries)], run.rules)
    found = next(one for one in report.findings if one.by == leader)
    assert f"{leader} signed another end of chain" in found.what


def lose(swarm: ShardedSwarm) -> None:
    """In every round chain 0 counts in shard 0 alone, and chain 1 in shard 1 alone: the sums are equal."""

    def certificates(me: PeerID, effect: TrainChains) -> list[tuple[Wired, tuple[bytes, ...]]]:
        chain = effect.wired[effect.shard]
        return [(chain, swarm.certificate(effect.slot, chain))] if me in chain.path else []

    swarm.certificates = certificates  # type: ignore[method-assign]


def test_shards_that_count_different_chains_make_no_record() -> None:
    made = sharded_run(4, 1, prepare=lose, seconds=60)
    report = audited(made, made.peers)
    assert report.ok, findings(report)
    assert report.records == 0
    assert report.voids > 1


def test_shards_that_count_different_chains_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("attempt", "cells"):
        monkeypatch.setattr(f"swarm.{module}.counted_alike", lambda cells: True)
    monkeypatch.setattr("swarm.round.in_whole_chains", lambda adverts, wired: adverts)
    made = sharded_run(4, 1, prepare=lose)
    report = audited(made, made.peers)
    assert report.exit_code == 1
    assert "shards 0 and 1 do not count the same of chains [0, 1]" in findings(report)
    alone = audited(made, cell(made, 0)[:1])
    assert "its weights of shard 1 are not what the certificates of shard 0 give" in findings(alone)


def test_where_the_records_are_not_known_certificates_are_checked_for_their_signatures(run: Run) -> None:
    peer, entries = cell(run, 0)[0], list(run.entries[cell(run, 0)[0]])
    first = places(entries, "decided")[0]
    at = places(entries, "advert")[-1]
    advert = open_signed(entries[at][1], Advert)
    one, other = advert.message.chains[0]
    bad = advert.message.model_copy(update={"chains": ((one, other[:-1] + bytes([other[-1] ^ 1])),)})
    entries[at] = ("advert", sign(run.identities[advert.signer], bad))
    del entries[first]
    report = audit(run.run, [run.source(peer, entries)], run.rules)
    assert any("rosters are not known" in note for note in report.notes)
    assert f"entry {at - 1}: advert of {advert.signer}: chain-confirmation: the signature" in findings(report)


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_flipped_bit_is_clean_even_if_the_author_hashes_and_signs_it_anew(
    run: Run, data: st.DataObject
) -> None:
    peer = data.draw(st.sampled_from(run.peers))
    entries = list(run.entries[peer])
    at = data.draw(st.integers(0, places(entries, "decided")[-1] - 1), label="entry")
    kind, content = entries[at][0], bytearray(entries[at][1])
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    entries[at] = (kind, bytes(content))
    others = [run.source(other) for other in run.peers if other != peer]
    alone = audit(run.run, [run.source(peer, entries)], run.rules)
    assert alone.exit_code == 1
    assert any(one.index == at for one in alone.findings), findings(alone)
    report = audit(run.run, [run.source(peer, entries), *others], run.rules)
    assert report.exit_code == 1
    assert {one.ledger for one in report.findings} == {peer[-4:]}, findings(report)


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_certificate_with_other_numbers_is_clean_whoever_signs_it_anew(
    run: Run, data: st.DataObject
) -> None:
    """All peers of a chain lie together: what they say must still be of their place, attempt and weight."""
    shard = data.draw(st.integers(0, 1))
    field = data.draw(st.sampled_from(["round", "attempt", "chain", "shard", "slices", "after"]))
    value: object = data.draw(st.integers(1, 40))
    if field == "after":
        value = tuple(data.draw(st.lists(st.sampled_from(run.peers), max_size=2)))
    which = data.draw(st.integers(0, 1))
    peer = cell(run, shard)[0]
    entries = run.entries[peer]
    chains = open_signed(entries[places(entries, "advert")[which]][1], Advert).message.chains
    other = tuple(closed_again(run, chains[0], **{field: value}) for _ in chains)
    if other == chains:
        return
    report = with_advert(run, shard, lambda advert: {"chains": other}, which)
    at = places(entries, "advert")[which]
    assert any(one.index == at and one.what.startswith("advert of") for one in report.findings)
