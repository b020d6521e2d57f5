"""With nothing but the run id and ledgers an auditor finds what is wrong, names it, and finds no more."""

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proto.canonical import PeerID
from proto.energy import EnergyClaim
from proto.errors import SwarmError
from secagg.messages import Advert, FinalSet, Release, SurvivorSet
from swarm.testing import VirtualSwarm
from tests.verify.audited_runs import Run, findings, forged, ledger_of, places, resigned, virtual_run
from verify.audit import Report, Source, audit
from verify.audit_report import RoundView
from verify.audit_session import RoundFacts, RoundTask, check_any
from verify.ledger import Ledger
from verify.lottery import checkers, drawn_slice
from verify.record import Decided, Record, Vote
from verify.sketch import WIDTH
from verify.standing import Verdict
from verify.statement import domain_of, open_signed, sign

Entries = list[tuple[str, bytes]]
T = TypeVar("T")


@pytest.fixture(scope="module")
def run() -> Run:
    return virtual_run(4, 3)


@pytest.fixture(scope="module")
def liar() -> Run:
    return virtual_run(5, 4, liar=1)


def audited(run: Run, *sources: Source) -> Report:
    return audit(run.run, sources or [run.source(run.peers[0])], run.rules)


def changed(run: Run, index: int, content: bytes | None, peer: int = 0) -> Report:
    """The audit of a peer's log in which one entry has another content, or is not there."""
    entries = list(run.entries[run.peers[peer]])
    entries[index : index + 1] = [] if content is None else [(entries[index][0], content)]
    return audited(run, run.source(run.peers[peer], entries))


# -- what is right ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["secure", "plain"])
def test_the_ledgers_of_a_clean_run_hold(mode: str) -> None:
    made = virtual_run(4, 3, mode=mode)
    for count in (1, 4):
        report = audited(made, *(made.source(peer) for peer in made.peers[:count]))
        assert report.ok, findings(report)
        assert (report.exit_code, report.records, report.sessions) == (0, 3, 3)
        assert report.verdicts > 0
        assert report.verdicts_unseen == 0
        assert not report.notes
        assert all(peer.rounds == 3 and peer.weight == 12 for peer in report.peers.values())


def test_the_seed_of_a_survivor_that_fell_silent_is_rebuilt_from_shares() -> None:
    def prepare(swarm: VirtualSwarm) -> None:
        silent = next(iter(swarm.peers))
        swarm.filter = lambda sender, to, raw: (
            [] if sender == silent and domain_of(raw) == Release.DOMAIN else [(0.0, raw)]
        )

    made = virtual_run(5, 2, rate=0.0, prepare=prepare)
    silent = next(iter(made.identities))
    for peer in made.peers:
        signers = {
            open_signed(raw, Release).signer for kind, raw in made.entries[peer] if kind == Release.DOMAIN
        }
        assert (silent in signers) == (peer == silent)
        assert audited(made, made.source(peer)).ok


def test_void_attempts_are_certified_too() -> None:
    def prepare(swarm: VirtualSwarm) -> None:
        swarm.cut = lambda a, b: swarm.now < 9.0

    made = virtual_run(4, 2, prepare=prepare)
    report = audited(made)
    assert report.ok, findings(report)
    assert report.voids > 0
    entries = made.entries[made.peers[0]]
    at, raw = next(
        (at, raw)
        for at, (kind, raw) in enumerate(entries)
        if kind == "decided" and not Decided.parse(raw).body
    )
    fewer = Decided.parse(raw).model_copy(update={"votes": Decided.parse(raw).votes[:2]})
    assert f"entry {at}: certificate: 2 votes, a quorum is 3" in findings(changed(made, at, fewer.encode()))


def test_a_round_of_very_many_void_attempts_is_checked_piece_by_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def prepare(swarm: VirtualSwarm) -> None:
        swarm.filter = lambda sender, to, raw: (
            [] if swarm.now < 60.0 and domain_of(raw) == SurvivorSet.DOMAIN else [(0.0, raw)]
        )

    made = virtual_run(4, 2, prepare=prepare)
    whole = audited(made, *map(made.source, made.peers[:2]))
    monkeypatch.setattr("verify.audit_entries.MANY", 2)
    pieces = audited(made, *map(made.source, made.peers[:2]))
    assert whole.ok, findings(whole)
    assert pieces.ok, findings(pieces)
    assert whole.voids == pieces.voids > 2
    assert (whole.records, whole.statements) == (pieces.records, pieces.statements)


def test_what_a_peer_did_is_counted_from_the_records(liar: Run) -> None:
    report = audited(liar)
    assert report.ok, findings(report)
    banned = next(peer for peer, one in report.peers.items() if one.ban is not None)
    assert banned == list(liar.identities)[1]
    one = report.peers[banned]
    assert (one.member, one.wrong > 0, one.passed) == (False, True, 0)
    assert all(other.passed == other.checked for peer, other in report.peers.items() if peer != banned)
    assert report.history is not None
    assert report.history.conduct.bans[banned].reason == "update"


def test_each_round_is_told_in_order_with_what_led_to_it(run: Run) -> None:
    told: list[RoundView] = []
    audit(run.run, [run.source(run.peers[0])], run.rules, watch=told.append)
    assert [view.round for view in told if view.record] == [1, 2, 3]
    for view in told[:3]:
        assert view.record is not None
        (session,) = view.sessions
        assert session.id == view.record.session
        assert session.survivors == view.record.survivors
        assert set(session.owners.values()) <= set(session.members)
        assert len(view.voters) >= 3


def test_sessions_can_be_checked_in_other_processes(run: Run) -> None:
    def spread(check: Callable[[RoundTask], RoundFacts], tasks: Iterable[RoundTask]) -> Iterator[RoundFacts]:
        for task in tasks:  # as they go to another process and come back
            yield copied(check(copied(task)))

    def copied(value: T) -> T:
        kept: T = pickle.loads(pickle.dumps(value))  # noqa: S301 (our own)
        return kept

    report = audit(run.run, [run.source(run.peers[0])], run.rules, spread)
    assert (report.ok, report.statements) == (True, audited(run).statements)


def test_a_record_that_was_logged_twice_adds_nothing(run: Run) -> None:
    entries = run.entries[run.peers[0]]
    at = places(entries, "decided")[-1]
    report = audited(run, run.source(run.peers[0], [*entries, entries[at]]))
    assert (report.ok, report.records) == (True, 3), findings(report)


# -- one ledger -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["genesis", "advert", "final-set", "release", "part-sum", "decided"])
def test_a_flipped_byte_in_any_statement_is_named_with_its_entry(run: Run, kind: str) -> None:
    entries = run.entries[run.peers[0]]
    at = places(entries, kind)[0]
    content = bytearray(entries[at][1])
    content[len(content) // 2] ^= 1
    report = changed(run, at, bytes(content))
    assert report.exit_code == 1
    assert report.findings[0].index == at, findings(report)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("advert", "adverts from here on give session"),
        ("final-set", "without a final set before it"),
        ("release", "this is a fork of that log"),
        ("decided", "record 2 comes where record 1 belongs: one is missing"),
    ],
)
def test_a_missing_entry_is_missed(run: Run, kind: str, what: str) -> None:
    at = places(run.entries[run.peers[0]], kind)[0]
    report = changed(run, at, None)
    assert report.exit_code == 1
    assert what in findings(report)


def test_two_records_in_the_wrong_order_are_named(run: Run) -> None:
    entries = list(run.entries[run.peers[0]])
    first, second = places(entries, "decided")[:2]
    entries[first], entries[second] = entries[second], entries[first]
    report = audited(run, run.source(run.peers[0], entries))
    assert report.exit_code == 1
    assert f"entry {first}: record 2 comes where record 1 belongs" in findings(report)


def test_a_head_that_another_key_signed_is_refused(run: Run) -> None:
    report = audited(run, run.source(run.peers[0], signer=run.peers[1]))
    assert report.exit_code == 1
    assert f"{run.peers[0]} did not sign it" in findings(report)


def test_a_record_without_a_quorum_is_named_and_the_audit_goes_on(run: Run) -> None:
    entries = run.entries[run.peers[0]]
    at = places(entries, "decided")[0]
    decided = Decided.parse(entries[at][1])
    report = changed(run, at, decided.model_copy(update={"votes": decided.votes[:2]}).encode())
    assert report.exit_code == 1
    assert f"entry {at}: certificate: 2 votes, a quorum is 3" in findings(report)
    assert (report.records, report.sessions) == (3, 3)


@pytest.mark.parametrize(
    ("new", "what"),
    [
        ({"weights": (4, 4, 4, 3)}, "its weights are not what the session's adverts give"),
        ({"tokens": 1}, "its tokens are not"),
        ({"beacon": bytes(32)}, "its beacon is not what the session's seeds give"),
        ({"loss": 1}, "its loss are not"),
        ({"session": bytes(32)}, "in the very attempt whose record names session 0000"),
    ],
)
def test_a_record_that_a_quorum_forged_is_named(run: Run, new: dict[str, object], what: str) -> None:
    at = places(run.entries[run.peers[0]], "decided")[-1]
    report = changed(run, at, forged(run, run.entries[run.peers[0]][at][1], **new))
    assert report.exit_code == 1
    assert what in findings(report)


def test_a_record_that_left_out_what_its_voters_carried_is_named(run: Run) -> None:
    at = places(run.entries[run.peers[0]], "decided")[-1]
    report = changed(run, at, forged(run, run.entries[run.peers[0]][at][1], statements=()))
    assert "its statements are not what the session's votes give" in findings(report)


def test_heads_that_a_quorum_forged_are_named_by_record_and_by_log(run: Run) -> None:
    peer, entries = run.peers[0], run.entries[run.peers[0]]
    at = places(entries, "decided")[-1]
    heads = Record.parse(Decided.parse(entries[at][1]).body).heads
    other = tuple((who, size, bytes(32) if who == peer else root) for who, size, root in heads)
    text = findings(changed(run, at, forged(run, entries[at][1], heads=other)))
    assert "its heads are not what the session's adverts give" in text
    size = next(size for who, size, _ in heads if who == peer)
    assert f"entry {size - 1}: its author said {size} entries in round 3" in text


def test_an_advert_with_another_weight_makes_another_session(run: Run) -> None:
    entries = run.entries[run.peers[0]]
    at = places(entries, "advert")[1]
    report = changed(run, at, resigned(run, entries[at][1], Advert, weight=3))
    assert report.exit_code == 1
    assert "one is missing, changed or added" in findings(report)


def test_a_final_set_by_one_whose_turn_it_was_not_is_named(run: Run) -> None:
    entries = run.entries[run.peers[0]]
    at = places(entries, "final-set")[0]
    final = open_signed(entries[at][1], FinalSet)
    other = next(peer for peer in run.peers if peer != final.signer)
    report = changed(run, at, sign(run.identities[other], final.message))
    assert f"entry {at}: final set of {other}, it was {final.signer}'s turn to propose" in findings(report)


def test_a_final_set_with_too_few_votes_is_named(run: Run) -> None:
    entries = run.entries[run.peers[0]]
    at = places(entries, "final-set")[0]
    votes = open_signed(entries[at][1], FinalSet).message.votes[:2]
    report = changed(run, at, resigned(run, entries[at][1], FinalSet, votes=votes))
    assert f"entry {at}: final set: votes: 2 signatures in order, 3 are needed" in findings(report)


def test_a_manifest_beside_the_ledger_that_is_not_the_runs_is_named(run: Run) -> None:
    source = replace(run.source(run.peers[0]), files=(("manifest.toml", b"[run]\n"),))
    report = audited(run, source)
    assert report.exit_code == 1
    assert "manifest.toml is not the manifest in the run's genesis" in findings(report)


def test_a_ledger_of_another_run_is_named(run: Run) -> None:
    report = audit(bytes(32), [run.source(run.peers[0])], run.rules)
    assert report.exit_code == 1
    assert "no genesis here has the run's id as its hash" in findings(report)


def test_the_verdict_of_a_peer_that_was_not_drawn_is_named() -> None:
    made = virtual_run(4, 3, rate=0.0)
    entries = made.entries[made.peers[0]]
    first, last = (Record.parse(Decided.parse(entries[at][1]).body) for at in places(entries, "decided")[::2])
    checked = made.peers[0]
    signer = checkers(first.beacon, first.survivors, checked)[0]
    verdict = Verdict(
        run=made.run,
        round=2,
        session=first.session,
        checked=checked,
        slice=drawn_slice(first.beacon, checked, first.weights[first.survivors.index(checked)]),
        outcome="clean",
        sketch=(0,) * WIDTH,
    )
    statements = (sign(made.identities[signer], verdict),)
    at = places(entries, "decided")[-1]
    report = changed(made, at, forged(made, entries[at][1], statements=statements))
    assert last.round == 3
    found = next(one for one in report.findings if one.by == signer)
    assert f"a verdict of {signer} on {checked}, who is not drawn to be checked" in found.what


def test_a_ban_stands_or_falls_with_its_evidence(liar: Run) -> None:
    source = liar.source(liar.peers[0])
    again = audit(liar.run, [source], liar.rules, reexecute=lambda case, history: True)
    assert again.ok, findings(again)
    assert {held.holds for held in again.evidence.values()} == {"holds"}
    false = audit(liar.run, [source], liar.rules, reexecute=lambda case, history: False)
    assert false.exit_code == 1
    assert "is banned since record" in findings(false)
    assert "does not hold" in findings(false)
    unknown = audited(liar)
    assert unknown.ok
    assert any("re-execution needed" in note for note in unknown.notes)


def test_evidence_that_no_ledger_keeps_is_a_note(liar: Run) -> None:
    entries = [entry for entry in liar.entries[liar.peers[0]] if entry[0] != "evidence"]
    # The heads that this peer signed are of the log with the evidence: only the ban is looked at here.
    report = audited(liar, replace(liar.source(liar.peers[0], entries), checkpoint=None))
    assert report.ok, findings(report)
    assert any("its evidence" in note and "is not here" in note for note in report.notes)


def test_a_statement_of_a_kind_that_is_not_known_is_checked_for_its_signature(run: Run) -> None:
    vote = Vote(run=run.run, round=1, attempt=0, view=0, step=0, value=None)
    raw = sign(run.identities[run.peers[0]], vote)
    assert check_any(raw)
    assert not check_any(b"a reading of no kind")
    entries = run.entries[run.peers[0]]
    assert audited(run, run.source(run.peers[0], [*entries, ("energy", raw)])).ok
    broken = raw[:-1] + bytes([raw[-1] ^ 1])
    report = audited(run, run.source(run.peers[0], [*entries, ("energy", broken)]))
    assert f"entry {len(entries)}: vote: the signature is not that of" in findings(report)


# -- ledgers against each other -----------------------------------------------------------------------------


def test_a_peer_that_tells_two_readers_two_logs_is_named(run: Run) -> None:
    peer = run.peers[0]
    entries = list(run.entries[peer])
    at = places(entries, "part-sum")[-1]
    fork = [*entries[:at], *entries[at + 1 :]]
    report = audited(run, run.source(peer, name="a"), run.source(peer, fork, name="b"))
    assert report.exit_code == 1
    assert f"entry {at}: " in findings(report)
    assert f"{peer} shows two different logs" in findings(report)


def test_a_log_that_is_another_than_its_author_told_the_others_is_named(run: Run) -> None:
    peer, other = run.peers[:2]
    entries = list(run.entries[peer])
    at = places(entries, "part-sum")[0]
    fork = [*entries[:at], *entries[at + 1 :]]
    report = audited(run, run.source(peer, fork, name="fork"), run.source(other, name="other"))
    assert report.exit_code == 1
    assert any(one.ledger == "fork" and "this is a fork of that log" in one.what for one in report.findings)
    assert all(one.ledger == "fork" for one in report.findings)


def test_a_log_that_was_rewound_is_named_and_one_that_is_only_old_is_not(run: Run) -> None:
    peer, other = run.peers[:2]
    entries = run.entries[peer]
    records = places(entries, "decided")
    old = audited(run, run.source(peer, entries[: records[0] + 1], name="old"), run.source(other))
    assert old.ok, findings(old)
    assert any("is older than" in note for note in old.notes)
    genesis = entries[0]
    rewound = [genesis, *(entries[at] for at in records)]
    report = audited(run, run.source(peer, rewound, name="rewound"), run.source(other))
    assert "it was rewound" in findings(report)
    assert report.exit_code == 1


def test_a_record_that_one_ledger_lacks_is_taken_from_another(run: Run) -> None:
    entries = list(run.entries[run.peers[0]])
    at = places(entries, "decided")[0]
    entries.pop(at)
    report = audited(run, run.source(run.peers[0], entries, name="a"), run.source(run.peers[1], name="b"))
    assert report.records == 3
    assert "record 2 comes where record 1 belongs" in findings(report)
    assert all(one.ledger == "a" for one in report.findings)


def test_two_records_of_one_round_are_a_fork_and_name_who_voted_for_both(run: Run) -> None:
    entries = list(run.entries[run.peers[1]])
    at = places(entries, "decided")[-1]
    entries[at] = ("decided", forged(run, entries[at][1], snapshot=bytes(32)))
    report = audited(run, run.source(run.peers[0], name="a"), run.source(run.peers[1], entries, name="b"))
    assert f"b entry {at}: another record of round 3 than entry" in findings(report)
    twice = {one.by for one in report.findings if "voted for two records of round 3" in one.what}
    assert len(twice) >= 3


def test_a_peer_that_says_two_things_in_one_session_is_named_wherever_they_stand(run: Run) -> None:
    entries = list(run.entries[run.peers[1]])
    at = next(at for at in places(entries, "release") if open_signed(entries[at][1], Release).message.shares)
    said = open_signed(entries[at][1], Release)
    shares = (bytes(33), *said.message.shares[1:])
    entries[at] = ("release", resigned(run, entries[at][1], Release, shares=shares))
    report = audited(run, run.source(run.peers[0], name="a"), run.source(run.peers[1], entries, name="b"))
    found = next(one for one in report.findings if one.by is not None)
    assert (found.ledger, found.index, found.by) == ("b", at, said.signer)
    assert "signed another release than in entry" in found.what
    assert "of a" in found.what


def test_what_a_banned_peer_did_is_told_and_does_not_make_the_run_wrong(liar: Run) -> None:
    banned = list(liar.identities)[1]
    entries = list(liar.entries[liar.peers[0]])
    mine = [at for at in places(entries, "release") if open_signed(entries[at][1], Release).signer == banned]
    shares = (bytes(33), *open_signed(entries[mine[0]][1], Release).message.shares[1:])
    entries[mine[0]] = ("release", resigned(liar, entries[mine[0]][1], Release, shares=shares))
    other = next(peer for peer in liar.peers[1:] if peer != banned)
    changed_log = replace(liar.source(liar.peers[0], entries), checkpoint=None)
    report = audited(liar, liar.source(other), changed_log)
    assert report.ok, findings(report)
    assert [one.by for one in report.handled] == [banned]


# -- what cannot be read ------------------------------------------------------------------------------------


class Torn:
    """A ledger of which some entries cannot be read; `head` is that of the whole."""

    def __init__(self, ledger: Ledger, lost: Sequence[int]) -> None:
        self._ledger, self._lost = ledger, set(lost)
        self.size, self.head, self.large = ledger.size, ledger.head, ledger.large
        self.inclusion, self.consistency = ledger.inclusion, ledger.consistency

    def entries(self, start: int, limit: int) -> list[bytes]:
        if self._lost & set(range(start, start + limit)):
            raise SwarmError("this sector is gone")
        return self._ledger.entries(start, limit)


def test_what_cannot_be_read_is_named_and_read_past(run: Run) -> None:
    peer = run.peers[0]
    ledger = ledger_of(run.run, peer, run.entries[peer])
    at = places(run.entries[peer], "advert")[1]
    source = replace(run.source_of(peer, ledger), reader=Torn(ledger, [at]))
    report = audited(run, source)
    assert report.exit_code == 2
    assert report.findings[0].index == at
    assert "this sector is gone" in findings(report)
    assert report.records == 3


def test_a_ledger_that_cannot_be_read_at_all_is_unreadable(run: Run) -> None:
    peer = run.peers[0]
    ledger = ledger_of(run.run, peer, run.entries[peer])
    source = replace(run.source_of(peer, ledger), reader=Torn(ledger, range(ledger.size)))
    report = audited(run, source, run.source(run.peers[1]))
    assert report.exit_code == 2
    assert report.records == 3


# -- any single change --------------------------------------------------------------------------------------


class Tampered:
    """The log's own head and proofs, with entries of the test's choice."""

    def __init__(self, ledger: Ledger, raws: Sequence[bytes]) -> None:
        self._raws, self.size, self.head, self.large = raws, ledger.size, ledger.head, ledger.large
        self.inclusion, self.consistency = ledger.inclusion, ledger.consistency

    def entries(self, start: int, limit: int) -> list[bytes]:
        return list(self._raws[start : start + limit])


def mutated(draw: st.DataObject, items: list[bytes], last: int) -> tuple[list[bytes], int]:
    """One change to a list; where it begins."""
    at = draw.draw(st.integers(0, last - 1), label="entry")
    how = draw.draw(st.sampled_from(["flip", "drop", "swap", "double", "cut"]), label="how")
    after = list(items)
    if how == "flip":
        raw = bytearray(items[at])
        raw[draw.draw(st.integers(0, len(raw) - 1), label="byte")] ^= 1 << draw.draw(st.integers(0, 7))
        after[at] = bytes(raw)
    elif how == "drop":
        del after[at]
    elif how == "swap":
        after[at : at + 2] = reversed(after[at : at + 2])
    elif how == "double":
        after.insert(at, items[at])
    else:
        after[at] = items[at][: draw.draw(st.integers(0, len(items[at]) - 1))]
    return after, at


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_single_change_to_a_logs_entries_is_clean_or_crashes(run: Run, data: st.DataObject) -> None:
    peer = run.peers[0]
    ledger = ledger_of(run.run, peer, run.entries[peer])
    raws = ledger.entries(0, ledger.size)
    after, at = mutated(data, raws, len(raws))
    if after[: len(raws)] == raws:
        return
    report = audited(run, replace(run.source_of(peer, ledger), reader=Tampered(ledger, after)))
    assert not report.ok
    assert report.exit_code in (1, 2)
    assert any(one.index is not None and one.index <= at + 1 for one in report.findings), (
        at,
        findings(report),
    )


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_single_change_is_clean_even_if_the_author_hashes_and_signs_it_anew(
    run: Run, data: st.DataObject
) -> None:
    peer: PeerID = run.peers[0]
    entries = run.entries[peer]
    heads = Record.parse(Decided.parse(entries[places(entries, "decided")[-1]][1]).body).heads
    told = next(size for who, size, _ in heads if who == peer)  # entries that the others heard of
    at = data.draw(st.integers(0, told - 2), label="entry")
    how = data.draw(st.sampled_from(["flip", "drop", "swap", "double"]), label="how")
    made = list(entries)
    if how == "flip":
        kind, content = entries[at][0], bytearray(entries[at][1])
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        made[at] = (kind, bytes(content))
    elif how == "drop":
        del made[at]
    elif how == "swap":
        made[at : at + 2] = reversed(made[at : at + 2])
    else:
        made.insert(at, made[at])
    report = audited(run, run.source(peer, made))
    assert report.exit_code == 1


def test_what_peers_claim_of_energy_is_told_and_what_cannot_be_is_doubted() -> None:
    spent: dict[PeerID, int] = {}
    forger: list[PeerID] = []

    def keep_accounts(swarm: VirtualSwarm) -> None:
        forger.append(sorted(swarm.peers)[0])

        def energy(me: PeerID, tokens: int) -> EnergyClaim:
            spent[me] = spent.get(me, 10_000) + (-1_000 if me in forger else 1_000)
            return EnergyClaim(
                source="a meter",
                uncertainty=100,
                spent=("measured", spent[me], 5, 5),
                network_bytes=7 * spent[me] if me not in forger else 7,
                tokens=tokens,
                milliseconds=spent[me] if me not in forger else 1,
                grid=None,
                embodied=None,
            )

        swarm.energy = energy  # type: ignore[method-assign]

    made = virtual_run(4, 3, rate=0.0, prepare=keep_accounts)
    report = audited(made)
    assert report.ok
    for peer, one in report.peers.items():
        assert one.energy is not None
        assert one.energy.millijoules == spent[peer] + 10
        assert bool(one.doubts) == (peer in forger)
    assert any("millijoules for training went from" in doubt for doubt in report.peers[forger[0]].doubts)
    at = places(made.entries[made.peers[0]], "decided")[1]
    entries = made.entries[made.peers[0]]
    record = Record.parse(Decided.parse(entries[at][1]).body)
    assert [peer for peer, *_ in record.energy] == list(record.survivors)
    forged_record = forged(made, entries[at][1], energy=record.energy[:1])
    assert "its energy are not what the session's adverts give" in findings(changed(made, at, forged_record))
